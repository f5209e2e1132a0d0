"""Means by the protocol's rule, with confidence intervals by bootstrap over videos, also paired.

Frames of one video are nearly the same picture, so videos are resampled, not frames: the interval
shows how much the mean would change with other videos of the same kind. With few videos it is too
narrow: with two videos it excludes zero half of the time when there is no difference. So a
difference counts as significant only if a test that is valid for any number of videos agrees: a
permutation test that flips the signs of the videos' differences. With fewer than six videos no
difference can be significant.
"""

import dataclasses
import itertools

import numpy as np

from stsa_jax.evaluation.records import Row

RESAMPLES = 2000
LEVEL = 0.95
TRUSTED = 10  # least number of videos for reliable intervals


@dataclasses.dataclass(frozen=True)
class Estimate:
    """A mean with its confidence interval (None with fewer than two videos).

    count: frames with a defined score; the others are dropped.
    """

    value: float | None
    low: float | None
    high: float | None
    count: int


@dataclasses.dataclass(frozen=True)
class Difference:
    """Mean of A minus mean of B over the frames that both have.

    low, high: paired bootstrap. p: two-sided, by flipping the signs of the videos' differences; all
    2^n flips if these are fewer than RESAMPLES, else as many random ones.
    """

    value: float | None
    low: float | None
    high: float | None
    p: float | None
    count: int
    videos: int

    @property
    def real(self) -> bool:
        """Whether the difference is significant: the interval excludes zero, and p < 1 - LEVEL."""
        if self.low is None or self.high is None or self.p is None:
            return False
        return (self.low > 0 or self.high < 0) and self.p < 1 - LEVEL


def estimate(row: Row, metric: int, average: str, seed: int = 0) -> Estimate:
    """Mean of a metric (its index) over a row: `average` 'frames' or 'videos'."""
    sums, counts = _per_video([video.scores[:, metric] for video in row.videos])
    value, means = _bootstrap(sums, counts, average, seed)
    low, high = _interval(means)
    return Estimate(value, low, high, int(counts.sum()))


def difference(a: Row, b: Row, metric: int, average: str, seed: int = 0) -> Difference:
    """Paired comparison of two rows on one dataset, with the same resampled videos for both."""
    theirs = {video.video: video for video in b.videos}
    pairs = []
    for video in a.videos:
        if video.video in theirs:
            other = theirs[video.video]
            _, mine, its = np.intersect1d(
                video.positions, other.positions, assume_unique=True, return_indices=True
            )
            pairs.append(video.scores[mine, metric] - other.scores[its, metric])
    return _compared(pairs, average, seed)


def quantisation(row: Row, metric: int, average: str, seed: int = 0) -> Difference | None:
    """The row's maps in 8 bits against its float maps; None if it has no float maps."""
    there = [v.quantisation[:, metric] for v in row.videos if v.quantisation is not None]
    return _compared(there, average, seed) if there else None


def _compared(pairs: list[np.ndarray], average: str, seed: int) -> Difference:
    """The comparison from the frame differences of each video."""
    sums, counts = _per_video(pairs)
    value, means = _bootstrap(sums, counts, average, seed)
    low, high = _interval(means)
    p = None if means is None else _sign_flips(sums, counts, average, seed)
    return Difference(value, low, high, p, int(counts.sum()), len(counts))


def _sign_flips(sums, counts, average: str, seed: int) -> float:
    """Fraction of the flips whose mean is at least as far from zero as the observed one."""
    terms = sums / counts if average == 'videos' else sums
    if exact := 2 ** len(terms) <= RESAMPLES:
        signs = np.array(list(itertools.product((-1, 1), repeat=len(terms))))
    else:
        signs = np.random.default_rng(seed).choice((-1, 1), (RESAMPLES, len(terms)))
    # Not ==: the order of a sum affects its last digits.
    as_far = np.abs(signs @ terms) >= abs(terms.sum()) * (1 - 1e-9)
    # Plus one, so that p from a finite number of random flips is never zero.
    return float(as_far.mean() if exact else (as_far.sum() + 1) / (RESAMPLES + 1))


def _per_video(scores: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Sums and counts of the defined scores of every video with any."""
    sums = np.array([np.nansum(s) for s in scores], np.float64)
    counts = np.array([np.isfinite(s).sum() for s in scores], np.int64)
    return sums[counts > 0], counts[counts > 0]


def _bootstrap(sums, counts, average: str, seed: int):
    """The mean, and the means of RESAMPLES draws of as many videos (None with fewer than two)."""
    if not len(counts):
        return None, None
    if average == 'videos':
        sums, counts = sums / counts, np.ones_like(counts)
    value = float(sums.sum() / counts.sum())
    if len(counts) < 2:
        return value, None
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(counts), np.full(len(counts), 1 / len(counts)), RESAMPLES)
    return value, (drawn @ sums) / (drawn @ counts)


def _interval(means) -> tuple[float | None, float | None]:
    if means is None:
        return None, None
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)
