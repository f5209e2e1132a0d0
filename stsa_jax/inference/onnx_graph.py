"""An ONNX graph under construction: nodes and weights, added one at a time."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import onnx
from onnx import helper, numpy_helper

OPSET = 24  # the newest that onnxruntime supports
IR_VERSION = 11


class Value(NamedTuple):
    """The output of a node, which depends on the graph's input: its name and shape.

    A size may be free: one of `jax.export.symbolic_shape`.
    """

    name: str
    shape: tuple


class Graph:
    """The nodes and weights of a model with one input and one output.

    Where a method takes a Value, a NumPy array does too: it becomes one of the weights.
    """

    def __init__(self, name: str, shape: Sequence, dtype: np.dtype):
        """The input's name, its shape, of which one size may be free, and dtype."""
        self.input = Value(name, tuple(shape))
        self._described = _described(self.input, dtype)
        self._nodes: list[onnx.NodeProto] = []
        self._weights: list[onnx.TensorProto] = []
        self._names: dict[tuple, str] = {}

    def model(self, output: Any, name: str, shape: Sequence, dtype: np.dtype) -> onnx.ModelProto:
        """The model, with `output` under this name."""
        result = Value(name, tuple(shape))
        self._nodes.append(helper.make_node('Identity', [self._name_of(output)], [name]))
        graph = helper.make_graph(
            self._nodes, name, [self._described], [_described(result, dtype)], self._weights
        )
        opset = helper.make_opsetid('', OPSET)
        return helper.make_model(
            graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name='stsa-jax'
        )

    def add(
        self,
        operation: str,
        inputs: Sequence,
        shape: Sequence,
        attributes: Mapping[str, Any] | None = None,
    ) -> Value:
        """The output, of this shape, of a new node."""
        output = Value(f'{operation.lower()}_{len(self._nodes)}', tuple(shape))
        names = [self._name_of(x) for x in inputs]
        node = helper.make_node(operation, names, [output.name], **(attributes or {}))
        self._nodes.append(node)
        return output

    def reshape(self, x: Any, shape: Sequence) -> Any:
        """`x` with this shape, in which one size may be free."""
        if not isinstance(x, Value):
            return np.reshape(x, shape)
        if x.shape == tuple(shape):
            return x
        return self.add('Reshape', [x, self.sizes(shape, free=-1)], shape)

    def transpose(self, x: Any, order: Sequence[int]) -> Any:
        """`x` with its axes in this order."""
        if not isinstance(x, Value):
            return np.transpose(x, order)
        if list(order) == list(range(len(order))):
            return x
        return self.add('Transpose', [x], [x.shape[i] for i in order], {'perm': list(order)})

    def whole(self, x: Any, shape: Sequence) -> Any:
        """`x`, repeated along axes where it has one place and `shape` more."""
        if tuple(x.shape) == tuple(shape):
            return x
        if not isinstance(x, Value) and is_fixed(shape):
            return np.broadcast_to(x, shape)
        return self.add('Expand', [x, self.sizes(shape)], shape)

    def sizes(self, shape: Sequence, free: int | None = None) -> Any:
        """A shape as a vector, with `free` for a size that is free; else nodes compute it."""
        if free is not None or is_fixed(shape):
            return np.array([n if _is_fixed(n) else free for n in shape], np.int64)
        axis, unit = next((i, n) for i, n in enumerate(self.input.shape) if not _is_fixed(n))
        size = self.add('Shape', [self.input], (1,), {'start': axis, 'end': axis + 1})
        parts: list[Any] = []
        for n in shape:
            # A size is a multiple of the free one, more or less a number.
            times = (
                0 if _is_fixed(n) else next(k for k in range(1, 2**16) if _is_fixed(n - k * unit))
            )
            part: Any = np.array([int(n - times * unit)], np.int64)
            if times:
                multiple = self.add('Mul', [size, np.array([times], np.int64)], (1,))
                part = self.add('Add', [multiple, part], (1,)) if part.any() else multiple
            parts.append(part)
        return self.add('Concat', parts, (len(shape),), {'axis': 0})

    def _name_of(self, x: Any) -> str:
        if isinstance(x, Value):
            return x.name
        x = np.asarray(x)
        x = x.astype(np.int32) if x.dtype == np.int8 else x  # which few runtimes' nodes take
        key = (x.shape, x.dtype.str, x.tobytes())
        if key not in self._names:
            self._names[key] = f'weight_{len(self._weights)}'
            self._weights.append(numpy_helper.from_array(x, self._names[key]))
        return self._names[key]


def is_fixed(shape: Sequence) -> bool:
    """Whether no size of the shape is free."""
    return all(_is_fixed(n) for n in shape)


def _is_fixed(n: Any) -> bool:
    return isinstance(n, int | np.integer)


def _described(value: Value, dtype: np.dtype) -> onnx.ValueInfoProto:
    sizes = [n if _is_fixed(n) else str(n) for n in value.shape]
    return helper.make_tensor_value_info(value.name, helper.np_dtype_to_tensor_dtype(dtype), sizes)
