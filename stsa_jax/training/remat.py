"""Rematerialisation policies: what the forward pass saves for the gradient.

    'everything'  all residuals of JAX's derivatives
    'products'    the named expensive results (`stsa_jax.ops.names`): convolutions, attention and
                  statistics. Normalisations, ReLUs, pools and softmaxes, which are cheap, are
                  recomputed
    'blocks'      the inputs of each backbone block, branch and fusion; their contents are
                  recomputed, block by block, which costs another forward pass

docs/scaling.md has the costs at full size.
"""

import functools
from collections.abc import Callable

import jax
from flax import nnx

from stsa_jax.models import functional, hd2s
from stsa_jax.models.amsf import AMSF
from stsa_jax.models.mobilenet import InvertedResidual
from stsa_jax.models.s3d import Mixed, SepConv
from stsa_jax.models.stsanet import Branch, Readout
from stsa_jax.ops.names import PRODUCT

KEEP = ('everything', 'products', 'blocks')
BLOCKS = (SepConv, Mixed, Branch, AMSF, Readout, InvertedResidual, hd2s.Group)
KEEP_PRODUCTS = jax.checkpoint_policies.save_only_these_names(PRODUCT)


def apply(graphdef: nnx.GraphDef, keep: str) -> Callable:
    """`functional.apply` of `graphdef` with the rematerialisation policy `keep`.

    A function of `(params, batch_stats, clip, train=False)`, or of `functional.apply`'s other
    options.
    """
    if keep == 'everything':
        return functools.partial(functional.apply, graphdef)
    if keep == 'products':

        def run(params, batch_stats, clip, **options):
            f = functools.partial(functional.apply, graphdef, **options)
            return jax.checkpoint(f, policy=KEEP_PRODUCTS)(params, batch_stats, clip)

        return run
    if keep == 'blocks':

        def run(params, batch_stats, clip, **options):
            wrapped = _with_recomputed_blocks(graphdef, params, batch_stats)
            return functional.apply(wrapped, params, batch_stats, clip, **options)

        return run
    raise ValueError(f'keep is {keep!r}, expected one of {KEEP}')


def _with_recomputed_blocks(graphdef, params, batch_stats):
    model = nnx.merge(graphdef, params, batch_stats)
    blocks: list[tuple] = []
    for path, module in sorted(nnx.iter_modules(model), key=lambda found: len(found[0])):
        inside = any(path[: len(block)] == block for block in blocks)
        if isinstance(module, BLOCKS) and not inside:
            blocks.append(path)
            kind: type = type(module)
            module.__class__ = _recomputed(kind)
    return functional.split(model)[0]


@functools.cache
def _recomputed(block: type) -> type:
    """`block` with calls that save only their inputs for the gradient."""

    def __call__(self, *inputs, **options):
        arrays = [x for x in inputs if isinstance(x, jax.Array)]

        def call(module, *arrays):
            given = iter(arrays)
            mixed = [next(given) if isinstance(x, jax.Array) else x for x in inputs]
            return block.__call__(module, *mixed, **options)

        return nnx.remat(call)(self, *arrays)

    return type(block.__name__, (block,), {'__call__': __call__})
