"""What becomes of each operation of a traced program in an ONNX graph."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jax.extend import core
from onnx import helper

from stsa_jax.inference.onnx_graph import Graph, Value, is_fixed

# JAX's names of operations -> ONNX's, of those that are the same on each element.
ELEMENTWISE = {
    'add': 'Add', 'add_any': 'Add', 'sub': 'Sub', 'mul': 'Mul', 'div': 'Div', 'max': 'Max',
    'min': 'Min', 'pow': 'Pow', 'exp': 'Exp', 'log': 'Log', 'tanh': 'Tanh', 'sqrt': 'Sqrt',
    'logistic': 'Sigmoid', 'erf': 'Erf', 'neg': 'Neg', 'abs': 'Abs', 'eq': 'Equal',
    'gt': 'Greater', 'ge': 'GreaterOrEqual', 'lt': 'Less', 'le': 'LessOrEqual',
    'and': 'And', 'or': 'Or', 'not': 'Not',
}  # fmt: skip
REDUCTIONS = {'reduce_sum': 'ReduceSum', 'reduce_max': 'ReduceMax', 'reduce_min': 'ReduceMin'}
SAME = ('copy', 'name', 'stop_gradient', 'optimization_barrier')


def nodes(graph: Graph, equation: core.JaxprEqn, given: Sequence) -> list:
    """The results of an operation, whose nodes are added to the graph.

    `given` are Values, or arrays that are known. They and the results may have one place on an axis
    where the program has more, all alike: most operations broadcast. Raises NotImplementedError
    that names the operation if there is no form for it.
    """
    name, params = equation.primitive.name, equation.params
    shape = equation.outvars[0].aval.shape
    if name in SAME:
        return list(given)
    if name in ELEMENTWISE:
        return [elementwise(graph, ELEMENTWISE[name], *given)]
    if name == 'broadcast_in_dim':
        sizes = [1] * len(shape)
        for axis, n in zip(params['broadcast_dimensions'], given[0].shape):
            sizes[axis] = n
        return [graph.reshape(given[0], sizes)]
    if name == 'select_n':
        which, *cases = given
        if not isinstance(which, Value) and np.ndim(which) == 0:
            return [cases[int(which)]]
        if len(cases) != 2:
            raise NotImplementedError('a choice of more than two')
        return [elementwise(graph, 'Where', which, *cases[::-1])]
    if name == 'square' or (name == 'integer_pow' and params['y'] == 2):
        return [elementwise(graph, 'Mul', given[0], given[0])]
    if name == 'rsqrt':
        return [elementwise(graph, 'Reciprocal', elementwise(graph, 'Sqrt', *given))]
    if name == 'clamp':
        low, x, high = given
        return [elementwise(graph, 'Min', elementwise(graph, 'Max', x, low), high)]
    if name == 'dim_as_value':
        return [_cast(graph, graph.reshape(graph.sizes([params['dim']]), ()), np.dtype(np.int32))]
    if name == 'convert_element_type':
        return [_cast(graph, given[0], params['new_dtype'])]
    given = [graph.whole(x, v.aval.shape) for x, v in zip(given, equation.invars)]
    if name in REDUCTIONS:
        return [_reduced(graph, REDUCTIONS[name], given[0], params['axes'])]
    if name == 'split':
        ends = np.cumsum(params['sizes'])
        axis = params['axis']
        return [
            cut(graph, given[0], {axis: (int(end - n), int(end), 1)})
            for n, end in zip(params['sizes'], ends)
        ]
    if name not in OTHERS:
        raise NotImplementedError(f'the operation {name}')
    return [OTHERS[name](graph, shape, params, *given)]


def elementwise(graph: Graph, operation: str, *given: Any) -> Value:
    """A node whose inputs broadcast."""
    if operation == 'Max':  # the networks' activation, which runtimes know by this name
        others = [x for x in given if isinstance(x, Value) or np.any(x)]
        if len(others) == 1:
            operation, given = 'Relu', tuple(others)
    ranks = max(len(x.shape) for x in given)
    shapes = [(1,) * (ranks - len(x.shape)) + tuple(x.shape) for x in given]
    shape = [next((n for n in sizes if n != 1), 1) for sizes in zip(*shapes)]
    return graph.add(operation, given, shape)


def cut(graph: Graph, x: Any, ranges: dict[int, tuple[int, int, int]]) -> Any:
    """`x` with some axes cut to (start, stop, step); a negative step runs backwards."""
    ranges = {axis: r for axis, r in ranges.items() if r != (0, x.shape[axis], 1)}
    if not ranges:
        return x
    shape = list(x.shape)
    for axis, (start, stop, step) in ranges.items():
        shape[axis] = len(range(start, stop, step)) if is_fixed((start, stop)) else stop - start
    starts, stops, steps = zip(*ranges.values())
    bounds = [graph.sizes(n) for n in (starts, stops, [*ranges], steps)]
    return graph.add('Slice', [x, *bounds], shape)


def stacked(graph: Graph, parts: Sequence, shape: Sequence, axis: int) -> Value:
    """Equal parts along a new axis; `shape` is the result's."""
    one = [*shape[:axis], 1, *shape[axis + 1 :]]
    return graph.add('Concat', [graph.reshape(x, one) for x in parts], shape, {'axis': axis})


def _reduced(graph: Graph, operation: str, x: Any, axes: Sequence[int]) -> Any:
    """One axis after the other: runtimes add up millions of numbers in a row with large errors."""
    for axis in sorted(axes, reverse=True):
        shape = (*x.shape[:axis], *x.shape[axis + 1 :])
        x = graph.add(operation, [x, np.array([axis], np.int64)], shape, {'keepdims': 0})
    return x


def _cast(graph: Graph, x: Any, dtype: np.dtype) -> Any:
    dtype = np.dtype(np.int32) if dtype == np.int8 else np.dtype(dtype)
    return graph.add('Cast', [x], x.shape, {'to': helper.np_dtype_to_tensor_dtype(dtype)})


def _reshape(graph: Graph, shape, params, x):
    return graph.reshape(x, shape)


def _transpose(graph: Graph, shape, params, x):
    return graph.transpose(x, params['permutation'])


def _concatenate(graph: Graph, shape, params, *parts):
    axis = params['dimension']
    some = [x for x in parts if not (is_fixed(x.shape[axis : axis + 1]) and x.shape[axis] == 0)]
    return graph.add('Concat', some, shape, {'axis': axis})


def _stack(graph: Graph, shape, params, *parts):
    return stacked(graph, parts, shape, params['axis'])


def _slice(graph: Graph, shape, params, x):
    steps = params['strides'] or (1,) * len(x.shape)
    ranges = zip(params['start_indices'], params['limit_indices'], steps)
    return cut(graph, x, dict(enumerate(ranges)))


def _reverse(graph: Graph, shape, params, x):
    ranges = {axis: (x.shape[axis] - 1, -x.shape[axis] - 1, -1) for axis in params['dimensions']}
    return cut(graph, x, ranges)


def _dynamic_slice(graph: Graph, shape, params, x, *starts):
    if any(isinstance(start, Value) for start in starts):
        raise NotImplementedError('a slice whose place depends on the input')
    places = [min(max(int(s), 0), n - size) for s, n, size in zip(starts, x.shape, shape)]
    return cut(graph, x, {axis: (s, s + n, 1) for axis, (s, n) in enumerate(zip(places, shape))})


def _dynamic_update_slice(graph: Graph, shape, params, x, update, *starts):
    if any(isinstance(start, Value) for start in starts):
        raise NotImplementedError('a slice whose place depends on the input')
    pads, here = [], np.ones((1,) * len(shape), bool)
    for axis, (start, n, size) in enumerate(zip(starts, shape, update.shape)):
        if n == size:  # a free one too
            pads.append((0, 0))
            continue
        start = min(max(int(start), 0), n - size)
        pads.append((start, n - size - start))
        inside = np.zeros(n, bool)
        inside[start : start + size] = True
        here = here & np.expand_dims(inside, [i for i in range(len(shape)) if i != axis])
    return elementwise(graph, 'Where', here, _padded(graph, update, pads, np.float32(0)), x)


def _pad(graph: Graph, shape, params, x, value):
    config = params['padding_config']
    for axis, (_, _, between) in enumerate(config):
        if between:  # by a further axis
            before, n, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
            x = graph.reshape(x, (*before, n, 1, *after))
            x = _padded(
                graph, x, [(0, between if i == axis + 1 else 0) for i in range(len(x.shape))], value
            )
            x = graph.reshape(x, (*before, n * (between + 1), *after))
            x = cut(graph, x, {axis: (0, x.shape[axis] - between, 1)})
    ranges = {
        axis: (max(-low, 0), x.shape[axis] + min(high, 0), 1)
        for axis, (low, high, _) in enumerate(config)
        if low < 0 or high < 0
    }
    x = cut(graph, x, ranges)
    return _padded(graph, x, [(max(low, 0), max(high, 0)) for low, high, _ in config], value)


def _padded(graph: Graph, x: Any, pads: Sequence[tuple[int, int]], value: Any) -> Any:
    if not any(map(any, pads)):
        return x
    shape = [n + sum(pad) if any(pad) else n for n, pad in zip(x.shape, pads)]
    return graph.add('Pad', [x, np.array(pads, np.int64).T.ravel(), value], shape)


def _iota(graph: Graph, shape, params):
    axis = params['dimension']
    places = np.arange(shape[axis], dtype=params['dtype'])
    return np.expand_dims(places, [i for i in range(len(shape)) if i != axis])


def _gather(graph: Graph, shape, params, x, indices):
    """`x[:, 0]` of one place, and `x[:, indices]` along one axis or neighbouring ones."""
    numbers = params['dimension_numbers']
    axes = numbers.start_index_map
    if isinstance(indices, Value) or numbers.operand_batching_dims:
        raise NotImplementedError('a gathering at places that depend on the input')
    indices = np.asarray(indices)
    if indices.ndim == 1:
        sizes = [params['slice_sizes'][axis] for axis in axes]
        ranges = {axis: (int(i), int(i) + n, 1) for axis, i, n in zip(axes, indices, sizes)}
        return graph.reshape(cut(graph, x, ranges), shape)
    first, after = axes[0], axes[-1] + 1
    places, sizes = indices.shape[:-1], x.shape[first:after]
    kept = [i for i in range(len(shape)) if not first <= i < first + len(places)]
    whole = tuple(shape) == (*x.shape[:first], *places, *x.shape[after:])
    if axes != tuple(range(first, after)) or numbers.offset_dims != tuple(kept) or not whole:
        raise NotImplementedError('a gathering of slices')
    flat = np.ravel_multi_index(np.moveaxis(indices, -1, 0), sizes)
    x = graph.reshape(x, (*x.shape[:first], math.prod(sizes), *x.shape[after:]))
    return graph.add('Gather', [x, flat.astype(np.int64)], shape, {'axis': first})


def _dot_general(graph: Graph, shape, params, x, y):
    """As a product of matrices: the axes of each side are joined to two."""
    (sum_x, sum_y), (batch_x, batch_y) = params['dimension_numbers']
    free_x = [i for i in range(len(x.shape)) if i not in (*sum_x, *batch_x)]
    free_y = [i for i in range(len(y.shape)) if i not in (*sum_y, *batch_y)]
    batch = [x.shape[i] for i in batch_x]
    rows, columns = ([z.shape[i] for i in free] for z, free in ((x, free_x), (y, free_y)))
    inner = math.prod(x.shape[i] for i in sum_x)
    m, n = math.prod(rows), math.prod(columns)
    x = graph.reshape(graph.transpose(x, (*batch_x, *free_x, *sum_x)), (*batch, m, inner))
    y = graph.reshape(graph.transpose(y, (*batch_y, *sum_y, *free_y)), (*batch, inner, n))
    return graph.reshape(graph.add('MatMul', [x, y], (*batch, m, n)), (*batch, *rows, *columns))


def _convolution(graph: Graph, shape, params, x, kernel):
    layout = params['dimension_numbers']
    if {*params['lhs_dilation']} != {1} or params['batch_group_count'] != 1:
        raise NotImplementedError('a convolution of an input with zeros between')
    x = graph.transpose(x, layout.lhs_spec)
    kernel = graph.transpose(kernel, layout.rhs_spec)
    attributes = {
        'strides': params['window_strides'],
        'pads': np.array(params['padding']).T.ravel().tolist(),
        'dilations': params['rhs_dilation'],
        'group': params['feature_group_count'],
    }
    y = graph.add('Conv', [x, kernel], [shape[i] for i in layout.out_spec], attributes)
    return graph.transpose(y, np.argsort(layout.out_spec).tolist())


def _max_pool(graph: Graph, shape, params, x):
    """Of `(B, ..., C)`, along the axes between."""
    window, stride, pads = (
        params[name] for name in ('window_dimensions', 'window_strides', 'padding')
    )
    dilated = {*params['base_dilation'], *params['window_dilation']} != {1}
    if dilated or {window[0], window[-1], stride[0], stride[-1]} != {1}:
        raise NotImplementedError('a pool over other axes than those of space and time')
    last = len(shape) - 1
    first = (0, last, *range(1, last))
    attributes = {
        'kernel_shape': window[1:-1],
        'strides': stride[1:-1],
        'pads': np.array(pads[1:-1]).T.ravel().tolist(),
    }
    y = graph.add('MaxPool', [graph.transpose(x, first)], [shape[i] for i in first], attributes)
    return graph.transpose(y, np.argsort(first).tolist())


OTHERS: dict[str, Callable] = {
    'reshape': _reshape,
    'squeeze': _reshape,
    'transpose': _transpose,
    'concatenate': _concatenate,
    'stack': _stack,
    'slice': _slice,
    'rev': _reverse,
    'dynamic_slice': _dynamic_slice,
    'dynamic_update_slice': _dynamic_update_slice,
    'pad': _pad,
    'iota': _iota,
    'gather': _gather,
    'dot_general': _dot_general,
    'conv_general_dilated': _convolution,
    'reduce_window_max': _max_pool,
}
