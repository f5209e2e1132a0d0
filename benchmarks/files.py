"""Reads every file of a folder and compares the result with FFmpeg's programs, if installed.

    python -m benchmarks.files DIR

One line for each video file and folder of frames in DIR: the number of frames expected before
decoding, the number decoded, the count of `ffprobe -count_frames`, the mean difference from the
pixels of `ffmpeg -f rawvideo` in grey levels, and the messages: an error, after which the file is
read again as with `--allow_truncated`, or warnings. A few tenths of a level come from colour
rounding, and a few levels from the interpolation of interlaced chroma; a wrong rotation or another
frame differs by tens of levels.
"""

import argparse
import logging
import shutil
import subprocess
from collections.abc import Generator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from av.error import FFmpegError
from av.logging import PANIC, set_level

from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.media import video
from stsa_jax.media.packets import opened

HEAD = f'{"file":32} {"expected":>9} {"frames":>6} {"ffprobe":>7} {"difference":>10}  messages'


class Outcome(NamedTuple):
    """The result for one file; None: unknown."""

    name: str
    announced: int | None
    out: int | None
    counted: int | None
    difference: float | None
    said: str

    def line(self) -> str:
        """For the table."""
        numbers = ('-' if n is None else str(n) for n in self[1:4])
        announced, out, counted = numbers
        difference = '-' if self.difference is None else f'{self.difference:.2f}'
        return f'{self.name:32} {announced:>9} {out:>6} {counted:>7} {difference:>10}  {self.said}'


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description='Compares the reading of each file.')
    parser.add_argument('folder', help='whose files, and folders of frames, are read')
    folder = Path(parser.parse_args().folder)
    if not folder.is_dir():
        raise InputError(f'{folder}: there is no such folder; give one with video files in it')
    set_level(PANIC)  # silences FFmpeg's own messages
    print(HEAD)
    for path in sorted(folder.iterdir(), key=lambda p: video.natural_key(p.name)):
        print(read(path).line(), flush=True)


def read(path: Path) -> Outcome:
    """Reads one file or folder, strictly and then, if that fails, leniently."""
    said = _Listener()
    said.listen()
    announced = out = difference = None
    try:
        for allow_truncated in (False, True):
            try:
                film = video.open_video(path, allow_truncated=allow_truncated)
                announced = film.info.num_frames
                out, difference = _compare(path, film)
                break
            except InputError as error:
                said.lines.append(f'error: {error}')
    finally:
        said.stop()
    # Both passes repeat messages other than the first one's error.
    lines = dict.fromkeys(
        line.replace(f'{path}: ', '').replace(f'{path}/', '') for line in said.lines
    )
    return Outcome(path.name, announced, out, _counted(path), difference, '; '.join(lines))


class _Listener(logging.Handler):
    """Collects the reader's log messages."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: list[str] = []

    def listen(self) -> None:
        logging.getLogger('stsa_jax').addHandler(self)
        logging.getLogger('stsa_jax').propagate = False

    def stop(self) -> None:
        logging.getLogger('stsa_jax').removeHandler(self)
        logging.getLogger('stsa_jax').propagate = True

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


def _compare(path: Path, film: video.Video) -> tuple[int, float | None]:
    """The number of decoded frames, and the mean difference from ffmpeg; None if counts differ."""
    theirs = _ffmpeg_frames(path, film.info.height, film.info.width)
    count, sums = 0, 0.0
    for frame in film.frames:
        count += 1
        their = next(theirs, None)
        if their is None:
            sums = np.nan
        else:
            sums += float(np.abs(frame.pixels.astype(np.int16) - their).mean())
    same = count and not np.isnan(sums) and next(theirs, None) is None
    theirs.close()
    return count, sums / count if same else None


def _ffmpeg_frames(path: Path, height: int, width: int) -> Generator[np.ndarray, None, None]:
    """The frames as the program ffmpeg decodes them; none if it is not installed."""
    index = _stream(path)
    if index is None or not shutil.which('ffmpeg'):
        return
    command = ['ffmpeg', '-v', 'quiet', '-i', str(path), '-map', f'0:{index}']
    command += ['-fps_mode', 'passthrough', '-f', 'rawvideo', '-pix_fmt', 'rgb24', '-']
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        size = height * width * 3
        while len(content := process.stdout.read(size)) == size:
            yield np.frombuffer(content, np.uint8).reshape(height, width, 3)
        process.kill()


def _counted(path: Path) -> int | None:
    """The frame count of ffprobe."""
    index = _stream(path)
    if index is None or not shutil.which('ffprobe'):
        return None
    command = ['ffprobe', '-v', 'quiet', '-select_streams', str(index), '-count_frames']
    command += ['-show_entries', 'stream=nb_read_frames', '-of', 'csv=p=0', str(path)]
    words = subprocess.run(command, capture_output=True, text=True).stdout.split()
    return int(words[0].strip(',')) if words and words[0].strip(',').isdecimal() else None


def _stream(path: Path) -> int | None:
    """The index of the stream that is read; None if it is not a video file."""
    try:
        with opened(path) as (_, stream):
            return stream.index
    except (FFmpegError, OSError):
        return None


if __name__ == '__main__':
    exit_cleanly(main)
