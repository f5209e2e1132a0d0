"""A model as an ONNX file, by jax2onnx, checked with onnxruntime: `stsa-jax export --format=onnx`.

jax2onnx has no convolutions and no pools over three axes. So the traced program is rewritten with
the same sums: a 3-D convolution as one 2-D convolution for each of its taps in time, or as one over
time and pixels where its kernel has only times; a max pool as maxima of shifted slices.
"""

import os
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.extend import core

from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path
from stsa_jax.inference.export import frames_of, from_frames
from stsa_jax.ops import forms
from stsa_jax.weights.pretrained import SaliencyModel

try:
    import jax2onnx
    import onnx
    import onnxruntime
except ImportError as missing:
    raise InputError(
        f'{missing.name} is needed to write ONNX files; install it with '
        "pip install 'stsa-jax[onnx]'"
    ) from missing

TOLERANCE = 1e-4  # of maps, which are from 0 to 1
_INLINED = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')


def save(model: SaliencyModel, path: str | os.PathLike, *, check: bool = True) -> str:
    """Writes the file, atomically; returns a line about it.

    With `check`, maps of a random clip by onnxruntime are compared with ours first. Raises
    InputError if they differ by more than TOLERANCE, or the program has something that the
    converter does not know; then nothing is written.
    """
    try:
        with forms.use('published'):
            converted = jax2onnx.to_onnx(
                rewritten(from_frames(model)),
                inputs=[frames_of(model, 'b')],
                model_name=model.kind,
                input_names=['frames'],
                output_names=['maps'],
            )
    except Exception as error:  # the converter raises many types
        reason = str(error).strip().partition('\n')[0]
        raise InputError(
            f'{path}: jax2onnx {metadata.version("jax2onnx")} cannot convert {model.kind}: '
            f'{reason}; use --format=stablehlo'
        ) from error
    opset = max(entry.version for entry in converted.opset_import if not entry.domain)
    told = f'opset {opset}'
    with atomic_path(path) as temporary:
        onnx.save(converted, temporary)
        if check:
            told += f', maps within {difference(model, temporary):.1g} of ours'
    return told


def difference(model: SaliencyModel, path: str | os.PathLike, seed: int = 0) -> float:
    """The largest difference of the file's maps from ours, on a random clip.

    Raises InputError if it is above TOLERANCE.
    """
    shape = frames_of(model, 1).shape
    frames = np.random.default_rng(seed).integers(0, 256, shape, np.uint8)
    ours = np.asarray(jax.jit(from_frames(model))(frames))
    worst = float(np.abs(ours - run(path, frames)).max())
    if not worst <= TOLERANCE:
        raise InputError(
            f'{path}: maps differ from ours by {worst:.2g}, more than {TOLERANCE:g}; this '
            'converter does not keep the model: use --format=stablehlo'
        )
    return worst


def run(path: str | os.PathLike, frames: np.ndarray) -> np.ndarray:
    """Maps of `frames` (B, T, H, W, 3) uint8 by onnxruntime."""
    session = onnxruntime.InferenceSession(Path(path), providers=['CPUExecutionProvider'])
    return session.run(None, {'frames': frames})[0]


def rewritten(f: Callable) -> Callable:
    """`f` of one array, with convolutions and pools that jax2onnx knows."""

    def run(x):
        program = jax.make_jaxpr(f)(x)
        return _evaluate(program.jaxpr, program.consts, x)[0]

    return run


def _evaluate(jaxpr: core.Jaxpr, consts: Sequence, *inputs: Any) -> list:
    values = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs]))
    value_of = lambda v: v.val if isinstance(v, core.Literal) else values[v]  # noqa: E731
    for equation in jaxpr.eqns:
        given, params = [value_of(v) for v in equation.invars], equation.params
        name = equation.primitive.name
        inner = next((params[p] for p in _INLINED if p in params), None)
        if name == 'conv_general_dilated' and len(params['window_strides']) == 3:
            results = [_convolution(given[0], given[1], params)]
        elif name == 'reduce_window_max':
            results = [_max_pool(given[0], params)]
        elif inner is not None and name not in ('scan', 'while', 'cond'):
            results = _evaluate(
                getattr(inner, 'jaxpr', inner), getattr(inner, 'consts', ()), *given
            )
        elif name == 'pad' and any(between for _, _, between in params['padding_config']):
            results = [_pad(given[0], given[1], params['padding_config'])]
        elif name == 'name':  # for the gradient
            results = given
        elif _is_of_weights_alone(equation, given):
            with jax.ensure_compile_time_eval():  # now, instead of in the file
                results = _bound(equation, given)
        else:
            results = _bound(equation, given)
        values.update(zip(equation.outvars, results))
    return [value_of(v) for v in jaxpr.outvars]


def _is_of_weights_alone(equation: core.JaxprEqn, given: Sequence) -> bool:
    if '.' in equation.primitive.name:  # the converter's own, such as jax.numpy.tile
        return False
    sizes = [size for v in equation.outvars for size in v.aval.shape]
    known = not any(isinstance(value, jax.core.Tracer) for value in given)
    return bool(given) and known and all(isinstance(size, int) for size in sizes)


def _bound(equation: core.JaxprEqn, given: Sequence) -> list:
    results = equation.primitive.bind(*given, **equation.params)
    return results if equation.primitive.multiple_results else [results]


def _convolution(x: jax.Array, kernel: jax.Array, params: dict) -> jax.Array:
    """`lax.conv_general_dilated` in three dimensions, channels last, as 2-D convolutions."""
    layout = lax.conv_dimension_numbers(x.shape, kernel.shape, ('NDHWC', 'DHWIO', 'NDHWC'))
    dilated = {*params['lhs_dilation'], *params['rhs_dilation']} != {1}
    if params['dimension_numbers'] != layout or dilated or params['feature_group_count'] != 1:
        raise NotImplementedError(f'a 3-D convolution with {params["dimension_numbers"]}')
    (st, *stride), (pt, *pads) = params['window_strides'], params['padding']
    x = _padded(x, ((0, 0), pt, (0, 0), (0, 0), (0, 0)), 0.0)
    kernel = kernel if isinstance(kernel, jax.core.Tracer) else np.asarray(kernel)
    b, t, h, w, c = x.shape
    kt, kh, kw = kernel.shape[:3]
    steps = (t - kt) // st + 1

    def convolve(x, kernel, stride, pads):
        return lax.conv_general_dilated(
            x, kernel, stride, pads, dimension_numbers=('NHWC', 'HWIO', 'NHWC'),
            precision=params['precision'],
        )  # fmt: skip

    if (kh, kw, *stride) == (1, 1, 1, 1) and not any(map(any, pads)):
        y = convolve(x.reshape(b, t, h * w, c), kernel[:, :, 0], (st, 1), ((0, 0), (0, 0)))
        return y.reshape(b, steps, h, w, -1)
    parts = []
    for tap in range(kt):
        frames = x if kt == st == 1 else lax.slice_in_dim(
            x, tap, tap + (steps - 1) * st + 1, st, axis=1
        )  # fmt: skip
        parts.append(convolve(frames.reshape(b * steps, h, w, c), kernel[tap], stride, pads))
    y = sum(parts[1:], parts[0])
    return y.reshape(b, steps, *y.shape[1:])


def _pad(x: jax.Array, value: Any, config: Sequence[tuple[int, int, int]]) -> jax.Array:
    """`lax.pad` with values between the elements too, by a further axis."""
    for axis, (_, _, between) in enumerate(config):
        if between:
            before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
            pads = [(0, 0)] * (axis + 1) + [(0, between)] + [(0, 0)] * len(after)
            x = jnp.pad(x.reshape(*before, n, 1, *after), pads, constant_values=value)
            x = x.reshape(*before, n * (between + 1), *after)
            x = lax.slice_in_dim(x, 0, x.shape[axis] - between, axis=axis)
    for axis, (low, high, _) in enumerate(config):
        if low < 0 or high < 0:
            end = x.shape[axis] + min(high, 0)
            x = lax.slice_in_dim(x, max(-low, 0), end, axis=axis)
    pads = [(max(low, 0), max(high, 0)) for low, high, _ in config]
    return jnp.pad(x, pads, constant_values=value)


def _padded(x: jax.Array, pads: Sequence, value: float) -> jax.Array:
    if not any(map(any, pads)):
        return x
    return jnp.pad(x, pads, constant_values=value)  # of lax.pad the converter fails on free sizes


def _max_pool(x: jax.Array, params: dict) -> jax.Array:
    """`lax.reduce_window` of maxima, one axis after the other."""
    x = _padded(x, params['padding'], -np.inf)
    for axis, (window, stride) in enumerate(
        zip(params['window_dimensions'], params['window_strides'])
    ):
        if window == stride == 1:
            continue
        last = (x.shape[axis] - window) // stride * stride + 1
        whole = x
        x = lax.slice_in_dim(whole, 0, last, stride, axis=axis)
        for i in range(1, window):
            x = lax.max(x, lax.slice_in_dim(whole, i, i + last, stride, axis=axis))
    return x
