"""The options of `evaluate`."""

import argparse

from data.own.options import add_options
from stsa_jax import evaluation
from stsa_jax.commands.flags import natural
from stsa_jax.evaluation.selection import CLIP


def parser() -> argparse.ArgumentParser:
    """The options, except for --config.field=value."""
    made = argparse.ArgumentParser(
        description='Scores saliency models.',
        epilog='With --config, any field can be changed: --config.data.eval_split=test',
        allow_abbrev=False,
    )
    add = made.add_argument
    add('--config', help='a config file that names the datasets, such as configs/dhf1k.py')
    add(
        '--workdir',
        action='append',
        default=[],
        metavar='[NAME=]DIR',
        help='a folder of train.py; may be repeated',
    )
    add('--step', help="checkpoint of --workdir: a number, or 'best' (default: the latest)")
    add(
        '--checkpoint',
        action='append',
        default=[],
        metavar='[NAME=]PATH',
        help='a checkpoint folder, a PyTorch or safetensors file; may be repeated',
    )
    add(
        '--predictions',
        action='append',
        default=[],
        metavar='[NAME=]DIR',
        help='a folder of maps, <video>/<frame>.png; may be repeated',
    )
    add('--allow_missing', action='store_true', help='score incomplete maps')
    add('--allow_extra', action='store_true', help='leave out maps of frames that are not stored')
    add(
        '--first_frame',
        type=natural,
        metavar='N',
        help="the number of each video's first map in --predictions (default: its frame's)",
    )
    add(
        '--in_order',
        action='store_true',
        help='the maps in --predictions belong to the stored frames in order, one for each',
    )
    add('--allow_nonfinite', action='store_true', help='accept weights with NaN or infinity')
    add('--dataset', action='append', default=[], help='a prepared dataset; may be repeated')
    add('--split', help="default: the config's, or validation; DIEM: test_i, ii, iii")
    add('--data_dir', help="where datasets were prepared (default: the config's, or TFDS's)")
    add(
        '--truth',
        metavar='DIR',
        help='score --predictions against this folder, in any of the arrangements that '
        'docs/your_data.md has, instead of a prepared dataset',
    )
    add('--protocol', default='dhf1k', help=', '.join(evaluation.PROTOCOLS))
    add(
        '--every',
        type=every,
        default=1,
        metavar='N',
        help="use every n-th frame of a video, or 'clip': the frames on which the released code "
        'validates (on DHF1K the 16th of every 32)',
    )
    add('--seed', type=natural, default=0, help='of all random draws')
    add('--output', help='folder for the results')
    add('--image_size', metavar='H,W', help="resample the models' weights for frames of this size")
    add(
        '--clip_frames', type=int, help="resample the models' weights for clips of this many frames"
    )
    add('--domain', help="of UNISAL: the dataset whose parts are used (default: DHF1K's)")
    add('--batch_size', type=natural, default=0, help='windows at once, over all devices')
    add('--workers', type=natural, default=0, help='scoring threads; 0 for one per core')
    add(
        '--observers',
        metavar='DIR',
        help="a copy with the viewers' gaze records, for the inter-observer row",
    )
    add('--no_references', action='store_true', help='leave out the reference rows')
    add('--submission', metavar='DIR', help='write and verify the maps for a benchmark server')
    add_options(made)
    return made


def every(text: str) -> int | str:
    """--every: a number, or 'clip'."""
    if text == CLIP or (text.isdecimal() and int(text)):
        return text if text == CLIP else int(text)
    raise argparse.ArgumentTypeError(f"{text}: expected 1 or more, or '{CLIP}'")
