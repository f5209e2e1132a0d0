"""A video in a dataset's layout: a video file or a folder of frames, beside folders of maps.

Frames and maps are matched by their numbers. Mismatches are reported by video: a frame without maps
is kept as not annotated; a map without frame is left out.
"""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.copies import images, tree
from data.copies.matlab import read_matlab
from data.copies.points import find_points
from data.copies.sources import Frame, Report, VideoSource
from data.copies.video_file import frames_in_header, frames_of_video


@dataclasses.dataclass(frozen=True)
class FolderVideo(VideoSource):
    """One video of a dataset in `root`.

    `frames_from` is a video file (its frames count from 1) or a folder of images; `maps` and
    `fixations` are folders of images or .mat files, empty for a video without annotation.
    `variable` is the name of the map inside .mat files.
    """

    root: str
    frames_from: str
    maps: str = ''
    fixations: str = ''
    variable: str = 'I'

    def paths(self) -> tuple[Path, ...]:
        """The video file or the folders."""
        return tuple(Path(p) for p in (self.frames_from, self.maps, self.fixations) if p)

    def expected_frames(self) -> int:
        """From the video file's header, or the number of images."""
        source = Path(self.frames_from)
        if source.is_dir():
            return sum(1 for _ in tree.images_of(source))
        return frames_in_header(source)

    def frames(self, report: Report) -> Iterator[Frame]:
        """Yields every frame that can be read, with its maps."""
        annotation = self.annotation(report)
        seen, missing, empty, blank, colour, noisy = [], [], [], [], [], []
        sizes: dict[tuple[int, ...], int] = {}
        moved: dict[int, int] = {}
        fits = True
        for number, image in self.images(report):
            seen.append(number)
            sizes.setdefault(image.shape[:2], number)
            if number not in annotation.numbers:
                missing.append(number)
                yield Frame(number, image, None, None, 0, image.shape[:2])
                continue
            try:
                density, fixations = annotation.read(number)
                black = density.is_black()
            except (OSError, ValueError) as error:
                at_fault = getattr(error, 'path', annotation.path(number))
                report.add(at_fault, f'its maps cannot be used ({error})',
                           'frame kept as not annotated')  # fmt: skip
                yield Frame(number, image, None, None, 0, image.shape[:2])
                continue
            fixated = int(np.count_nonzero(fixations.values))
            if not fixated and not annotation.densities_alone:
                empty.append(number)
            elif black:
                blank.append(number)
            if fixations.merged is not None:
                moved[number] = fixations.merged
            if fixations.recovered:
                noisy.append(number)
            if density.channels > 1 or fixations.channels > 1:
                colour.append(number)
            pngs = density.png(), fixations.png()
            alone = annotation.densities_alone
            yield Frame(number, image, *pngs, fixated, density.size, black, alone)
            if fits and not _same_shape(image.shape[:2], density.size):
                fits = False  # report once per video
                report.add(
                    annotation.path(number),
                    f'{_size(density.size)}, but the frames are {_size(image.shape[:2])}',
                    'used; check that they belong together',
                )
        if len(sizes) > 1:
            found = ', '.join(f'{w}x{h} from frame {n}' for (h, w), n in sizes.items())
            report.add(self.frames_from, f'frames of different sizes: {found}', 'used as they are')
        if annotation.expected:
            told = missing, empty, blank, colour, noisy, moved
            self._sum_up(report, annotation.numbers, seen, *told)

    def _sum_up(self, report, numbers, seen, missing, empty, blank, colour, noisy, moved) -> None:
        def note(which, what: str, done: str) -> None:
            if which:
                report.add(self.frames_from, f'{len(which)} {what}: {tree.ranges(which)}', done)

        note(missing, 'frames without both maps', 'kept as not annotated')
        note(set(numbers) - set(seen), 'maps without frame', 'left out')
        note(empty, 'frames without any fixation', 'not used as targets')
        note(blank, 'frames with fixations but black density', 'not used as targets')
        note(colour, 'maps of several channels', 'taken as one channel')
        note(
            noisy,
            'fixation maps with noise around the points, as after JPEG or resizing',
            'points recovered',
        )
        done, merged = "points moved to the density's size", sum(moved.values())
        if merged:
            done += f', where {merged} fall on another one and count as one with it'
        note(moved, 'fixation maps of another size than their density', done)

    def images(self, report: Report) -> Iterator[tuple[int, np.ndarray]]:
        """Yields (number, uint8 RGB frame)."""
        source = Path(self.frames_from)
        if source.is_dir():
            return _images_of_folder(source, Path(self.root), report)
        return frames_of_video(source, report)

    def annotation(self, report: Report) -> 'Annotation':
        """The maps of this video, by frame number."""
        if not (self.maps and self.fixations):
            return Annotation()
        maps, fixations = (
            tree.numbered(Path(folder), Path(self.root), (*tree.IMAGES, *tree.MATLAB), report)
            for folder in (self.maps, self.fixations)
        )
        return FileAnnotation(maps, fixations, self.variable)


class MapError(ValueError):
    """A map that cannot be used; `path` is the file at fault."""

    def __init__(self, path: Path, reason: Exception):
        super().__init__(str(reason))
        self.path = str(path)


@contextlib.contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise MapError(path, error) from error


class Annotation:
    """No annotation at all; subclasses have one."""

    expected = False  # whether the video is one that should have maps
    densities_alone = False  # whether there are density maps but fixations are unknown
    numbers: frozenset[int] = frozenset()  # of the frames that have both maps

    def path(self, number: int) -> str:
        """The path to name in messages about this frame's maps."""
        raise NotImplementedError

    def read(self, number: int) -> tuple['Map', 'Map']:
        """Density and fixations. Raises OSError or ValueError if they cannot be used."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True)
class Map:
    """A density or fixation map: its size (h, w), and its pixels or a PNG to be stored unchanged.

    For fixations moved from a map of another size, `merged` is how many fell on another one;
    `recovered` says whether they were separated from noise.
    """

    size: tuple[int, int]
    pixels: np.ndarray | None = None  # uint8 (h, w)
    content: bytes = b''
    channels: int = 1
    recovered: bool = False
    merged: int | None = None

    @classmethod
    def of(cls, pixels: np.ndarray, **options) -> 'Map':
        """A map with these pixels."""
        return cls(pixels.shape, pixels, **options)

    @property
    def values(self) -> np.ndarray:
        """uint8 (h, w). Raises OSError if the file is damaged."""
        return images.decode_map(self.content) if self.pixels is None else self.pixels

    def is_black(self) -> bool:
        """Whether it is 0 everywhere. Raises OSError if the file is damaged."""
        return images.is_black(self.content) if self.pixels is None else not self.pixels.any()

    def png(self) -> bytes:
        """As a PNG of one 8-bit channel."""
        return self.content or images.encode_map(self.values)


class FileAnnotation(Annotation):
    """Maps in files, {number: path} each."""

    expected = True

    def __init__(self, maps: dict[int, Path], fixations: dict[int, Path], variable: str):
        self.maps, self.fixations, self.variable = maps, fixations, variable
        self.numbers = frozenset(maps) & frozenset(fixations)

    def path(self, number: int) -> str:
        """The density map's file."""
        return str(self.maps[number])

    def read(self, number: int) -> tuple[Map, Map]:
        """See Annotation."""
        with _named(self.maps[number]):
            density = read_map(self.maps[number], self.variable)
        with _named(self.fixations[number]):
            fixations = read_fixations(self.fixations[number], self.variable)
        if density.size == fixations.size:
            return density, fixations
        if not _same_shape(density.size, fixations.size):
            raise ValueError(
                f'density {_size(density.size)}, fixations {_size(fixations.size)}, should be equal'
            )
        points = images.move_points(fixations.values, density.size)
        merged = int(np.count_nonzero(fixations.values) - np.count_nonzero(points))
        pixels = points.astype(np.uint8) * 255
        moved = dataclasses.replace(fixations, size=density.size, pixels=pixels, content=b'')
        return density, dataclasses.replace(moved, merged=merged)


def read_fixations(path: Path, variable: str) -> Map:
    """Reads a fixation map, 255 at fixated pixels. Raises OSError or ValueError if that fails."""
    if path.suffix.lower() in tree.MATLAB:
        values, channels = read_matlab(path, variable), 1
    else:
        found = read_map(path, variable)
        values, channels = found.values, found.channels
        if found.content and np.count_nonzero(values) == np.count_nonzero(values == 255):
            return dataclasses.replace(found, pixels=values)
    fixated, recovered = find_points(values)
    return Map.of(fixated.astype(np.uint8) * 255, channels=channels, recovered=recovered)


def read_map(path: Path, variable: str) -> Map:
    """Reads a map from an image or a .mat file. Raises OSError or ValueError if that fails."""
    if path.suffix.lower() in tree.MATLAB:
        return Map.of(images.rescale_to_uint8(read_matlab(path, variable)))
    content = path.read_bytes()
    if size := images.plain_map_size(content):
        return Map(size, content=content)
    return Map.of(images.decode_map(content), channels=images.channels_of(content))


def _images_of_folder(folder: Path, root: Path, report: Report) -> Iterator[tuple[int, np.ndarray]]:
    files = tree.numbered(folder, root, tree.IMAGES, report)
    if not files:
        report.add(folder, 'has no frames', 'skipped')
    for number, path in files.items():
        try:
            image = images.decode_frame(path.read_bytes())
        except OSError as error:
            report.add(path, f'is not a readable image ({error})', 'frame left out')
            continue
        yield number, image
    if files:
        gaps = set(range(min(files), max(files) + 1)) - set(files)
        if gaps:
            report.add(folder, f'{len(gaps)} frames are not there: {tree.ranges(gaps)}', 'left out')


def _same_shape(a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Whether the aspect ratios agree within 3 %, more than any rounding of sizes."""
    ratio = (a[0] * b[1]) / (a[1] * b[0])
    return 0.97 < ratio < 1 / 0.97


def _size(size: tuple[int, int]) -> str:
    return f'{size[1]}x{size[0]}'
