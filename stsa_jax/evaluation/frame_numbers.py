"""Matches files to frames of a video by the numbers in their names, without guessing."""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from stsa_jax.errors import ranges
from stsa_jax.evaluation.map_files import SUFFIXES

STRAY = ('Thumbs.db', '.DS_Store', 'desktop.ini')


@dataclasses.dataclass(frozen=True)
class Numbering:
    """How file numbers correspond to frames; by default they are the frame numbers.

    first_frame: the number of the map of each video's first frame. in_order: the maps, in numerical
    order, belong to the stored frames. allow_extra: leave out maps of frames that the video does
    not have.
    """

    first_frame: int | None = None
    in_order: bool = False
    allow_extra: bool = False


BY_FRAME = Numbering()


@dataclasses.dataclass
class Matched:
    """A file, or None, for every frame of a video, with the problems and the files left out."""

    files: list[Path | None]
    problems: list[str]
    left_out: list[int]


def match(folder: Path, numbers: Sequence[int], how: Numbering) -> Matched:
    """The files in a video's folder for its frames with these `numbers`, ascending."""
    found, problems = _numbered(folder)
    there = sorted(found)
    if how.in_order:
        if len(there) != len(numbers):
            problems.append(
                f'{folder}: {len(there)} maps, but {len(numbers)} frames; --in_order needs one map '
                'for each stored frame'
            )
            return Matched([None] * len(numbers), problems, [])
        return Matched([found[n] for n in there], problems, [])
    shift = 0 if how.first_frame is None else numbers[0] - how.first_frame
    found = {n + shift: path for n, path in found.items()}
    wanted = set(numbers)
    # A video may lack numbers between its frames: repeated or damaged frames.
    outside = [n for n in found if not numbers[0] <= n <= numbers[-1]]
    left_out = [n for n in found if n not in wanted and (how.allow_extra or n not in outside)]
    if outside and not how.allow_extra:
        extra = [n - shift for n in outside]
        offer = '' if how.first_frame is not None else _offer(there, numbers)
        problems.append(
            f'{folder}: {len(extra)} extra maps, of frames {ranges(extra)}; the video has '
            f'{len(numbers)} frames, {numbers[0]} to {numbers[-1]}'
            + (offer or '; --allow_extra leaves them out')
        )
    elif shift == 0 and _counted(there, numbers):
        gaps = sorted(set(range(numbers[0], numbers[-1] + 1)) - wanted)
        problems.append(
            f'{folder}: its {len(there)} maps are numbered without a gap, but the frames '
            f'{ranges(gaps)} are not in the dataset; the numbers look consecutive, not frame '
            'numbers. If they are of the stored frames in order, use --in_order'
        )
    return Matched([found.get(n) for n in numbers], problems, left_out)


def _numbered(folder: Path) -> tuple[dict[int, Path], list[str]]:
    """{number: file} of the maps in a folder, and the problems."""
    paths, problems = [], []
    for path in sorted(folder.iterdir()):
        if path.name in STRAY or path.name[0] == '.':
            continue
        if path.suffix.lower() in SUFFIXES and re.search(r'\d', path.stem) and path.is_file():
            paths.append(path)
        else:
            problems.append(f'{path}: not a map (expected <frame number>.png)')
    found: dict[int, Path] = {}
    for path, number in zip(paths, _numbers([path.stem for path in paths])):
        if number in found:
            problems.append(f'{path}: the same frame as {found[number].name}')
        else:
            found[number] = path
    return found, problems


def _numbers(stems: list[str]) -> list[int]:
    """The number in each name: the last one that is not the same in all names of the same form.

    So a suffix may contain a number: 1 and 2 for `0001_s3d.png`, `0002_s3d.png`.
    """
    runs = [[int(digits) for digits in re.findall(r'\d+', stem)] for stem in stems]
    forms = [re.sub(r'\d+', '0', stem) for stem in stems]
    last = {}
    for form in set(forms):
        same = [run for run, own in zip(runs, forms) if own == form]
        varying = [i for i, column in enumerate(zip(*same)) if len(set(column)) > 1]
        last[form] = varying[-1] if varying else len(same[0]) - 1
    return [run[last[form]] for run, form in zip(runs, forms)]


def _offer(there: list[int], numbers: Sequence[int]) -> str:
    """A hint if the files seem to be numbered from another number."""
    length = numbers[-1] - numbers[0] + 1
    if there[0] != numbers[0] and there[-1] - there[0] + 1 <= length:
        return f'; these look numbered from {there[0]}: --first_frame={there[0]}'
    return ''


def _counted(there: list[int], numbers: Sequence[int]) -> bool:
    """Whether there is one map per frame with consecutive numbers, though the frames have gaps."""
    return (
        len(there) == len(numbers)
        and there[-1] - there[0] + 1 == len(there)
        and numbers[-1] - numbers[0] + 1 > len(numbers)
    )
