"""Map files from any model, matched to the frames of a dataset, without guessing.

    DIR/<video>/<frame>.png     or, as predict.py writes them, DIR/<video>/maps/, DIR/maps/

A video's folder has the video's name; `1` and `0001` are the same number (DHF1K's maps circulate
with three and four digits), and DIEM's size suffix may be omitted. A file's number is the number of
its frame in the dataset (`frame_numbers`), whatever else is in its name, which covers the naming of
Hollywood-2 and UCF-Sports. `map_files` lists the supported file types.
"""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from stsa_jax.errors import InputError, ranges
from stsa_jax.evaluation.frame_numbers import BY_FRAME, STRAY, Numbering, match
from stsa_jax.evaluation.map_files import SUFFIXES, notes_on, read_map
from stsa_jax.evaluation.selection import Dataset, Selected

BETWEEN = ('maps', 'predictions', 'saliency', 'saliency_maps')
_DEPTH = 3  # largest number of folders between the given one and those of the videos
_WRITTEN = 'prediction.json'  # of predict.py, beside the maps of one video


class PredictionFolder:
    """A source: the maps below `root`. Names are checked first, each file when it is read.

    videos: with the frames that have a map. missing: number of frames without one; lacking: lines
    about them. notes: lines about where maps were found, and about their values.
    """

    def __init__(
        self,
        root: str | os.PathLike,
        dataset: Dataset,
        videos: Sequence[Selected],
        *,
        allow_missing: bool = False,
        numbering: Numbering = BY_FRAME,
    ):
        """Finds the file of every selected frame of `videos` (of all frames of each video).

        With `allow_missing`, frames without a map are left out. Raises InputError for folders or
        files that do not match: missing or extra videos, missing or extra frames, two files for one
        frame.
        """
        self.root, self.dataset = Path(root), dataset
        self.notes: list[str] = []
        known, problems = self._find_videos()
        numbers = {v.name: _frame_numbers(dataset, v) for v in videos}
        self._files: dict[str, list[Path | None]] = {}
        left_out = []
        for video in videos:
            if video.name not in known:
                self._files[video.name] = [None] * video.num_frames
                continue
            matched = match(_inside(known[video.name]), numbers[video.name], numbering)
            problems += matched.problems
            left_out += [f'{video.name}: {ranges(matched.left_out)}'] * bool(matched.left_out)
            self._files[video.name] = matched.files
        if problems:
            raise InputError(
                f'{self.root}: does not match {dataset.name}, split {dataset.split!r}:\n  '
                + _some(problems)
            )
        if left_out:
            self.notes.append(
                'maps of frames that the dataset does not have are left out, of '
                + '; '.join(left_out[:3] + ['...'] * (len(left_out) > 3))
            )
        self._check_missing(videos, known, numbers, allow_missing)
        sizes = {v.name: (v.height, v.width) for v in videos}
        found = [(f, sizes[name]) for name, files in self._files.items() for f in files if f]
        self.notes += notes_on(found)

    def _find_videos(self) -> tuple[dict[str, Path], list[str]]:
        """{video's name in the dataset: folder}, and problems with other entries."""
        if not self.root.is_dir():
            what = 'is a file' if self.root.exists() else 'there is no such folder'
            raise InputError(
                f'{self.root}: {what}; expected a folder with <video>/<frame>.png in it'
            )
        names = [v.name for v in self.dataset.videos]
        if (single := _predicted_video(self.root, names)) is not None:
            return {single: self.root}, []
        folder = _with_videos(self.root, names)
        if folder != self.root:
            self.notes.append(f'the maps are those in {folder}')
        folders, strays = _folders(folder)
        problems = [f'{path}: not the folder of a video' for path in strays]
        which = _by_name([f.name for f in folders], names)
        if not any(which) and any(which := _by_number([f.name for f in folders], names)):
            self.notes.append('folders and videos are matched by the numbers in their names')
        known: dict[str, Path] = {}
        for path, name in zip(folders, which):
            if name is None:
                problems.append(
                    f'{path}: no such video in {self.dataset.name} {self.dataset.split}'
                )
            elif name in known:
                problems.append(f'{path}: the same video as {known[name]}')
            else:
                known[name] = path
        return known, problems

    def _check_missing(self, videos, known, numbers, allow_missing: bool) -> None:
        """Sets `videos`, `missing` and `lacking`; raises InputError unless that is allowed."""
        self.missing, self.lacking = 0, []
        for video in videos:
            files = self._files[video.name]
            gone = [numbers[video.name][i] for i in video.positions.tolist() if files[i] is None]
            self.missing += len(gone)
            if video.name not in known:
                self.lacking.append(f'{video.name}: no folder, {len(gone)} maps missing')
            elif gone:
                self.lacking.append(
                    f'{video.name}: {len(gone)} maps missing, of frames {ranges(gone)}'
                )
        total = sum(len(v.positions) for v in videos)
        if self.missing and (not allow_missing or self.missing == total):
            raise InputError(
                f'{self.root}: {self.missing} of {total} maps of {self.dataset.name}, split '
                f'{self.dataset.split!r}, are missing:\n  {_some(self.lacking)}\n'
                'Add them, or score the others with --allow_missing (the table is then marked as '
                'partial)'
            )
        there = {v.name: [self._files[v.name][i] is not None for i in v.positions] for v in videos}
        self.videos = [
            dataclasses.replace(v, positions=v.positions[there[v.name]])
            for v in videos
            if any(there[v.name])
        ]

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """`(h, w)`, see `map_files.read_map`, one for each selected frame that has one."""
        files = self._files[video.name]
        return (read_map(files[i]) for i in video.positions.tolist() if files[i] is not None)

    def identity(self) -> str:
        """A digest of the files' names, sizes and times, and of their frames."""
        digest = hashlib.sha256(str(self.root.resolve()).encode())
        for files in self._files.values():
            for i, file in enumerate(files):
                if file is not None:
                    stat = file.stat()
                    name = f'{i} {file.parent.name}/{file.name}'
                    digest.update(f'{name} {stat.st_size} {stat.st_mtime_ns}'.encode())
        return f'files {digest.hexdigest()[:24]}'


def _folders(root: Path) -> tuple[list[Path], list[Path]]:
    """The folders in `root`, and its other entries."""
    entries = [p for p in sorted(root.iterdir()) if p.name not in STRAY and p.name[0] != '.']
    if not entries:
        raise InputError(f'{root}: is empty; expected <video>/<frame>.png in it')
    folders = [p for p in entries if p.is_dir()]
    if not folders:
        raise InputError(
            f'{root}: holds files ({entries[0].name}, ...) but no folders; expected a folder a '
            'video, <video>/<frame>.png'
        )
    return folders, [p for p in entries if not p.is_dir()]


def _with_videos(root: Path, names: Sequence[str]) -> Path:
    """The folder in `root` that holds folders of videos; `root` itself if none clearly does."""
    for known in (_by_name, _by_number):
        level = [root]
        for _ in range(1 + _DEPTH):
            inside = {f: [p for p in sorted(f.iterdir()) if p.is_dir()] for f in level}
            best = [f for f, own in inside.items() if any(known([p.name for p in own], names))]
            if len(best) == 1:
                return best[0]
            if best:
                raise InputError(
                    f'{root}: {len(best)} folders in it hold maps of the videos: '
                    f'{", ".join(str(f) for f in best[:4])}; choose one of them'
                )
            level = [p for own in inside.values() for p in own if p.name[0] != '.']
    return root


def _inside(folder: Path) -> Path:
    """Where the maps are in a video's folder: in one of BETWEEN, else in the folder itself."""
    return next((folder / name for name in BETWEEN if (folder / name).is_dir()), folder)


def _predicted_video(root: Path, names: Sequence[str]) -> str | None:
    """The video whose maps predict.py wrote to `root` itself, by its record; else None."""
    if not (root / _WRITTEN).is_file() or not _inside(root).is_dir():
        return None
    if not any(p.suffix.lower() in SUFFIXES for p in _inside(root).iterdir()):
        return None
    try:
        path = Path(json.loads((root / _WRITTEN).read_text())['video'])
    except (OSError, ValueError, KeyError, TypeError):
        return None
    parts = [path.stem, *reversed(path.parts)]
    found = (name for name in _by_name(parts, names) if name is not None)
    return next(found, None)


def _by_name(folders: Sequence[str], names: Sequence[str]) -> list[str | None]:
    """The video, or None, for each folder name."""
    keys = {_key(_sizeless(name)): name for name in names} | {_key(name): name for name in names}
    return [keys.get(_key(folder)) for folder in folders]


def _by_number(folders: Sequence[str], names: Sequence[str]) -> list[str | None]:
    """The same by the numbers in the names: `video_0601` for 0601, `3` for `clip_0003`.

    Only if the folder names have one form and all match different videos, else all are None.
    """
    videos = {_digits(name): name for name in names}
    found = [videos.get(_digits(folder)) for folder in folders]
    plain = len(videos) == len(names) and () not in videos and len(set(found)) == len(found)
    if plain and None not in found and len({re.sub(r'\d+', '0', f) for f in folders}) == 1:
        return found
    return [None] * len(folders)


def _digits(name: str) -> tuple[int, ...]:
    return tuple(int(digits) for digits in re.findall(r'\d+(?![\dA-Za-z])', name))


def _frame_numbers(dataset, video: Selected) -> list[int]:
    """The frame numbers of a video in the dataset's numbering."""
    first = dataset.frame_number(video.first_example)
    last = dataset.frame_number(video.first_example + video.num_frames - 1)
    if last - first + 1 == video.num_frames:
        return list(range(first, last + 1))
    return [dataset.frame_number(video.first_example + i) for i in range(video.num_frames)]


def _key(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name.casefold()


def _sizeless(name: str) -> str:
    return re.sub(r'_\d+x\d+$', '', name)


def _some(lines: list[str], most: int = 12) -> str:
    rest = len(lines) - most
    return '\n  '.join(lines[:most] + ([f'... and {rest} more'] if rest > 0 else []))


__all__ = ['Numbering', 'PredictionFolder', 'read_map']
