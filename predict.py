"""Predicts where people look in a video: one saliency map per frame.

    python predict.py --checkpoint=STSANet_DHF1K.pth --video=film.mp4 --output=runs/film

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

import dataclasses
import json
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
from absl import app, flags
from tqdm import tqdm

import stsa_jax
from stsa_jax.configuration import parse_size
from stsa_jax.errors import InputError, exit_cleanly, ranges
from stsa_jax.files import check_free, output_folder, staged_folder, write_atomic
from stsa_jax.inference import films, windows
from stsa_jax.media import video
from stsa_jax.ops import cpu

FLAGS = flags.FLAGS
flags.DEFINE_string(
    'checkpoint', None, 'Training directory, converted checkpoint, PyTorch or safetensors file.'
)
flags.DEFINE_multi_string(
    'video', None, 'Video file that FFmpeg reads, or folder of frames. May be given several times.'
)
flags.DEFINE_string(
    'output', None, 'Folder to write to; with several videos, each gets a subfolder named after it.'
)
flags.DEFINE_string(
    'image_size',
    None,
    "Resample the weights for frames of size H,W; default: the weights' own size.",
)
flags.DEFINE_integer(
    'clip_frames', None, 'Resample the weights for clips of this many frames.', lower_bound=16
)
flags.DEFINE_integer('batch_size', 1, 'Frames predicted at once.', lower_bound=1)
flags.DEFINE_float('fps', 30, 'Frame rate of a folder of frames.', lower_bound=0.1)
flags.DEFINE_bool('overlay', True, 'Write overlay.mp4 too.')
flags.DEFINE_bool('overwrite', False, 'Replace the maps and overlay of an earlier prediction.')
flags.DEFINE_bool(
    'allow_truncated', False, 'Use the undamaged frames of a truncated or damaged video.'
)
flags.DEFINE_bool('allow_nonfinite', False, 'Accept weights with NaN or infinity.')
flags.DEFINE_string('attention', None, 'Draw the attention from this pixel, as x,y.')
flags.DEFINE_string(
    'gradient',
    None,
    'Draw the pixels that this pixel (x,y) depends on; without a value, the whole map.',
)
flags.DEFINE_integer(
    'frame', None, 'Number of the frame for these two; default: the middle one.', lower_bound=0
)
flags.DEFINE_bool('classify', False, 'Classify the video with the Kinetics classifier.')
WHOLE_MAP = 'map'
OUTPUTS = ('maps', 'overlay.mp4', 'prediction.json')


def main(arguments: list[str]) -> None:
    """Reads the flags and runs the requested mode."""
    parse_flags(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up as after Ctrl-C
    if FLAGS.classify:
        print_classes()
    elif FLAGS.attention or FLAGS.gradient:
        save_picture('attention' if FLAGS.attention else 'gradient')
    else:
        save_predictions()


def save_predictions() -> None:
    """Checks what can be checked early, and predicts video by video."""
    jobs = plan(FLAGS.video, Path(FLAGS.output))
    for path, folder in jobs:  # check all before starting on the first
        if not FLAGS.overwrite:
            check_free(folder, OUTPUTS)
        film = open_video(path)
    model = load_model()
    for path, folder in jobs:
        if len(jobs) > 1:  # a single one is already open, with its warnings logged
            film = open_video(path)
        count, left_out = predict(model, film, path, folder)
        gap = f'; {len(left_out)} damaged frames left out: {ranges(left_out)}' if left_out else ''
        print(f'{path}: {count} maps in {folder / "maps"}{gap}')


def parse_flags(arguments: list[str]) -> None:
    """Raises InputError where absl would print its usage and exit with its own code."""
    app.define_help_flags()
    following = [*arguments[1:], '--']
    arguments = [  # --gradient without a value means the whole map
        f'{given}={WHOLE_MAP}' if given == '--gradient' and after.startswith('--') else given
        for given, after in zip(arguments, following)
    ]
    try:
        rest = FLAGS(arguments)
    except flags.Error as error:
        raise InputError(f'{error}; python {arguments[0]} --help lists the flags') from error
    if FLAGS.attention and FLAGS.gradient:
        raise InputError('--attention and --gradient: use only one of them')
    needed = ('checkpoint', 'video') if FLAGS.classify else ('checkpoint', 'video', 'output')
    missing = [f'--{name}' for name in needed if not FLAGS[name].value]
    if missing:
        raise InputError(f'{" and ".join(missing)} missing; see python {arguments[0]} --help')
    if rest[1:]:
        raise InputError(f'{rest[1]}: not a flag; give videos as --video={rest[1]}')


def load_model() -> 'stsa_jax.SaliencyModel':
    """`stsa_jax.load` with the flags."""
    how = {'frames': FLAGS.clip_frames} if FLAGS.clip_frames else {}
    if FLAGS.image_size:
        how['image_size'] = parse_size(FLAGS.image_size)
    if FLAGS.allow_nonfinite:
        how['allow_nonfinite'] = True
    return stsa_jax.load(FLAGS.checkpoint, **how)


def open_video(path: str | Path) -> video.Video:
    """`video.open_video` with the flags."""
    return video.open_video(path, folder_fps=FLAGS.fps, allow_truncated=FLAGS.allow_truncated)


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
    model: windows.Predictor, film: video.Video, path: Path, folder: Path
) -> tuple[int, list[int]]:
    """Writes maps and overlay of one video; returns the number of maps, and the frames left out."""
    info, count = film.info, 0
    with staged_folder(folder, OUTPUTS, overwrite=FLAGS.overwrite) as staging:
        (staging / 'maps').mkdir()
        bar = tqdm(
            films.predict_film(model, film.frames, FLAGS.batch_size),
            desc=path.name,
            total=info.num_frames,
            unit='frame',
            disable=None,
        )
        overlay = films.overlay_writer(staging / 'overlay.mp4', film)
        with overlay if FLAGS.overlay else nullcontext() as write:
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
            'checkpoint': FLAGS.checkpoint,
            'kind': getattr(model, 'kind', None),
            'model': dataclasses.asdict(model.config),
            'maps': getattr(model, 'how_finished', None),
        }
        write_atomic(staging / 'prediction.json', json.dumps(record, indent=2) + '\n')
    return count, film.left_out


def save_picture(kind: str) -> None:
    """Writes one figure for one frame of a video: its attention or its gradient."""
    from stsa_jax.inference import attention_maps

    if len(FLAGS.video) > 1:
        raise InputError(f'--{kind} is for one --video at a time')
    output, film = Path(FLAGS.output), open_video(FLAGS.video[0])
    info = film.info
    whole = FLAGS[kind].value == WHOLE_MAP
    pixel = None if whole else parse_place(kind, info)
    number = chosen_frame(film)
    name = '-'.join([kind, f'{number:04d}', *map(str, pixel or ())]) + '.png'
    if output.exists():
        output_folder(output)
    if not FLAGS.overwrite:
        check_free(output, [name])
    model = load_model()
    if kind == 'attention' and model.kind != 'stsanet':
        raise InputError(
            f'{FLAGS.checkpoint}: --attention draws what STSA-Net attends to, but these weights '
            f'are of {model.kind}, which has no attention; --gradient works with every model'
        )
    around = (
        (w.frames, target)
        for w in windows.windows_of(film.frames, model.config)
        for target in w.places
    )
    found = next((pair for pair in around if pair[0][pair[1]].number == number), None)
    if found is None:
        raise InputError(
            f'{info.path}: its frame {number} does not decode; choose another one (--frame)'
        )
    frames, target = found
    window = [frame.pixels for frame in frames]
    clip = np.concatenate([model.preprocess(pixels[None]) for pixels in window])
    place = pixel and ((pixel[0] + 0.5) / info.width, (pixel[1] + 0.5) / info.height)

    def of_target(clips):
        saliency = model(clips)
        return saliency if saliency.ndim == 3 else saliency[:, target]

    gradient = attention_maps.input_gradient(of_target, clip, place)
    maps = None
    if kind == 'attention' and place:
        _, taps = model(clip[None], return_intermediates=True)
        step = attention_maps.target_step(model.config.frames, target)
        maps = attention_maps.attention_maps(taps, model.config.image_size, place, step)
    with staged_folder(output, [name], overwrite=FLAGS.overwrite) as staging:
        path = staging / name
        if maps is not None and place:
            attention_maps.attention_figure(path, window, maps, place, target, gradient)
        else:
            attention_maps.gradient_figure(path, window, gradient, place, target)
    where = f'pixel {pixel[0]},{pixel[1]}' if pixel else 'the whole map'
    print(f'{info.path}, frame {number}, {where}: {output / name}')


def chosen_frame(film: video.Video) -> int:
    """The number of the frame given by --frame, or of the middle one."""
    numbers = film.numbers
    if FLAGS.frame is None:
        return numbers[(len(numbers) - 1) // 2]
    if FLAGS.frame not in numbers:
        known = ranges(numbers).replace('-', ' to ')
        raise InputError(
            f'--frame={FLAGS.frame}: {film.info.path} has frames {known}; choose one of these'
        )
    return FLAGS.frame


def parse_place(kind: str, info: video.VideoInfo) -> tuple[int, int]:
    """The pixel `x,y` of the video, from 0, given by flag `kind`."""
    text = str(FLAGS[kind].value)
    try:
        x, y = (int(part) for part in text.split(','))
    except ValueError:
        raise InputError(f'--{kind}={text}: expected two integers, such as 320,180') from None
    if not (0 <= x < info.width and 0 <= y < info.height):
        raise InputError(
            f'--{kind}={text}: outside the video; expected x below {info.width} and y below '
            f'{info.height}'
        )
    return x, y


def print_classes() -> None:
    """Prints the five most probable Kinetics classes of each video."""
    from stsa_jax.inference import classify

    for path in FLAGS.video:
        open_video(path)
    how = {'allow_nonfinite': True} if FLAGS.allow_nonfinite else {}
    classifier = classify.load_classifier(FLAGS.checkpoint, **how)
    for path in FLAGS.video:
        film = open_video(path)
        count = film.info.num_frames
        frames = tqdm(film.frames, Path(path).name, count, unit='frame', disable=None)
        pixels = (frame.pixels for frame in frames)
        probabilities = classify.classify_video(classifier, pixels, count)
        print(path)
        for label, probability in classify.top(classifier, probabilities):
            print(f'  {probability:6.1%}  {label}')


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(lambda: main(sys.argv))
