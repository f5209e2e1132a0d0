"""Training: the run (`run`), its step and state (`step`), optimizer, validation, reports."""

from stsa_jax.training.step import (
    StepOptions,
    TrainState,
    abstract_batch,
    abstract_state,
    create_state,
    flops,
    from_items,
    make_eval_step,
    make_train_step,
    memory,
    to_items,
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
