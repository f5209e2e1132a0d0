"""Eye-tracker records to maps: `python -m data.fixations dhf1k --source=COPY --output=DIR`.

For DHF1K, reads COPY/exportdata_train/P*/P*_Trail<video>.txt and writes, in the dataset's layout,
DIR/annotation/<video>/{maps,fixation}/<frame>.png. For DIEM, reads <name>_<W>x<H>/event_data/*.txt
and writes DIR/<name>_<W>x<H>/{maps,fixation}/<frame>.png. With --compare, also compares the result
with the annotation in COPY. Viewers' files that cannot be read are reported and left out. The
mappings are in data.gaze.
"""

import argparse
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from data import diem, gaze
from data.copies import folders, images, tree
from data.copies.sources import Report
from data.copies.video_file import frames_of_video
from stsa_jax.errors import InputError, command, exit_cleanly
from stsa_jax.files import output_folder, refuse_remote, write_atomic


class Recorded(NamedTuple):
    """One video's records: name, viewers' fixations, frames and their size, the folder of maps."""

    name: str
    fixations: gaze.Fixations
    num_frames: int
    size: tuple[int, int]
    sigma: float
    folder: str  # of its annotation, in the output and in the copy


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog=command('python -m data.fixations'), description=__doc__.splitlines()[0]
    )
    parser.add_argument('dataset', choices=['dhf1k', 'diem'])
    parser.add_argument('--source', required=True, help='folder of your copy, with the records')
    parser.add_argument('--output', required=True, help='folder to write to')
    parser.add_argument('--videos', nargs='*', help='numbers (DHF1K) or names (DIEM); default: all')
    parser.add_argument(
        '--num_frames', type=int, help='frames per video; default: those of the video'
    )
    parser.add_argument('--sigma', type=float, help='of the Gaussian, in pixels of the video')
    parser.add_argument(
        '--compare', action='store_true', help="compare with the copy's own annotation"
    )
    options = parser.parse_args(arguments)
    refuse_remote(options.source, reads=True)
    root = Path(options.source).expanduser()
    if not root.is_dir():
        raise InputError(f'{root}: the folder of a copy of {options.dataset} was expected')
    if options.sigma is not None and not options.sigma > 0:
        raise InputError(f'--sigma={options.sigma}: a positive number of pixels was expected')
    output = output_folder(options.output)
    if options.compare and output.resolve() == root.resolve():
        raise InputError(
            f'{output}: is the copy itself, whose annotation --compare would overwrite'
        )
    find = find_dhf1k if options.dataset == 'dhf1k' else find_diem
    report, found, failed = Report(), 0, []
    for video in find(root, options.videos, report):
        video = video._replace(
            num_frames=options.num_frames or video.num_frames, sigma=options.sigma or video.sigma
        )
        found += 1
        write(video, output)
        print(f'{video.name}: {video.num_frames} frames in {output / video.folder}')
        if options.compare:
            try:
                print(f'  {compare(video, output, root)}')
            except InputError as error:
                print(f'  {error}')
                failed.append(video.name)
    for problem in report.problems:
        print(f'  note: {problem}')
    print(f'{found} videos, {len(report.problems)} notes')
    if not found:
        raise InputError(
            f'{root}: no video of {options.dataset} has a record that can be read'
            + ''.join(f'\n  {problem}' for problem in report.problems[:5])
        )
    if failed:
        raise InputError(
            f'{len(failed)} of {found} videos were not compared, see above: '
            + ', '.join(failed[:5])
        )


def find_dhf1k(root: Path, videos: list[str] | None, report: Report) -> Iterator[Recorded]:
    """The videos with records in `exportdata_train`, or the requested ones."""
    top = tree.find(root, 'exportdata_train') or root
    records: dict[int, list[Path]] = {}
    for viewer in tree.folders(top, root, report):
        used = []
        for path in tree.entries(viewer, root, report):
            if named := re.fullmatch(r'P\d+_Trail(\d+)\.txt', path.name, re.IGNORECASE):
                records.setdefault(int(named[1]), []).append(path)
                used.append(path)
        tree.note_strays(viewer, root, report, used)
    wanted = _numbers(videos) if videos else sorted(records)
    if absent := [number for number in wanted if number not in records]:
        there = tree.ranges(records) or 'none'
        raise InputError(
            f'{top}: no record P*/P*_Trail{absent[0]:03d}.txt; records of videos found: {there}'
        )
    for number in wanted:
        viewers = gaze.read_all(records[number], gaze.read_dhf1k, report)
        if not viewers:
            report.add(top, f'no record of video {number} can be read', 'video skipped')
            continue
        fixations = gaze.Fixations.together(viewers)
        film = tree.find(root, 'video', f'{number:03d}.AVI')
        frames = _count_frames(film, root, f'video/{number:03d}.AVI', fixations, report)
        yield Recorded(
            f'{number:04d}', fixations, frames, gaze.DHF1K_SIZE, gaze.DHF1K_SIGMA,
            f'annotation/{number:04d}',
        )  # fmt: skip


def find_diem(root: Path, videos: list[str] | None, report: Report) -> Iterator[Recorded]:
    """The videos with a folder `event_data`, or those requested, with or without size."""
    found = {}
    for folder in tree.folders(root, root, report):
        named = re.fullmatch(r'(.+)_(\d+)x(\d+)', folder.name)
        events = tree.find(folder, 'event_data')
        if named and events:
            found[named[1]] = (folder, events, (int(named[3]), int(named[2])))
    if not found:
        raise InputError(
            f'{root}: folders <name>_<W>x<H>/event_data were expected; found:\n{tree.outline(root)}'
        )
    names = [re.sub(r'_\d+x\d+$', '', wanted) for wanted in videos or sorted(found)]
    if absent := [name for name in names if name not in found]:
        raise InputError(f'{root}: no video {absent[0]!r}; available: {", ".join(sorted(found))}')
    for name in names:
        folder, events, size = found[name]
        viewers = diem.read_viewers(events, root, size, report)
        if not viewers:
            report.add(events, 'no gaze file (.txt) in it can be read', 'video skipped')
            continue
        fixations = gaze.Fixations.together(viewers)
        films = tree.find(folder, 'video')
        inside = tree.entries(films, root, report) if films else []
        film = next((p for p in inside if p.suffix.lower() in tree.VIDEOS
                     and not tree.is_litter(p)), None)  # fmt: skip
        frames = _count_frames(film, folder, 'video', fixations, report)
        yield Recorded(
            folder.name, fixations, frames, size, diem.RELATIVE_SIGMA * size[1], folder.name
        )


def write(video: Recorded, output: Path) -> None:
    """Writes the maps of all frames, numbered from 1, with at least four digits."""
    folder = output / video.folder
    for kind in ('maps', 'fixation'):
        output_folder(folder / kind)
    for n in tqdm(range(video.num_frames), desc=video.name, unit='frame', disable=None):
        fixated = video.fixations.map(n, video.size)
        density = images.rescale_to_uint8(gaze.density_map(fixated, video.sigma))
        write_atomic(folder / 'maps' / f'{n + 1:04d}.png', images.encode_map(density))
        write_atomic(folder / 'fixation' / f'{n + 1:04d}.png', images.encode_map(fixated))


def compare(video: Recorded, output: Path, root: Path) -> str:
    """One line that compares the written maps with those in the copy.

    Raises InputError if no frame has readable maps in both.
    """
    theirs = tree.find(root, *video.folder.split('/'))
    report, pairs = Report(), []
    for base, inside in ((output / video.folder, output), (theirs, root)):
        here = (base and tree.find(base, kind) for kind in ('maps', 'fixation'))
        maps, fixated = (tree.numbered(k, inside, tree.IMAGES, report) if k else {} for k in here)
        pairs.append(folders.FileAnnotation(maps, fixated, 'I'))
    common = sorted(pairs[0].numbers & pairs[1].numbers)
    compared, differing, points, lone, ccs, unread = 0, 0, 0, 0, [], []
    for n in common:
        try:
            (ours, our_fixations), (their, their_fixations) = (side.read(n) for side in pairs)
            if ours.size != their.size:
                raise ValueError(f'{their.size[::-1]}, but {ours.size[::-1]} was expected')
            a, b = ours.values, their.values
        except (OSError, ValueError) as error:
            unread.append(f'{getattr(error, "path", pairs[1].path(n))}: {error}')
            continue
        compared += 1
        points += int(np.count_nonzero(their_fixations.values))
        differing += int(np.count_nonzero(our_fixations.values != their_fixations.values))
        if np.ptp(a) and np.ptp(b):
            ccs.append(float(np.corrcoef(a.ravel(), b.ravel())[0, 1]))
        elif not np.array_equal(a, b):
            lone += 1
    if not compared:
        raise InputError(
            f'{theirs or root / video.folder}: no frame of {video.name} to compare with; {{maps,'
            f'fixation}}/<number> of the frames 1 to {video.num_frames} were expected'
            + (f'; {unread[0]}' if unread else '')
        )
    line = f'{compared} frames compared: {differing} of {points} fixated pixels differ, '
    if lone:
        line += f'{lone} frames have density in only one of the two, '
    if unread:
        line += f'{len(unread)} frames cannot be compared ({unread[0]}), '
    if not ccs:
        return line + 'no density map to correlate'
    return line + f'lowest CC of a density map {min(ccs):.6f}'


def _count_frames(
    film: Path | None, folder: Path, name: str, fixations: gaze.Fixations, report: Report
) -> int:
    """The number of the video's frames, or of the last recorded frame."""
    numbers = (number for number, _ in frames_of_video(film, report)) if film else ()
    if frames := max(numbers, default=0):
        return frames
    frames = int(fixations.frame.max(initial=-1)) + 1
    report.add(
        folder, f'no {name} to count frames in',
        f'{frames} frames, as far as the records go; see --num_frames',
    )  # fmt: skip
    return frames


def _numbers(videos: list[str]) -> list[int]:
    if bad := [v for v in videos if not v.isdecimal()]:
        raise InputError(f'--videos {bad[0]}: numbers were expected, such as 2')
    return [int(v) for v in videos]


if __name__ == '__main__':
    exit_cleanly(main)
