"""The forms of some operations that a CPU computes fast, and how its memory is kept.

They give the numbers of the plain ones but for rounding. Their derivative rules are for reverse
mode alone. `stsa_jax.ops.forms` chooses them; nothing else imports this package but the scripts,
which ask it to make settings for the process.
"""

import jax

from stsa_jax.ops import forms
from stsa_jax.ops.cpu import memory
from stsa_jax.ops.cpu.attention import softmax_product
from stsa_jax.ops.cpu.convolution import conv3d
from stsa_jax.ops.cpu.normalisation import batch_norm_relu
from stsa_jax.ops.cpu.pooling import max_pool
from stsa_jax.ops.cpu.upsampling import conv3d_of_upsampled, upsample_2x

__all__ = [
    'batch_norm_relu',
    'conv3d',
    'conv3d_of_upsampled',
    'max_pool',
    'set_up',
    'softmax_product',
    'step_options',
    'upsample_2x',
]


def set_up() -> None:
    """Settings of a script's process, where JAX computes on CPUs: these forms, and kept memory.

    To be called first of all, before JAX's first computation; the library never does. Of several
    processes that work together: after `jax.distributed.initialize`.
    """
    memory.keep()
    if memory.on_cpu() or jax.default_backend() == 'cpu':
        forms.set_default('cpu')


def step_options(keep: str) -> dict[str, str]:
    """For the compiler of a training step whose gradient keeps `keep`: options that save memory.

    The compiler drops the barriers that keep it from merging what the backward pass computes again
    with what the forward pass computed, and so from keeping that. Where products are kept, its own
    order of the operations needs half as much memory again as the other that it has; where blocks
    are recomputed, one after the other, its own is the better one.
    """
    options = {'xla_disable_hlo_passes': 'cse_barrier_expander'}
    if keep != 'blocks':
        options['xla_cpu_scheduler_type'] = 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'
    return options
