"""Video classification: S3D's Kinetics classifier over evenly spaced clips.

Follows the usual Kinetics evaluation: the shorter side resized to 256 pixels, a central 224x224
crop, clips of 64 frames, class probabilities averaged over the clips.
"""

import functools
import os
from collections.abc import Iterable, Iterator

import jax
import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.inference.kinetics400 import LABELS
from stsa_jax.media.preprocess import Normalisation, normalise, resize_frame
from stsa_jax.models import functional
from stsa_jax.models.s3d import S3D, S3DConfig
from stsa_jax.weights import pretrained

CLIP_FRAMES = 64
SHORT_SIDE, CROP = 256, 224


class Classifier:
    """S3D with its weights: clips in, class probabilities out."""

    def __init__(
        self, config: S3DConfig, params: dict, batch_stats: dict, normalisation: Normalisation
    ):
        """`normalisation` is the one the weights were trained with."""
        self.config, self.normalisation = config, normalisation
        self.labels = (
            LABELS
            if config.num_classes == len(LABELS)
            else tuple(f'class {i}' for i in range(config.num_classes))
        )
        self._variables = jax.device_put((params, batch_stats))
        graphdef, *_ = functional.abstract(S3D, config)
        self._logits = jax.jit(functools.partial(functional.apply, graphdef))

    def __call__(self, clips: np.ndarray) -> np.ndarray:
        """`(B, T, H, W, 3)` normalised float32 -> probabilities `(B, num_classes)`."""
        return np.asarray(jax.nn.softmax(self._logits(*self._variables, clips)))

    def preprocess(self, frame: np.ndarray) -> np.ndarray:
        """uint8 `(h, w, 3)` -> float32 `(224, 224, 3)`: the central crop, normalised."""
        height, width = frame.shape[:2]
        scale = SHORT_SIDE / min(height, width)
        frame = resize_frame(frame, (round(height * scale), round(width * scale)))
        top, left = ((n - CROP) // 2 for n in frame.shape[:2])
        return normalise(frame[top : top + CROP, left : left + CROP], self.normalisation)


def load_classifier(path: str | os.PathLike, allow_nonfinite: bool = False) -> Classifier:
    """S3D from a checkpoint folder, a PyTorch or safetensors file, in either naming.

    Raises InputError that names the file for anything else, and for weights with NaN or infinity
    unless `allow_nonfinite`.
    """
    weights = pretrained.read_weights(path, allow_nonfinite=allow_nonfinite)
    if weights.kind != 's3d':
        raise InputError(
            f"{path}: holds STSA-Net's weights, but the S3D classifier's were expected; give "
            'S3D_kinetics400.pt (kylemin/S3D) or torchvision s3d weights'
        )
    config = S3DConfig(**weights.model_config)
    return Classifier(config, weights.params, weights.batch_stats, weights.normalisation)


def classify_video(
    classifier: Classifier, frames: Iterable[np.ndarray], num_frames: int, max_clips: int = 10
) -> np.ndarray:
    """Mean class probabilities `(num_classes,)` over a video.

    Args:
        classifier: as `Classifier`.
        frames: uint8 `(h, w, 3)`, the whole video.
        num_frames: their number.
        max_clips: the largest number of clips of 64 frames, evenly spaced; fewer in a short video.
    """
    probabilities = [
        classifier(clip[None])[0] for clip in _clips(classifier, frames, num_frames, max_clips)
    ]
    return np.mean(probabilities, axis=0)


def clip_starts(num_frames: int, max_clips: int) -> list[int]:
    """First frames, from 0, of clips of 64 evenly spaced from the start of a video to its end."""
    count = min(max_clips, -(-num_frames // CLIP_FRAMES))
    return np.linspace(0, max(num_frames - CLIP_FRAMES, 0), count).round().astype(int).tolist()


def top(
    classifier: Classifier, probabilities: np.ndarray, count: int = 5
) -> list[tuple[str, float]]:
    """The most probable classes, `(label, probability)`, best first."""
    best = np.argsort(-probabilities, kind='stable')[:count]
    return [(classifier.labels[i], float(probabilities[i])) for i in best]


def _clips(classifier, frames, num_frames, max_clips) -> Iterator[np.ndarray]:
    """`(64, 224, 224, 3)` each; a shorter video is padded by repeating its last frame."""
    starts = clip_starts(num_frames, max_clips)
    open_clips: dict[int, list] = {}
    prepared = None
    for number, frame in enumerate(frames):
        if number in starts:
            open_clips[number] = []
        if not open_clips:
            continue
        prepared = classifier.preprocess(frame)
        for clip in open_clips.values():
            clip.append(prepared)
        for start in [s for s, clip in open_clips.items() if len(clip) == CLIP_FRAMES]:
            yield np.stack(open_clips.pop(start))
    for clip in open_clips.values():  # the video is shorter than a clip, or than num_frames
        yield np.stack(clip + [prepared] * (CLIP_FRAMES - len(clip)))
