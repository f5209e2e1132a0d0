"""Faster forms of some operations for CPUs, and settings for CPU memory.

They give the same numbers as the plain forms up to rounding. Their derivative rules support reverse
mode only. `stsa_jax.ops.forms` selects them; otherwise only the scripts import this package, to set
up the process.
"""

import jax

from stsa_jax.ops import forms
from stsa_jax.ops.cpu import memory
from stsa_jax.ops.cpu.convolution import conv3d
from stsa_jax.ops.cpu.depthwise import depthwise_conv3d
from stsa_jax.ops.cpu.normalisation import batch_norm_relu
from stsa_jax.ops.cpu.pooling import max_pool, max_unpool_2x2
from stsa_jax.ops.cpu.upsampling import conv3d_of_upsampled, double_aligned, upsample_2x

__all__ = [
    'batch_norm_relu',
    'conv3d',
    'conv3d_of_upsampled',
    'depthwise_conv3d',
    'double_aligned',
    'max_pool',
    'max_unpool_2x2',
    'set_up',
    'step_options',
    'upsample_2x',
]


def set_up() -> None:
    """If JAX computes on CPUs, selects these forms and makes malloc keep freed memory.

    Call it at the start of a script, before JAX's first computation; the library never does. With
    several processes, call it after `jax.distributed.initialize`.
    """
    memory.keep()
    if memory.on_cpu() or jax.default_backend() == 'cpu':
        forms.set_default('cpu')


def step_options(keep: str) -> dict[str, str]:
    """Compiler options that save memory in a training step with rematerialisation policy `keep`.

    By default the compiler removes the optimization barriers that stop it from merging recomputed
    values with those of the forward pass, which would keep them in memory. With saved products, its
    default scheduler needs 1.5 times the memory of the memory-optimised one; with recomputed blocks
    the default is better.
    """
    options = {'xla_disable_hlo_passes': 'cse_barrier_expander'}
    if keep != 'blocks':
        options['xla_cpu_scheduler_type'] = 'CPU_SCHEDULER_TYPE_MEMORY_OPTIMIZED'
    return options
