"""Which form of its operations a program is traced with: plain JAX, or what a CPU computes fast.

    with forms.use('cpu'):
        step = jax.jit(f).lower(...).compile()

The default is 'plain', on every platform: any transformation of JAX goes through it, and it is what
the compilers of TPUs and GPUs like. The forms for CPUs, in `stsa_jax.ops.cpu`, have derivative
rules of their own, for reverse mode alone. JAX's caches of traced and compiled programs know of the
choice, so one function can be traced with both.
"""

import jax

FORMS = ('plain', 'cpu')
use = jax.make_user_context('plain')


def for_cpu() -> bool:
    """Whether the program that is being traced is to have the forms for CPUs."""
    return use.value == 'cpu'


def set_default(form: str) -> None:
    """The form of all programs that this process traces from now on outside of `use`."""
    if form not in FORMS:
        raise ValueError(f'the form of operations is one of {FORMS}, not {form!r}')
    use.set_global(form)
