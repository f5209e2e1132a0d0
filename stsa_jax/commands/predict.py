"""Predicts where people look in a video: one saliency map per frame.

    stsa-jax predict --checkpoint=STSANet_DHF1K.pth --video=film.mp4 --output=runs/film

writes

    runs/film/maps/0001.png ...   a map for each frame, 8-bit grey, at the video's own size
    runs/film/overlay.mp4         the video with the maps in colour over it, at the video's times
    runs/film/prediction.json     the model, the video and the settings

A map has the number of its frame, as in `data.prepare`: in a video file its position in time, in a
folder the last number in its name. So `evaluate.py --predictions` can read the maps.

A map is the network's output, resized (bilinear) and scaled to a maximum of 255, to make full use
of 8 bits; the metrics are invariant to the scale of a map. Models other than STSA-Net finish their
maps as their released code does; prediction.json says how. The output appears at the end of a
video; an interrupted or failed run leaves nothing behind.

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
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

from tqdm import tqdm

from stsa_jax.commands.predict_options import load_model, open_video, parse
from stsa_jax.errors import InputError, ranges
from stsa_jax.files import check_free, output_folder, staged_folder, write_atomic
from stsa_jax.inference import films, windows
from stsa_jax.media import video
from stsa_jax.ops import cpu

OUTPUTS = ('maps', 'overlay.mp4', 'prediction.json')


def run() -> None:
    """The command."""
    cpu.set_up()
    main(sys.argv[1:])


def main(arguments: list[str]) -> None:
    """Runs the mode that `arguments`, without the program's name, ask for."""
    options = parse(arguments, __doc__)
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
    jobs = plan(options.video, Path(options.output))
    for path, folder in jobs:  # check all before starting on the first
        if not options.overwrite:
            check_free(folder, OUTPUTS)
        film = open_video(path, options)
    model = load_model(options)
    for path, folder in jobs:
        if len(jobs) > 1:  # a single one is already open, with its warnings logged
            film = open_video(path, options)
        count, left_out = predict(model, film, path, folder, options)
        gap = f'; {len(left_out)} damaged frames left out: {ranges(left_out)}' if left_out else ''
        print(f'{path}: {count} maps in {folder / "maps"}{gap}')


def plan(videos: list[str], output: Path) -> list[tuple[Path, Path]]:
    """Each video with the folder its maps go to."""
    if output.exists():
        output_folder(output)
    paths = [Path(v) for v in videos]
    if len(paths) == 1:
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


def predict(
    model: windows.Predictor,
    film: video.Video,
    path: Path,
    folder: Path,
    options: argparse.Namespace,
) -> tuple[int, list[int]]:
    """Writes maps and overlay of one video; returns the number of maps, and the frames left out."""
    info, count = film.info, 0
    with staged_folder(folder, OUTPUTS, overwrite=options.overwrite) as staging:
        (staging / 'maps').mkdir()
        bar = tqdm(
            films.predict_film(model, film.frames, options.batch_size),
            desc=path.name,
            total=info.num_frames,
            unit='frame',
            disable=None,
        )
        overlay = films.overlay_writer(staging / 'overlay.mp4', film)
        with overlay if options.overlay else nullcontext() as write:
            for frame in bar:
                count += 1
                films.write_map(staging / 'maps', frame)
                if write:
                    write(frame)
        record = {
            'video': str(path),
            'frames': count,
            'frames_left_out': ranges(film.left_out),
            'size': [info.height, info.width],
            'checkpoint': options.checkpoint,
            'kind': getattr(model, 'kind', None),
            'model': dataclasses.asdict(model.config),
            'maps': getattr(model, 'how_finished', None),
        }
        write_atomic(staging / 'prediction.json', json.dumps(record, indent=2) + '\n')
    return count, film.left_out
