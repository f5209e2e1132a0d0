"""Models on the Hugging Face Hub, by huggingface_hub's mixin: writing folders, fetching, pushing.

The folders are those of `stsa_jax.weights.shared_folder`. The model card states how frames become
clips, what the model was trained on and how well it scores, as far as that is known, and what to
cite.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save_file

from stsa_jax.checkpoints import step_folder
from stsa_jax.checkpoints.meta import read_meta
from stsa_jax.errors import InputError
from stsa_jax.files import staged_folder, writer_errors
from stsa_jax.weights import known, port, shared_folder
from stsa_jax.weights.papers import PAPERS
from stsa_jax.weights.shared_folder import CONFIG, INDEX, WEIGHTS

try:
    import huggingface_hub
    from huggingface_hub import (
        EvalResult,
        ModelCard,
        ModelCardData,
        ModelHubMixin,
        StateDictSplit,
        errors,
        split_state_dict_into_shards_factory,
    )
except ImportError as missing:
    raise InputError(
        'huggingface_hub is needed to write and fetch such folders; install it with '
        "pip install 'stsa-jax[hub]'"
    ) from missing

MAX_SHARD = '5GB'
CARD = 'README.md'


class Shared(
    ModelHubMixin,
    library_name='stsa-jax',
    tags=['video', 'saliency', 'gaze', 'jax', 'flax'],
):
    """A model as the mixin wants it; `model` is the SaliencyModel, and `folder` where it lies."""

    def __init__(self, model: Any = None, about: 'About | None' = None, folder: Path | None = None):
        self.model, self.about, self.folder = model, about, folder

    def _save_pretrained(self, save_directory: Path) -> None:
        model, about = self.model, self.about or About()
        config = {
            'kind': model.kind,
            'model': dataclasses.asdict(model.config),
            'normalisation': model.normalisation,
            'about': {k: v for k, v in dataclasses.asdict(about).items() if k != 'max_shard_size'},
        }
        (save_directory / CONFIG).write_text(json.dumps(config, indent=2) + '\n', encoding='utf-8')
        shown = self.folder or save_directory
        _write_weights(save_directory, shown, _state_dict(model), config, about.max_shard_size)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **how: Any) -> 'Shared':
        how = {k: v for k, v in how.items() if k in _FETCHING}
        patterns = [CONFIG, 'model*.safetensors', INDEX]
        return cls(
            folder=Path(huggingface_hub.snapshot_download(model_id, allow_patterns=patterns, **how))
        )

    def generate_model_card(self, *args: Any, name: str = '', **kwargs: Any) -> ModelCard:
        """The card, for a repository called `name`."""
        return card(self.model, self.about or About(), name)


_FETCHING = ('revision', 'cache_dir', 'force_download', 'local_files_only', 'token')


@dataclasses.dataclass(frozen=True)
class About:
    """What the card states besides what the model itself knows.

    Attributes:
        training_data: a sentence.
        scores: dataset and split -> metric -> value.
        license: of the weights, as the Hub names licences, such as 'cc-by-4.0'.
        max_shard_size: of a weight file, in bytes or as '5GB'.
    """

    training_data: str = ''
    scores: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    license: str = ''
    max_shard_size: int | str = MAX_SHARD


def about(source: Path | None, **stated: Any) -> About:
    """What is known of the model of `source`, the path it was loaded from, and what is `stated`.

    A training run knows its datasets, and the scores of its checkpoint in validation; a folder that
    was handed on what it was written with.
    """
    found: dict[str, Any] = {}
    if source is not None and shared_folder.is_shared_folder(source):
        written = json.loads((source / CONFIG).read_text(encoding='utf-8')).get('about', {})
        fields = {field.name for field in dataclasses.fields(About)}
        found = {name: value for name, value in written.items() if name in fields}
    elif source is not None and (source / CONFIG).is_file():
        data = json.loads((source / CONFIG).read_text(encoding='utf-8')).get('data', {})
        found['training_data'] = (
            f'{", ".join(data.get("datasets", ()))}, split {data["train_split"]}'
        )
        metrics = read_meta(step_folder(source))['metrics']
        held_out = ', '.join(data.get('eval_datasets') or data.get('datasets', ()))
        if metrics:
            found['scores'] = {f'{held_out} {data["eval_split"]}, clips of the run': metrics}
    return About(**{**found, **{name: value for name, value in stated.items() if value}})


def save(model: Any, folder: Path, stated: About) -> None:
    """Writes the folder atomically. A README.md that is there stays.

    Raises InputError if the disk or the path does not allow it.
    """
    names = {CONFIG, CARD, WEIGHTS, INDEX, *(p.name for p in folder.glob('model-*.safetensors'))}
    names |= {*_split(_state_dict(model), stated.max_shard_size).filename_to_tensors}
    if (folder / CARD).is_file():
        names.remove(CARD)
    with staged_folder(folder, sorted(names), overwrite=True) as staging:
        shared = Shared(model, stated, folder)
        shared.save_pretrained(staging, model_card_kwargs={'name': folder.resolve().name})


def fetch(name: str, **how: Any) -> Path:
    """The folder of the model `name` (organisation/name) of the Hub, downloaded to its cache.

    `how`: revision, cache_dir, force_download, local_files_only, token, as of huggingface_hub.
    Raises InputError if there is no such model or revision, or no connection.
    """
    with _hub_errors(name):
        folder = Shared.from_pretrained(name, **how).folder
    assert folder is not None
    return folder


def push(model: Any, name: str, stated: About, **how: Any) -> str:
    """Uploads the model as `name` (organisation/name); returns the address of the commit.

    `how`: private, token, branch, commit_message, create_pr, as of huggingface_hub. Raises
    InputError if the Hub refuses.
    """
    with _hub_errors(name):
        card_of = {'name': name}
        return str(Shared(model, stated).push_to_hub(name, model_card_kwargs=card_of, **how))


@contextlib.contextmanager
def _hub_errors(name: str) -> Iterator[None]:
    try:
        yield
    except errors.HFValidationError as error:
        raise InputError(
            f'{name}: there is no such folder, and it is not a name on the Hub, such as '
            'organisation/name; check the spelling'
        ) from error
    except errors.RevisionNotFoundError as error:
        raise InputError(
            f'{name}: has no such revision; give one of its branches, tags or commits'
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise InputError(
            f'{name}: there is no such folder, and no such model on the Hub, or it is private; '
            'check the name, or log in with `hf auth login`'
        ) from error
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, ConnectionError) as error:
        reason = str(error).strip().partition('\n')[0]
        raise InputError(
            f'{name}: the Hub does not answer as expected: {reason}; check the connection and '
            '`hf auth login`'
        ) from error


def _state_dict(model: Any) -> dict[str, np.ndarray]:
    return {k: np.asarray(v) for k, v in port.to_torch(model.params, model.batch_stats).items()}


def _split(state_dict: dict[str, np.ndarray], most: int | str) -> StateDictSplit:
    return split_state_dict_into_shards_factory(
        state_dict,
        get_storage_size=lambda array: array.nbytes,
        filename_pattern='model{suffix}.safetensors',
        max_shard_size=most,
    )


def _write_weights(
    folder: Path, shown: Path, state_dict: dict, config: dict, most: int | str
) -> None:
    metadata = {name: json.dumps(config[name]) for name in ('model', 'normalisation')}
    split = _split(state_dict, most)
    for name, keys in split.filename_to_tensors.items():
        with writer_errors(shown / name, SafetensorError):
            save_file({key: state_dict[key] for key in keys}, folder / name, metadata)
    if split.is_sharded:
        index = {'metadata': split.metadata, 'weight_map': split.tensor_to_filename}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + '\n', encoding='utf-8')


def card(model: Any, stated: About, name: str) -> ModelCard:
    """The model card."""
    this, paper, config = known.of_kind(model.kind, name), PAPERS[model.kind], model.config
    height, width = config.image_size
    results = [
        EvalResult(
            task_type='video-saliency-prediction', dataset_type=dataset, dataset_name=dataset,
            metric_type=metric, metric_value=value,
        )
        for dataset, values in stated.scores.items()
        for metric, value in values.items()
    ]  # fmt: skip
    data = ModelCardData(
        **Shared._hub_mixin_info.model_card_data.to_dict(),
        license=stated.license or None,
        model_name=name or this.title,
        eval_results=results or None,
    )
    which = {
        'middle': f'frame {config.frames // 2} of them, counted from 1',
        'last': 'the last of them',
        'all': 'each of them',
    }[config.target]
    mean, std = model.normalisation
    metrics = list(dict.fromkeys(m for values in stated.scores.values() for m in values))
    table = '\n'.join(
        [
            '| | ' + ' | '.join(metrics) + ' |',
            '|---' * (len(metrics) + 1) + '|',
            *(
                f'| {dataset} | '
                + ' | '.join(f'{v[m]:.4g}' if m in v else '' for m in metrics)
                + ' |'
                for dataset, v in stated.scores.items()
            ),
        ]
    )
    return ModelCard(f"""---
{data.to_yaml()}
---

# {this.title}: where people look in a video

{this.title}, in JAX, with {port.parameter_count(model.params):,} parameters.

```python
import stsa_jax  # pip install 'stsa-jax[hub]'

model = stsa_jax.SaliencyModel.from_pretrained({name!r})  # on the Hub, or a folder
clip = model.preprocess(frames)[None]  # uint8 RGB ({config.frames}, h, w, 3)
saliency = model(clip)
```

For whole videos: `stsa-jax predict --checkpoint=FOLDER --video=film.mp4 --output=out`.

## Frames and maps

- Window: {config.frames} successive frames of {height}x{width}. The map is of {which}.
- Normalisation: RGB in [0, 1], mean {_listed(mean)}, standard deviation {_listed(std)}.
- Maps: float32 in [0, 1]. As 8-bit images they are {this.finished}.

## Training data

{stated.training_data or 'Not recorded with these weights.'}

## Scores

{table if metrics else 'Not recorded with these weights.'}

## Config

```json
{json.dumps(dataclasses.asdict(config), indent=2)}
```

## Cite

The model is from this paper; the authors' own weights are linked from {paper.released}, under their
terms.

```bibtex
{paper.bibtex}
```
""")


def _listed(values: tuple[float, ...]) -> str:
    return ', '.join(f'{value:g}' for value in values)
