"""Predicts where people look in a video: one saliency map per frame.

    stsa-jax predict --checkpoint=STSANet_DHF1K.pth --video=film.mp4 --output=runs/film

writes

    runs/film/maps/0001.png ...   a map for each frame, 8-bit grey, at the video's own size
    runs/film/overlay.mp4         the video with the maps in colour over it, at the video's times
                                  and with its sound
    runs/film/prediction.json     the model, the video and the settings

A map has the number of its frame, as in `data.prepare`: in a video file its position in time, in a
folder the last number in its name. So `evaluate.py --predictions` can read the maps.

A map is the network's output, resized (bilinear) and scaled to a maximum of 255, to make full use
of 8 bits; the metrics are invariant to the scale of a map. Models other than STSA-Net finish their
maps as their released code does; prediction.json says how. The output appears at the end of a
video; an interrupted or failed run leaves nothing behind, unless it is to be resumed:

    --start=1:30 --end=2:00    a part of the video; its maps are those of the whole one
    --every=5                  predict each fifth frame; maps between are interpolated in time
    --maps=npz                 the model's output in maps.npz; or `video`: maps.mkv, or `none`
    --resume                   go on with a run that was interrupted, on the same command line
    --video=a.mp4 --video=DIR  several videos, or all in a folder of videos; `-`: standard input

Three other modes:

    --attention=320,180 [--frame=50]   a figure of where that pixel (x,y) of that frame attends, at
                                       each level and in the other time steps, and of the pixels
                                       that the saliency there depends on
    --gradient[=320,180] [--frame=50]  a figure, over all frames of the clip, of the pixels that
                                       the saliency there, or of the whole map, depends on
    --classify                         the five most probable Kinetics classes; the checkpoint is
                                       S3D's, and no --output is needed

Each run compiles the network; with JAX_COMPILATION_CACHE_DIR set to a folder, only the first does.
"""

import argparse
import dataclasses
import json
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path

from tqdm import tqdm

from stsa_jax import mirror
from stsa_jax.commands.predict_options import load_model, open_video, parse
from stsa_jax.errors import InputError, ranges
from stsa_jax.files import check_free, output_folder, staged_folder, write_atomic
from stsa_jax.inference import prediction, windows
from stsa_jax.inference.devices import on_devices
from stsa_jax.inference.identity import identity_of
from stsa_jax.inference.prediction import MAPS, OUTPUTS, OVERLAY, RECORD, Settings, part_of
from stsa_jax.media import video
from stsa_jax.media.folder import videos_in
from stsa_jax.ops import cpu
from stsa_jax.remote import is_remote, local


def run() -> None:
    """The command."""
    cpu.set_up()
    main(sys.argv[1:])


def main(arguments: list[str]) -> None:
    """Runs the mode that `arguments`, without the program's name, ask for."""
    options = parse(arguments, __doc__)
    options.video = [str(local(path)) for path in options.video]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up as after Ctrl-C
    if options.classify:
        from stsa_jax.commands.predict_classes import print_classes

        print_classes(options)
    elif options.attention or options.gradient:
        from stsa_jax.commands.predict_picture import save_picture

        save_picture('attention' if options.attention else 'gradient', options)
    else:
        save_predictions(options)


def save_predictions(options: argparse.Namespace) -> None:
    """Checks what can be checked early, and predicts video by video."""
    with (
        standard_input(options.video) as piped,
        mirror.folder(options.output, every=mirror.EVERY) as output,
    ):
        jobs = plan(options.video, output, piped)
        for path, folder in jobs:  # check all before starting on the first
            if not options.overwrite and not (options.resume and record_of(folder)):
                check_free(folder, OUTPUTS)
            film = open_video(path, options)
            part_of(film, settings_of(options))
        model = on_devices(load_model(options), options.devices)
        for path, folder in jobs:
            if len(jobs) > 1:  # a single one is already open
                with video.quietly():
                    film = open_video(path, options)
            told = predict(model, film, path, folder, options)
            if is_remote(options.output):
                told = told.replace(str(output), options.output.rstrip('/'))
            print(told)


@contextmanager
def standard_input(videos: list[str]) -> Iterator[Path | None]:
    """What a pipe gives, in a temporary file if `-` is among the videos: it is read twice."""
    if '-' not in videos:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix='stsa-jax-') as folder:
        path = Path(folder) / 'stdin'
        with open(path, 'wb') as file:
            shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
        yield path


def plan(videos: list[str], output: Path, piped: Path | None = None) -> list[tuple[Path, Path]]:
    """Each video with the folder its maps go to; `piped` stands for `-`."""
    if output.exists():
        output_folder(output)
    given = [piped if v == '-' and piped else Path(v) for v in videos]
    paths = [inner for path in given for inner in videos_in(path)]
    if len(paths) == 1 and paths == given:
        return [(paths[0], output)]
    folders = [output / video_name(p) for p in paths]
    for i, folder in enumerate(folders):
        if folder in folders[:i]:
            raise InputError(
                f'{paths[folders.index(folder)]} and {paths[i]} would both be written to {folder}; '
                'predict them in two runs with different --output'
            )
    return list(zip(paths, folders))


def video_name(path: Path) -> str:
    """The dataset's name of a video: for frames in <shot>/images it is the shot."""
    if not path.is_dir():
        return path.stem
    name = path.name or path.resolve().name
    return path.resolve().parent.name if name.casefold() == 'images' else name


def settings_of(options: argparse.Namespace) -> Settings:
    """What the options ask for."""
    return Settings(
        start=options.start or Fraction(0),
        end=options.end,
        every=options.every,
        maps=options.maps,
        overlay=options.overlay,
        batch_size=options.batch_size,
    )


def record_of(folder: Path) -> dict:
    """The record of a finished prediction in `folder`, empty if there is none."""
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}


def predict(
    model: windows.Predictor,
    film: video.Video,
    path: Path,
    folder: Path,
    options: argparse.Namespace,
) -> str:
    """Writes maps and overlay of one video; returns a line on what was written."""
    settings = settings_of(options)
    work = {
        'video': state_of(film),
        'model': identity_of(model),
        'settings': settings.work,
        'fps': options.fps,
        'allow_truncated': options.allow_truncated,
    }
    if options.resume and record_of(folder).get('work') == work:
        return f'{path}: already predicted in {folder}'
    if not options.overwrite:
        check_free(folder, OUTPUTS)
    settings = dataclasses.replace(
        settings, batch_size=settings.batch_size * getattr(model, 'count', 1)
    )
    info = film.info
    with staged_folder(
        folder, OUTPUTS, overwrite=options.overwrite, work=work, resume=options.resume
    ) as staging:
        total = part_of(film, settings).count
        with tqdm(desc=path.name, total=total, unit='frame', disable=None) as bar:
            done = prediction.predict(
                model, film, staging, settings, lambda _: bar.update(), resumable=options.resume
            )
        resumed = done.pop('frames_resumed')
        left_out = done['frames_left_out']
        record = {
            'video': str(path),
            **done,
            'frames_left_out': ranges(left_out),
            'size': [info.height, info.width],
            'checkpoint': options.checkpoint,
            'kind': getattr(model, 'kind', None),
            'model': dataclasses.asdict(model.config),
            'maps': getattr(model, 'how_finished', None),
            'work': work,
        }
        write_atomic(staging / RECORD, json.dumps(record, indent=2) + '\n')
    return report(path, folder, settings, done, resumed, left_out)


def state_of(film: video.Video) -> list:
    """What tells a video from another one, or from a changed one."""
    state = film.info.path.stat()
    return [str(film.info.path.absolute()), film.info.num_frames, state.st_size, state.st_mtime_ns]


def report(
    path: Path, folder: Path, settings: Settings, done: dict, resumed: int, left_out: list[int]
) -> str:
    """The line on what was written."""
    count, between = done['frames'], done['frames_interpolated']
    line = f'{path}: {count} maps in {folder / (MAPS[settings.maps] or OVERLAY)}'
    if between:
        line += f'; {count - between} of them predicted, {between} interpolated in time'
    if resumed:
        line += f'; {resumed} were there'
    if left_out:
        line += f'; {len(left_out)} damaged frames left out: {ranges(left_out)}'
    return line
