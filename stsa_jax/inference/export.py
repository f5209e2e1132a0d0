"""A model as one file that runs without this project: `stsa-jax export`.

    uint8 frames (B, T, H, W, 3), RGB, of the model's size -> map (B, H, W) float32 in [0, 1]

The file holds the weights and the normalisation of the frames; the batch size is free. A model
whose target is 'all' gives (B, T, H, W).

StableHLO is JAX's own format, for CPUs, NVIDIA GPUs and TPUs at once:

    import jax
    import numpy as np

    model = jax.export.deserialize(bytearray(open('model.stablehlo', 'rb').read()))
    frames = np.zeros((1, *model.in_avals[0].shape[1:]), np.uint8)
    saliency = model.call(frames)

ONNX is for other runtimes: `stsa_jax.inference.onnx_file`.
"""

import os
from collections.abc import Callable

import jax
import jax.numpy as jnp

from stsa_jax.files import write_atomic
from stsa_jax.models import functional
from stsa_jax.ops import forms
from stsa_jax.weights.pretrained import SaliencyModel

PLATFORMS = ('cpu', 'cuda', 'tpu')


def from_frames(model: SaliencyModel) -> Callable[[jax.Array], jax.Array]:
    """The function of a file: frames (B, T, H, W, 3) uint8 -> maps."""
    mean, std = (jnp.asarray(values, jnp.float32) for values in model.normalisation)

    def run(frames: jax.Array) -> jax.Array:
        clip = (frames.astype(jnp.float32) / 255 - mean) / std
        return functional.apply(model.graphdef, model.params, model.batch_stats, clip)

    return run


def frames_of(model: SaliencyModel, batch: int | str) -> jax.ShapeDtypeStruct:
    """The shape of the frames, with a batch of a size or, for a name, of any size."""
    size = jax.export.symbolic_shape(batch)[0] if isinstance(batch, str) else batch
    shape = (size, model.config.frames, *model.config.image_size, 3)
    return jax.ShapeDtypeStruct(shape, jnp.uint8)


def to_stablehlo(model: SaliencyModel) -> jax.export.Exported:
    """The exported function, for all PLATFORMS, in the plain forms."""
    with forms.use('plain'):
        run = jax.jit(from_frames(model))
        return jax.export.export(run, platforms=PLATFORMS)(frames_of(model, 'b'))


def save_stablehlo(model: SaliencyModel, path: str | os.PathLike) -> None:
    """Writes the file, atomically."""
    write_atomic(path, bytes(to_stablehlo(model).serialize()))
