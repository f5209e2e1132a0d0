"""Prepares a dataset for training: `python -m data.prepare dhf1k --source=/where/it/is`.

Your own recordings become one by `python -m data.prepare folder --name=mine --source=DIR`, with all
that docs/your_data.md says; videos without annotation by what another model makes of them:
`python -m data.prepare videos --name=mine --source=DIR --teacher=WEIGHTS`.

Prints the layout of the copy and its problems, then stores it with TFDS, on all cores. Run it again
to resume an interrupted preparation.
"""

import argparse
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from stsa_jax import files, mirror
from stsa_jax.errors import InputError, command, exit_cleanly
from stsa_jax.remote import is_remote

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

    from data.own.recordings import How

FOLDER, VIDEOS = 'folder', 'videos'


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    from data.own.options import add_options
    from data.preparation.registry import BUILDERS

    parser = argparse.ArgumentParser(
        prog=command('python -m data.prepare'), description=__doc__.splitlines()[0]
    )
    parser.add_argument('dataset', choices=[*sorted(BUILDERS), FOLDER, VIDEOS])
    parser.add_argument('--source', help='folder of your copy (none for stsa_...)')
    parser.add_argument('--name', help=f'name of the dataset, for {FOLDER} or {VIDEOS}')
    parser.add_argument(
        '--split', default='', metavar='FILE|SHARES',
        help=f'for {FOLDER}: a table of video and split, or 0.8,0.1,0.1; default: by folders',
    )  # fmt: skip
    parser.add_argument('--seed', type=int, default=0, help='for the split by shares')
    parser.add_argument('--data_dir', help='where to store it; by default ~/tensorflow_datasets')
    parser.add_argument(
        '--size', default='default',
        help="frames' size HEIGHTxWIDTH, or original; by default 224x384, for training",
    )  # fmt: skip
    parser.add_argument('--lossless', action='store_true', help='frames as PNG instead of JPEG')
    parser.add_argument('--strict', action='store_true', help='any problem is an error')
    parser.add_argument('--num_workers', type=int, help='processes; by default one per core')
    parser.add_argument(
        '--teacher', metavar='WEIGHTS',
        help=f'for {VIDEOS}: the model whose maps are the densities; any that stsa_jax.load reads',
    )  # fmt: skip
    parser.add_argument('--batch_size', type=int, default=1, help='frames that it predicts at once')
    add_options(parser)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    options = parse(arguments)
    logging.set_verbosity(logging.ERROR)  # the builder would repeat these messages
    if options.source:
        files.refuse_remote(options.source, reads=True)
    if not (options.data_dir and is_remote(options.data_dir)):
        prepare(options)
        return
    address = f'{options.data_dir.rstrip("/")}/{options.name or options.dataset}'
    with mirror.folder(address) as here:
        options.data_dir = str(here.parent)
        prepare(options)
    print(f'copied to {address}')


def prepare(options: argparse.Namespace) -> None:
    """Prepares a dataset, and reports what was found."""
    from data.copies.sources import Report
    from data.preparation.registry import load_builder, prepare_dataset

    settings = {
        'size': size_of(options.size),
        'encoding': 'png' if options.lossless else 'jpeg',
        'num_workers': options.num_workers,
        'strict': options.strict,
    }
    if options.dataset in (FOLDER, VIDEOS):
        print(summary(prepare_folder(options, settings)))
        return
    if options.name or options.split or options.teacher:
        raise InputError(
            f'--name, --split, --teacher: are for {FOLDER} and {VIDEOS}; {options.dataset} is a '
            'published dataset'
        )
    builder = load_builder(options.dataset, options.data_dir, **settings)
    if builder.is_prepared():
        builder.check_prepared()
        print(f'{builder.data_dir}: is prepared already; remove this folder to prepare it again')
        return
    if builder.MANUAL_DOWNLOAD_INSTRUCTIONS:
        if not options.source:
            raise InputError(
                f'--source: the folder of your copy of {options.dataset} was expected\n'
                f'{builder.MANUAL_DOWNLOAD_INSTRUCTIONS}'
            )
        report = Report()
        found = builder.find_videos(Path(options.source).expanduser().absolute(), report)
        print(f'{options.source}: {options.dataset}, {builder.layout}')
        for split, videos in found.items():
            print(f'  {split}: {len(videos)} videos')
        tell(report.problems)
        told = len(report.problems)
    else:
        told = 0
    builder = prepare_dataset(options.dataset, options.data_dir, options.source, **settings)
    tell(builder.problems[told:])
    print(summary(builder))


def prepare_folder(options: argparse.Namespace, settings: dict) -> 'tfds.core.DatasetBuilder':
    """Prepares a user's own recordings, or adds new ones; reports what was found."""
    from data.own.builder import prepare_recordings
    from data.own.options import how_of
    from data.preparation.registry import check_name

    if not options.name or not options.source:
        raise InputError(f'{options.dataset}: --name=NAME and --source=DIR were expected')
    if bool(options.teacher) != (options.dataset == VIDEOS):
        raise InputError(
            f"--teacher: belongs to {VIDEOS}, whose densities are a model's maps; {FOLDER} takes "
            'the annotation that is there'
        )
    check_name(options.name)
    how = how_of(options, split=options.split, seed=options.seed)
    source = Path(options.source).expanduser().absolute()
    if options.dataset == VIDEOS:
        settings = {**settings, 'maps_in': teach(options, how, source)}
    told: list = []

    def say(builder, found, problems, news: str) -> None:
        print(f'{options.source}: {options.name}')
        for split, videos in found.items():
            print(f'  {split}: {len(videos)} videos')
        for note in builder.recordings.notes:
            print(f'  {note}')
        tell(problems)
        told.extend(problems)
        if builder.earlier.splits:
            print(
                f'  videos: {news}; the rest stays' if news else '  is prepared already, as it is'
            )

    builder = prepare_recordings(options.name, how, source, options.data_dir, tell=say, **settings)
    tell(builder.problems[len(told) :])
    return builder


def teach(options: argparse.Namespace, how: 'How', source: Path) -> Path:
    """Makes the teacher write its maps of all videos; returns their folder."""
    # Only this command imports the models; the rest of preparation reads map files.
    import stsa_jax
    from data.copies.folders import FolderVideo
    from data.copies.sources import Report
    from data.own.recordings import find_recordings
    from data.preparation.registry import default_data_dir
    from stsa_jax.inference import teacher
    from stsa_jax.ops import cpu

    folder = Path(options.data_dir or default_data_dir()).expanduser() / options.name / 'teacher'
    videos = find_recordings(source, how, Report(), maps_in=folder).videos
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # cleans up, as after Ctrl-C
    cpu.set_up()
    model = stsa_jax.load(options.teacher)
    films = [FolderVideo(video.name, video.root, video.frames_from) for video in videos]
    lessons = [teacher.Lesson(f.name, Path(f.frames_from), f.identity()) for f in films]
    print(f'{options.source}: {len(lessons)} videos, maps by {options.teacher} in {folder}')
    for line in teacher.write_maps(
        model, lessons, folder, batch_size=options.batch_size, fps=how.fps
    ):
        print(f'  note: {line}; no maps of it', file=sys.stderr)
    return folder


def size_of(text: str) -> tuple[int, int] | str | None:
    """'224x384' -> (224, 384), 'original' -> None; 'default' as it is. Raises InputError."""
    if text == 'default':
        return text
    if text == 'original':
        return None
    if not (match := re.fullmatch(r'(\d+)x(\d+)', text)) or '0' in match.groups():
        raise InputError(f'--size={text}: HEIGHTxWIDTH, such as 224x384, or original was expected')
    return int(match[1]), int(match[2])


def tell(problems: Sequence) -> None:
    """Prints problems to standard error, the first ones in full."""
    for problem in problems[:30]:
        print(f'  note: {problem}', file=sys.stderr)
    if len(problems) > 30:
        print(f'  and {len(problems) - 30} more; all are in metadata.json', file=sys.stderr)


def summary(builder: 'tfds.core.DatasetBuilder') -> str:
    """What was stored, as a table by split."""
    lines = [f'{builder.data_dir}', f'{"split":12}{"videos":>8}{"frames":>9}{"MB":>9}']
    for split, info in builder.info.splits.items():
        videos = len(builder.info.metadata['videos'][split])
        size = sum(Path(path).stat().st_size for path in info.filepaths) / 1e6
        lines.append(f'{split:12}{videos:8}{info.num_examples:9}{size:9.1f}')
    return '\n'.join(lines)


if __name__ == '__main__':
    exit_cleanly(main)
