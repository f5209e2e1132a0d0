"""The figures of `predict`: where a pixel attends, and which pixels a map depends on."""

import argparse
import os
from pathlib import Path

import numpy as np

from stsa_jax import mirror
from stsa_jax.commands.predict_options import WHOLE_MAP, load_model, open_video
from stsa_jax.errors import InputError, ranges
from stsa_jax.files import check_free, output_folder, staged_folder
from stsa_jax.inference import attention_maps, windows
from stsa_jax.media import video


def save_picture(kind: str, options: argparse.Namespace) -> None:
    """Writes one figure for one frame of a video: its attention or its gradient."""
    if len(options.video) > 1:
        raise InputError(f'--{kind} is for one --video at a time')
    with mirror.folder(options.output) as output:
        name, shown = _picture(kind, options, output)
    print(f'{shown}: {os.path.join(options.output, name)}')


def _picture(kind: str, options: argparse.Namespace, output: Path) -> tuple[str, str]:
    """Writes the figure; returns its name, and what it is of."""
    film = open_video(options.video[0], options)
    info = film.info
    given = getattr(options, kind)
    pixel = None if given == WHOLE_MAP else parse_place(kind, given, info)
    number = chosen_frame(film, options.frame)
    name = '-'.join([kind, f'{number:04d}', *map(str, pixel or ())]) + '.png'
    if output.exists():
        output_folder(output)
    if not options.overwrite:
        check_free(output, [name])
    model = load_model(options)
    if kind == 'attention' and model.kind != 'stsanet':
        raise InputError(
            f'{options.checkpoint}: --attention draws what STSA-Net attends to, but these weights '
            f'are of {model.kind}, which has no attention; --gradient works with every model'
        )
    if windows.is_recurrent(model.config):
        raise InputError(
            f'{options.checkpoint}: --{kind} draws what one clip does to a map, but with these '
            f'weights, of {model.kind}, a map depends on all frames before it'
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
    with staged_folder(output, [name], overwrite=options.overwrite) as staging:
        path = staging / name
        if maps is not None and place:
            attention_maps.attention_figure(path, window, maps, place, target, gradient)
        else:
            attention_maps.gradient_figure(path, window, gradient, place, target)
    where = f'pixel {pixel[0]},{pixel[1]}' if pixel else 'the whole map'
    return name, f'{info.path}, frame {number}, {where}'


def chosen_frame(film: video.Video, given: int | None) -> int:
    """The number of the frame given by --frame, or of the middle one."""
    numbers = film.numbers
    if given is None:
        return numbers[(len(numbers) - 1) // 2]
    if given not in numbers:
        known = ranges(numbers).replace('-', ' to ')
        raise InputError(
            f'--frame={given}: {film.info.path} has frames {known}; choose one of these'
        )
    return given


def parse_place(kind: str, text: str, info: video.VideoInfo) -> tuple[int, int]:
    """The pixel `x,y` of the video, from 0, given by flag `kind`."""
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
