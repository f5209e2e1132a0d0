"""Weights from any file that people hold, and the model ready to use.

model = load('STSANet_DHF1K.pth')      # or .pt, .safetensors, or a checkpoint directory
saliency = model(clip)                 # (B, 32, 224, 384, 3) -> (B, 224, 384)
"""

import argparse
import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from stsa_jax import checkpoint, functional, port
from stsa_jax.checkpoint import Weights
from stsa_jax.checkpoint_meta import read_meta
from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path
from stsa_jax.preprocess import (
    IMAGENET,
    KINETICS_KYLEMIN,
    KINETICS_TORCHVISION,
    Normalisation,
    normalise,
    resize_frame,
)
from stsa_jax.resample import resample
from stsa_jax.s3d import S3DConfig
from stsa_jax.stsanet import STSANet, STSANetConfig

_TORCH = ('.pth', '.pt')
_SAFETENSORS = '.safetensors'
_NORMALISATION = {
    'stsanet': IMAGENET,
    's3d_kinetics': KINETICS_KYLEMIN,
    's3d_torchvision': KINETICS_TORCHVISION,
}


class SaliencyModel:
    """STSA-Net with its weights: a clip in, saliency out; compiled once for each batch size.

    Attributes:
        config: STSANetConfig; `image_size` and `frames` say what clips it takes.
        normalisation: of the frames, for `preprocess`.
        graphdef, params, batch_stats: for `stsa_jax.apply`.
    """

    def __init__(
        self, config: STSANetConfig, params, batch_stats, normalisation: Normalisation = IMAGENET
    ):
        """Puts the weights on the default device."""
        self.config, self.normalisation = config, normalisation
        self.graphdef, *_ = functional.abstract(STSANet, config)
        self.params, self.batch_stats = jax.device_put((params, batch_stats))
        self._run = jax.jit(functools.partial(functional.apply, self.graphdef))
        self._explain = jax.jit(
            functools.partial(functional.apply, self.graphdef, return_intermediates=True)
        )

    def __call__(self, clip, *, return_intermediates: bool = False):
        """`(B, T, H, W, 3)` normalised float32 -> saliency `(B, H, W)` float32 in [0, 1].

        With `return_intermediates`, also a dict of stage features and attention matrices. Raises
        InputError for a clip of another shape, or one that cannot be normalised frames.
        """
        _check_range(clip)
        run = self._explain if return_intermediates else self._run
        return run(self.params, self.batch_stats, clip)

    def preprocess(self, frames: np.ndarray) -> np.ndarray:
        """uint8 RGB frames `(T, h, w, 3)` -> `(T, H, W, 3)` float32, resized and normalised."""
        frames = np.asarray(frames)
        if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
            raise InputError(
                f'frames of type {frames.dtype} and shape {frames.shape}: expected uint8 RGB '
                '(T, height, width, 3) in 0..255'
            )
        resized = np.stack([resize_frame(f, self.config.image_size) for f in frames])
        return normalise(resized, self.normalisation)


def _check_range(clip) -> None:
    if isinstance(clip, jax.core.Tracer):
        return
    kind = np.dtype(clip.dtype)
    if kind.kind != 'f' and kind.name != 'bfloat16':
        raise InputError(
            f'a clip of type {kind}: expected normalised float32; make it from uint8 frames with '
            'model.preprocess(frames)'
        )
    # Any RGB frame, normalised with any of the field's means, lies well within +-10.
    # A clip on a device is looked at there: one number comes back.
    extreme = max(float(clip.max()), -float(clip.min())) if clip.size else 0.0
    if not extreme <= 10:
        raise InputError(
            f'the clip has values up to {extreme:g}: expected normalised frames, about -3 to 3; '
            'make it from uint8 frames with model.preprocess(frames)'
        )


def load(
    path: str | os.PathLike,
    step: int | str | None = None,
    *,
    image_size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> SaliencyModel:
    """STSA-Net from a training or converted checkpoint directory, a .pth, .pt or .safetensors file.

    `step` is for a directory: which checkpoint, or 'best'; by default the latest. With `image_size`
    (H, W) or `frames` other than those of the weights, what depends on them is resampled
    (`stsa_jax.resample`), and a line on standard error says so. Raises InputError, naming the file,
    for anything else.
    """
    weights = read_weights(path, step)
    if weights.kind != 'stsanet':
        raise InputError(
            f"{path}: holds S3D's Kinetics classifier, not a saliency model; give STSA-Net's "
            'weights, or train from these with --config.init_from'
        )
    own = STSANetConfig(**weights.model_config)
    wanted = dataclasses.replace(
        own, image_size=image_size or own.image_size, frames=frames or own.frames
    )
    trees = weights.params, weights.batch_stats
    if wanted != own:
        trees = _fitted(port.to_torch(*trees), wanted, str(path))
    return SaliencyModel(wanted, *trees, weights.normalisation)


def _note(line: str) -> None:
    print(f'note: {line}', file=sys.stderr)


def _fitted(
    state_dict: port.StateDict,
    config: STSANetConfig,
    source: str,
    seed: int = 0,
    say: Callable[[str], None] = _note,
    shared: list[str] | None = None,
):
    """`port.from_torch` of weights that may be of another size; says what was resampled."""
    state_dict, resampled = resample(state_dict, config, source)
    trees = port.from_torch(state_dict, config, seed=seed, source=source, shared=shared)
    for line in (resampled, *(shared or ())):
        if line:
            say(line)
    return trees


def read_weights(path: str | os.PathLike, step: int | str | None = None) -> Weights:
    """Weights of whatever kind `path` holds; raises InputError naming it if there are none."""
    path = Path(path)
    if not path.exists():
        raise InputError(f'{path}: there is no such file or folder; check the path of the weights')
    if path.is_dir():
        return checkpoint.load_weights(path, step)
    if step is not None:
        raise InputError(f'{path}: is a file of weights, but step {step} of a folder was asked for')
    state_dict, metadata = read_state_dict(path)
    naming = port.recognise(state_dict, str(path))
    if 'model' in metadata:
        kind = STSANetConfig if naming == 'stsanet' else S3DConfig
        config = kind(**json.loads(metadata['model']))
        normalisation = Normalisation(*map(tuple, json.loads(metadata['normalisation'])))
    else:
        config = port.infer_config(state_dict, naming)
        normalisation = _NORMALISATION[naming]
    params, batch_stats = port.from_torch(state_dict, config, source=str(path))
    return Weights(
        'stsanet' if naming == 'stsanet' else 's3d',
        dataclasses.asdict(config),
        params,
        batch_stats,
        normalisation,
    )


def initialise(
    path: str | os.PathLike,
    config: STSANetConfig,
    seed: int = 0,
    say: Callable[[str], None] = _note,
) -> tuple[dict, dict]:
    """`(params, batch_stats)` of an STSA-Net of `config`, from STSA-Net's or S3D's weights.

    With S3D's weights the backbone is filled and the rest has PyTorch's default initialisation from
    `seed`. So it is with the parts that a variant of the network (`config.structure`) does not
    share with the one that the weights are of. STSA-Net's may be of another input size or clip
    length: `stsa_jax.resample`. Of a run's folder it is the best checkpoint by validation, if there
    was any, else the latest. `say` gets lines about what was loaded, resampled, and what not.
    Raises InputError where the weights do not fit the config.
    """
    path = Path(path)
    if path.is_dir():
        folder = checkpoint.step_folder(path, 'best if any')
        metrics = ', '.join(f'{k} {v:.4f}' for k, v in read_meta(folder)['metrics'].items())
        which = f'the best by validation: {metrics}' if metrics else 'the latest, not validated'
        say(f'starting from {folder} ({which})')
        weights = checkpoint.load_weights(folder)
        state_dict = port.to_torch(weights.params, weights.batch_stats)
        fields = weights.model_config if weights.kind == 'stsanet' else {}
    elif path.exists():
        state_dict, metadata = read_state_dict(path)
        fields = json.loads(metadata.get('model', '{}'))
        fields = {} if 'num_classes' in fields else fields
    else:
        raise InputError(f'{path}: there is no such file or folder; check the path of the weights')
    same = STSANetConfig(**fields).structure == config.structure
    return _fitted(state_dict, config, str(path), seed, say, shared=None if same else [])


def read_state_dict(path: str | os.PathLike) -> tuple[dict, dict[str, str]]:
    """A .pth, .pt or .safetensors file -> {name: array or tensor}, and its metadata if it has any.

    PyTorch files are read with `weights_only=True`: nothing in them is run. Raises InputError.
    """
    path = Path(path)
    if path.suffix == _SAFETENSORS:
        return _read_safetensors(path)
    if path.suffix not in _TORCH:
        raise InputError(
            f'{path}: expected a .pth, .pt or .safetensors file or a checkpoint folder, found a '
            f'file ending in {path.suffix or "nothing"!r}'
        )
    return _read_torch(path), {}


def _read_safetensors(path):
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework='numpy') as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (SafetensorError, TypeError) as error:
        raise InputError(
            f'{path}: not a whole safetensors file ({error}); copy or download it again'
        ) from error


def _read_torch(path):
    torch = _torch(path)
    try:
        found = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # torch raises all kinds for a damaged file
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else repr(error)
        raise InputError(
            f'{path}: not a whole PyTorch file of weights alone ({reason}); copy or download it '
            'again; a file that needs code to be read is refused'
        ) from error
    for key in ('state_dict', 'model_state_dict', 'model'):
        if isinstance(found, dict) and isinstance(found.get(key), dict):
            found = found[key]
    if not isinstance(found, dict) or not all(torch.is_tensor(v) for v in found.values()):
        raise InputError(
            f'{path}: expected a state dict (name -> tensor), found {type(found).__name__}; save '
            'one with torch.save(model.state_dict(), PATH)'
        )
    return found


def _torch(path):
    try:
        import torch
    except ImportError as error:
        raise InputError(
            f'{path}: PyTorch is needed for .pth and .pt files; install it with '
            "pip install -e '.[port]' in the checkout, or use a .safetensors file"
        ) from error
    return torch


def save(path: str | os.PathLike, weights: Weights, naming: str | None = None) -> None:
    """Writes weights: .pth, .pt and .safetensors in PyTorch's names, else a checkpoint folder.

    `naming` is for S3D in a file; by default that of the implementation the weights came from.
    """
    path = Path(path)
    if path.suffix not in (*_TORCH, _SAFETENSORS):
        if path.suffix and not path.is_dir():
            raise InputError(
                f'{path}: cannot tell what to write: expected a name that ends in .pth, .pt or '
                '.safetensors, or a folder name without an ending'
            )
        config, normalisation = weights.model_config, weights.normalisation
        checkpoint.save_weights(
            path, weights.kind, config, weights.params, weights.batch_stats, normalisation
        )
        return
    if path.is_dir():
        raise InputError(f'{path}: is a folder, but a file was to be written; name another')
    torchvision = weights.normalisation == KINETICS_TORCHVISION
    if weights.kind == 's3d' and naming is None and torchvision:
        naming = 's3d_torchvision'
    state_dict = port.to_torch(weights.params, weights.batch_stats, naming=naming)
    if path.suffix == _SAFETENSORS:
        from safetensors.numpy import save_file

        metadata = {
            'model': json.dumps(weights.model_config),
            'normalisation': json.dumps(weights.normalisation),
        }
        with atomic_path(path) as temporary:
            save_file(state_dict, temporary, metadata)
    else:
        torch = _torch(path)
        with atomic_path(path) as temporary:
            # Copies: a parameter shares no memory with ours, and 0-d arrays stay 0-d.
            torch.save({k: torch.tensor(v) for k, v in state_dict.items()}, temporary)


def convert(arguments: list[str] | None = None) -> None:
    """The command `python -m stsa_jax.port SOURCE DEST`."""
    parser = argparse.ArgumentParser(
        prog='python -m stsa_jax.port',
        description='Converts weights between PyTorch (.pth, .pt), safetensors and checkpoints.',
    )
    parser.add_argument('source', help='a .pth, .pt or .safetensors file, or a checkpoint folder')
    parser.add_argument('dest', help='what to write: its ending says what')
    parser.add_argument(
        '--naming',
        choices=('s3d_kinetics', 's3d_torchvision'),
        help="how to name S3D's classifier in a file (default: as where it came from)",
    )
    options = parser.parse_args(arguments)
    weights = read_weights(options.source)
    if options.naming and weights.kind != 's3d':
        raise InputError(f'{options.source}: --naming is for S3D, but this is {weights.kind}')
    save(options.dest, weights, options.naming)
    count = port.parameter_count(weights.params)
    print(f'{options.source} -> {options.dest}: {weights.kind}, {count:,} parameters')
    fields = ', '.join(f'{key}={value}' for key, value in weights.model_config.items())
    print(f'  {fields}')


__all__ = ['SaliencyModel', 'convert', 'initialise', 'load', 'read_weights', 'save']
