"""Scores on held-out clips during training, and whether they still improve."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.media import visualize
from stsa_jax.media.preprocess import denormalise
from stsa_jax.training import compiling
from stsa_jax.training.reporting import Reporter
from stsa_jax.training.state import TrainState

METRICS = ('cc', 'kl', 'loss')


class HeldOut(Protocol):
    """Clips to validate on, like data.held_out.HeldOutClips; `problems` lists damaged frames."""

    problems: list[str]

    def __len__(self) -> int:
        """The number of clips."""

    def read(self, indices: Sequence[int]) -> dict[str, np.ndarray]:
        """A batch of the clips with these indices."""


def validate(
    eval_step: Callable,
    params: dict,
    batch_stats: dict,
    clips: HeldOut,
    batch_size: int,
    mesh: Mesh,
    stop: Callable[[], bool] = lambda: False,
    minus_cc: bool = True,
) -> tuple[dict[str, float], np.ndarray, dict[str, np.ndarray]] | None:
    """Mean scores over all of `clips`, and the results of the first batch.

    Args:
        eval_step: from `training.make_eval_step`.
        clips: has a length, and `read(indices)` gives a batch of numpy arrays.
        batch_size: over all devices; the last batch is padded with clips that are not counted.
        stop: called before each batch; aborts the validation if it returns True.
        minus_cc: whether the loss is KL - CC, or KL.

    Returns:
        ({'loss', 'kl', 'cc'}, saliency (b, H, W) of this process's clips of the first batch, the
        batch itself), or None if aborted. All processes must call together and get the same scores.
    """
    share = batch_size // jax.process_count()
    kl, cc = [], []
    for start in range(0, len(clips), batch_size):
        if stop():
            return None
        mine = start + jax.process_index() * share + np.arange(share)
        batch = clips.read(np.minimum(mine, len(clips) - 1))
        arrays = {name: batch[name] for name in ('clip', 'density')}
        scores = jax.device_get(eval_step(params, batch_stats, sharding.put_batch(mesh, arrays)))
        real = min(batch_size, len(clips) - start)
        kl.append(scores['kl'][:real])
        cc.append(scores['cc'][:real])
        if start == 0:
            saliency, shown = scores['saliency'][jax.process_index() * share :][:share], batch
    mean_kl, mean_cc = (float(np.concatenate(x).mean(dtype=np.float64)) for x in (kl, cc))
    loss = mean_kl - mean_cc if minus_cc else mean_kl
    return {'loss': loss, 'kl': mean_kl, 'cc': mean_cc}, saliency, shown


@dataclasses.dataclass
class Best:
    """The best value of a metric so far, and the number of validations since."""

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
        """Adds the scores of a validation; returns whether they are the best so far."""
        new = scores[self.metric]
        sign = 1 if self.mode == 'max' else -1
        old = math.nan if self.value is None else self.value
        better = math.isnan(old) or sign * new > sign * old  # any number is better than NaN
        self.value, self.since = (new, 0) if better else (self.value, self.since + 1)
        return better

    def is_stale(self, patience: int) -> bool:
        """Whether `patience` validations brought no improvement; never with 0."""
        return 0 < patience <= self.since


class Validation:
    """Validates the state of a run periodically, always on the same clips.

    `eval_step`, `batch_size`, `mesh` and `minus_cc` are as for `validate`; `best` collects the
    scores; `target` is the index of the target frame in a clip, for the images.
    """

    def __init__(
        self,
        eval_step: jax.stages.Wrapped,
        clips: HeldOut,
        batch_size: int,
        mesh: Mesh,
        best: Best,
        target: int,
        minus_cc: bool = True,
    ):
        self._eval_step, self._clips, self._best, self._target = eval_step, clips, best, target
        self._batch_size, self._mesh, self._minus_cc = batch_size, mesh, minus_cc
        self._told = 0

    def compile(self, state: TrainState, batch: dict[str, jax.ShapeDtypeStruct]) -> None:
        """Compiles the eval step for a state and batches of these shapes."""
        batch = {name: batch[name] for name in ('clip', 'density')}
        lowered = self._eval_step.lower(*weights_to_validate(state), batch)
        self._eval_step = compiling.compiled(lowered)

    def __call__(
        self, step: int, state: TrainState, report: Reporter, stop: Callable[[], bool]
    ) -> dict[str, float]:
        """Computes and reports the scores; returns {} if `stop` aborted the validation."""
        params, batch_stats = weights_to_validate(state)
        where = self._clips, self._batch_size, self._mesh
        done = validate(self._eval_step, params, batch_stats, *where, stop, self._minus_cc)
        if done is None:
            return {}
        scores, saliency, shown = done
        problems = self._clips.problems
        for line in problems[self._told :]:
            report.say(line, from_all=True)
        self._told = len(problems)
        self._best.update(scores)
        report.record(step, scores, 'validation')
        report.images(step, pictures(shown, saliency, self._target))
        return scores


def weights_to_validate(state: TrainState) -> tuple[dict, dict]:
    """Parameters (the averaged ones if the run has them) and batch statistics."""
    return state.params if state.ema is None else state.ema, state.batch_stats


def pictures(batch: dict, saliency: np.ndarray, target: int, most: int = 4) -> dict:
    """For TensorBoard: the target frame, the prediction and the ground truth, side by side."""
    made = {}
    for i in range(min(most, len(saliency))):
        frame = batch['clip'][i, target]
        frame = frame if frame.dtype == np.uint8 else denormalise(frame)
        name = f'validation/{batch["video"][i]}_{batch["frame"][i]}'
        shown, truth = saliency[i], batch['density'][i]
        if shown.ndim == 3:  # a map of every frame
            shown, truth = shown[target], truth[target]
        made[name] = visualize.side_by_side(frame, shown, truth)
    return made
