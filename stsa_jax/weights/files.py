"""Weight files: PyTorch files, safetensors with PyTorch's names, checkpoint folders.

The format is detected from the content (`formats`), `wrappers` locates the weights in it, and the
model is recognised from their names (`port`). Our safetensors files also store the model's config
and the normalisation of its frames, as JSON in the metadata `model` and `normalisation`; for other
files they are inferred from names and shapes.
"""

import dataclasses
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util

from stsa_jax import checkpoints, mirror
from stsa_jax.checkpoints.weights import Weights
from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path, writer_errors
from stsa_jax.media.preprocess import KINETICS_TORCHVISION, Normalisation
from stsa_jax.remote import is_remote, local
from stsa_jax.weights import formats, known, port, shared_folder, wrappers

UNREAD = ('optimizer',)  # of a run, which weights do without
_TORCH = ('.pth', '.pt')
_SAFETENSORS = '.safetensors'


def note(line: str) -> None:
    """Prints a line for the user on standard error."""
    print(f'note: {line}', file=sys.stderr)


def read_weights(
    path: str | os.PathLike,
    step: int | str | None = None,
    *,
    allow_nonfinite: bool = False,
    say: Callable[[str], None] = note,
) -> Weights:
    """The weights of a complete model, of any kind, in `path`.

    `say` gets lines about where in the file the weights were found. Raises InputError that names
    `path` if there are none, only a backbone, or weights with NaN or infinity unless
    `allow_nonfinite`.
    """
    path = Path(local(path, UNREAD))
    if not path.exists():
        raise InputError(f'{path}: there is no such file or folder; check the path of the weights')
    shared = shared_folder.is_shared_folder(path)
    if path.is_dir() and not shared:
        weights = read_folder(path, step, allow_nonfinite=allow_nonfinite, say=say)
        config_from(weights.kind, weights.model_config, path)
        return weights
    if step is not None:
        raise InputError(f'{path}: is a weight file, but step {step} of a folder was requested')
    state_dict, metadata = read_state_dict(path, allow_nonfinite=allow_nonfinite, say=say)
    naming = port.recognise(state_dict, str(path))
    if naming == 'stsanet' and port.is_backbone(state_dict):
        raise InputError(
            f'{path}: holds only a backbone (base1 to base4), not a complete model; train one from '
            'it with train.py --config.init_from, or give the weights of a complete model'
        )
    model = known.of_naming(naming)
    if metadata.get('kind', model.kind) != model.kind:
        raise InputError(
            f"{path / shared_folder.CONFIG}: says that the model is of kind '{metadata['kind']}', "
            f'but the weights beside it are of {model.kind}; copy the folder again'
        )
    if fields := recorded_config(metadata):
        config = config_from(model.kind, fields, path)
    else:
        config = port.infer_config(state_dict, naming)
    normalisation = _recorded_normalisation(metadata, path) or model.normalisations[naming]
    params, batch_stats = port.from_torch(state_dict, config, source=str(path))
    return Weights(model.kind, dataclasses.asdict(config), params, batch_stats, normalisation)


def recorded_config(metadata: dict[str, str]) -> dict[str, Any]:
    """The config fields in the metadata of a safetensors file; empty if it is not ours."""
    try:
        fields = json.loads(metadata.get('model', '{}'))
    except ValueError:  # 'model' written by another program, such as a name
        return {}
    return fields if isinstance(fields, dict) else {}


def _recorded_normalisation(metadata: dict[str, str], path: Path) -> Normalisation | None:
    if 'normalisation' not in metadata:
        return None
    try:
        mean, std = json.loads(metadata['normalisation'])
        (r, g, b), (r_std, g_std, b_std) = map(float, mean), map(float, std)
        return Normalisation((r, g, b), (r_std, g_std, b_std))
    except (TypeError, ValueError):
        pass
    raise InputError(
        f"{path}: the metadata 'normalisation' is {metadata['normalisation']!r}, expected mean and "
        'std of the frames, [[r, g, b], [r, g, b]]; correct or remove it'
    )


def config_from(kind: str, fields: dict[str, Any], source: str | os.PathLike) -> Any:
    """The config of fields that were read from `source`; InputError where they are not one's."""
    config_class = known.of_kind(kind, source).config
    try:
        return config_class(**fields)
    except (TypeError, ValueError) as error:
        raise InputError(
            f'{source}: the config stored with the weights is not a valid {config_class.__name__}: '
            f'{error}; if a newer version wrote it, update stsa_jax'
        ) from error


def read_state_dict(
    path: str | os.PathLike, *, allow_nonfinite: bool = False, say: Callable[[str], None] = note
) -> tuple[dict, dict[str, str]]:
    """A weight file -> {bare name: array or tensor}, and its metadata if it has any.

    The format is detected from the content, not the name. PyTorch files are read with
    `weights_only=True`, so no code in them runs. `say` gets lines about where in the file the
    weights were found, and what old files lack. Raises InputError, also for NaN and infinity unless
    `allow_nonfinite`.
    """
    path = Path(path)
    shared = shared_folder.is_shared_folder(path)
    found, metadata = shared_folder.read(path) if shared else formats.read(path)
    state_dict, lines = wrappers.unwrap(found, str(path))
    if added := len(port.with_counts(state_dict)) - len(state_dict):
        lines.append(f'{path}: an old file without num_batches_tracked; {added} are set to 0')
    for line in lines:
        say(line)
    check_finite(state_dict, path, allow_nonfinite, say)
    return state_dict, metadata


def check_finite(
    arrays: Mapping[str, Any],
    path: str | os.PathLike,
    allow: bool = False,
    say: Callable[[str], None] = note,
) -> None:
    """Raises InputError that names the first of `arrays` with NaN or infinity and their number.

    With `allow`, `say` gets the line instead. Values beyond float32's range count as infinity.
    """
    bad = []
    for name, array in arrays.items():
        values = port.as_numpy(array)
        if values.dtype.kind == 'f':
            with np.errstate(over='ignore'):
                count = values.size - np.count_nonzero(np.isfinite(values.astype(np.float32)))
            if count:
                bad.append(f'{name} ({count:,} of {values.size:,} values)')
    if not bad:
        return
    more = ', ...' if len(bad) > 3 else ''
    line = (
        f'{path}: {len(bad)} of {len(arrays)} entries hold NaN or infinity: '
        f'{", ".join(bad[:3])}{more}'
    )
    if not allow:
        raise InputError(
            f'{line}. Such weights produce empty maps and cannot be trained. Use an earlier '
            'checkpoint, or copy the file again; to load them anyway, use --allow_nonfinite '
            '(not in train.py), in Python allow_nonfinite=True'
        )
    say(line)


def read_folder(
    path: Path,
    step: int | str | None = None,
    *,
    allow_nonfinite: bool = False,
    say: Callable[[str], None] = note,
) -> Weights:
    """`checkpoints.load_weights` that raises InputError for NaN and infinity unless allowed."""
    weights = checkpoints.load_weights(path, step)
    trees = traverse_util.flatten_dict({**weights.params}, sep='/')
    trees |= traverse_util.flatten_dict(weights.batch_stats, sep='/')
    check_finite(trees, path, allow_nonfinite, say)
    return weights


def save(path: str | os.PathLike, weights: Weights, naming: str | None = None) -> None:
    """Writes weights: .pth, .pt and .safetensors with PyTorch's names, else a checkpoint folder.

    `naming` applies to S3D in a file; by default that of the implementation the weights came from.
    Raises InputError, and leaves nothing behind, if the path or the disk does not allow it.
    """
    if is_remote(path):
        in_file = Path(path).suffix in (*_TORCH, _SAFETENSORS)
        with (mirror.file if in_file else mirror.folder)(path) as here:
            save(here, weights, naming)
        return
    path = Path(path)
    if path.suffix not in (*_TORCH, _SAFETENSORS):
        if path.suffix and not path.is_dir():
            raise InputError(
                f'{path}: unknown output format: expected a name that ends in .pth, .pt or '
                '.safetensors, or a folder name without an extension'
            )
        config, normalisation = weights.model_config, weights.normalisation
        checkpoints.save_weights(
            path, weights.kind, config, weights.params, weights.batch_stats, normalisation
        )
        return
    if path.is_dir():
        raise InputError(f'{path}: is a folder, but a file name was expected; choose another name')
    torchvision = weights.normalisation == KINETICS_TORCHVISION
    if weights.kind == 's3d' and naming is None and torchvision:
        naming = 's3d_torchvision'
    state_dict = port.to_torch(weights.params, weights.batch_stats, naming=naming)
    if path.suffix == _SAFETENSORS:
        from safetensors import SafetensorError
        from safetensors.numpy import save_file

        metadata = {
            'model': json.dumps(weights.model_config),
            'normalisation': json.dumps(weights.normalisation),
        }
        with atomic_path(path) as temporary, writer_errors(path, SafetensorError):
            save_file(state_dict, temporary, metadata)
    else:
        torch = formats.torch_module(path)
        # Copied, so that tensors share no memory with our arrays, and 0-d arrays stay 0-d.
        tensors = {k: torch.tensor(v) for k, v in state_dict.items()}
        with atomic_path(path) as temporary, writer_errors(path, RuntimeError):
            torch.save(tensors, temporary)
