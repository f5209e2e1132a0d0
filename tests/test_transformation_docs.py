"""The code of docs/transformations.md runs as written."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from small_network import SmallNetwork

import stsa_jax
from stsa_jax.ops import forms

PAGE = Path(__file__).parents[1] / 'docs' / 'transformations.md'


@pytest.mark.long
def test_the_page_runs_from_top_to_bottom():
    """The first block makes a small STSA-Net; the rest works on a network that compiles faster."""
    first, *others = re.findall(r'```python\n(.*?)```', PAGE.read_text(), flags=re.DOTALL)
    names = {}
    exec(first, names)
    assert isinstance(names['config'], stsa_jax.STSANetConfig)
    run = jax.eval_shape(
        lambda *weights: stsa_jax.apply(names['graphdef'], *weights),
        *(names[name] for name in ('params', 'batch_stats', 'clips')),
    )
    assert run.shape == names['density'].shape

    weights = stsa_jax.split(SmallNetwork(rngs=names['nnx'].Rngs(0)))
    names |= dict(zip(('graphdef', 'params', 'batch_stats'), weights))
    names |= {'clips': names['clips'][:, :4, :8, :8], 'density': names['density'][:, :8, :8]}
    for block in others:
        exec(block, names)

    for a, b in zip(*(jax.tree.leaves(names[name]) for name in ('by_columns', 'by_rows'))):
        np.testing.assert_allclose(a, b, atol=1e-5)
    summed = jax.tree.map(lambda g: g.sum(0), names['each'])
    for a, b in zip(jax.tree.leaves(summed), jax.tree.leaves(names['total'])):
        np.testing.assert_allclose(a, b, atol=1e-5)
    np.testing.assert_allclose(names['one_by_one'], names['maps'], atol=1e-5)
    np.testing.assert_allclose(names['of_each'][0], names['maps'], atol=1e-5)
    other = names['the_same'](names['params'], names['direction'])
    for a, b in zip(jax.tree.leaves(names['curvature']), jax.tree.leaves(other)):
        np.testing.assert_allclose(a, b, atol=1e-4 * max(1, float(jnp.abs(b).max())))
    assert set(names['program'].platforms) == {'cpu', 'cuda', 'tpu'}

    # As documented, the CPU forms have only reverse mode, and `vmap` works.
    inputs = [names[name] for name in ('params', 'clips', 'density')]
    with forms.use('cpu'):
        jax.eval_shape(jax.vmap(jax.grad(names['loss_of_one']), (None, 0, 0)), *inputs)
        with pytest.raises(TypeError, match='custom_vjp'):
            jax.eval_shape(jax.jacfwd(names['loss']), *inputs)
