"""Frames from video files and folders, and H.264 video from frames; in constant memory.

A frame is uint8 RGB `(h, w, 3)`, as it is displayed: a phone's rotation mark is applied. Every
frame that decodes counts once, whatever its time stamp, so a video of variable frame rate gives as
many frames as it holds. Decoding and encoding are FFmpeg's, through PyAV.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
from PIL import Image, ImageOps

from stsa_jax.errors import InputError
from stsa_jax.files import atomic_path

FRAME_SUFFIXES = ('.bmp', '.jpeg', '.jpg', '.pgm', '.png', '.ppm', '.tif', '.tiff', '.webp')
DEFAULT_FPS = Fraction(30)
# Containers whose header states how long the video is, so that a missing end can be told.
_STATES_DURATION = ('avi', 'mov', 'matroska', 'flv')
_log = logging.getLogger(__name__)


class VideoInfo(NamedTuple):
    """What is known before decoding: size in pixels as displayed, frames per second, frame count.

    `num_frames` is counted from the packets of a file, and exact for a folder; a rare codec may
    decode to a few more or fewer.
    """

    path: Path
    height: int
    width: int
    fps: Fraction
    num_frames: int


def read_frames(
    path: str | os.PathLike, *, folder_fps: float = DEFAULT_FPS, allow_truncated: bool = False
) -> tuple[VideoInfo, Iterator[np.ndarray]]:
    """Opens a video file that FFmpeg reads, or a folder of frames in natural order.

    Returns `(info, frames)`; `frames` yields uint8 `(h, w, 3)`, one at a time. The frame rate of a
    folder is `folder_fps`. Files in a folder that are not images are passed over, with a warning
    in the log.

    A file that breaks off is refused before the first frame, as far as its packets show it, and
    else when the damaged frame is reached. With `allow_truncated` its frames up to there are
    yielded, with a warning.

    Raises:
        InputError: nothing at `path`, not a video, no frames, damaged, or frames of different
            sizes.
    """
    path = Path(path)
    if path.is_dir():
        return _read_folder(path, Fraction(folder_fps).limit_denominator(60000))
    if not path.exists():
        raise InputError(f'{path}: no such video; name a video file or a folder of frames')
    return _read_file(path, allow_truncated)


def write_video(path: str | os.PathLike, frames: Iterable[np.ndarray], fps: float) -> int:
    """Writes uint8 `(h, w, 3)` frames of one size as an H.264 file; returns how many.

    As `video_writer`.
    """
    count = 0
    with video_writer(path, fps) as write:
        for frame in frames:
            write(frame)
            count += 1
    return count


@contextmanager
def video_writer(path: str | os.PathLike, fps: float) -> Iterator[Callable[[np.ndarray], None]]:
    """Yields a function that appends one uint8 `(h, w, 3)` frame to an H.264 video, `path`.

    The file is one that browsers play: yuv420p with BT.709 colours, its index in front. An odd
    height or width is made even by repeating the last row or column. `path` appears when the
    context ends without an error, whole or not at all.

    Raises:
        ValueError: frames of different shapes or types, or none at all.
    """
    fps = Fraction(fps).limit_denominator(60000)
    shape = None

    def write(frame: np.ndarray) -> None:
        nonlocal shape
        if shape is None and frame.ndim == 3:
            shape = frame.shape
            stream.height, stream.width = (n + n % 2 for n in shape[:2])
        if frame.dtype != np.uint8 or frame.shape != shape:
            raise ValueError(
                f'a frame is {frame.dtype} {frame.shape}; expected uint8 (h, w, 3), '
                f'all of one shape (the first was {shape})'
            )
        even = np.pad(frame, ((0, shape[0] % 2), (0, shape[1] % 2), (0, 0)), mode='edge')
        picture = av.VideoFrame.from_ndarray(even, format='rgb24').reformat(
            format='yuv420p', dst_colorspace='ITU709', dst_color_range='MPEG'
        )
        file.mux(stream.encode(picture))

    with (
        atomic_path(path) as temporary,
        av.open(str(temporary), 'w', format='mp4', options={'movflags': 'faststart'}) as file,
    ):
        stream = file.add_stream('libx264', rate=fps, options={'crf': '20', 'preset': 'fast'})
        stream.pix_fmt = 'yuv420p'
        context = stream.codec_context
        context.colorspace = context.color_primaries = context.color_trc = 1  # BT.709
        context.color_range = 1  # limited, as players expect
        yield write
        if shape is None:
            raise ValueError(f'{path}: no frames to write')
        file.mux(stream.encode(None))


def natural_key(name: str) -> list:
    """Sorts as a person would: `frame2` before `frame10`."""
    parts = re.split(r'(\d+)', name)
    return [(int(p), p) if p.isdecimal() else p.casefold() for p in parts]


def _read_folder(path: Path, fps: Fraction) -> tuple[VideoInfo, Iterator[np.ndarray]]:
    names = sorted((p.name for p in path.iterdir()), key=natural_key)
    images = [n for n in names if _is_frame(path / n)]
    strays = [n for n in names if n not in set(images)]
    if not images:
        found = f'only {_list(strays)}' if strays else 'nothing'
        raise InputError(
            f'{path}: a folder without frames: expected images '
            f'({" ".join(FRAME_SUFFIXES)}), found {found}'
        )
    if strays:
        _log.warning('%s: passed over, not frames: %s', path, _list(strays))
    # The headers of all frames are read first: a misfit is told before the work, not after it.
    sizes = [_image_size(path / name) for name in images]
    for name, size in zip(images, sizes):
        if size != sizes[0]:
            raise InputError(
                f'{path / name}: is {_size(size)} pixels, but {images[0]} is {_size(sizes[0])}; '
                'all frames of a video must have one size'
            )
    info = VideoInfo(path, *sizes[0], fps, len(images))
    return info, (_open_image(path / name)[1] for name in images)


def _is_frame(path: Path) -> bool:
    suffix = path.suffix.lower()
    return suffix in FRAME_SUFFIXES and not path.name.startswith('.') and path.is_file()


def _image_size(path: Path) -> tuple[int, int]:
    return _open_image(path, pixels=False)[0]


def _open_image(path: Path, pixels: bool = True) -> tuple[tuple[int, int], np.ndarray | None]:
    """`((h, w), frame)` as displayed, EXIF's orientation applied; without `pixels`, no frame."""
    try:
        with Image.open(path) as image:
            # JPEG alone: photographs; and PNG would have to be decoded to look for the mark.
            jpeg = image.format in ('JPEG', 'MPO')
            turned = jpeg and image.getexif().get(0x0112, 1) >= 5  # 5 to 8 swap the sides
            size = image.size if turned else image.size[::-1]
            if not pixels:
                return size, None
            upright = ImageOps.exif_transpose(image) if jpeg else image
            return size, np.array(upright.convert('RGB'))
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(
            f'{path}: is not a readable image ({error}); replace or remove this frame'
        ) from error


def _read_file(path: Path, allow_truncated: bool) -> tuple[VideoInfo, Iterator[np.ndarray]]:
    with _open(path) as container:
        stream = _video_stream(container, path)
        fps = stream.average_rate or stream.guessed_rate or DEFAULT_FPS
        count, problem = _scan(container, stream)
    if problem and count:
        problem = f'{path}: breaks off after {count} frames ({problem})'
        if not allow_truncated:
            raise InputError(
                f'{problem}; get a whole copy of it, or allow a truncated video '
                '(--allow_truncated) to use the frames that are there'
            )
        _log.warning('%s; the frames up to there are used', problem)
    frames = _decode(path, allow_truncated)
    first = next(frames, None)
    if first is None:
        raise InputError(
            f'{path}: none of its frames decodes; is it a whole video? '
            'Check that a player shows it, or convert it with ffmpeg'
        )

    def all_frames() -> Iterator[np.ndarray]:
        yield first
        for number, frame in enumerate(frames, 2):
            if frame.shape != first.shape:
                raise InputError(
                    f'{path}: frame {number} is {_size(frame.shape)} pixels, but the first is '
                    f'{_size(first.shape)}; all frames of a video must have one size'
                )
            yield frame

    return VideoInfo(path, *first.shape[:2], Fraction(fps), count), all_frames()


@contextmanager
def _open(path: Path) -> Iterator[av.container.InputContainer]:
    try:
        # Absolute, so that no part of the name is taken for a protocol ("a:b.mp4").
        container = av.open(str(path.absolute()))
    except (av.FFmpegError, OSError) as error:
        raise InputError(
            f'{path}: FFmpeg cannot read it as a video ({_reason(error)}); check that the file '
            'is a whole video, or convert it with ffmpeg'
        ) from error
    with container:
        yield container


def _video_stream(
    container: av.container.InputContainer, path: Path
) -> av.video.stream.VideoStream:
    cover = av.stream.Disposition.attached_pic  # a picture for an audio file, not a video
    streams = [s for s in container.streams.video if not s.disposition & cover]
    if not streams:
        raise InputError(f'{path}: has no video stream; name a video file or a folder of frames')
    return streams[0]


def _scan(container, stream) -> tuple[int, str]:
    """`(packets, problem)` from reading the file without decoding it; `problem` is '' if whole."""
    count, end, problem = 0, Fraction(0), ''
    try:
        for packet in container.demux(stream):
            if packet.is_corrupt:
                problem = 'the data of the next one is incomplete'
                break
            if not packet.size:
                continue
            count += 1
            if packet.pts is not None:
                end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
    except av.FFmpegError as error:
        problem = _reason(error)
    stated, tolerance = _stated_duration(container, stream)
    if not problem and end + tolerance < stated:
        problem = f'at {float(end):.2f} s, but its header says {float(stated):.2f} s'
    return count, problem


def _stated_duration(container, stream) -> tuple[Fraction, Fraction]:
    """The end of the video in seconds as the header states it (0: it does not), and a tolerance."""
    rate = stream.average_rate or DEFAULT_FPS
    if not any(name in container.format.name.split(',') for name in _STATES_DURATION):
        return Fraction(0), Fraction(0)
    if container.format.name == 'avi':  # FFmpeg shortens the duration of a cut file, not the count
        return stream.frames / rate, 2 / rate
    if stream.duration:
        return ((stream.start_time or 0) + stream.duration) * stream.time_base, 2 / rate
    tag = re.fullmatch(r'(\d+):(\d+):(\d+(?:\.\d+)?)', stream.metadata.get('DURATION', ''))
    if tag:
        hours, minutes, seconds = (Fraction(part) for part in tag.groups())
        return 3600 * hours + 60 * minutes + seconds, 2 / rate
    # The whole file's, to which a longer sound track may have contributed.
    return Fraction(container.duration or 0, av.time_base), 2 / rate + 1


def _decode(path: Path, allow_truncated: bool) -> Iterator[np.ndarray]:
    count = 0
    ffmpeg_error = av.FFmpegError  # a generator left unfinished ends when modules are gone
    with _open(path) as container:
        stream = _video_stream(container, path)
        stream.thread_type = 'AUTO'
        try:
            for packet in container.demux(stream):
                # None lets the decoder give out what it still holds.
                for frame in stream.decode(None if packet.is_corrupt else packet):
                    count += 1
                    yield _displayed(frame)
                if packet.is_corrupt:
                    break
        except ffmpeg_error as error:
            problem = f'{path}: the data after frame {count} does not decode ({_reason(error)})'
            if not (allow_truncated and count):
                raise InputError(
                    f'{problem}; get a whole copy of it, or allow a truncated video '
                    '(--allow_truncated) to use the frames before'
                ) from error
            _log.warning('%s; the frames up to there are used', problem)


def _displayed(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format='rgb24')
    quarter_turns = round(frame.rotation / 90)  # counterclockwise, as in np.rot90
    return np.ascontiguousarray(np.rot90(image, quarter_turns)) if quarter_turns else image


def _reason(error: Exception) -> str:
    return getattr(error, 'strerror', None) or str(error)


def _size(shape: tuple[int, ...]) -> str:
    return f'{shape[1]}x{shape[0]}'


def _list(names: list[str]) -> str:
    return ', '.join(names[:5]) + (f' and {len(names) - 5} more' if len(names) > 5 else '')
