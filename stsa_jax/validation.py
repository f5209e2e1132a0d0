"""Scores on held-out clips during training, and whether they still get better."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Mesh

from stsa_jax import sharding
from stsa_jax.errors import InputError

METRICS = ('cc', 'kl', 'loss')


def validate(eval_step: Callable, params, batch_stats, clips, batch_size: int, mesh: Mesh):
    """Mean scores over all of `clips`, and pictures of the first batch.

    Args:
        eval_step: from `training.make_eval_step`.
        clips: has a length, and `read(indices)` gives a batch of numpy arrays.
        batch_size: over all devices; the last batch is filled up with clips that do not count.

    Returns:
        ({'loss', 'kl', 'cc'}, saliency (b, H, W) of this process's clips of the first batch, the
        batch itself). All processes call together and get the same scores.
    """
    share = batch_size // jax.process_count()
    kl, cc, first = [], [], None
    for start in range(0, len(clips), batch_size):
        mine = start + jax.process_index() * share + np.arange(share)
        batch = clips.read(np.minimum(mine, len(clips) - 1))
        arrays = {name: batch[name] for name in ('clip', 'density')}
        scores = jax.device_get(eval_step(params, batch_stats, sharding.put_batch(mesh, arrays)))
        real = min(batch_size, len(clips) - start)
        kl.append(scores['kl'][:real])
        cc.append(scores['cc'][:real])
        if first is None:
            own = scores['saliency'][jax.process_index() * share :][:share]
            first = own, batch
    kl, cc = np.concatenate(kl).astype(np.float64).mean(), np.concatenate(cc).mean(dtype=float)
    return {'loss': float(kl - cc), 'kl': float(kl), 'cc': float(cc)}, *first


@dataclasses.dataclass
class Best:
    """The best value of a metric so far, and how many validations ago it was."""

    metric: str
    mode: str
    value: float | None = None
    since: int = 0

    def __post_init__(self):
        if self.metric not in METRICS or self.mode not in ('min', 'max'):
            raise InputError(
                f'config.validation: metric={self.metric!r}, mode={self.mode!r}: expected one of '
                f'{", ".join(METRICS)}, and min or max'
            )

    def update(self, scores: dict[str, float]) -> bool:
        """Takes in the scores of a validation; True if they are the best so far."""
        new = scores[self.metric]
        sign = 1 if self.mode == 'max' else -1
        better = self.value is None or sign * new > sign * self.value
        self.value, self.since = (new, 0) if better else (self.value, self.since + 1)
        return better

    def is_stale(self, patience: int) -> bool:
        """Whether so many validations brought nothing better; never with 0."""
        return 0 < patience <= self.since
