"""Selects the form of operations that a program is traced with: plain JAX, or optimised for CPUs.

    with forms.use('cpu'):
        step = jax.jit(f).lower(...).compile()

The default on every platform is 'plain': it supports every JAX transformation and suits TPU and GPU
compilers. The CPU forms, in `stsa_jax.ops.cpu`, have their own derivative rules, for reverse mode
only. JAX's caches of traced and compiled programs include the choice, so one function can be traced
with both.

`use('published')` is for counting and for comparison: each operation as the paper has it, with no
product more and none less. It is slower.
"""

import jax

FORMS = ('plain', 'cpu')
use = jax.make_user_context('plain')


def for_cpu() -> bool:
    """Whether the current program is traced with the CPU forms."""
    return use.value == 'cpu'


def plain() -> bool:
    """Whether the current program is traced with the plain forms."""
    return use.value == 'plain'


def published() -> bool:
    """Whether the current program is traced with each operation as published."""
    return use.value == 'published'


def set_default(form: str) -> None:
    """Sets the form of all programs that this process traces from now on outside of `use`."""
    if form not in FORMS:
        raise ValueError(f'the form of operations is one of {FORMS}, not {form!r}')
    use.set_global(form)
