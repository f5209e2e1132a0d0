"""Command-line options for a folder of recordings; for data.prepare and evaluate.py."""

import argparse
import re

from data.own.gaze_columns import NAMES
from data.own.looking import FRACTIONS, PIXELS, UNITS
from data.own.recordings import How
from data.own.video import Sigma, check_sigma
from stsa_jax.errors import InputError


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options on annotation; see docs/your_data.md."""
    group = parser.add_argument_group('your own recordings')
    add = group.add_argument
    add('--set', default='', help='which set, where a folder has several (video_frames/<set>)')
    add(
        '--sigma', default='', metavar='PIXELS|DEGREESdeg',
        help="of density maps made from fixations: in the video's pixels, or 1deg; by default "
        "2%% of the video's width",
    )  # fmt: skip
    add('--viewing_distance', type=float, default=0, help='for --sigma=...deg, in cm, say')
    add('--screen_width', type=float, default=0, help='for --sigma=...deg, in the same unit')
    add('--fps', type=float, default=30, help='of folders of frames, for gaze with times')
    add(
        '--gaze_columns', default='', metavar='x=NAME,y=NAME,...',
        help=f'which column of a table is what, of {", ".join(NAMES)}; or its place, from 1',
    )  # fmt: skip
    add('--gaze_units', choices=[PIXELS, FRACTIONS], default='', help='of x and y')
    add('--gaze_time', choices=list(UNITS), default='', help='unit of the times')
    add('--gaze_clock', choices=['video', 'record'], default='',
        help="whether times count from the video's beginning or from the record's")  # fmt: skip
    add('--gaze_screen', default='', metavar='WxH', help="the screen's pixels that x and y are in")
    add('--gaze_unscaled', action='store_true',
        help='the video was shown in its own size in the middle of that screen')  # fmt: skip
    add('--gaze_first_frame', type=int, help="number of a video's first frame in the tables")


def how_of(options: argparse.Namespace, *, split: str = '', seed: int = 0) -> How:
    """The options as a `How`. Raises InputError for one that cannot be read."""
    columns = []
    for pair in filter(None, options.gaze_columns.split(',')):
        what, equals, name = pair.partition('=')
        if what not in NAMES or not equals or not name:
            raise InputError(
                f'--gaze_columns={options.gaze_columns}: pairs such as x=GazeX,y=GazeY were '
                f'expected, of {", ".join(NAMES)}'
            )
        columns.append((what, name))
    places = [name.isdecimal() for _, name in columns]
    if any(places) and not (all(places) and {'x', 'y'} <= dict(columns).keys()
                            and {'time', 'frame'} & dict(columns).keys()):  # fmt: skip
        raise InputError(
            f'--gaze_columns={options.gaze_columns}: give the position of every column used, at '
            'least x, y, and time or frame'
        )
    screen = None
    if options.gaze_screen:
        if not (size := re.fullmatch(r'([1-9]\d*)x([1-9]\d*)', options.gaze_screen)):
            raise InputError(f'--gaze_screen={options.gaze_screen}: WIDTHxHEIGHT was expected')
        screen = int(size[2]), int(size[1])
    if not options.fps > 0:
        raise InputError(f'--fps={options.fps:g}: a positive number was expected')
    return How(
        split, seed, options.set, _sigma(options), options.fps, tuple(columns), options.gaze_units,
        UNITS.get(options.gaze_time, 0), screen, not options.gaze_unscaled, options.gaze_clock,
        options.gaze_first_frame,
    )  # fmt: skip


def _sigma(options: argparse.Namespace) -> Sigma:
    if not options.sigma:
        return Sigma()
    given = re.fullmatch(r'(\d*\.?\d+)(px|deg)?', options.sigma)
    if not given or not float(given[1]):
        raise InputError(
            f'--sigma={options.sigma}: a number of pixels such as 12.7, or of degrees such as 1deg'
        )
    if given[2] != 'deg':
        return Sigma(pixels=float(given[1]))
    sigma = Sigma(0, float(given[1]), options.viewing_distance, options.screen_width)
    check_sigma(sigma)
    return sigma
