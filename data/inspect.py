"""Inspects a prepared dataset: `python -m data.inspect dhf1k --output=dhf1k.png`.

Prints a table of its splits and writes a contact sheet: frames of sample videos, with the density
map over them, and with the fixations, to see whether they belong together. Warns if the numbers say
that they do not.
"""

import argparse
import sys

import numpy as np
from PIL import Image, ImageDraw
from tqdm import tqdm

from data.videos import VideoDataset, VideoInfo, open_split, prepared_builder
from stsa_jax.errors import InputError, command, exit_cleanly
from stsa_jax.files import atomic_path
from stsa_jax.media.preprocess import resize_frame

COLUMNS = 4  # frames of each video on the sheet
# A fixation is far from all density below this fraction of the map's maximum. If the map is made of
# blurred fixations, even an isolated fixation beside many is above it.
FAINT = 0.02
MOST_NOTICED = 20  # warnings from preparation to show
MOST_FAINT = 0.1  # of a sample's fixations; more means that map and fixations differ


def main(arguments: list[str] | None = None) -> None:
    """Runs the command."""
    parser = argparse.ArgumentParser(
        prog=command('python -m data.inspect'), description=__doc__.splitlines()[0]
    )
    parser.add_argument('dataset', help='such as dhf1k, or dhf1k/224x384_png')
    parser.add_argument('--data_dir', help='where it was prepared; default: ~/tensorflow_datasets')
    parser.add_argument('--output', help='image to write; default: <dataset>.png')
    parser.add_argument('--videos', type=int, default=6, help='on the sheet')
    parser.add_argument('--seed', type=int, default=0, help='for choosing the videos')
    options = parser.parse_args(arguments)
    if options.videos < 1:
        raise InputError(f'--videos={options.videos}: at least 1 was expected')

    builder = prepared_builder(options.dataset, options.data_dir)
    config = f'{builder.info.name}/{builder.info.config_name}'
    splits = [open_split(config, split, options.data_dir) for split in builder.info.splits]
    print(table(splits))
    rng = np.random.default_rng(options.seed)
    choice = [(d, v) for d in splits for v in d.videos]
    chosen = rng.choice(len(choice), size=min(options.videos, len(choice)), replace=False)
    strips = []
    # Preparation recorded inconsistent counts and sizes.
    noticed = dict(builder.info.metadata or {}).get('problems', [])
    warnings = [str(problem) for problem in noticed[:MOST_NOTICED]]
    if len(noticed) > MOST_NOTICED:
        warnings.append(f'{len(noticed) - MOST_NOTICED} more, all are in metadata.json')
    for k in tqdm(sorted(chosen), desc='sampling', unit='video', disable=None):
        strip, found = sample(*choice[k])
        strips.append(strip)
        warnings += found
    output = options.output or f'{options.dataset.replace("/", "_")}.png'
    with atomic_path(output) as temporary:
        Image.fromarray(sheet(strips)).save(temporary)
    print(f'{output}: {len(strips)} videos; rows of each are frames, density, fixations')
    for warning in warnings:
        print(f'warning: {warning}', file=sys.stderr)


def table(splits: list[VideoDataset]) -> str:
    """Per split: videos, shortest and longest, frames, frames that cannot be targets, sizes."""
    head = ('split', 'videos', 'frames', 'shortest', 'longest', 'not targets', 'sizes')
    rows: list[tuple] = [head]
    for dataset in splits:
        lengths = [v.num_frames for v in dataset.videos]
        sizes = sorted({f'{v.width}x{v.height}' for v in dataset.videos})
        without = sum(v.num_frames - int(v.usable().sum()) for v in dataset.videos)
        shown = ', '.join(sizes[:3]) + (f' and {len(sizes) - 3} more' if len(sizes) > 3 else '')
        rows.append(
            (dataset.split, len(lengths), sum(lengths), min(lengths), max(lengths), without, shown)
        )
    widths = [max(len(str(row[c])) for row in rows) for c in range(len(head))]
    return '\n'.join(
        '  '.join(str(v).ljust(w) for v, w in zip(row, widths)).rstrip() for row in rows
    )


def sample(dataset: VideoDataset, video: VideoInfo) -> tuple[np.ndarray, list[str]]:
    """A strip (h, w, 3) of COLUMNS frames of the video, with its maps below; and warnings."""
    from stsa_jax.media.visualize import mark_fixations, overlay

    places = np.unique(np.linspace(0, video.num_frames - 1, COLUMNS + 2)[1:-1].round().astype(int))
    columns, numbers, faint, fixated, warnings = [], [], 0, 0, []
    for place in places:
        i = video.first_example + int(place)
        frame, density, fixations = dataset.frame(i), dataset.density(i), dataset.fixations(i)
        frame = resize_frame(frame, (max(16, round(240 * video.height / video.width)), 240))
        pictures = [frame, frame, frame]
        if density is not None and fixations is not None:
            pictures[1] = overlay(frame, density)
            pictures[2] = mark_fixations(frame, fixations)
            if density.shape != fixations.shape:
                warnings.append(f'frame {dataset.frame_number(i)}: maps of different sizes')
            else:
                fixated += int(fixations.sum())
                faint += int((density[fixations] < FAINT).sum())
            if density.max() == 0 and fixations.any():
                warnings.append(f'frame {dataset.frame_number(i)}: fixations, but an empty density')
        columns.append(np.pad(np.concatenate(pictures), ((0, 0), (0, 4), (0, 0))))
        numbers.append(dataset.frame_number(i))
    if fixated and faint > MOST_FAINT * fixated:
        warnings.append(
            f"{faint} of {fixated} fixations lie outside the density map's mass; do maps and "
            'fixations belong to the same frames?'
        )
    strip = np.concatenate(columns, axis=1)
    caption = Image.new('RGB', (strip.shape[1], 20), 'white')
    text = f'{dataset.split}: {video.name}, frames {", ".join(map(str, numbers))}'
    ImageDraw.Draw(caption).text((4, 3), text, 'black')
    return np.concatenate([np.asarray(caption), strip]), [
        f'{dataset.split}, {video.name}: {w}' for w in warnings
    ]


def sheet(strips: list[np.ndarray]) -> np.ndarray:
    """Stacks strips of any sizes, padded with white."""
    width = max(s.shape[1] for s in strips)
    padded = [
        np.pad(s, ((0, 8), (0, width - s.shape[1]), (0, 0)), constant_values=255) for s in strips
    ]
    return np.concatenate(padded)


if __name__ == '__main__':
    exit_cleanly(main)
