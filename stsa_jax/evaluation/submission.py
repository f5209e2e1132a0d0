"""Maps for a benchmark server: `<video>/<frame>.png`, 8-bit grey, at each video's size, verified.

The folder appears under its final name only when every map has been written and read back. Until
then it is named `<name>.unfinished`, and the same call continues with the incomplete videos.
"""

import os
import shutil
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from stsa_jax.errors import InputError, ranges
from stsa_jax.evaluation.selection import Dataset, Selected, select
from stsa_jax.evaluation.sources import Source
from stsa_jax.files import output_folder, write_atomic
from stsa_jax.media.visualize import to_8bit

# What a benchmark's server expects: the names of the videos, and the total number of frames.
DUE = {('dhf1k', 'test'): ([f'{number:04d}' for number in range(701, 1001)], 176_192)}


def write_submission(
    source: Source, dataset: Dataset, folder: str | os.PathLike, *, allow_missing: bool = False
) -> dict[str, int]:
    """Writes the maps of every frame of `dataset` (a split, annotated or not) and verifies them.

    Args:
        source: of the maps, see `sources`; of any size, they are resized to the video's.
        folder: must not exist, or be unfinished output of this function.
        allow_missing: write even if the copy of the dataset lacks videos that the server expects.

    Returns the number of videos and frames. Raises InputError if `folder` exists, if the copy lacks
    videos, or if the written maps are not exactly the expected ones.
    """
    if not allow_missing and (lacking := missing_videos(dataset)):
        raise InputError(
            f'{dataset.name}, split {dataset.split!r}: {len(lacking)} of the videos that the '
            f'benchmark expects are not in this copy: {ranges(lacking)}. Prepare the complete '
            'dataset, or write the maps of the others with --allow_missing'
        )
    folder = Path(folder)
    if folder.exists():
        raise InputError(f'{folder}: already exists; use a new folder, or remove this one')
    unfinished = output_folder(folder.with_name(f'{folder.name}.unfinished'))
    videos, identity = select(dataset), unfinished / '.source'
    made_by = f'{source.identity()} {dataset.name} {dataset.split}'
    if identity.exists() and identity.read_text() != made_by:
        raise InputError(
            f'{unfinished}: was started with another model or dataset; remove it or use another'
        )
    write_atomic(identity, made_by)
    total = sum(v.num_frames for v in videos)
    with tqdm(total=total, desc=f'{dataset.name}: maps', unit='frame', disable=None) as bar:
        for video in videos:
            if not (unfinished / video.name).exists():
                _write_video(source, dataset, video, unfinished, bar)
            else:
                bar.update(video.num_frames)
    found = verify(unfinished, dataset)
    identity.unlink()
    unfinished.rename(folder)
    return found


def missing_videos(dataset: Dataset) -> list[int]:
    """Numbers of the videos that the benchmark expects but this copy of the split lacks."""
    names, _ = DUE.get((dataset.name, dataset.split), ((), 0))
    there = {v.name for v in dataset.videos}
    return [int(name) for name in names if name not in there]


def verify(folder: str | os.PathLike, dataset: Dataset) -> dict[str, int]:
    """Checks that `folder` holds exactly the expected maps: videos, frames, size, 8-bit grey.

    Every file is decoded. Raises InputError that lists the problems; returns the counts.
    """
    folder, problems, frames = Path(folder), [], 0
    due = {v.name: v for v in select(dataset)}
    there = {p.name for p in folder.iterdir() if p.name != '.source'}
    problems += [f'{folder / name}: not a video of the split' for name in sorted(there - set(due))]
    for video in tqdm(due.values(), desc='verifying', unit='video', disable=None):
        if video.name not in there:
            problems.append(f'{folder / video.name}: missing')
            continue
        names = {file_name(dataset, e) for e in video.examples.tolist()}
        files = {p.name for p in (folder / video.name).iterdir()}
        problems += [f'{folder / video.name / n}: missing' for n in sorted(names - files)]
        problems += [f'{folder / video.name / n}: not a frame' for n in sorted(files - names)]
        for name in sorted(names & files):
            problem = _wrong(folder / video.name / name, (video.width, video.height))
            problems += [problem] if problem else []
            frames += 1
    if problems:
        more = f'\n  ... and {len(problems) - 12} more' if len(problems) > 12 else ''
        raise InputError(
            f'{folder}: not a valid submission for {dataset.name} {dataset.split}:\n  '
            + '\n  '.join(problems[:12])
            + more
        )
    return {'videos': len(due), 'frames': frames}


def file_name(dataset: Dataset, example: int) -> str:
    """`0001.png`: the frame's number in the dataset's numbering."""
    return f'{dataset.frame_number(example):04d}.png'


def _write_video(source, dataset, video: Selected, folder: Path, bar) -> None:
    part = folder / f'.part-{video.name}'
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    count = 0
    for example, saliency in zip(video.examples.tolist(), source.maps(video)):
        saliency, size = np.asarray(saliency), (video.height, video.width)
        if saliency.dtype != np.uint8 or saliency.shape != size:  # a file's map is unchanged
            saliency = to_8bit(saliency, size)
        image = Image.fromarray(saliency)
        image.save(part / file_name(dataset, example))
        count += 1
        bar.update()
    if count != video.num_frames:
        raise InputError(f'{video.name}: {count} maps for its {video.num_frames} frames')
    part.rename(folder / video.name)


def _wrong(path: Path, size: tuple[int, int]) -> str | None:
    try:
        with Image.open(path) as image:
            image.load()
            if image.mode != 'L':
                return f'{path}: mode {image.mode}, expected 8-bit grey (L)'
            if image.size != size:
                return f'{path}: {image.size[0]}x{image.size[1]}, expected {size[0]}x{size[1]}'
            if image.format != 'PNG':
                return f'{path}: {image.format}, expected PNG'
    except (OSError, SyntaxError, ValueError) as error:
        return f'{path}: cannot be read ({error})'
    return None
