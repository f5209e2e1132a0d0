"""Loads weights from any supported file into a model ready to use.

model = load('STSANet_DHF1K.pth')      # or .pt, .safetensors, or a checkpoint directory
saliency = model(clip)                 # (B, 32, 224, 384, 3) -> (B, 224, 384)
"""

import dataclasses
import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import ArrayLike

from stsa_jax import checkpoints, mirror
from stsa_jax.checkpoints.meta import read_meta
from stsa_jax.errors import InputError
from stsa_jax.media import finishing
from stsa_jax.media.preprocess import IMAGENET, Normalisation, normalise
from stsa_jax.models import functional
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.remote import local
from stsa_jax.weights import known, port
from stsa_jax.weights.files import (
    UNREAD,
    config_from,
    note,
    read_folder,
    read_state_dict,
    read_weights,
    recorded_config,
    save,
)
from stsa_jax.weights.resample import resample
from stsa_jax.weights.shared_folder import is_shared_folder


class SaliencyModel:
    """A model with its weights: a clip in, saliency out; compiled once for each batch size.

    Attributes:
        config: STSANetConfig, or another model's; `image_size` and `frames` say what clips it
            takes, and `target` which of the frames its map is of.
        normalisation: of the frames, for `preprocess`.
        graphdef, params, batch_stats: for `stsa_jax.apply`.
        kind: which model it is, see `stsa_jax.weights.known`.
        source: the path it was loaded from, or None.
    """

    source: Path | None = None

    def __init__(
        self,
        config: Any,
        params: dict,
        batch_stats: dict,
        normalisation: Normalisation = IMAGENET,
    ):
        """Puts the weights on the default device."""
        self.config, self.normalisation = config, normalisation
        self._known = known.of_config(config)
        self.kind = self._known.kind
        self.graphdef, *_ = functional.abstract(self._known.module, config)
        self.params, self.batch_stats = jax.device_put((params, batch_stats))
        self._run = jax.jit(functools.partial(functional.apply, self.graphdef))
        self._explain = jax.jit(
            functools.partial(functional.apply, self.graphdef, return_intermediates=True)
        )
        self._carry = jax.jit(self._with_state)

    def __call__(self, clip: ArrayLike, *, return_intermediates: bool = False) -> Any:
        """`(B, T, H, W, 3)` normalised float32 -> saliency `(B, H, W)` float32 in [0, 1].

        A model whose target is 'all' gives `(B, T, H, W)`, a map of every frame.

        With `return_intermediates`, also a dict of stage features and attention matrices. Raises
        InputError for a clip of another shape, or one that cannot be normalised frames.
        """
        _check_range(clip)
        run = self._explain if return_intermediates else self._run
        return run(self.params, self.batch_stats, clip)

    def carry(self, clip: ArrayLike, state: Any = None) -> tuple[jax.Array, Any]:
        """The maps of a recurrent model's clip, and the state with which the next clip goes on.

        `state` is None at the start of a video. Clips as of `__call__`, which always starts anew.
        """
        _check_range(clip)
        weights = self.params, self.batch_stats
        if state is None:
            shapes = jax.eval_shape(self._with_state, *weights, clip)[1]
            state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
        return self._carry(*weights, clip, state)

    def _with_state(self, params, batch_stats, clip, state=None):
        maps, taps = functional.apply(
            self.graphdef, params, batch_stats, clip, return_intermediates=('state',), state=state
        )
        return maps, taps['state']

    def preprocess(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB frames `(T, h, w, 3)` -> `(T, H, W, 3)` float32, resized and normalised."""
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise InputError(
                f'frames of type {frames.dtype} and shape {frames.shape}: expected uint8 RGB '
                '(T, height, width, 3) in 0..255'
            )
        resized = np.stack([self._known.resize(f, self.config.image_size) for f in frames])
        return normalise(resized, self.normalisation)

    def finish(self, saliency: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """A map `(H, W)` -> uint8 as the released code writes it, for a video of `size` = (h, w).

        See `stsa_jax.media.finishing`; of some models it has the model's size.
        """
        return self._known.finish(np.asarray(saliency), size)

    @property
    def how_finished(self) -> str:
        """What `finish` does, in words."""
        return self._known.finished

    @property
    def has_own_finish(self) -> bool:
        """Whether the released code does more to its maps than to resize and scale them."""
        return self._known.finish is not finishing.stsanet

    def save_pretrained(self, folder: str | os.PathLike, **stated: Any) -> None:
        """Writes the model to `folder`: config.json, model.safetensors and a model card.

        `stated` are the fields of `stsa_jax.weights.hub.About`: `training_data`, `scores`,
        `license`, and `max_shard_size` of a weight file ('5GB'). `load` and `from_pretrained` read
        the folder, which may be in object storage (`stsa_jax.mirror`). Needs huggingface_hub (the
        extra `hub`). Raises InputError if the disk or the path does not allow it.
        """
        from stsa_jax.weights import hub

        with mirror.folder(folder) as here:
            hub.save(self, here, hub.about(self.source, **stated))

    @classmethod
    def from_pretrained(
        cls,
        name: str | os.PathLike,
        *,
        image_size: tuple[int, int] | None = None,
        frames: int | None = None,
        allow_nonfinite: bool = False,
        **how: Any,
    ) -> 'SaliencyModel':
        """The model of a folder, or of 'organisation/name' on the Hugging Face Hub.

        `how`: `revision` (a branch, tag or commit), `cache_dir`, `token`, `local_files_only`,
        `force_download`, for the Hub. The others are as of `load`. Raises InputError if there is no
        such model. For the Hub it needs huggingface_hub (the extra `hub`).
        """
        path = Path(local(name, UNREAD))
        if not path.exists():
            from stsa_jax.weights import hub

            path = hub.fetch(str(name), **how)
        return load(path, image_size=image_size, frames=frames, allow_nonfinite=allow_nonfinite)

    def push_to_hub(self, name: str, *, stated: dict[str, Any] | None = None, **how: Any) -> str:
        """Uploads the model to the Hugging Face Hub as 'organisation/name', made if need be.

        `stated` as of `save_pretrained`; `how`: `private`, `token`, `branch`, `commit_message`,
        `create_pr`. Returns the address of the commit. Raises InputError if the Hub refuses.
        """
        from stsa_jax.weights import hub

        return hub.push(self, name, hub.about(self.source, **(stated or {})), **how)


def _check_range(clip) -> None:
    if isinstance(clip, jax.core.Tracer):
        return
    kind = np.dtype(clip.dtype)
    if kind.kind != 'f' and kind.name != 'bfloat16':
        raise InputError(
            f'a clip of type {kind}: expected normalised float32; make it from uint8 frames with '
            'model.preprocess(frames)'
        )
    # Any RGB frame, normalised with any of the usual means, lies well within +-10. A clip on a
    # device is reduced there, so that only one number is transferred.
    low, high = (float(clip.min()), float(clip.max())) if clip.size else (0.0, 0.0)
    extreme = max(high, -low)
    if not extreme <= 10:
        raise InputError(
            f'the clip has values up to {extreme:g}: expected normalised frames, about -3 to 3; '
            'make it from uint8 frames with model.preprocess(frames)'
        )
    # Normalised frames with this contrast range from -2 to 2.5; a grey screen lies in between.
    if 0 <= low < 0.05 and 0.95 < high <= 1:
        raise InputError(
            'the clip has values from 0 to 1, scaled but not normalised: expected about -3 to 3; '
            'make it from uint8 frames with model.preprocess(frames)'
        )


def load(
    path: str | os.PathLike,
    step: int | str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    frames: int | None = None,
    domain: str | None = None,
    allow_nonfinite: bool = False,
) -> SaliencyModel:
    """A model from a training or converted checkpoint directory, a PyTorch or safetensors file.

    Or from a folder that `SaliencyModel.save_pretrained` wrote. All of them may lie in object
    storage (gs://, s3://), see `stsa_jax.remote`.

    The names in it determine the model: STSA-Net or another of `stsa_jax.weights.known`. `step`
    selects a checkpoint of a directory, or 'best'; by default the latest. If `image_size` (H, W) or
    `frames` differ from those of STSA-Net's weights, these are resampled
    (`stsa_jax.weights.resample`), and a line on standard error reports it. `domain` is for UNISAL,
    see `stsa_jax.models.unisal`: 'hollywood', with the frames' size that goes with it, and so on.
    Raises InputError that names the file for anything else, and for weights with NaN or infinity
    unless `allow_nonfinite`.
    """
    path = local(path, UNREAD)
    weights = read_weights(path, step, allow_nonfinite=allow_nonfinite)
    if weights.kind == 's3d':
        raise InputError(
            f"{path}: holds S3D's Kinetics classifier, not a saliency model; give STSA-Net's "
            'weights, or train from these with train.py --config.init_from'
        )
    own = known.of_kind(weights.kind, path).config(**weights.model_config)
    if domain:
        own = _of_domain(own, domain, str(path))
    wanted = dataclasses.replace(
        own, image_size=image_size or own.image_size, frames=frames or own.frames
    )
    trees = weights.params, weights.batch_stats
    if wanted != own and weights.kind == 'stsanet':  # the others' weights fit every size
        trees = _fitted(port.to_torch(*trees), wanted, str(path))
    model = SaliencyModel(wanted, *trees, weights.normalisation)
    model.source = Path(path)
    return model


def _of_domain(config: Any, domain: str, path: str) -> Any:
    """The config with another domain; InputError if the weights have no parts for it."""
    domains = getattr(config, 'domains', ())
    if domain not in domains:
        title = known.of_config(config).title
        found = f'{", ".join(domains)} of {title}' if domains else f'{title}, which has no domains'
        raise InputError(f'{path}: no domain {domain!r}: holds {found}; choose another or none')
    return config.of_domain(domain)


def _fitted(
    state_dict: port.StateDict,
    config: STSANetConfig,
    source: str,
    seed: int = 0,
    say: Callable[[str], None] = note,
    shared: list[str] | None = None,
):
    """`port.from_torch` for weights that may be of another size; reports what it did."""
    state_dict, resampled = resample(state_dict, config, source)
    trees = port.from_torch(state_dict, config, seed=seed, source=source, shared=shared)
    for line in (resampled, *(shared or ())):
        if line:
            say(line)
    return trees


def initialise(
    path: str | os.PathLike,
    config: Any,
    seed: int = 0,
    say: Callable[[str], None] = note,
) -> tuple[dict, dict]:
    """`(params, batch_stats)` of a model of `config`, from its own kind's or S3D's weights.

    With S3D's weights the backbone is filled and the rest gets PyTorch's default initialisation
    from `seed`, as do parts that a variant of the network (`config.structure`) does not share with
    the model of the weights. STSA-Net's weights may be of another input size or clip length:
    `stsa_jax.weights.resample`. A run's folder provides its best checkpoint by validation, if there
    was any, else the latest. `say` gets lines about what was loaded, resampled and left out. Raises
    InputError if the weights do not fit the config, or hold NaN or infinity.
    """
    path = Path(local(path, UNREAD))
    if path.is_dir() and not is_shared_folder(path):
        folder = checkpoints.step_folder(path, 'best if any')
        metrics = ', '.join(f'{k} {v:.4f}' for k, v in read_meta(folder)['metrics'].items())
        which = f'the best by validation: {metrics}' if metrics else 'the latest, not validated'
        say(f'starting from {folder} ({which})')
        weights = read_folder(folder)
        state_dict = port.to_torch(weights.params, weights.batch_stats)
        fields = weights.model_config
    elif path.exists():
        state_dict, metadata = read_state_dict(path, say=say)
        fields = recorded_config(metadata)
    else:
        raise InputError(f'{path}: there is no such file or folder; check the path of the weights')
    if not isinstance(config, STSANetConfig):  # the others' weights fit every size
        lines: list[str] = []
        trees = port.from_torch(state_dict, config, seed=seed, source=str(path), shared=lines)
        for line in lines:
            say(line)
        return trees
    if port.recognise(state_dict, str(path)) != 'stsanet':  # S3D's: only the backbone
        strict = False
    else:
        own = config_from('stsanet', fields, path)
        same = isinstance(own, STSANetConfig) and own.structure == config.structure
        strict = same and not port.is_backbone(state_dict)
    return _fitted(state_dict, config, str(path), seed, say, shared=None if strict else [])


__all__ = ['SaliencyModel', 'initialise', 'load', 'read_weights', 'save']
