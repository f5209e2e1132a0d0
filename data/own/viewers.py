"""Each viewer's fixations in a folder of recordings, for an evaluation's inter-observer row."""

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from av.error import FFmpegError

from data.copies.sources import Report
from data.gaze import Fixations
from data.own.looking import View, fixations_of
from data.own.recordings import How, find_recordings
from data.own.video import BY_WIDTH
from data.videos import VideoInfo
from stsa_jax.errors import InputError


def sigma_of(how: How) -> Callable[[tuple[int, int]], float] | None:
    """Size (h, w) -> pixels, of the Gaussians that `how` asks for; None if it asks for none."""
    if how.sigma == BY_WIDTH:
        return None
    view = View(screen=how.screen, fitted=how.fitted)
    return lambda size: how.sigma.of(size, view)


def read_viewers(
    root: Path, how: How, videos: Iterable[VideoInfo], *, needed: bool = True
) -> dict[str, list[Fixations]]:
    """{video: fixations of each viewer}, of the videos with at least two; frame 0 is number 1.

    `videos` are those of the dataset; places are in pixels of their annotation.

    Raises InputError if the folder has no such gaze, unless it is not `needed`.
    """
    recordings = find_recordings(root, how, Report(), framed=False)
    recorded = {video.name: video for video in recordings.videos}
    found: dict[str, list[Fixations]] = {}
    for video in videos:
        source = recorded.get(video.name)
        if source is None or source.samples is None or len(source.samples.viewers) < 2:
            continue
        size = source.size()
        try:
            numbers, times = source.timing()
        except (FFmpegError, OSError):
            continue
        if size is None or not numbers:
            continue
        viewers = []
        for samples in source.samples.by_viewer():
            looks = fixations_of(samples, source.view, size, numbers, times, Report())
            # As `images.move_points`: the pixel in which the centre of the look's pixel lies.
            y = (2 * looks.y + 1) * video.height // (2 * size[0])
            x = (2 * looks.x + 1) * video.width // (2 * size[1])
            if len(looks.frame):
                viewers.append(Fixations(np.asarray(looks.frame) - 1, y, x))
        if len(viewers) > 1:
            found[video.name] = viewers
    if needed and not found:
        raise InputError(
            f'{root}: no tables of gaze with several viewers of the videos of this dataset; see '
            'docs/your_data.md for what they may look like'
        )
    return found
