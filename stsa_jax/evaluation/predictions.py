"""Maps that any model wrote as image files, matched to the frames of a dataset, nothing guessed.

    DIR/<video>/<frame>.png     or, as predict.py writes several videos, DIR/<video>/maps/

A video's folder has the video's name; `1` and `0001` are the same number (DHF1K's maps circulate
with three and four digits), and DIEM's size suffix may be left out. A file's number is the last
number in its name, so the naming of Hollywood-2 and UCF-Sports is understood. Maps are 8-bit grey.
"""

import dataclasses
import hashlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from stsa_jax.errors import InputError
from stsa_jax.evaluation.selection import Selected

SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp')
_STRAY = ('Thumbs.db', '.DS_Store', 'desktop.ini')


class PredictionFolder:
    """A source: the maps below `root`. Their names are checked first, each file as it is read."""

    def __init__(self, root, dataset, videos: Sequence[Selected], *, allow_missing: bool = False):
        """Finds the file of every selected frame of `videos` (of all frames of each video).

        With `allow_missing`, frames without a map are left out (`videos` says which remain), and
        `missing` counts them. Raises InputError for folders or files that do not fit: missing or
        extra videos, missing or extra frames, two files for one frame.
        """
        self.root, self.dataset = Path(root), dataset
        if not self.root.is_dir():
            what = 'is a file' if self.root.exists() else 'there is no such folder'
            raise InputError(f'{root}: {what}; expected a folder with <video>/<frame>.png in it')
        folders, strays = _folders(self.root)
        numbers = {v.name: _frame_numbers(dataset, v) for v in videos}
        self._files: dict[str, list[Path | None]] = {}
        absent, self.missing = [], 0
        problems = [f'{path}: not the folder of a video' for path in strays]
        names = {_key(v.name): v.name for v in dataset.videos} | {
            _key(_sizeless(v.name)): v.name for v in dataset.videos
        }
        known = {}
        for folder in folders:
            name = names.get(_key(folder.name))
            if name is None:
                problems.append(f'{folder}: no such video in {dataset.name} {dataset.split}')
            elif name in known:
                problems.append(f'{folder}: the same video as {known[name]}')
            else:
                known[name] = folder
        for video in videos:
            if video.name not in known:
                absent.append(video.name)
                self._files[video.name] = [None] * video.num_frames
                continue
            files, trouble = _match(known[video.name], numbers[video.name])
            problems += trouble
            self._files[video.name] = files
        if problems:
            raise InputError(
                f'{self.root}: does not match {dataset.name}, split {dataset.split!r}:\n  '
                + _some(problems)
            )
        lacking = []
        for video in videos:
            gone = [
                numbers[video.name][i]
                for i in video.positions.tolist()
                if self._files[video.name][i] is None
            ]
            self.missing += len(gone)
            if video.name in absent:
                lacking.append(f'{video.name}: no folder, {len(gone)} maps missing')
            elif gone:
                lacking.append(f'{video.name}: {len(gone)} maps missing, of frames {ranges(gone)}')
        self.lacking = lacking
        total = sum(len(v.positions) for v in videos)
        if self.missing and (not allow_missing or self.missing == total):
            raise InputError(
                f'{self.root}: {self.missing} of {total} maps of {dataset.name}, split '
                f'{dataset.split!r}, are missing:\n  {_some(lacking)}\n'
                'Add them, or score what is there with --allow_missing (the table then says that '
                'it is partial)'
            )
        self.videos = [
            dataclasses.replace(
                v,
                positions=v.positions[[self._files[v.name][i] is not None for i in v.positions]],
            )
            for v in videos
        ]
        self.videos = [v for v in self.videos if len(v.positions)]

    def maps(self, video: Selected) -> Iterator[np.ndarray]:
        """uint8 (h, w), one for each selected frame that has one."""
        files = self._files[video.name]
        return (read_map(files[i]) for i in video.positions.tolist() if files[i] is not None)

    def identity(self) -> str:
        """A digest of the files' names, sizes and times."""
        digest = hashlib.sha256(str(self.root.resolve()).encode())
        for files in self._files.values():
            for file in files:
                if file is not None:
                    stat = file.stat()
                    digest.update(f'{file.name} {stat.st_size} {stat.st_mtime_ns}'.encode())
        return f'files {digest.hexdigest()[:24]}'


def read_map(path: Path) -> np.ndarray:
    """uint8 (h, w) from an 8-bit grey image file.

    Colour files whose three channels are equal are taken as grey. Raises InputError for others, for
    16 bits, and for files that cannot be read.
    """
    try:
        with Image.open(path) as image:
            image.load()
            mode = image.mode
            if mode == 'P':
                image, mode = image.convert('RGB'), 'RGB'
            pixels = np.asarray(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f'{path}: not a readable image ({error}); write this map again') from error
    if mode == '1':
        return pixels.astype(np.uint8) * 255
    if mode in ('RGB', 'RGBA', 'LA'):
        colours = pixels[..., :1] if mode == 'LA' else pixels[..., :3]
        opaque = mode == 'RGB' or (pixels[..., -1] == 255).all()
        if opaque and (colours == colours[..., :1]).all():
            return np.ascontiguousarray(colours[..., 0])
        raise InputError(
            f'{path}: a colour image (mode {mode}), expected an 8-bit grey map; a heat map in '
            'colours cannot be scored, write the saliency values'
        )
    if mode != 'L':
        raise InputError(
            f'{path}: has mode {mode} ({pixels.dtype}), expected an 8-bit grey map; scale the '
            'values to 0..255 and write 8 bits'
        )
    return pixels


def _folders(root: Path) -> tuple[list[Path], list[Path]]:
    """The folders in `root`, and what else is there."""
    entries = [p for p in sorted(root.iterdir()) if p.name not in _STRAY and p.name[0] != '.']
    if not entries:
        raise InputError(f'{root}: is empty; expected <video>/<frame>.png in it')
    folders = [p for p in entries if p.is_dir()]
    if not folders:
        raise InputError(
            f'{root}: holds files ({entries[0].name}, ...) but no folders; expected a folder a '
            'video, <video>/<frame>.png'
        )
    return folders, [p for p in entries if not p.is_dir()]


def _match(folder: Path, numbers: list[int]) -> tuple[list[Path | None], list[str]]:
    """A file (or None) for every frame of a video, and what is wrong."""
    maps = folder / 'maps'
    folder = maps if maps.is_dir() else folder
    index = {number: i for i, number in enumerate(numbers)}
    files, problems, extra = [None] * len(numbers), [], []
    for path in sorted(folder.iterdir()):
        if path.name in _STRAY or path.name[0] == '.':
            continue
        found = re.findall(r'\d+', path.stem)
        if path.suffix.lower() not in SUFFIXES or not found or not path.is_file():
            problems.append(f'{path}: not a map (expected <frame number>.png)')
        elif (number := int(found[-1])) not in index:
            extra.append(number)
        elif files[index[number]] is not None:
            problems.append(f'{path}: the same frame as {files[index[number]].name}')
        else:
            files[index[number]] = path
    if extra:
        problems.append(
            f'{folder}: {len(extra)} maps too many, of frames {ranges(extra)}; the video has '
            f'{len(numbers)} frames, {numbers[0]} to {numbers[-1]}'
        )
    return files, problems


def _frame_numbers(dataset, video: Selected) -> list[int]:
    """The numbers of a video's frames as the dataset counts."""
    first = dataset.frame_number(video.first_example)
    last = dataset.frame_number(video.first_example + video.num_frames - 1)
    if last - first + 1 == video.num_frames:
        return list(range(first, last + 1))
    return [dataset.frame_number(video.first_example + i) for i in range(video.num_frames)]


def _key(name: str) -> str:
    return str(int(name)) if name.isdecimal() else name.casefold()


def _sizeless(name: str) -> str:
    return re.sub(r'_\d+x\d+$', '', name)


def ranges(numbers: list[int]) -> str:
    """`3, 7-9, 12`, shortened."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and number == runs[-1][1] + 1:
            runs[-1][1] = number
        else:
            runs.append([number, number])
    words = [str(a) if a == b else f'{a}-{b}' for a, b in runs]
    return ', '.join(words[:8]) + (', ...' if len(words) > 8 else '')


def _some(lines: list[str], most: int = 12) -> str:
    rest = len(lines) - most
    return '\n  '.join(lines[:most] + ([f'... and {rest} more'] if rest > 0 else []))
