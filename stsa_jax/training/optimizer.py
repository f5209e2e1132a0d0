"""Adam or SGD with PyTorch's arithmetic, and the learning rate schedule.

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

SCHEDULES = ('constant', 'step', 'milestones', 'cosine', 'plateau')
ALGORITHMS = ('adam', 'sgd')


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """The algorithm and its learning rate; the defaults are the paper's recipe.

    Attributes:
        algorithm: 'adam' or 'sgd'.
        learning_rate: of both.
        b1, b2, eps: of Adam.
        momentum: of SGD.
        weight_decay: the parameters times this are added to the gradient, as PyTorch's optimizers
            do; 0 for none.
        bias_factor: multiplies the rate of biases and of BatchNorms' shifts, which then do not
            decay, if it is not 1.
        backbone_factor: multiplies the rate of the backbone.
        backbone_drops: whether the backbone's rate follows the schedule, or stays as it starts.
        backbone_decay_factor: multiplies `weight_decay` in the backbone.
        backbone_frozen_epochs: number of epochs before the backbone begins to learn.
        schedule: 'constant', 'step', 'milestones', 'cosine' (to 0 at the end) or 'plateau'.
        milestones: when the rate drops, for 'milestones', as fractions of the run.
        warmup_steps: number of steps over which the rate rises linearly.
        drop_factor: multiplies the rate at each drop, for 'step', 'milestones' and
            'plateau'.
        first_drop_epochs, drop_every_epochs: when the rate drops, for 'step'.
        plateau_epochs, plateau_tolerance: for 'plateau', the rate drops after this many epochs
            whose mean loss does not improve on the best one by this fraction.
        clip_norm: largest global norm of the gradient; 0 for no clipping.
    """

    algorithm: str = 'adam'
    learning_rate: float = 1e-4
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    momentum: float = 0.9
    weight_decay: float = 0.0
    bias_factor: float = 1.0
    backbone_factor: float = 1.0
    backbone_drops: bool = True
    backbone_decay_factor: float = 1.0
    backbone_frozen_epochs: int = 0
    schedule: str = 'step'
    milestones: tuple[float, ...] = ()
    warmup_steps: int = 0
    drop_factor: float = 0.1
    first_drop_epochs: int = 12
    drop_every_epochs: int = 9
    plateau_epochs: int = 3
    plateau_tolerance: float = 1e-3
    clip_norm: float = 0.0

    def __post_init__(self):
        object.__setattr__(self, 'milestones', tuple(self.milestones))
        checks = {
            'algorithm': (self.algorithm in ALGORITHMS, f'one of {", ".join(ALGORITHMS)}'),
            'learning_rate': (self.learning_rate > 0, 'a positive number'),
            'b1': (0 <= self.b1 < 1, 'a number in [0, 1)'),
            'b2': (0 <= self.b2 < 1, 'a number in [0, 1)'),
            'eps': (self.eps > 0, 'a positive number'),
            'momentum': (0 <= self.momentum < 1, 'a number in [0, 1)'),
            'weight_decay': (self.weight_decay >= 0, 'a positive number, or 0 for none'),
            'bias_factor': (self.bias_factor > 0, 'a positive number'),
            'backbone_factor': (self.backbone_factor > 0, 'a positive number'),
            'backbone_decay_factor': (self.backbone_decay_factor >= 0, 'a positive number, or 0'),
            'backbone_frozen_epochs': (self.backbone_frozen_epochs >= 0, 'a number of epochs'),
            'milestones': (
                all(0 < x < 1 for x in self.milestones)
                and list(self.milestones) == sorted(self.milestones),
                'rising fractions of the run between 0 and 1',
            ),
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
        elif o.schedule == 'milestones':
            at = jnp.array([round(x * num_steps) for x in o.milestones], jnp.float32)
            rate *= o.drop_factor ** (step >= at).sum()
        elif o.schedule == 'cosine':
            span = max(num_steps - o.warmup_steps, 1)
            progress = jnp.clip((step - o.warmup_steps) / span, 0, 1)
            rate *= 0.5 * (1 + jnp.cos(math.pi * progress))
        if o.warmup_steps:
            rate *= jnp.minimum((step + 1) / o.warmup_steps, 1)
        return rate

    return schedule


def backbone_learning_rate(
    config: OptimizerConfig, steps_per_epoch: int, num_steps: int
) -> Callable | None:
    """`learning_rate` of the backbone; None if it is that of the rest."""
    factor, frozen = config.backbone_factor, config.backbone_frozen_epochs * steps_per_epoch
    if config.backbone_drops and factor == 1 and not frozen:
        return None
    own = dataclasses.replace(
        config,
        learning_rate=factor * config.learning_rate,
        schedule=config.schedule if config.backbone_drops else 'constant',
    )
    rate = learning_rate(own, steps_per_epoch, num_steps)
    return (lambda step: jnp.where(step < frozen, 0, rate(step))) if frozen else rate


def optimizer(
    config: OptimizerConfig, steps_per_epoch: int
) -> optax.GradientTransformationExtraArgs:
    """Turns gradients into updates for a learning rate of 1, to be multiplied by minus the rate.

    Clipping, weight decay, Adam or SGD, the biases' factor, then the drops of 'plateau', whose
    `update` needs the loss as `value`.
    """
    o = config
    steps = []
    frozen = o.backbone_frozen_epochs * steps_per_epoch
    learns = lambda step: jnp.where(step < frozen, 0.0, 1.0)  # noqa: E731
    freeze = optax.masked(optax.scale_by_schedule(learns), _backbone)
    if frozen:  # before clipping: the frozen part does not count
        steps.append(freeze)
    if o.clip_norm:
        steps.append(optax.clip_by_global_norm(o.clip_norm))
    if o.weight_decay:
        decays = _not_biases if o.bias_factor != 1 else None
        steps.append(optax.add_decayed_weights(o.weight_decay, decays))
        if (excess := o.backbone_decay_factor - 1) != 0:
            steps.append(optax.add_decayed_weights(excess * o.weight_decay, _backbone))
    if frozen and o.weight_decay:  # nor does the momentum collect its decay
        steps.append(freeze)
    if o.algorithm == 'sgd':
        steps.append(optax.trace(decay=o.momentum))
    else:
        steps.append(optax.scale_by_adam(b1=o.b1, b2=o.b2, eps=o.eps))
    if o.bias_factor != 1:
        steps.append(optax.masked(optax.scale(o.bias_factor), _biases))
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


def _backbone(params: optax.Params) -> optax.Params:
    """True for each array of the backbone."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[0].key == 'backbone', params)


def _biases(params: optax.Params) -> optax.Params:
    """True for each array named 'bias', as PyTorch names BatchNorms' shifts too."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path[-1].key == 'bias', params)


def _not_biases(params: optax.Params) -> optax.Params:
    return jax.tree.map(lambda is_bias: not is_bias, _biases(params))
