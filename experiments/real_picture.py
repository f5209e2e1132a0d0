"""The README's first figure: frames of a real video, fixations, and a model's maps.

    python predict.py --checkpoint=d123s_rc4_rc1T.pth --video=DHF1K/video/002.AVI --output=runs/002
    python -m experiments.real_picture --dataset=DHF1K --maps=runs/002/maps --output=docs/real.png

DHF1K is the dataset's own folder; its video 002 is in the training set. The weights are tinyHD's,
from `weights/` of github.com/feiyanhu/tinyHD.
"""

import argparse
from pathlib import Path

import numpy as np
from PIL import Image

from stsa_jax.errors import InputError, exit_cleanly
from stsa_jax.media import video, visualize

FRAMES = (60, 200, 330, 520, 700)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog='python -m experiments.real_picture',
        description='Frames of DHF1K 002, where its viewers looked, and maps.',
        allow_abbrev=False,
    )
    parser.add_argument('--dataset', type=Path, required=True, help="DHF1K's own folder")
    parser.add_argument('--maps', type=Path, required=True, help='maps of 002 from predict.py')
    parser.add_argument('--output', required=True, help='the image to write')
    options = parser.parse_args()
    annotation = options.dataset / 'annotation' / '0002'
    chosen = [
        frame.pixels
        for frame in video.open_video(options.dataset / 'video' / '002.AVI').frames
        if frame.number in FRAMES
    ]
    marked = [
        visualize.mark_fixations(pixels, grey(annotation / 'fixation' / f'{number:04d}.png') > 0)
        for pixels, number in zip(chosen, FRAMES, strict=True)
    ]
    rows = {'people': marked}
    for label, folder in {'their map': annotation / 'maps', 'tinyHD-S': options.maps}.items():
        maps = [grey(folder / f'{number:04d}.png') for number in FRAMES]
        rows[label] = [visualize.overlay(*pair) for pair in zip(chosen, maps)]
    visualize.grid_figure(options.output, rows, [f'frame {number}' for number in FRAMES])
    print(options.output)


def grey(path: Path) -> np.ndarray:
    """An 8-bit map."""
    if not path.is_file():
        raise InputError(f'{path}: there is no such map; write the maps with predict.py first')
    return np.asarray(Image.open(path).convert('L'))


if __name__ == '__main__':
    exit_cleanly(main)
