"""A model as an ONNX file, checked with onnxruntime: `stsa-jax export --format=onnx`.

    frames (B, T, H, W, 3) uint8 -> maps (B, H, W) float32, for any B

The network's operations have nodes of the same meaning in ONNX, so each becomes its own
(`onnx_program`). jax2onnx 0.17, the converter from JAX that is kept up to date, has no convolutions
and pools over three axes, and of STSA-Net, TASED-Net and tinyHD makes wrong files or none where the
batch size is free.
"""

import os
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path
from stsa_jax.inference.export import frames_of, from_frames
from stsa_jax.ops import forms
from stsa_jax.weights.pretrained import SaliencyModel

# Unasked, onnxruntime sends Microsoft how it is used, and leaves a file in the temporary folder.
os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')
try:
    import onnx
    import onnxruntime
except ImportError as missing:
    raise InputError(
        f'{missing.name} is needed to write ONNX files; install it with '
        "pip install 'stsa-jax[onnx]'"
    ) from missing

from stsa_jax.inference import onnx_program
from stsa_jax.inference.onnx_graph import OPSET

TOLERANCE = 1e-4  # of maps, which are from 0 to 1
CLIPS = 5


def save(model: SaliencyModel, path: str | os.PathLike, *, check: bool = True) -> str:
    """Writes the file, atomically; returns a line about it.

    With `check`, maps of a random clip by onnxruntime are compared with ours first. Raises
    InputError if they differ by more than TOLERANCE, or the model has an operation that is not
    known here; then nothing is written.
    """
    try:
        with forms.use('plain'):
            made = onnx_program.to_model(
                from_frames(model), frames_of(model, 'b'), ('frames', 'maps')
            )
    except NotImplementedError as error:
        raise InputError(
            f'{path}: {model.kind} has {error}, which cannot be written as ONNX; use '
            '--format=stablehlo'
        ) from error
    told = f'opset {OPSET}'
    with atomic_path(path) as temporary:
        onnx.save(made, temporary)
        if check:
            ours = jax.jit(from_frames(model))
            worst = difference(ours, lambda x: run(temporary, x), frames_of(model, 1).shape)
            if not worst <= TOLERANCE:
                raise InputError(
                    f'{path}: maps of {CLIPS} clips differ from ours by {worst:.2g} or more, above '
                    f'{TOLERANCE:g}; use --format=stablehlo'
                )
            told += f', maps within {worst:.1g} of ours'
    return told


def difference(ours: Callable, theirs: Callable, shape: tuple[int, ...]) -> float:
    """The largest difference of two programs' maps, on the best of at most CLIPS random clips.

    `shape` is that of the frames. The first clip within TOLERANCE ends it: where two values that a
    pool compares are nearly equal, their rounding decides which index it keeps, and maps of one
    program differ by up to 5e-3. That is the chance of a clip; a wrong program differs on each.
    """
    best = np.inf
    for seed in range(CLIPS):
        frames = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
        best = min(best, float(np.abs(np.asarray(ours(frames)) - theirs(frames)).max()))
        if best <= TOLERANCE:
            break
    return best


def run(path: str | os.PathLike, frames: np.ndarray) -> np.ndarray:
    """Maps of `frames` (B, T, H, W, 3) uint8 by onnxruntime."""
    return session(path).run(None, {'frames': frames})[0]


def session(path: str | os.PathLike) -> onnxruntime.InferenceSession:
    """The file in onnxruntime, on the CPU."""
    return onnxruntime.InferenceSession(Path(path), providers=['CPUExecutionProvider'])
