"""The synthetic datasets: everything is rendered from a seed, nothing is downloaded.

`stsa_synthetic` has scripts of many kinds, `stsa_matching` one that requires relating distant
times, and `stsa_contrast` the same without that relation.

Short videos of scenes (see data.scenes) are watched by simulated observers, who follow the attended
object with a lag and some scatter, blink, sometimes look elsewhere, and start at the centre. Their
gaze gives the fixation maps, and blurred fixations the density maps, as in the real datasets.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data import scenes
from data.copies import images
from data.copies.sources import Frame, Report, VideoSource
from data.gaze import density_map
from data.preparation.building import SaliencyBuilder
from data.preparation.features import ORIGINAL_JPEG, ORIGINAL_PNG
from data.scenes import FRAMES, HEIGHT, TRIAL, WIDTH, Scene

SEED = 2023
VIDEOS = {'train': 60, 'validation': 6, 'test': 12}
OBSERVERS = 15
SCATTER = 3.5  # pixels, an observer's error, drawn at every shift of attention
TREMOR = 1.2  # pixels per frame
CENTRE_SPREAD = (0.16, 0.16)  # spread of looks at the centre, relative to height and width
BLUR = 7.0  # pixels, sigma of the density maps
TRIALS = (*scenes.MATCHING, *scenes.CONTRAST)


@dataclasses.dataclass(frozen=True)
class SyntheticVideo(VideoSource):
    """Video `index` of a split; its name contains its script."""

    split: str
    index: int
    script: Callable[[np.random.Generator], Scene]

    @classmethod
    def at(
        cls, split: str, index: int, scripts: Sequence[Callable] = scenes.CYCLE
    ) -> 'SyntheticVideo':
        """The video at this index of the split; the `scripts` alternate."""
        script = scripts[index % len(scripts)]
        return cls(f'{split}_{index:03d}_{script.__name__}', split, index, script)

    @classmethod
    def named(cls, name: str) -> 'SyntheticVideo':
        """The video of this name, from any of the datasets."""
        split, index, script = name.split('_')
        known = {each.__name__: each for each in (*scenes.CYCLE, *TRIALS)}
        return cls(name, split, int(index), known[script])

    @property
    def kind(self) -> str:
        """'plain' if the attended object stands out at the time, else 'relational'."""
        return 'plain' if self.script in (*scenes.PLAIN, *scenes.CONTRAST) else 'relational'

    def scene(self) -> tuple[Scene, np.random.Generator]:
        """The video's scene, and the random generator of its observers."""
        rng = np.random.default_rng([SEED, list(VIDEOS).index(self.split), self.index])
        return self.script(rng), rng

    def expected_frames(self) -> int:
        """Exactly."""
        return TRIAL if self.script in TRIALS else FRAMES

    def frames(self, report: Report) -> Iterator[Frame]:
        """Renders the frames, numbered from 1."""
        scene, rng = self.scene()
        gaze, open_eyes = observe(scene, rng)
        for t in range(len(scene.attended)):
            fixations = fixation_map(gaze[:, t][open_eyes[:, t]])
            yield Frame(
                number=t + 1,
                image=scenes.render(scene, t),
                density=images.encode_map(images.rescale_to_uint8(density_map(fixations, BLUR))),
                fixations=images.encode_map(fixations),
                num_fixations=int(fixations.sum()),
                size=(HEIGHT, WIDTH),
            )


def observe(scene: Scene, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Positions (y, x) of the observers' gaze, (OBSERVERS, T, 2), and whether their eyes are open.

    In some videos no fixation is recorded for a few frames, as happens in the real datasets.
    """
    frames = len(scene.attended)
    gaze = np.zeros((OBSERVERS, frames, 2))
    centre = np.array([HEIGHT, WIDTH]) / 2
    for observer in range(OBSERVERS):
        lag = int(rng.integers(2, scenes.LATEST + 1))
        last, offset, at = None, np.zeros(2), -1
        for t in range(frames):
            wanted = int(scene.attended[max(t - lag, 0)]) if t >= lag else -1
            if wanted != last:
                last, at = wanted, wanted
                if rng.random() < 0.15:
                    at = -1  # the centre instead
                elif rng.random() < 0.06:
                    at = int(rng.integers(len(scene.shape)))  # or at something else
                spread = np.array([HEIGHT, WIDTH]) * CENTRE_SPREAD if at < 0 else SCATTER
                offset = rng.normal(size=2) * spread
            here = centre if at < 0 else scene.centre[at, max(t - lag, 0)]
            gaze[observer, t] = here + offset + rng.normal(size=2) * TREMOR
    open_eyes = rng.random((OBSERVERS, frames)) > 0.05
    if rng.random() < 0.15:
        start = int(rng.integers(frames - 3))
        open_eyes[:, start : start + 3] = False
    return gaze, open_eyes


def fixation_map(points: np.ndarray) -> np.ndarray:
    """(n, 2) positions -> bool (HEIGHT, WIDTH), true at positions within the frame."""
    y, x = np.rint(points).astype(int).T
    inside = (y >= 0) & (y < HEIGHT) & (x >= 0) & (x < WIDTH)
    result = np.zeros((HEIGHT, WIDTH), bool)
    result[y[inside], x[inside]] = True
    return result


class StsaSynthetic(SaliencyBuilder):
    """TFDS builder of the synthetic dataset; no data needed."""

    VERSION = '1.0.0'
    BUILDER_CONFIGS = [ORIGINAL_JPEG, ORIGINAL_PNG]  # noqa: RUF012
    SUMMARY = (
        'Rendered videos (128x192) of objects that move, appear and change, with the fixations of '
        'simulated observers. In those of kind "relational" the attended object stands out only by '
        'its relation to an earlier time.'
    )
    SCRIPTS = scenes.CYCLE
    COUNTS = VIDEOS

    def find_videos(self, manual_dir: Path | None, report: Report) -> dict[str, list[VideoSource]]:
        """All videos of all splits."""
        return {
            split: [SyntheticVideo.at(split, index, self.SCRIPTS) for index in range(count)]
            for split, count in self.COUNTS.items()
        }


class StsaMatching(StsaSynthetic):
    """TFDS builder of delayed match-to-sample trials; no data needed."""

    VERSION = '2.0.0'
    COUNTS = {'train': 1500, 'validation': 30, 'test': 90}  # noqa: RUF012
    SUMMARY = (
        'Rendered videos (128x192) in which one object is shown alone, then three of different '
        'colours elsewhere, and simulated observers look at the one that matches the first.'
    )
    SCRIPTS = scenes.MATCHING


class StsaContrast(StsaMatching):
    """TFDS builder of the same trials without a relation to the sample; no data needed."""

    SUMMARY = (
        'Rendered videos (128x192) in which one object is shown alone, then three elsewhere, and '
        'simulated observers look at the one that is vivid among grey ones.'
    )
    SCRIPTS = scenes.CONTRAST
