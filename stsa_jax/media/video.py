"""Frames from video files and folders, as displayed; in constant memory.

A frame is uint8 RGB `(h, w, 3)`, rotated and mirrored as the file specifies. Every decoded frame
counts once, whatever its timestamp, so a video with a variable frame rate yields exactly the frames
it stores. Decoding and encoding use FFmpeg, through PyAV.
"""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from stsa_jax.errors import InputError, ranges
from stsa_jax.media import folder, pictures
from stsa_jax.media.decoding import FileFrames, Frame
from stsa_jax.media.folder import natural_key
from stsa_jax.media.info import Video, VideoInfo, size_text
from stsa_jax.media.packets import DEFAULT_FPS, NotAVideo, Packets, reason
from stsa_jax.media.pictures import SUFFIXES as FRAME_SUFFIXES
from stsa_jax.media.sound import Sound
from stsa_jax.media.writing import grey_writer, video_writer, write_video

__all__ = [
    'DEFAULT_FPS',
    'FRAME_SUFFIXES',
    'Frame',
    'Video',
    'VideoInfo',
    'grey_writer',
    'natural_key',
    'open_video',
    'quietly',
    'read_frames',
    'video_writer',
    'write_video',
]
_ALLOW = (
    'get a complete copy, or allow a truncated video (--allow_truncated) to use the frames that '
    'can be decoded'
)
_log = logging.getLogger(__name__)


@contextmanager
def quietly() -> Iterator[None]:
    """Opens videos again without the warnings that were logged when they were first opened."""
    log = logging.getLogger('stsa_jax.media')
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    finally:
        log.setLevel(level)


def read_frames(
    path: str | os.PathLike,
    *,
    folder_fps: float | Fraction = DEFAULT_FPS,
    allow_truncated: bool = False,
) -> tuple[VideoInfo, Iterator[np.ndarray]]:
    """Like `open_video`, but only `(info, frames)`, frames uint8 `(h, w, 3)`."""
    video = open_video(path, folder_fps=folder_fps, allow_truncated=allow_truncated)
    return video.info, (frame.pixels for frame in video.frames)


def open_video(
    path: str | os.PathLike,
    *,
    folder_fps: float | Fraction = DEFAULT_FPS,
    allow_truncated: bool = False,
) -> Video:
    """Opens a video file that FFmpeg reads, a folder of frames, or a multi-image file.

    A folder's frames are in natural order, at the rate `folder_fps`; if it has none but a subfolder
    `images` does, that one is used. Other files are skipped, with a warning in the log.

    A truncated or damaged file is refused before the first frame if its packets show it, otherwise
    when the damaged frame is reached. With `allow_truncated` every frame that decodes and is not
    predicted from a damaged one is yielded; the others are counted in the log.

    Raises:
        InputError: nothing at `path`, not a video, no frames, damaged, or frames of different
            sizes.
    """
    path = Path(path)
    fps = Fraction(folder_fps).limit_denominator(60000)
    if path.is_dir():
        return folder.open_folder(path, fps)
    if not path.exists():
        raise InputError(f'{path}: no such video; give a video file or a folder of frames')
    if path.suffix.lower() in pictures.SUFFIXES:
        return folder.open_pictures(path, fps)
    return _open_file(path, allow_truncated)


def _open_file(path: Path, allow_truncated: bool) -> Video:
    try:
        decoded = FileFrames(path)
    except NotAVideo as error:
        raise InputError(f'{path}: {error}; give a video file or a folder of frames') from error
    except (FFmpegError, OSError) as error:
        raise InputError(
            f'{path}: FFmpeg cannot read it as a video ({reason(error)}); check that the file '
            'is complete, or convert it with ffmpeg'
        ) from error
    packets = decoded.packets
    usable = [n for n in sorted({*packets.numbers} - packets.headless) if n not in decoded.lost]
    if packets.choice:
        _log.warning('%s: %s', path, packets.choice)
    problem = _problem(packets, len(usable))
    if problem and usable:
        if not allow_truncated:
            raise InputError(f'{path}: {problem}; {_ALLOW}')
        _log.warning('%s: %s; using the frames that can be decoded', path, problem)
    left_out: list[int] = []
    frames = _frames_of_one_size(
        path, _checked(path, iter(decoded), decoded, allow_truncated, left_out)
    )
    first = next(frames, None)
    if first is None:
        raise InputError(
            f'{path}: none of its frames can be decoded; is it a complete video? '
            'Check that a player shows it, or convert it with ffmpeg'
        )

    def all_frames() -> Iterator[Frame]:
        yield first
        yield from frames

    def since(index: int) -> Iterator[Frame]:
        later = decoded.since(usable[index])
        return _frames_of_one_size(path, _checked(path, later, decoded, allow_truncated, left_out))

    height, width = first.pixels.shape[:2]
    aspect = packets.pixel_aspect
    return Video(
        VideoInfo(path, height, width, packets.rate, len(usable)),
        all_frames(),
        usable,
        lambda: packets.times(usable),
        since,
        packets.constant,
        1 / aspect if decoded.turn.transposed else aspect,
        packets.last_duration(),
        left_out,
        Sound(path, packets.drift) if packets.has_sound else None,
    )


def _problem(packets: Packets, usable: int) -> str:
    """The damage to a file, as far as its packets show it."""
    end = packets.damaged and packets.damaged[-1] == max(packets.numbers)
    if why := packets.cut or packets.stopped or (end and 'the data of the next one is incomplete'):
        return f'is truncated after {usable} frames ({why})'
    if packets.damaged:
        count, which = len(packets.damaged), ranges(packets.damaged)
        return f'{count} of its frames are damaged: {which} (their data are incomplete)'
    return ''


def _checked(
    path: Path,
    frames: Iterator[Frame],
    decoded: FileFrames,
    allow_truncated: bool,
    left_out: list[int],
) -> Iterator[Frame]:
    """The frames; damage found in decoding is an error, or is reported at the end."""
    count, known = 0, len(decoded.lost.damaged)

    def check() -> None:
        if allow_truncated or not (
            decoded.stopped or len(decoded.lost.damaged) > known or decoded.lost.undecodable
        ):
            return
        why = decoded.stopped or decoded.lost.reason
        good = min(decoded.lost.damaged, default=decoded.last + 1) - 1
        raise InputError(f'{path}: the data after frame {good} does not decode ({why}); {_ALLOW}')

    for frame in frames:
        check()
        count += 1
        yield frame
    check()
    lost = decoded.lost
    if gone := lost.damaged | lost.spoilt:
        left_out.extend(sorted(gone))
        _log.warning(
            '%s: %d frames are left out, damaged or predicted from damaged ones: %s (%s); '
            '%d are used',
            path, len(gone), ranges(gone), lost.reason, count,
        )  # fmt: skip
    if decoded.stopped:
        _log.warning(
            '%s: cannot be read beyond frame %d (%s); %d frames are used',
            path, decoded.last, decoded.stopped, count,
        )  # fmt: skip
    if missing := decoded.missing:
        _log.warning(
            '%s: %d positions have no frame of their own: %s; frames keep their numbers',
            path, len(missing), ranges(missing),
        )  # fmt: skip


def _frames_of_one_size(path: Path, frames: Iterator[Frame]) -> Iterator[Frame]:
    first = None
    for frame in frames:
        first = first or frame
        if frame.pixels.shape != first.pixels.shape:
            raise InputError(
                f'{path}: frame {frame.number} is {size_text(frame.pixels.shape)} pixels, but the '
                f'first is {size_text(first.pixels.shape)}; all frames of a video must have one '
                'size: cut it there, or convert it with ffmpeg'
            )
        yield frame
