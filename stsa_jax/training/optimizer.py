"""Adam with PyTorch's arithmetic, and the learning rate schedule.

The paper (section IV-A): Adam (0.9, 0.999, 1e-8), learning rate 1e-4, divided by 10 when the loss
saturates; the released code does so after 12 epochs and then every 9 epochs. This is the schedule
'step'; 'plateau' monitors the loss instead.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from optax import contrib

from stsa_jax.errors import InputError

SCHEDULES = ('constant', 'step', 'cosine', 'plateau')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Adam and its learning rate; the defaults are the paper's recipe.

    Attributes:
        learning_rate, b1, b2, eps: of Adam.
        schedule: 'constant', 'step', 'cosine' (to 0 at the end) or 'plateau'.
        warmup_steps: number of steps over which the rate rises linearly.
        drop_factor: multiplies the rate at each drop, for 'step' and 'plateau'.
        first_drop_epochs, drop_every_epochs: when the rate drops, for 'step'.
        plateau_epochs, plateau_tolerance: for 'plateau', the rate drops after this many epochs
            whose mean loss does not improve on the best one by this fraction.
        clip_norm: largest global norm of the gradient; 0 for no clipping.
    """

    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    schedule: str = 'step'
    warmup_steps: int = 0
    drop_factor: float = 0.1
    first_drop_epochs: int = 12
    drop_every_epochs: int = 9
    plateau_epochs: int = 3
    plateau_tolerance: float = 1e-3
    clip_norm: float = 0.0

    def __post_init__(self):
        checks = {
            'learning_rate': (self.learning_rate > 0, 'a positive number'),
            'b1': (0 <= self.b1 < 1, 'a number in [0, 1)'),
            'b2': (0 <= self.b2 < 1, 'a number in [0, 1)'),
            'eps': (self.eps > 0, 'a positive number'),
            'schedule': (self.schedule in SCHEDULES, f'one of {", ".join(SCHEDULES)}'),
            'warmup_steps': (self.warmup_steps >= 0, 'a number of steps, 0 for none'),
            'drop_factor': (0 < self.drop_factor < 1, 'a number between 0 and 1'),
            'first_drop_epochs': (self.first_drop_epochs > 0, 'a positive number'),
            'drop_every_epochs': (self.drop_every_epochs > 0, 'a positive number'),
            'plateau_epochs': (self.plateau_epochs > 0, 'a positive number'),
            'plateau_tolerance': (0 <= self.plateau_tolerance < 1, 'a number in [0, 1)'),
            'clip_norm': (self.clip_norm >= 0, 'a positive number, or 0 for no clipping'),
        }
        for field, (good, expected) in checks.items():
            if not good:
                raise InputError(
                    f'config.optimizer.{field} is {getattr(self, field)!r}, expected {expected}'
                )


def learning_rate(config: OptimizerConfig, steps_per_epoch: int, num_steps: int) -> Callable:
    """step -> learning rate, usable inside jit. With 'plateau', the rate without the drops."""
    o = config

    def schedule(step):
        step = jnp.asarray(step, jnp.float32)
        rate = jnp.float32(o.learning_rate)
        if o.schedule == 'step':
            epoch = step / steps_per_epoch
            drops = jnp.floor((epoch - o.first_drop_epochs) / o.drop_every_epochs) + 1
            rate *= o.drop_factor ** jnp.maximum(drops, 0)
        elif o.schedule == 'cosine':
            span = max(num_steps - o.warmup_steps, 1)
            progress = jnp.clip((step - o.warmup_steps) / span, 0, 1)
            rate *= 0.5 * (1 + jnp.cos(math.pi * progress))
        if o.warmup_steps:
            rate *= jnp.minimum((step + 1) / o.warmup_steps, 1)
        return rate

    return schedule


def optimizer(
    config: OptimizerConfig, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """Turns gradients into updates for a learning rate of 1, to be multiplied by minus the rate.

    Clipping, then Adam, then the drops of 'plateau', whose `update` needs the loss as `value`.
    """
    o = config
    steps = [optax.clip_by_global_norm(o.clip_norm)] if o.clip_norm else []
    steps.append(optax.scale_by_adam(b1=o.b1, b2=o.b2, eps=o.eps))
    if o.schedule == 'plateau':
        steps.append(
            contrib.reduce_on_plateau(
                factor=o.drop_factor,
                patience=o.plateau_epochs,
                rtol=o.plateau_tolerance,
                accumulation_size=steps_per_epoch,
            )
        )
    return optax.with_extra_args_support(optax.chain(*steps))


def plateau_scale(opt_state: optax.OptState) -> jax.Array | float:
    """The factor by which drops on plateaus have multiplied the learning rate so far."""
    is_plateau = lambda x: isinstance(x, contrib.ReduceLROnPlateauState)  # noqa: E731
    found = [x for x in jax.tree.leaves(opt_state, is_leaf=is_plateau) if is_plateau(x)]
    return found[0].scale if found else 1.0
