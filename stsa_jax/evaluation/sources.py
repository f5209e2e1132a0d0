"""Sources of the maps of a table row: a model, files, or a baseline that does not use the video.

A source has `maps(video) -> Iterator[map]`, one map `(h', w')`, float or uint8, for each selected
frame of the video in order, and `identity()`, a string that changes whenever its maps may change.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol

import jax
import numpy as np

from stsa_jax import inference
from stsa_jax.distribution import sharding
from stsa_jax.evaluation.selection import Dataset, Selected
from stsa_jax.evaluation.truth import GroundTruth
from stsa_jax.inference import sharing
from stsa_jax.inference.identity import identity_of
from stsa_jax.inference.windows import Window, is_recurrent, predict_windows, windows_of
from stsa_jax.media.preprocess import resize_density

PRIOR_SIZE = (180, 320)  # fine enough for a mean over thousands of maps
PRIOR_FRAMES = 1000


class Source(Protocol):
    """The input of `runner.score_source`."""

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """A map for each of the video's selected frames."""

    def identity(self) -> str:
        """A string that changes whenever the maps may change."""


class WeightedPredictor(inference.Predictor, Protocol):
    """A predictor whose weights can be moved to devices, like that of `stsa_jax.load`."""

    params: Any
    batch_stats: Any
    finish: Any
    has_own_finish: bool


class ModelMaps:
    """A model's maps, computed only for the selected frames; batches over all local devices."""

    def __init__(self, model: WeightedPredictor, dataset: Dataset, batch_size: int = 0):
        """`batch_size` windows at once over all devices; 0 for one per device."""
        devices = jax.local_devices()
        self.dataset, self.model = dataset, model
        self.batch_size = -(-(batch_size or len(devices)) // len(devices)) * len(devices)
        self._sharding = None
        if len(devices) > 1:
            mesh = sharding.make_mesh(devices=devices)
            self._sharding = sharding.batch_sharding(mesh)
            model.params, model.batch_stats = jax.device_put(
                (model.params, model.batch_stats), sharding.replicated(mesh)
            )

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """float32 (H, W) at the model's size; uint8 if the model has its own post-processing."""
        model, wanted = self.model, set(video.positions.tolist())
        frames = (
            model.preprocess(self.dataset.frame(video.first_example + i)[None])[0]
            for i in range(video.num_frames)
        )
        recurrent = is_recurrent(model.config)
        chosen = _only(windows_of(frames, model.config), wanted, keep=recurrent)
        predictor: Any = model if recurrent else self._on_devices
        if self._sharding is None and (np.diff(video.positions) == 1).all():  # in a row
            predictor = sharing.for_windows(model, len(wanted))
        for saliency in predict_windows(predictor, chosen, self.batch_size):
            if getattr(model, 'has_own_finish', False):
                saliency = model.finish(saliency, (video.height, video.width))
            yield saliency

    def _on_devices(self, clips):
        placed = clips if self._sharding is None else jax.device_put(clips, self._sharding)
        return self.model(placed)

    def identity(self) -> str:
        """A digest of config and weights."""
        return f'model {identity_of(self.model)}'


def _only(windows: Iterable[Window], wanted: set[int], keep: bool) -> Iterator[Window]:
    """The windows with maps of the `wanted` frames, with only those indices; `keep` the others."""
    first = 0
    for window in windows:
        numbers = range(first, first + len(window.places))
        first += len(window.places)
        places = tuple(p for p, number in zip(window.places, numbers) if number in wanted)
        if places or keep:
            yield Window(window.frames, places)


class FixedMap:
    """The same map for every frame."""

    def __init__(self, saliency: np.ndarray):
        """`saliency` (h, w), of any size."""
        self.saliency = saliency

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """The map, once for each selected frame."""
        return (self.saliency for _ in video.positions)

    def identity(self) -> str:
        """A digest of the map."""
        return f'fixed {hashlib.sha256(self.saliency.tobytes()).hexdigest()[:24]}'


class ShuffledMaps:
    """The lower bound: the true density map of a random frame of another video, deterministic."""

    def __init__(self, truth: GroundTruth):
        """`truth` of the evaluated frames."""
        self.truth = truth

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """Density maps of other videos; a zero map if there is no other video."""
        for example in video.examples.tolist():
            others = self.truth.other_frames(example, 1)
            if others:
                yield self.truth.density(others[0])
            else:
                yield np.zeros(self.truth.size(example) or (1, 1), np.float32)

    def identity(self) -> str:
        """The seed of the draw."""
        return f'shuffled {self.truth.seed}'


def centre_prior(training: Any | None, size: tuple[int, int] = PRIOR_SIZE) -> np.ndarray:
    """The mean density map of a training split, float32 `size`.

    Each map has the same weight (it is divided by its sum). Uses up to PRIOR_FRAMES evenly spaced
    frames of `training`, a `data.VideoDataset`. Without one: a central Gaussian with a standard
    deviation of a quarter of height and width.
    """
    total = np.zeros(size, np.float64)
    if training is not None:
        for i in np.unique(np.linspace(0, len(training) - 1, PRIOR_FRAMES).astype(int)):
            density = training.density(int(i))
            if density is not None and density.max() > 0:
                density = resize_density(density, size)
                total += density / density.sum()
    if not total.any():
        rows, columns = (np.linspace(-2, 2, n) for n in size)
        total = np.exp(-(rows[:, None] ** 2 + columns**2) / 2)
    return (total / total.max()).astype(np.float32)
