"""One frame's six scores: resizes the prediction to the ground truth, then computes the metrics.

Several threads score frames (XLA and the image code release Python's lock), on all local devices in
turn. A frame's scores depend only on the frame.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from stsa_jax import metrics
from stsa_jax.evaluation.protocol import METRICS, Protocol
from stsa_jax.evaluation.truth import GroundTruth, frame_seed
from stsa_jax.media.preprocess import resize_density
from stsa_jax.media.visualize import to_8bit
from stsa_jax.metrics.maps import pad_positions

_FILTERS = {'bicubic': Image.Resampling.BICUBIC, 'bilinear': Image.Resampling.BILINEAR}
# Problems of a frame; the first two are the ground truth's, the others the prediction's.
NO_FIXATION, NO_DENSITY = 'no fixation', 'empty or constant density'
CONSTANT, NOT_FINITE, NEGATIVE = 'constant prediction', 'NaN or infinity', 'negative prediction'
NO_NEGATIVES = 'no fixation in other videos'
DENSITY_ALONE = 'density maps only, no known fixations'
TRUTH_PROBLEMS = (NO_FIXATION, NO_DENSITY, NO_NEGATIVES, DENSITY_ALONE)
PREDICTION_PROBLEMS = (CONSTANT, NOT_FINITE, NEGATIVE)


class FrameScore(NamedTuple):
    """`scores` (6,) in the order of METRICS, NaN where undefined; `problems` says why.

    quantisation (6,): the scores of the 8-bit map minus those of the float map, if requested.
    """

    scores: np.ndarray
    problems: tuple[str, ...]
    quantisation: np.ndarray | None = None


class Scorer:
    """Scores maps against the ground truth of one dataset, by one protocol. Thread-safe."""

    def __init__(self, truth: GroundTruth, protocol: Protocol):
        self.truth, self.protocol = truth, protocol
        # Lists of one length for the whole dataset: one compilation per frame size.
        self._most = _padded(truth.most_fixations() or 1)
        self._most_others = _padded(truth.most_fixations(protocol.shuffled_frames) or 1)
        devices = jax.local_devices()
        # The devices of a CPU share its cores, and each would compile again.
        self._devices = devices[:1] if devices[0].platform == 'cpu' else devices

    def score(self, example: int, saliency: np.ndarray, quantisation: bool = False) -> FrameScore:
        """Scores of map `saliency` `(h', w')`, float or uint8, for frame `example`.

        With `quantisation`, a float map is scored both unchanged and as `predict.py` writes it,
        resized by the same filter, to isolate the effect of 8 bits.
        """
        truth, protocol = self.truth, self.protocol
        size = truth.size(example)
        nothing = np.full(len(METRICS), np.nan)
        alone = truth.density_alone(example)
        if not truth.count(example) and not alone:
            return FrameScore(nothing, (NO_FIXATION,))
        density = truth.density(example)
        problems: tuple[str, ...] = () if density.max() > density.min() else (NO_DENSITY,)
        fixations = pad_positions([truth.positions(example)], self._most)
        other = truth.other_positions(example, protocol.shuffled_frames)
        if alone:
            problems += (DENSITY_ALONE,)
        elif not len(other):
            problems += (NO_NEGATIVES,)
        saliency = np.asarray(saliency)
        usable, wrong = _usability(saliency)
        problems += wrong
        if usable:
            prediction = fit(saliency, size, protocol)
            usable = prediction.max() > prediction.min()
            problems += () if usable else (CONSTANT,)
        if not usable:
            if protocol.unusable == 'drop':
                return FrameScore(nothing, problems)
            known = not alone, not alone and len(other) > 0
            return FrameScore(_chance(density, protocol, *known), problems)
        seed = np.uint32(frame_seed('subsets', truth.seed, *truth.identity(example)))
        device = self._devices[example % len(self._devices)]
        other = pad_positions([other], self._most_others)
        given = jax.device_put((density, fixations, other, seed), device)

        def scores(prediction):
            prediction = jax.device_put(prediction, device)
            return np.asarray(score(prediction, *given, protocol=protocol), np.float64)

        effect = None
        if quantisation and saliency.dtype != np.uint8:
            # Both with the filter of `to_8bit`, whatever the protocol's.
            exact, rounded = resize_density(saliency, size), to_8bit(saliency, size)
            effect = scores(rounded.astype(np.float32)) - scores(exact)
        return FrameScore(scores(prediction), problems, effect)


@partial(jax.jit, static_argnames='protocol')
def score(
    prediction: jax.Array,
    density: jax.Array,
    fixations: jax.Array,
    other: jax.Array,
    seed: jax.Array,
    *,
    protocol: Protocol,
) -> jax.Array:
    """All metrics (6,) of one frame: maps (h, w), positions (1, n), uint32 seed of the draw."""
    p, g = prediction[None], density[None]
    return jnp.concatenate(
        [
            metrics.cc(p, g),
            metrics.sim(p, g, minmax=protocol.sim_minmax),
            metrics.nss(p, fixations, ddof=protocol.nss_ddof),
            metrics.kl(p, g),
            metrics.auc_judd(p, fixations, ties=protocol.judd_ties),
            metrics.auc_shuffled(
                p,
                fixations,
                other,
                key=None if protocol.shuffled_step is None else jax.random.key(seed)[None],
                step=protocol.shuffled_step,
                num_subsets=protocol.shuffled_subsets,
            ),
        ]
    )


def fit(saliency: np.ndarray, size: tuple[int, int], protocol: Protocol) -> np.ndarray:
    """The map `(h', w')` as the protocol compares it: float32 `size` = (h, w).

    uint8 maps (from files) are resized in 8 bits, as MATLAB does; float maps are quantised as
    `predict.py` writes them if the protocol says so.
    """
    if saliency.dtype != np.uint8 and protocol.eight_bit:
        saliency = to_8bit(saliency, size)
    if saliency.shape != tuple(size):
        image = Image.fromarray(
            saliency if saliency.dtype == np.uint8 else saliency.astype(np.float32)
        )
        saliency = np.asarray(image.resize((size[1], size[0]), _FILTERS[protocol.resize]))
        if protocol.resize == 'bicubic':
            saliency = np.maximum(saliency, 0)  # bicubic undershoots near edges
    return saliency.astype(np.float32)


def _padded(number: int) -> int:
    """The next multiple of 8: every list entry costs time, including padding."""
    return -(-number // 8) * 8


def _usability(saliency: np.ndarray) -> tuple[bool, tuple[str, ...]]:
    """Whether a map can be compared at all, and its problems."""
    low, high = saliency.min(), saliency.max()
    if not (np.isfinite(low) and np.isfinite(high)):
        return False, (NOT_FINITE,)
    if low == high:
        return False, (CONSTANT,)
    return True, (NEGATIVE,) if low < 0 else ()


def _chance(
    density: np.ndarray, protocol: Protocol, has_fixations: bool, has_negatives: bool
) -> np.ndarray:
    """The scores of a uniform map, in the order of METRICS."""
    if not density.max() > density.min():
        return np.full(len(METRICS), np.nan)
    uniform = np.ones((1, *density.shape), np.float32)
    scaled = density - density.min() if protocol.sim_minmax else density
    similarity = metrics.sim(uniform, scaled[None], minmax=False)[0]
    divergence = metrics.kl(uniform, density[None])[0]
    nss, area = (0, 0.5) if has_fixations else (np.nan, np.nan)
    shuffled = 0.5 if has_negatives else np.nan
    return np.array([0, similarity, nss, divergence, area, shuffled], np.float64)
