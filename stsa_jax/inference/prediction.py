"""Predicts one video, or a part of it, to files; may be interrupted and resumed.

maps/0001.png ...   `maps` 'png': a map of each frame, 8 bits, at the size of the video
maps.mkv            'video': the same as a grey video without loss, at the video's times
maps.npz            'npz': the model's output, not scaled; see `stsa_jax.inference.kept`
overlay.mp4         the video with the maps in colour over it
"""

import dataclasses
from bisect import bisect_left
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import takewhile
from pathlib import Path
from typing import Any

from stsa_jax.errors import InputError
from stsa_jax.inference import films, sharing, windows
from stsa_jax.inference.kept import KeptArrays, KeptPictures
from stsa_jax.media import video
from stsa_jax.media.sound import Sound

MAPS = {'png': 'maps', 'npz': 'maps.npz', 'video': 'maps.mkv', 'none': ''}
OVERLAY = 'overlay.mp4'
RECORD = 'prediction.json'
OUTPUTS = ('maps', 'maps.npz', 'maps.mkv', OVERLAY, RECORD)
_KEPT = 'kept'  # the maps so far, where the output itself cannot be continued


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is predicted of a video, and written.

    Attributes:
        start: seconds; the first frame is the first one shown at this time or later.
        end: seconds; frames shown at this time or later are left out. None: to the end.
        every: predict each n-th frame and the last one; maps between are interpolated in time.
        maps: a key of `MAPS`.
        overlay: whether to write the overlay.
        batch_size: windows per call of the model.
    """

    start: Fraction = Fraction(0)
    end: Fraction | None = None
    every: int = 1
    maps: str = 'png'
    overlay: bool = True
    batch_size: int = 1

    @property
    def work(self) -> dict[str, Any]:
        """The settings as JSON, to recognise the same work."""
        end = None if self.end is None else str(self.end)
        return {**dataclasses.asdict(self), 'start': str(self.start), 'end': end}


@dataclasses.dataclass
class Part:
    """The frames of a video that are predicted, as indices of its numbers, from 0, inclusive."""

    first: int
    last: int
    every: int

    @property
    def count(self) -> int:
        """The number of frames."""
        return self.last - self.first + 1

    def is_predicted(self, index: int) -> bool:
        """Whether the map of this frame is predicted, not interpolated."""
        ahead = index - self.first
        return index == self.last or (self.first <= index < self.last and ahead % self.every == 0)

    def anchor(self, index: int) -> int:
        """The last predicted frame that is not after this one."""
        return index - (index - self.first) % self.every if index < self.last else self.last


def part_of(film: video.Video, settings: Settings) -> Part:
    """Raises InputError if the video has no frame between start and end."""
    first, last = 0, len(film.numbers) - 1
    if settings.start or settings.end is not None:
        times = film.times()
        first = bisect_left(times, settings.start)
        if settings.end is not None:
            last = bisect_left(times, settings.end) - 1
        if first > last:
            wanted = f'from {float(settings.start):g} s' + (
                f' to {float(settings.end):g} s' if settings.end is not None else ''
            )
            raise InputError(
                f'{film.info.path}: no frame {wanted}; its {len(times)} frames are shown from '
                f'{float(times[0]):.3f} to {float(times[-1]):.3f} s; change --start or --end'
            )
    return Part(first, last, settings.every)


def predict(
    model: windows.Predictor,
    film: video.Video,
    folder: Path,
    settings: Settings = Settings(),
    seen: Callable[[films.Predicted], None] = lambda frame: None,
    *,
    resumable: bool = False,
) -> dict[str, Any]:
    """Writes the maps and the overlay of a video to `folder`.

    If an earlier call was interrupted, its maps in `folder` are used. `seen` gets every frame with
    its map. `resumable`: keep what a later call needs also if the output does not. Returns the
    record of what was written.

    Raises InputError for bad videos and settings.
    """
    part = part_of(film, settings)
    if settings.every > 1 and getattr(model.config, 'target', 'middle') == 'all':
        raise InputError(
            f'--every={settings.every} saves nothing with this model, which predicts the maps of '
            f'all {model.config.frames} frames at once; leave it out'
        )
    origin = film.times()[part.first] if part.first else Fraction(0)
    film = dataclasses.replace(film, sound=sound_of(film, part))
    kept = _kept(folder, settings, model.config, resumable)
    left = part.count - (kept.count if kept else 0)
    if settings.every == 1:
        model = sharing.for_windows(model, left)
    resumed, count, between = kept.count if kept else 0, 0, 0
    with ExitStack() as stack:
        writers: list[Callable[[films.Predicted], None]] = []
        if settings.overlay:
            writers.append(stack.enter_context(films.overlay_writer(folder / OVERLAY, film)))
        if settings.maps == 'video':
            writers.append(stack.enter_context(films.map_writer(folder / MAPS['video'], film)))
        if isinstance(kept, KeptArrays):
            writers.append(kept.describe)
        for frame in _frames(model, film, part, settings.batch_size, kept):
            inside = not part.is_predicted(bisect_left(film.numbers, frame.number))
            frame = frame._replace(time=frame.time - origin, interpolated=inside)
            for write in (*writers, seen):
                write(frame)
            count += 1
            between += inside
    if isinstance(kept, KeptArrays):
        kept.save(folder / MAPS['npz'])
    ends = film.numbers[part.first], film.numbers[part.last]
    return {
        'frames': count,
        'frames_interpolated': between,
        'frames_left_out': [n for n in film.left_out if ends[0] <= n <= ends[1]],
        'frames_resumed': resumed,
    }


def _frames(
    model: windows.Predictor,
    film: video.Video,
    part: Part,
    batch_size: int,
    kept: KeptPictures | KeptArrays | None,
) -> Iterator[films.Predicted]:
    """The part's frames with their maps: the kept ones, then predicted and interpolated ones."""
    numbers, done = film.numbers, kept.count if kept else 0
    # From the map on that the first missing one is interpolated from.
    anchor = part.anchor(part.first + done) if done < part.count else part.last + 1
    begin, end = windows.needed(model.config, min(anchor, part.last), part.last, len(numbers))
    begin = min(begin, part.first)

    def wanted(frame: video.Frame) -> bool:
        index = bisect_left(numbers, frame.number)
        return index >= anchor and part.is_predicted(index)

    read = film.since(begin) if begin else film.frames
    read = takewhile(lambda frame: frame.number <= numbers[end], read)
    mapped = films.interpolated(films.maps_of(model, read, wanted, batch_size))
    chosen = (m for m in mapped if numbers[part.first] <= m.frame.number <= numbers[part.last])
    for index, each in enumerate(chosen):
        if kept and index < done:
            yield kept.read(model, each)
        else:
            frame = films.finished(model, each)
            if kept:
                kept.write(frame)
            yield frame
        if each.frame.number == numbers[part.last]:
            return


def _kept(
    folder: Path, settings: Settings, config: Any, resumable: bool
) -> KeptPictures | KeptArrays | None:
    if settings.maps == 'png':
        return KeptPictures(folder / MAPS['png'])
    if settings.maps == 'npz':
        return KeptArrays(folder / f'{_KEPT}.raw', tuple(config.image_size))
    return KeptPictures(folder / _KEPT) if resumable else None


def sound_of(film: video.Video, part: Part) -> Sound | None:
    """The sound of a part: from the time of its first frame to the end of its last one."""
    sound, following = film.sound, part.last + 1
    if sound is None or not (part.first or following < len(film.numbers)):
        return sound
    times = film.times()
    since = sound.since + (times[part.first] if part.first else 0)
    until = sound.since + times[following] if following < len(film.numbers) else None
    return sound._replace(since=since, until=until)
