"""Groups the files of each video by names that may differ in case and leading zeros.

`video/001.AVI` and `annotation/0001` are of one video, as are `Clip_7.mp4` and `clip_07`. Nothing
is guessed beyond that: two videos that differ in nothing else are an error.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.copies.sources import Report
from data.own.places import FIXATIONS, FRAMES, GAZE, MAPS, Place
from stsa_jax.errors import InputError

Key = tuple[str, ...]


@dataclasses.dataclass
class Files:
    """The files of one video: its frames (a file or a folder), and its folders of maps."""

    name: str
    parts: tuple[str, ...]
    split: str = ''
    frames: Path | None = None
    maps: Path | None = None
    fixations: Path | None = None

    @property
    def key(self) -> Key:
        """See `key_of`."""
        return key_of(self.parts)


def key_of(parts: Iterable[str]) -> Key:
    """The same for names that differ in case or in zeros before numbers only."""
    return tuple(re.sub(r'\d+', lambda n: str(int(n[0])), part.casefold()) for part in parts)


def videos_of(
    root: Path, places: Sequence[Place], report: Report, *, framed: bool = True
) -> list[Files]:
    """One entry per video, in the order of the places. Without `framed` also those without frames.

    Annotation without frames is left out and reported, as are second copies of a video's frames.

    Raises InputError for two videos that differ in case or zeros only, and for a video in two
    splits.
    """
    found: dict[Key, Files] = {}
    loose = [place for place in places if place.role in (MAPS, FIXATIONS)]
    for place in _named_by_folder(places):
        _add_frames(found, place, root, report)
    if not framed and not found:
        for place in loose:
            found.setdefault(key_of(place.parts), _files(place, root))
    otherwise: dict[str, str] = {}
    left = []
    for place in loose:
        video = _video_of(place, found)
        if video is None:
            left.append(place)
            continue
        if place.parts[-1:] != video.parts[-1:]:
            otherwise[video.name] = '/'.join(place.parts)
        present = getattr(video, place.role)
        if present is None:
            setattr(video, place.role, place.path)
        else:
            report.add(str(place.path), f'{place.role} of {video.name}, beside {present}',
                       'not used')  # fmt: skip
    for place in left[:20]:
        what = f'{place.role} of a video that is not there'
        report.add(str(place.path), what, 'left out; is it named as the video is?')
    if len(left) > 20:
        report.add(str(root), f'{len(left) - 20} more folders of maps without a video', 'left out')
    if otherwise:
        shown = ', '.join(f'{name} and {other}' for name, other in list(otherwise.items())[:3])
        what = f"{len(otherwise)} videos whose annotation's name differs in case or zeros ({shown})"
        report.add(str(root), what, 'taken as the same videos')
    names: dict[str, Files] = {}
    for video in found.values():
        if (same := names.setdefault(video.name, video)) is not video:
            raise InputError(
                f'{video.frames or video.maps} and {same.frames or same.maps} are both called '
                f'{video.name}; rename one of the two'
            )
    return list(found.values())


def _add_frames(found: dict[Key, Files], place: Place, root: Path, report: Report) -> None:
    new = dataclasses.replace(_files(place, root), frames=place.path)
    same = found.setdefault(new.key, new)
    if same is new:
        return
    if same.split != new.split:
        raise InputError(
            f'{new.frames}: the video {new.name} is in split {new.split or "(none)"} and, as '
            f'{same.frames}, in {same.split or "(none)"}. A video in two splits leaks test '
            'data into training: remove one of the two, or rename it if they are different videos'
        )
    assert same.frames is not None and new.frames is not None
    if same.parts != new.parts and same.frames.is_dir() == new.frames.is_dir():
        raise InputError(
            f'{new.frames} and {same.frames}: these names differ only in case or in zeros before '
            'numbers, so their annotation cannot be assigned; rename one of the two'
        )
    if same.frames.is_dir() and not new.frames.is_dir():  # frames of a file have times
        same.frames, new.frames = new.frames, same.frames
    report.add(str(new.frames), f'frames of {same.name}, beside {same.frames}', 'not used')


def _files(place: Place, root: Path) -> Files:
    parts = place.parts or (root.resolve().name,)
    return Files('_'.join(parts), parts, place.split)


def _named_by_folder(places: Sequence[Place]) -> list[Place]:
    """The frames; `A/film.mp4` beside `A/maps` or `A/gaze` is the video `A`, if the only one."""
    frames = [place for place in places if place.role == FRAMES]
    annotated = {key_of(p.parts) for p in places if p.role in (MAPS, FIXATIONS)}
    folders = annotated | {key_of(place.parts[:-1]) for place in places if place.role == GAZE}
    inside = Counter(key_of(place.parts[:-1]) for place in frames)

    def alone(folder: Key) -> bool:
        return bool(folder) and inside[folder] == 1 and folder in folders

    return [
        place._replace(parts=place.parts[:-1])
        if key_of(place.parts) not in annotated and alone(key_of(place.parts[:-1]))
        else place
        for place in frames
    ]


def _video_of(place: Place, found: dict[Key, Files]) -> Files | None:
    """The video by its whole name, else by the last part of it where only one video has that."""
    key = key_of(place.parts)
    if not key:
        return next(iter(found.values())) if len(found) == 1 else None
    if key in found:
        return found[key]
    ends = [video for k, video in found.items() if k[-1:] == key[-1:]]
    return ends[0] if len(ends) == 1 and 1 in (len(key), len(ends[0].parts)) else None


class Named:
    """Finds videos by what lists and tables call them: `clip_07`, `Clip_7.mp4`, `walks/clip_07`."""

    def __init__(self, videos: Sequence[Files]):
        ends = Counter(video.key[-1:] for video in videos)
        self._known = {v.key[-1:]: v for v in videos if ends[v.key[-1:]] == 1}
        self._known |= {key_of([video.name]): video for video in videos}
        self._known |= {video.key: video for video in videos}
        self._within = [(video, _between_words(video.parts[-1])) for video in videos]
        self._found: dict[str, Files | None] = {}

    def get(self, text: str) -> Files | None:
        """The video that is called so; None if none is, or several are."""
        if text not in self._found:
            self._found[text] = self._look_up(text)
        return self._found[text]

    def _look_up(self, text: str) -> Files | None:
        path = Path(text.replace('\\', '/'))
        for parts in (path.parts, path.with_suffix('').parts if path.name else ()):
            for key in (key_of(parts), key_of(parts[-1:])):
                if key and key in self._known:
                    return self._known[key]
        return None

    def in_path(self, parts: Sequence[str]) -> tuple[Files | None, str]:
        """The video that a table's path names, and what the rest of the path says, the viewer.

        Parts of the path are the video's name, or one has it between other words: `P01_Trail002`
        of `002`. None if no video or several are meant.
        """
        for length in (2, 1):
            for i in reversed(range(len(parts) - length + 1)):
                video = self.get('/'.join(parts[i : i + length]))
                if video is not None and (length == 1 or len(video.parts) > 1):
                    return video, '/'.join((*parts[:i], *parts[i + length :]))
        text = '/'.join(parts)
        found = {v.name: (v, match) for v, name in self._within if (match := name.search(text))}
        # The longest name has the shorter ones in it.
        longest = max((len(video.parts[-1]) for video, _ in found.values()), default=0)
        meant = [pair for pair in found.values() if len(pair[0].parts[-1]) == longest]
        if len(meant) != 1:
            return None, text
        video, match = meant[0]
        return video, text[: match.start()] + text[match.end() :]


def _between_words(name: str) -> re.Pattern[str]:
    """Finds a name that no letter or digit touches; a number that no digit touches."""
    edges = (r'(?<!\d)', r'(?!\d)') if name.isdecimal() else (r'(?<![^\W_])', r'(?![^\W_])')
    return re.compile(edges[0] + re.escape(name) + edges[1], re.IGNORECASE)


def tables_of(places: Sequence[Place]) -> list[Place]:
    """The tables among the places."""
    return [place for place in places if place.role == GAZE]
