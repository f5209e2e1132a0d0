"""A JAX function as an ONNX model: each operation by its own node, with a free batch size.

Features stay channels last; where ONNX wants channels first there are transposes around the node,
of which runtimes take out those that meet. What depends on weights alone is computed now. Calls are
inlined, and loops of known length unrolled.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
import onnx
from jax.extend import core

from stsa_jax.inference import onnx_operations
from stsa_jax.inference.onnx_graph import Graph, Value, is_fixed

_CALLED = ('jaxpr', 'call_jaxpr', 'fun_jaxpr')  # the parameters that hold a called program


def to_model(f: Callable, x: jax.ShapeDtypeStruct, names: tuple[str, str]) -> onnx.ModelProto:
    """The model of `f` of one array, with these names of its input and output.

    One size of `x` may be free (`jax.export.symbolic_shape`), and sizes in the program multiples of
    it. Raises NotImplementedError that names an operation for which there is no form.
    """
    program = jax.make_jaxpr(f)(x)
    graph = Graph(names[0], x.shape, x.dtype)
    (output,) = _evaluated(graph, program.jaxpr, program.consts, graph.input)
    (result,) = program.out_avals
    output = graph.whole(output, result.shape)
    return graph.model(output, names[1], result.shape, result.dtype)


def _evaluated(graph: Graph, jaxpr: core.Jaxpr, consts: Sequence, *inputs: Any) -> list:
    values: dict = dict(zip([*jaxpr.constvars, *jaxpr.invars], [*consts, *inputs]))

    def value_of(v):
        return np.asarray(v.val, v.aval.dtype) if isinstance(v, core.Literal) else values[v]

    for equation in jaxpr.eqns:
        given = [value_of(v) for v in equation.invars]
        name, params = equation.primitive.name, equation.params
        called = next((params[p] for p in _CALLED if p in params), None)
        if name == 'scan':
            results = _unrolled(graph, equation, given)
        elif called is not None:
            body = getattr(called, 'jaxpr', called)
            results = _evaluated(graph, body, getattr(called, 'consts', ()), *given)
        elif any(is_fixed(v.aval.shape) and 0 in v.aval.shape for v in equation.outvars):
            results = [np.zeros(v.aval.shape, v.aval.dtype) for v in equation.outvars]
        elif _is_known(equation, given):
            results = _computed(equation, given)
        else:
            results = onnx_operations.nodes(graph, equation, given)
        values.update(zip(equation.outvars, results))
    return [value_of(v) for v in jaxpr.outvars]


def _is_known(equation: core.JaxprEqn, given: Sequence) -> bool:
    if equation.primitive.name == 'dim_as_value':
        return False
    avals = [v.aval for v in (*equation.invars, *equation.outvars)]
    return not any(isinstance(x, Value) for x in given) and all(is_fixed(a.shape) for a in avals)


def _computed(equation: core.JaxprEqn, given: Sequence) -> list[np.ndarray]:
    whole = [np.broadcast_to(x, v.aval.shape) for x, v in zip(given, equation.invars)]
    results = equation.primitive.bind(*whole, **equation.params)
    return [np.asarray(x) for x in (results if equation.primitive.multiple_results else [results])]


def _unrolled(graph: Graph, equation: core.JaxprEqn, given: Sequence) -> list:
    """The loop `lax.scan` over the first axis of arrays, step after step."""
    params, body = equation.params, equation.params['jaxpr']
    consts, length = params['num_consts'], params['length']
    carried = params['num_carry']
    whole = [graph.whole(x, v.aval.shape) for x, v in zip(given, equation.invars)]
    carry = whole[consts : consts + carried]
    steps: list = [None] * length
    for i in range(length)[:: -1 if params['reverse'] else 1]:
        parts = [
            graph.reshape(onnx_operations.cut(graph, x, {0: (i, i + 1, 1)}), x.shape[1:])
            for x in whole[consts + carried :]
        ]
        results = _evaluated(graph, body.jaxpr, body.consts, *whole[:consts], *carry, *parts)
        carry, steps[i] = results[:carried], results[carried:]
    outputs = []
    for v, values in zip(equation.outvars[carried:], zip(*steps)):
        one = v.aval.shape[1:]
        parts = [graph.whole(x, one) for x in values]
        outputs.append(onnx_operations.stacked(graph, parts, v.aval.shape, 0))
    return carry + outputs
