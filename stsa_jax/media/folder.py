"""A folder of frames, or a multi-image file, as a video.

Frames are in natural order (`frame2` before `frame10`). A frame's number is the last one in its
file's name, as in `data.prepare`, if these numbers increase in that order; otherwise frames are
numbered from 1 and take their files' names.
"""

import itertools
import logging
import re
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

from stsa_jax.errors import InputError
from stsa_jax.media import pictures
from stsa_jax.media.decoding import Frame
from stsa_jax.media.info import Video, VideoInfo, size_text

_INNER = 'images'  # where datasets store the frames of a shot, beside its maps
_VIDEOS = (
    '.3gp', '.asf', '.avi', '.flv', '.m2ts', '.m4v', '.mkv', '.mov', '.mp4', '.mpeg', '.mpg',
    '.mts', '.mxf', '.ogv', '.ts', '.vob', '.webm', '.wmv',
)  # fmt: skip
_log = logging.getLogger(__name__)


def natural_key(name: str) -> list[tuple[int, str] | str]:
    """Sort key for natural order: `frame2` before `frame10`."""
    parts = re.split(r'(\d+)', name)
    return [(int(p), p) if p.isdecimal() else p.casefold() for p in parts]


def videos_in(path: Path) -> list[Path]:
    """The videos that `path` names: itself, or what a folder of videos holds, in natural order.

    A folder of videos has no frames itself; it holds video files, by their extensions, and folders
    of frames. What is neither is left to `open_folder`.
    """
    if not path.is_dir():
        return [path]
    entries = sorted(path.iterdir(), key=lambda entry: natural_key(entry.name))
    if any(_is_frame(entry) for entry in entries) or any(
        entry.name.casefold() == _INNER and _has_frames(entry) for entry in entries
    ):
        return [path]
    found = [
        entry
        for entry in entries
        if not entry.name.startswith('.')
        and (
            (entry.suffix.lower() in _VIDEOS and entry.is_file())
            or _has_frames(entry)
            or _has_frames(entry / _INNER)
        )
    ]
    return found or [path]


def _has_frames(path: Path) -> bool:
    return path.is_dir() and any(_is_frame(entry) for entry in path.iterdir())


def open_folder(path: Path, fps: Fraction) -> Video:
    """The frames in a folder, or in its subfolder `images` if it has none itself.

    Other files are skipped; a log line gives their number and the reason.

    Raises:
        InputError: no frames, two files for one frame, frames of different sizes, several images
            in one file.
    """
    path, names = _images(path)
    _check_doubles(path, names)
    # Read the headers of all frames first, to report a mismatch before the work, not after it.
    sizes = [_single(path / name) for name in names]
    for name, size in zip(names, sizes):
        if size != sizes[0]:
            raise InputError(
                f'{path / name}: is {size_text(size)} pixels, but {names[0]} is '
                f'{size_text(sizes[0])}; all frames of a video must have one size'
            )
    numbers, called = _numbers(names)

    def frames(first: int = 0) -> Iterator[Frame]:
        for place, (name, number, title) in enumerate(zip(names, numbers, called)):
            if place < first:
                continue
            try:
                pixels = pictures.read_picture(path / name)
            except OSError as error:
                raise _unreadable(path / name, error) from error
            yield Frame(number, title, place / fps, pixels)

    def times() -> list[Fraction]:
        return [place / fps for place in range(len(names))]

    return Video(VideoInfo(path, *sizes[0], fps, len(names)), frames(), numbers, times, frames)


def open_pictures(path: Path, fps: Fraction) -> Video:
    """The images of one file: the pages of a TIFF, an animated WebP or PNG, or a single image.

    Raises InputError if the file cannot be read or its images differ in size.
    """
    try:
        height, width, count = pictures.read_header(path)
    except OSError as error:
        raise _unreadable(path, error) from error

    def frames() -> Iterator[Frame]:
        time = Fraction(0)
        try:
            for number, (pixels, seconds) in enumerate(pictures.read_pictures(path), 1):
                if pixels.shape[:2] != (height, width):
                    raise InputError(
                        f'{path}: image {number} is {size_text(pixels.shape)} pixels, but the '
                        f'first is {width}x{height}; all frames of a video must have one size'
                    )
                yield Frame(number, f'{number:04d}', time, pixels)
                time += Fraction(seconds).limit_denominator(1000) or 1 / fps
        except OSError as error:
            raise _unreadable(path, error) from error

    def since(first: int) -> Iterator[Frame]:
        return itertools.islice(frames(), first, None)

    def times() -> list[Fraction]:  # known only from the decoded images
        return [frame.time for frame in frames()]

    info = VideoInfo(path, height, width, fps, count)
    numbers = list(range(1, count + 1))
    return Video(info, frames(), numbers, times, since, constant_rate=False)


def _images(path: Path) -> tuple[Path, list[str]]:
    """The folder with the frames, and their names in order."""
    names = sorted((p.name for p in path.iterdir()), key=natural_key)
    images = [n for n in names if _is_frame(path / n)]
    if images:
        numbered = [n for n in images if re.search(r'\d', Path(n).stem)]
        images = numbered or images
        _tell_passed_over(path, names, images)
        return path, images
    inner = [
        n
        for n in names
        if (path / n).is_dir() and any(_is_frame(entry) for entry in (path / n).iterdir())
    ]
    for name in inner:
        if name.casefold() == _INNER:
            return _images(path / name)
    found = f'only {_list(names)}' if names else 'nothing'
    advice = f'; name a folder inside it: {_list([str(path / n) for n in inner])}' if inner else ''
    raise InputError(
        f'{path}: a folder without frames: expected images ({" ".join(pictures.SUFFIXES)}), found '
        f'{found}{advice}'
    )


def _is_frame(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in pictures.SUFFIXES and not path.name.startswith('.') and path.is_file()


def _tell_passed_over(path: Path, names: list[str], images: list[str]) -> None:
    others = sorted(set(names) - set(images), key=natural_key)
    if not others:
        return
    reasons: dict[str, list[str]] = {}
    for name in others:
        reasons.setdefault(_why_not(path / name), []).append(name)
    told = '; '.join(f'{why}: {len(of)} ({_list(of)})' for why, of in reasons.items())
    _log.warning('%s: %d of %d entries skipped. %s', path, len(others), len(names), told)


def _why_not(path: Path) -> str:
    if path.name.startswith('.'):
        return 'hidden'
    if path.is_dir():
        return 'a folder'
    if path.suffix.lower() not in pictures.SUFFIXES:
        return 'not an image by its extension'
    return 'no number in its name' if path.is_file() else 'a broken link'


def _check_doubles(path: Path, names: list[str]) -> None:
    """Raises InputError if two names have the same numbers, or one is marked as a copy."""
    by_stem = {Path(name).stem.casefold(): name for name in names}
    seen: dict[tuple[int, ...] | str, str] = {}
    for name in names:
        stem = Path(name).stem.casefold()
        # File managers' names for a copy; if all names are like this, the number in brackets
        # counts.
        original = re.sub(r'\s*(\(\d+\)|\s\d+|[-_ ]+copy(\s*\(?\d+\)?)?)$', '', stem)
        first = by_stem[original] if original != stem and original in by_stem else None
        numbers = tuple(int(run) for run in re.findall(r'\d+', stem))
        first = first or seen.setdefault(numbers or stem, name)
        if first != name:
            raise InputError(
                f'{path}: {first} and {name} are two files for one frame; remove one of each such '
                'pair, or move them to separate folders'
            )


def _numbers(names: list[str]) -> tuple[list[int], list[str]]:
    """The numbers of the frames, and the names of their maps."""
    runs = [re.findall(r'\d+', Path(name).stem) for name in names]
    numbers = [int(found[-1]) for found in runs if found]
    if len(numbers) == len(names) and all(a < b for a, b in itertools.pairwise(numbers)):
        return numbers, [f'{number:04d}' for number in numbers]
    return list(range(1, len(names) + 1)), [Path(name).stem for name in names]


def _single(path: Path) -> tuple[int, int]:
    """(h, w) of a file with one image."""
    try:
        header = pictures.read_header(path)
    except OSError as error:
        raise _unreadable(path, error) from error
    if header.pictures > 1:
        raise InputError(
            f'{path}: holds {header.pictures} images, but a file in a folder of frames is one '
            'frame; give the file itself to use all of them'
        )
    return header.height, header.width


def _unreadable(path: Path, error: OSError) -> InputError:
    return InputError(f'{path}: is not a readable image ({error}); replace or remove this frame')


def _list(names: list[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
