"""Resamples weights from one input size and clip length to another, before `port.from_torch`.

Three kinds of weights depend on the size of the clips; all others fit unchanged.

- Scale and bias of STSA's LayerNorms, `(C, T, H, W)` in PyTorch's layout, are resampled bilinearly
  in H and W (half-pixel centres), like position embeddings in other networks.
- The kernels of the temporal compression, k taps over the clip's duration, are resampled by area,
  which preserves the sum of the taps and the features of a still video: for twice the frames each
  tap is repeated and halved, for half of them neighbours are summed.
- Level 3 is compressed only in clips of more than 32 frames. A new compression is initialised to
  the mean of the steps; its ReLU changes nothing, because the features come from a ReLU.
"""

import numpy as np
from flax import traverse_util

from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.models.stsa import STEPS
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.ops.upsampling import bilinear_taps
from stsa_jax.weights import port
from stsa_jax.weights.names import bare, torch_name

FINEST, COARSEST = 'branch0_pre.0', 'branch3_pre.0'  # the compressions of levels 0 and 3


def resample(
    state_dict: port.StateDict, config: STSANetConfig, source: str = 'the state dict'
) -> tuple[dict, str]:
    """Resamples the weights that depend on size and length to `config`; others are unchanged.

    Args:
        state_dict: name -> array or tensor, of STSA-Net; others are returned unchanged.
        config: the wanted model.
        source: name of the dict in messages.

    Returns:
        The state dict, and a line that describes what was resampled, '' for nothing.

    Raises InputError if weights cannot be resampled: LayerNorms of the full shape for a size-free
    model, and a trained compression of level 3 for clips without one.
    """
    arrays = bare(state_dict)
    steps = np.shape(arrays.get(f'{FINEST}.weight', 0))[2:3]  # an eighth of the frames
    wanted = traverse_util.flatten_dict(functional.abstract(STSANet, config)[1])
    norms, kernels = {}, {}
    for path, like in wanted.items():
        level, part, leaf = path[0].removeprefix('branch'), path[-2], path[-1]
        if level == path[0] or part not in ('norm', 'compress'):
            continue
        name, _ = torch_name(path, 'stsanet')
        if name not in arrays:
            continue
        shape, size = np.shape(arrays[name]), like.shape
        if part == 'norm' and len(shape) == 4 and len(size) == 1:
            raise InputError(
                f"{source}: {name} has shape {shape}, but config.model.norm='size_free' needs one "
                'value per channel; a LayerNorm whose scale varies over positions has none. '
                "Use norm='full', which is resampled to the image_size, or train from scratch"
            )
        if part == 'norm' and len(shape) == len(size) == 4 and shape[2:] != size[1:3]:
            arrays[name] = resize(port.as_numpy(arrays[name]), size[1:3])
            norms[f'level {level}'] = f'{shape[2]}x{shape[3]} -> {size[1]}x{size[2]}'
        elif (part, leaf) == ('compress', 'kernel') and len(shape) == 5 and shape[2] != size[0]:
            arrays[name] = resample_taps(port.as_numpy(arrays[name]), size[0])
            kernels[f'level {level}'] = f'{shape[2]} -> {size[0]}'
    said = [
        f'{what} ({", ".join(f"{level}: {change}" for level, change in changes.items())})'
        for what, changes in (
            ('scale and bias of LayerNorms', norms),
            ('taps of the temporal compression', kernels),
        )
        if changes
    ]
    if coarsest := _fit_coarsest(arrays, wanted, steps, source):
        said.append(coarsest)
    return arrays, f'{source}: resampled {"; ".join(said)}' if said else ''


def resize(array: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """`(..., h, w)` float32 to `(..., H, W)`, bilinear with half-pixel centres, edges clamped."""
    wide = array.astype(np.float64)
    for axis, n in zip((-2, -1), size):
        before, after, weight = bilinear_taps(wide.shape[axis], n)
        first, second = wide.take(before, axis), wide.take(after, axis)
        wide = first + (second - first) * (weight[:, None] if axis == -2 else weight)
    return wide.astype(array.dtype)


def resample_taps(kernel: np.ndarray, taps: int) -> np.ndarray:
    """A kernel `(D, C, k, 1, 1)` over the same duration with another number of `taps`.

    Each new tap receives from each old one the share that overlaps it, which preserves the sum.
    """
    k = kernel.shape[2]
    edges, new = np.arange(k + 1) / k, np.arange(taps + 1) / taps
    starts = np.maximum(edges[:-1, None], new[None, :-1])
    ends = np.minimum(edges[1:, None], new[None, 1:])
    share = k * np.maximum(ends - starts, 0)  # (k, taps); rows sum to 1
    return np.einsum('dckhw,kt->dcthw', kernel, share).astype(kernel.dtype)


def _fit_coarsest(arrays: dict, wanted: dict, steps: tuple[int, ...], source: str) -> str:
    """Adds or removes the compression of level 3 in `arrays`; describes the change, or ''."""
    like = wanted.get(('branch3', 'compress', 'kernel'))
    kernel, bias = f'{COARSEST}.weight', f'{COARSEST}.bias'
    has_one = kernel in arrays
    has_level = 'branch3_mid.0.weight' in arrays
    if like is not None and not has_one and has_level and all(n <= STEPS for n in steps):
        taps, _, _, channels, _ = like.shape
        arrays[kernel] = _mean_kernel(channels, taps)
        arrays[bias] = np.zeros(channels, np.float32)
        return f"and level 3's new compression is the mean of {taps} steps"
    if like is None and has_one:
        array = port.as_numpy(arrays[kernel])
        mean = _mean_kernel(array.shape[0], array.shape[2])
        if not np.array_equal(array, mean) or np.any(port.as_numpy(arrays[bias])):
            raise InputError(
                f'{source}: {kernel} is a trained compression of level 3, which clips of up to '
                f'{8 * STEPS} frames do not have; use config.model.frames above {8 * STEPS}, or '
                'weights of shorter clips'
            )
        del arrays[kernel], arrays[bias]
        return "and level 3's compression, a mean, is left out"
    return ''


def _mean_kernel(channels: int, taps: int) -> np.ndarray:
    kernel = np.repeat(np.eye(channels, dtype=np.float32)[:, :, None], taps, axis=2) / taps
    return kernel[..., None, None]
