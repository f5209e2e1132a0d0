"""The options of `predict`, and the model and videos that they name."""

import argparse
import re
from fractions import Fraction
from pathlib import Path

import stsa_jax
from stsa_jax.commands.flags import Parser, add_switch, natural, positive
from stsa_jax.configuration import parse_size, parse_time
from stsa_jax.errors import InputError, command
from stsa_jax.inference.prediction import MAPS
from stsa_jax.media import video

WHOLE_MAP = 'map'  # --gradient without a value


def parse(arguments: list[str], description: str | None) -> argparse.Namespace:
    """The options, without the program's name. Raises InputError for what cannot be used."""
    parser = Parser(prog=command('python predict.py'), description=description)
    add = parser.add_argument
    add('--checkpoint', help='training folder, converted checkpoint, PyTorch or safetensors file')
    add(
        '--video',
        action='append',
        help='video file that FFmpeg reads, folder of frames or of videos, - for standard input; '
        'may be given several times',
    )
    add(
        '--output',
        help='folder to write to; with several videos, each gets a subfolder named after it',
    )
    add(
        '--image_size',
        metavar='H,W',
        help="resample the weights for frames of this size; default: the weights' own size",
    )
    add(
        '--clip_frames',
        type=_clip_frames,
        metavar='N',
        help='resample the weights for clips of this many frames',
    )
    add('--domain', help="of UNISAL: the dataset whose parts are used; default: DHF1K's")
    add('--batch_size', type=positive, default=1, help='frames predicted at once by each device')
    add(
        '--devices',
        type=positive,
        metavar='N',
        help='devices to use; default: all accelerators, or one CPU',
    )
    add('--fps', type=_rate, default=30.0, help='frame rate of a folder of frames')
    add('--start', type=_time, metavar='TIME', help='first frame: seconds, or hh:mm:ss')
    add('--end', type=_time, metavar='TIME', help='end, before this time; default: of the video')
    add(
        '--every',
        type=positive,
        default=1,
        metavar='N',
        help='predict each N-th frame; maps between are interpolated in time',
    )
    add(
        '--maps',
        choices=list(MAPS),
        default='png',
        help="files of 8 bits, the model's output in one file, a grey video without loss, or none",
    )
    add_switch(parser, 'overlay', True, 'write overlay.mp4 too')
    add_switch(
        parser,
        'resume',
        False,
        'go on with an interrupted prediction, and leave what was done if this one is interrupted',
    )
    add_switch(parser, 'overwrite', False, 'replace the maps and overlay of an earlier prediction')
    add_switch(
        parser,
        'allow_truncated',
        False,
        'use the undamaged frames of a truncated or damaged video',
    )
    add_switch(parser, 'allow_nonfinite', False, 'accept weights with NaN or infinity')
    add('--attention', metavar='X,Y', help='draw the attention from this pixel')
    add(
        '--gradient',
        nargs='?',
        const=WHOLE_MAP,
        metavar='X,Y',
        help='draw the pixels that this pixel depends on; without a value, the whole map',
    )
    add(
        '--frame',
        type=natural,
        metavar='N',
        help='number of the frame for these two; default: the middle one',
    )
    add_switch(parser, 'classify', False, 'classify the video with the Kinetics classifier')
    options, rest = parser.parse_known_args([re.sub(r'^-(?=[a-z])', '--', a) for a in arguments])
    for given in rest:
        if given.startswith('--'):
            name = given.removeprefix('--').partition('=')[0]
            parser.error(f'Unknown command line flag {name!r}')
        raise InputError(f'{given}: not a flag; give videos as --video={given}')
    if options.attention and options.gradient:
        raise InputError('--attention and --gradient: use only one of them')
    needed = ('checkpoint', 'video') if options.classify else ('checkpoint', 'video', 'output')
    missing = [f'--{name}' for name in needed if not getattr(options, name)]
    if missing:
        raise InputError(f'{" and ".join(missing)} missing; see {parser.prog} --help')
    if options.end is not None and options.end <= (options.start or 0):
        raise InputError('--end is not after --start; give a later one')
    if options.resume and '-' in options.video:
        raise InputError('--resume: standard input cannot be read again; save the video to a file')
    return options


def load_model(options: argparse.Namespace) -> 'stsa_jax.SaliencyModel':
    """`stsa_jax.load` with the options."""
    how = {'frames': options.clip_frames} if options.clip_frames else {}
    if options.image_size:
        how['image_size'] = parse_size(options.image_size)
    if options.domain:
        how['domain'] = options.domain
    if options.allow_nonfinite:
        how['allow_nonfinite'] = True
    return stsa_jax.load(options.checkpoint, **how)


def open_video(path: str | Path, options: argparse.Namespace) -> video.Video:
    """`video.open_video` with the options."""
    return video.open_video(path, folder_fps=options.fps, allow_truncated=options.allow_truncated)


def _clip_frames(text: str) -> int:
    if not text.isdecimal() or int(text) < 16:
        raise argparse.ArgumentTypeError(f'{text}: expected an integer, 16 or more')
    return int(text)


def _time(text: str) -> Fraction:
    try:
        return parse_time(text)
    except InputError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _rate(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.1 <= value < float('inf'):
        raise argparse.ArgumentTypeError(f'{text}: expected a number, 0.1 or more')
    return value
