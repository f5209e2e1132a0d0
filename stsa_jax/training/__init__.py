"""Training: `run`, its `state` and `step`, the optimizer, validation, and reports."""

from stsa_jax.training.state import (
    TrainState,
    abstract_batch,
    abstract_state,
    create_state,
    from_items,
    to_items,
)
from stsa_jax.training.step import (
    StepOptions,
    flops,
    make_eval_step,
    make_train_step,
    memory,
)

__all__ = [
    'StepOptions',
    'TrainState',
    'abstract_batch',
    'abstract_state',
    'create_state',
    'flops',
    'from_items',
    'make_eval_step',
    'make_train_step',
    'memory',
    'to_items',
]
