"""Where two models first differ, stage by stage on one clip: `stsa-jax port --compare A B`.

B is other weights of the same model, or an .npz file with what another implementation computed for
the clip: arrays named as our stages, `map` for the output, and the `clip` itself. Its arrays may be
channels last, as ours, or channels first, as PyTorch's.
"""

import os
import zipfile
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.weights.pretrained import SaliencyModel, load

MAP, CLIP = 'map', 'clip'


class Stage(NamedTuple):
    """A stage of both: the largest difference, and that relative to the stage's own size.

    `relative` is the largest difference over the largest value of B's; nan where B has none.
    """

    name: str
    shape: tuple[int, ...]
    largest: float
    relative: float


def stages(model: SaliencyModel, clip: np.ndarray) -> dict[str, np.ndarray]:
    """The features of all stages in the order in which they are computed, then the map."""
    order: list[str] = []  # a compiled program returns them in the order of their names

    def run(params, batch_stats, clip):
        saliency, kept = functional.apply(
            model.graphdef, params, batch_stats, clip, return_intermediates=True
        )
        order.extend(kept)
        return saliency

    jax.eval_shape(run, model.params, model.batch_stats, clip)
    saliency, kept = model(clip, return_intermediates=True)
    return {**{name: np.asarray(kept[name]) for name in order}, MAP: np.asarray(saliency)}


def compare(ours: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> list[Stage]:
    """The stages that both have, in our order. Raises InputError for other shapes."""
    found = []
    for name, ours_there in ours.items():
        if name not in others:
            continue
        theirs = np.asarray(others[name])
        if theirs.shape != ours_there.shape and theirs.ndim == ours_there.ndim > 2:
            theirs = np.moveaxis(theirs, 1, -1)  # channels first
        if theirs.shape != ours_there.shape:
            raise InputError(
                f'stage {name}: shapes {ours_there.shape} and {others[name].shape} do not fit, '
                'neither channels last nor first'
            )
        largest = float(np.abs(ours_there.astype(np.float64) - theirs).max())
        scale = float(np.abs(theirs).max())
        relative = largest / scale if scale else np.nan
        found.append(Stage(name, ours_there.shape, largest, relative))
    if not found:
        raise InputError(
            f'no stage in common; ours are {", ".join(ours)}; found {", ".join(others) or "none"}'
        )
    return found


def report(
    a: str | os.PathLike, b: str | os.PathLike, clip: str | os.PathLike = '', within: float = 1e-3
) -> str:
    """A table of the stages of the weights `a` against `b`, and the first that differs.

    `clip` is an .npy file of a normalised clip (T, H, W, 3); by default that in `b`, or noise.
    A stage differs if its relative difference is above `within`.
    """
    model = load(a)
    others = _arrays(Path(b)) if Path(b).suffix == '.npz' else None
    chosen = _clip(model, Path(clip) if clip else None, others)
    ours = stages(model, chosen)
    if others is None:
        other = load(b)
        if (other.kind, other.config) != (model.kind, model.config):
            raise InputError(
                f'{b}: holds {other.kind}, {other.config}, but {a} {model.kind}, {model.config}; '
                'give weights of the same model and size'
            )
        others = stages(other, chosen)
    found = compare(ours, others)
    width = max(len(s.name) for s in found)
    lines = [f'{"stage":{width}}  {"largest":>10}  {"relative":>10}  shape']
    for s in found:
        shape = 'x'.join(map(str, s.shape))
        mark = '  differs' if not s.relative <= within and s.largest else ''
        lines.append(f'{s.name:{width}}  {s.largest:10.3g}  {s.relative:10.3g}  {shape}{mark}')
    first = next((s for s in found if not s.relative <= within and s.largest), None)
    lines.append('')
    lines.append(
        f'{a} and {b}: the first stage that differs is {first.name}'
        if first
        else f'{a} and {b}: no stage differs by more than {within:g} of its largest value'
    )
    return '\n'.join(lines)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f'{path}: there is no such file; check the path') from None
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise InputError(f'{path}: not an .npz file of arrays ({error}); save it again') from error


def _clip(model: SaliencyModel, path: Path | None, others: dict | None) -> np.ndarray:
    """A batch of one normalised clip."""
    shape = (model.config.frames, *model.config.image_size, 3)
    if path is not None:
        try:
            clip = np.load(path, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f'{path}: not an .npy file of a clip ({error})') from error
    elif others and CLIP in others:
        clip = others[CLIP]
    else:
        clip = np.random.default_rng(0).normal(size=shape)
    clip = np.asarray(clip, np.float32).reshape(clip.shape[-4:])
    if clip.shape[0] == 3 and clip.shape != shape:  # PyTorch's (3, T, H, W)
        clip = np.moveaxis(clip, 0, -1)
    return clip[None]
