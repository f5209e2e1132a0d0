"""What the server makes of a video, with `stsa_jax.inference.prediction`:

overlay.mp4       the video with the maps in colour over it, with its sound
player.mp4        for the page: each frame above its overlay, so that the two stay in step
maps.npz          the model's output
maps.mkv          the 8-bit maps as a grey video without loss
maps.zip          the 8-bit maps as PNG files
statistics.json   what `stsa_jax.inference.concentration` says about each map
"""

import io
import json
import threading
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image

import stsa_jax
from stsa_jax.configuration import parse_time
from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path, write_atomic
from stsa_jax.inference import attention_maps, films, prediction, windows
from stsa_jax.inference.concentration import describe
from stsa_jax.media import video, visualize
from stsa_jax.media.preprocess import resize_frame
from stsa_jax.media.sound import Sound
from stsa_jax.serving.jobs import RESULTS, UPLOAD, Job
from stsa_jax.serving.settings import Limits

FILES = {
    'overlay.mp4': 'video/mp4',
    'player.mp4': 'video/mp4',
    'maps.zip': 'application/zip',
    'maps.npz': 'application/octet-stream',
    'maps.mkv': 'video/x-matroska',
    'statistics.json': 'application/json',
}
OPTIONS = ('start', 'end', 'every', 'allow_truncated')  # fields of the form
_PLAYER_ROWS = 720  # of the player's frames, at most


class Models:
    """The server's models by name, loaded when first used, once on each device."""

    def __init__(self, paths: Mapping[str, str], load: Callable[[str], Any] = stsa_jax.load):
        self.paths, self._load = paths, load
        self._loaded: dict[tuple[str, Any], Any] = {}
        self._lock = threading.Lock()

    def on(self, device: jax.Device, name: str) -> Any:
        """The model on a device."""
        with self._lock:
            key = name, device
            if key not in self._loaded:
                with jax.default_device(device):
                    self._loaded[key] = self._load(self.paths[name])
            return self._loaded[key]


def settings_of(options: Mapping[str, Any]) -> prediction.Settings:
    """Raises InputError for options that cannot be used."""
    every = str(options.get('every') or '1')
    if not every.isdecimal() or not 1 <= int(every) <= 100:
        raise InputError(f'every is {every}; expected a number from 1 to 100')
    start = parse_time(str(options.get('start') or '0'))
    end = parse_time(str(options['end'])) if options.get('end') else None
    if end is not None and end <= start:
        raise InputError('end is not after start; give a later one')
    return prediction.Settings(start=start, end=end, every=int(every), maps='npz')


def opened(folder: Path, options: Mapping[str, Any]) -> video.Video:
    """A job's video. Raises InputError if it cannot be read."""
    return video.open_video(folder / UPLOAD, allow_truncated=bool(options.get('allow_truncated')))


def checked(folder: Path, options: Mapping[str, Any], limits: Limits) -> int:
    """The number of frames to predict of an uploaded video.

    Raises InputError if it cannot be read or is beyond the limits, or for bad options.
    """
    settings, film = settings_of(options), opened(folder, options)
    info = film.info
    if info.width * info.height > limits.pixels:
        raise InputError(
            f'its frames are {info.width}x{info.height}; this server takes up to '
            f'{limits.pixels:,} pixels: make them smaller'
        )
    part = prediction.part_of(film, settings)
    times = film.times()
    seconds = float(times[part.last] - times[part.first] + 1 / info.fps)
    if seconds > limits.seconds:
        raise InputError(
            f'the video lasts {seconds:.1f} s; this server predicts up to {limits.seconds:g} s: '
            'give a start and an end'
        )
    return part.count


def worker(models: Models, device: jax.Device) -> Callable[..., dict[str, Any]]:
    """The function that works on a job on a device; see `stsa_jax.serving.jobs.Work`."""

    def work(job: Job, folder: Path, progress: Callable[[int], None]) -> dict[str, Any]:
        progress(0)
        with jax.default_device(device):
            return predict(models.on(device, job.model), job, folder, progress)

    return work


def predict(model: Any, job: Job, folder: Path, progress: Callable[[int], None]) -> dict[str, Any]:
    """Makes the files above of a job's video; an interrupted call is continued."""
    results = folder / RESULTS
    results.mkdir(exist_ok=True)
    settings = settings_of(job.options)
    film = opened(folder, job.options)
    rows: list[dict[str, Any]] = []
    sound = prediction.sound_of(film, prediction.part_of(film, settings))
    with (
        _player(results, film, sound) as play,
        _archive(results / 'maps.zip') as keep,
        films.map_writer(results / 'maps.mkv', film) as write_map,
    ):

        def seen(frame: films.Predicted) -> None:
            for write in (play, keep, write_map):
                write(frame)
            rows.append(_row(frame))
            progress(len(rows))

        done = prediction.predict(model, film, results, settings, seen, resumable=True)
    height, width = film.info.height, film.info.width
    statistics = {'width': width, 'height': height, 'frames': rows}
    write_atomic(results / 'statistics.json', json.dumps(statistics))
    return {**done, 'width': width, 'height': height, 'attention': has_attention(model)}


def has_attention(model: Any) -> bool:
    """Whether the model relates time steps by attention."""
    config = model.config
    return getattr(model, 'kind', '') == 'stsanet' and bool(
        config.stsa_levels and config.attention != 'steps'
    )


def attention(
    model: Any,
    folder: Path,
    options: Mapping[str, Any],
    number: int,
    place: tuple[float, float],
    path: Path,
) -> None:
    """Draws where `place`, (x, y) as fractions, of a frame attends.

    Raises InputError if the video has no such frame.
    """
    film = opened(folder, options)
    if number not in film.numbers:
        raise InputError(f'the video has no frame {number}')
    index = list(film.numbers).index(number)
    begin, end = windows.needed(model.config, index, index, len(film.numbers))
    read = film.since(begin) if begin else film.frames
    frames = [frame for _, frame in zip(range(end - begin + 1), read)]
    chosen = (
        (w.frames, target)
        for w in windows.windows_of(iter(frames), model.config)
        for target in w.places
    )
    window, target = next(pair for pair in chosen if pair[0][pair[1]].number == number)
    pixels = [frame.pixels for frame in window]
    clip = np.concatenate([model.preprocess(p[None]) for p in pixels])
    _, taps = model(clip[None], return_intermediates=True)
    step = attention_maps.target_step(model.config.frames, target)
    maps = attention_maps.attention_maps(taps, model.config.image_size, place, step)
    attention_maps.attention_figure(path, pixels, maps, place, target)


def picture(results: Path, index: int) -> bytes:
    """The PNG of the map of the frame at `index`, from 0. Raises IndexError if there is none."""
    with zipfile.ZipFile(results / 'maps.zip') as archive:
        return archive.read(archive.infolist()[index])


def _row(frame: films.Predicted) -> dict[str, Any]:
    found = describe(frame.levels)
    return {
        'number': frame.number,
        'name': frame.name,
        'time': float(frame.time),
        'interpolated': frame.interpolated,
        'concentration': round(found.concentration, 6),
        'peak': [round(x, 6) for x in found.peak],
        'centre': [round(x, 6) for x in found.centre],
    }


@contextmanager
def _archive(path: Path) -> Iterator[Callable[[films.Predicted], None]]:
    """Yields a function that adds a frame's map to an archive of PNG files."""
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:

        def add(frame: films.Predicted) -> None:
            content = io.BytesIO()
            Image.fromarray(frame.levels).save(content, 'PNG')
            archive.writestr(f'{frame.name}.png', content.getvalue())

        yield add


@contextmanager
def _player(
    results: Path, film: video.Video, sound: Sound | None
) -> Iterator[Callable[[films.Predicted], None]]:
    """Yields a function that appends a frame above its overlay, with square pixels."""
    info, aspect = film.info, film.pixel_aspect
    rows = min(info.height, _PLAYER_ROWS) // 2 * 2 or 2
    columns = max(2, round(rows * Fraction(info.width, info.height) * aspect / 2) * 2)

    with video.video_writer(
        results / 'player.mp4',
        info.fps,
        constant_rate=film.constant_rate,
        last_duration=film.last_duration,
        sound=sound,
    ) as write:

        def add(frame: films.Predicted) -> None:
            pixels = resize_frame(frame.pixels, (rows, columns))
            levels = resize_frame(frame.levels, (rows, columns))
            write(np.concatenate([pixels, visualize.overlay(pixels, levels)]), frame.time)

        yield add
