"""Visualises saliency: heat maps over frames, prediction beside ground truth, training curves.

Images are uint8 RGB `(h, w, 3)`. Maps are `(h, w)` of any size and non-negative scale: each is
divided by its maximum and resized (bilinear) to the frame below it.
"""

import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stsa_jax.files import atomic_path
from stsa_jax.media.preprocess import resize_density, resize_frame

COLOUR_MAP = 'turbo'  # jet's order of colours, usual in the field, but perceptually smoother
_GAP = 6  # pixels between the images of a row


def scale_to_max(saliency: np.ndarray) -> np.ndarray:
    """float32 map divided by its maximum, so in [0, 1]; an all-zero map stays zero."""
    saliency = np.maximum(np.asarray(saliency, np.float32), 0)
    peak = saliency.max()
    return saliency / peak if peak > 0 else saliency


def to_8bit(saliency: np.ndarray, size: tuple[int, int], peak: float | None = None) -> np.ndarray:
    """Map `(h, w)` -> uint8 `size` = (H, W): resized (bilinear), then scaled so its maximum is 255.

    Scaling each map by its own maximum makes the best use of 8 bits. CC, SIM, NSS, KL and AUC are
    invariant to the scale of a map; only its relation to the maps of other frames is lost. With
    `peak`, values from there on become 255.
    """
    resized = resize_density(saliency, size)
    scaled = resized / peak if peak else scale_to_max(resized)
    return np.rint(np.clip(scaled, 0, 1) * 255).astype(np.uint8)


def heat_map(saliency: np.ndarray) -> np.ndarray:
    """Map `(h, w)` -> colours, uint8 `(h, w, 3)`: dark blue for zero, dark red for the maximum."""
    return _colours()[to_8bit(saliency, saliency.shape)]


def overlay(
    frame: np.ndarray, saliency: np.ndarray, opacity: float = 0.75, peak: float | None = None
) -> np.ndarray:
    """Frame uint8 `(h, w, 3)` with the map's colours over it, more opaque where more salient.

    `opacity` is that of the colour at the map's maximum; where the map is zero the frame is
    unchanged. `peak` as in `to_8bit`, for maps to be compared.
    """
    weight, coloured = _blend_tables(opacity)
    level = to_8bit(saliency, frame.shape[:2], peak)
    return ((frame * (256 - weight[level])[..., None] + coloured[level]) >> 8).astype(np.uint8)


def mark_fixations(picture: np.ndarray, fixations: np.ndarray) -> np.ndarray:
    """Draws a white dot with a dark rim where the bool map `(h', w')` of fixations is true."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    radius = max(2, round(picture.shape[0] / 90))
    scale = np.divide(picture.shape[:2], fixations.shape)
    for row, column in (np.argwhere(fixations) + 0.5) * scale - 0.5:
        box = (column - radius, row - radius, column + radius, row + radius)
        draw.ellipse(box, fill='white', outline='black')
    return np.asarray(image)


def mark_cross(picture: np.ndarray, place: tuple[float, float]) -> np.ndarray:
    """Draws a white cross with a dark rim at `place`, (x, y) as fractions of width and height."""
    image = Image.fromarray(picture)
    draw = ImageDraw.Draw(image)
    arm = max(4, picture.shape[0] // 20)
    x, y = place[0] * picture.shape[1], place[1] * picture.shape[0]
    for colour, width in (('black', arm // 2 + 2), ('white', max(1, arm // 4))):
        draw.line((x - arm, y, x + arm, y), colour, width)
        draw.line((x, y - arm, x, y + arm), colour, width)
    return np.asarray(image)


def side_by_side(
    frame: np.ndarray,
    prediction: np.ndarray,
    density: np.ndarray | None = None,
    fixations: np.ndarray | None = None,
    min_height: int = 240,
) -> np.ndarray:
    """One image: the frame, the prediction over it, the ground truth over it, each with a label.

    Args:
        frame: uint8 `(h, w, 3)`; enlarged to `min_height` rows if it has fewer.
        prediction: map, any size.
        density: ground-truth density map, any size; None: no third image.
        fixations: bool map, any size: dots on the ground truth; None: no dots.
        min_height: in pixels.

    Returns:
        uint8 `(H, W, 3)`, of the same size for the same sizes of the arguments.
    """
    height, width = frame.shape[:2]
    if height < min_height:
        frame = resize_frame(frame, (min_height, round(width * min_height / height)))
    pictures = {'frame': frame, 'prediction': overlay(frame, prediction)}
    if density is not None:
        truth = overlay(frame, density)
        pictures['ground truth'] = truth if fixations is None else mark_fixations(truth, fixations)
    return row(pictures)


def row(pictures: Mapping[str, np.ndarray]) -> np.ndarray:
    """Images uint8 `(h, w, 3)` of one height side by side, each under its label."""
    height = next(iter(pictures.values())).shape[0]
    size = max(12, height // 16)
    font = ImageFont.load_default(size)
    bar = round(size * 1.6)
    width = sum(p.shape[1] + _GAP for p in pictures.values()) - _GAP
    canvas = Image.new('RGB', (width, height + bar), 'black')
    draw, left = ImageDraw.Draw(canvas), 0
    for label, picture in pictures.items():
        draw.text((left + picture.shape[1] / 2, bar / 2), label, 'white', font, anchor='mm')
        canvas.paste(Image.fromarray(picture), (left, bar))
        left += picture.shape[1] + _GAP
    return np.asarray(canvas)


def frames_figure(
    path: str | os.PathLike,
    frames: Sequence[np.ndarray],
    rows: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str] = (),
) -> None:
    """Saves a figure: the frames in the first row, then one row of overlays for each of `rows`.

    Args:
        path: `.png`, `.pdf`, ... Written atomically.
        frames: uint8 `(h, w, 3)` of one shape, one per column.
        rows: the label of a row, such as 'ground truth' or 'prediction', and its maps, one per
            frame.
        titles: one per column, such as 'frame 17'; optional.
    """
    pictures = {'frame': frames} | {
        label: [overlay(frame, saliency) for frame, saliency in zip(frames, maps, strict=True)]
        for label, maps in rows.items()
    }
    grid_figure(path, pictures, titles)


def grid_figure(
    path: str | os.PathLike,
    rows: Mapping[str, Sequence[np.ndarray]],
    titles: Sequence[str] = (),
) -> None:
    """Saves rows of images, uint8 `(h, w, 3)` of one shape, with their labels and titles."""
    first = next(iter(rows.values()))
    aspect = first[0].shape[0] / first[0].shape[1]
    figure = _figure((2.4 * len(first), 2.4 * aspect * len(rows) + 0.3))
    axes = figure.subplots(len(rows), len(first), squeeze=False)
    for line, (label, pictures) in zip(axes, rows.items()):
        line[0].set_ylabel(label)
        for axis, picture in zip(line, pictures, strict=True):
            axis.imshow(picture, interpolation='bilinear')
            axis.set(xticks=[], yticks=[])
    for axis, title in zip(axes[0], titles):
        axis.set_title(title, fontsize='medium')
    _save(figure, path)


def training_curves(
    path: str | os.PathLike,
    history: Sequence[Mapping[str, float]],
    validation: Sequence[Mapping[str, float]] = (),
    title: str = '',
) -> None:
    """Saves loss, KL and CC against the training step, as lines with a running mean.

    Args:
        path: `.png`, `.pdf`, ... Written atomically.
        history: in order of 'step', with 'loss', 'kl' and 'cc'.
        validation: the same on held-out videos, fewer steps, drawn as points; may be empty.
        title: above the plots.
    """
    figure = _figure((10, 3))
    for axis, (name, label) in zip(
        figure.subplots(1, 3), {'loss': 'loss (KL - CC)', 'kl': 'KL', 'cc': 'CC'}.items()
    ):
        steps, values = (np.array([entry[key] for entry in history]) for key in ('step', name))
        axis.plot(steps, values, color='C0', alpha=0.3, linewidth=1)
        axis.plot(steps, _running_mean(values), color='C0', label='training')
        if validation:
            points = [(entry['step'], entry[name]) for entry in validation]
            axis.plot(*zip(*points), 'o-', color='C1', markersize=4, label='held out')
            axis.legend()
        axis.set(xlabel='step', title=label)
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    _save(figure, path)


def dot_figure(
    path: str | os.PathLike, values: Mapping[str, Mapping[str, Sequence[float]]], label: str
) -> None:
    """Saves a plot of repeated measurements: one line per row, a dot each, a bar at their mean.

    Args:
        path: `.png`, `.pdf`, ... Written atomically.
        values: group (a colour) -> row -> the measurements; the rows are those of the first group.
        label: of the axis of values.
    """
    rows = list(next(iter(values.values())))
    figure = _figure((7, 0.32 * len(rows) + 1.2))
    axis = figure.subplots()
    for i, (group, of) in enumerate(values.items()):
        for y, row in enumerate(rows):
            axis.plot(of[row], [y] * len(of[row]), 'o', color=f'C{i}', markersize=4, alpha=0.6)
            axis.plot(np.mean(of[row]), y, '|', color=f'C{i}', markersize=14, markeredgewidth=2)
        axis.plot([], [], 'o', color=f'C{i}', label=group)
    axis.set(yticks=range(len(rows)), yticklabels=[r.replace('_', ' ') for r in rows], xlabel=label)
    axis.set_ylim(len(rows) - 0.5, -0.5)
    axis.grid(alpha=0.3)
    figure.legend(loc='outside upper right', ncols=len(values))
    _save(figure, path)


def _running_mean(values: np.ndarray) -> np.ndarray:
    """Centred mean over a twentieth of the values, fewer near the ends."""
    half = len(values) // 40
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.float64)])
    at = np.arange(len(values))
    first, last = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[last] - sums[first]) / (last - first)


@functools.cache
def _colours() -> np.ndarray:
    """uint8 `(256, 3)`."""
    from matplotlib import colormaps  # here, because importing it takes half a second

    return colormaps[COLOUR_MAP](np.arange(256), bytes=True)[:, :3]


@functools.cache
def _blend_tables(opacity: float) -> tuple[np.ndarray, np.ndarray]:
    """For the levels 0..255 of a map: weight of the colour in 256ths, and colour times weight."""
    if not 0 <= opacity <= 1:
        raise ValueError(f'opacity is {opacity}; expected 0 to 1')
    weight = np.rint(np.linspace(0, 256 * opacity, 256)).astype(np.uint16)
    return weight, _colours() * weight[:, None]


def _figure(size: tuple[float, float]):
    from matplotlib.figure import Figure  # without pyplot: no window, no global state

    return Figure(figsize=size, layout='constrained')


def _save(figure, path: str | os.PathLike) -> None:
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
