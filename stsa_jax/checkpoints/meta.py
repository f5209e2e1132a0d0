"""The metadata of each checkpoint: its model and its validation metrics."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stsa_jax.checkpoints import checksums
from stsa_jax.configuration import differences, to_json
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import IMAGENET, Normalisation

_FORMAT = 'stsa-jax checkpoint 1'


def describe(kind: str, model_config: Mapping, normalisation: Normalisation = IMAGENET) -> dict:
    """The part of a checkpoint's `meta` that says which model its arrays belong to.

    `kind` is one of `stsa_jax.weights.known`.
    """
    return {
        'format': _FORMAT,
        'kind': kind,
        'model': to_json(model_config),
        'normalisation': {k: list(map(float, v)) for k, v in normalisation._asdict().items()},
    }


def read_meta(folder: Path) -> dict:
    """The metadata of one step; raises InputError if it is not one of this project."""
    path = folder / 'meta' / 'metadata'
    try:
        meta = json.loads(path.read_text())
        if meta.get('format') != _FORMAT:
            raise ValueError(f'its format is {meta.get("format")!r}, not {_FORMAT!r}')
        missing = {'kind', 'model', 'normalisation', 'data', 'metrics', 'checksums'} - set(meta)
        if missing:
            raise ValueError(f'it lacks {sorted(missing)}')
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(damaged(path, error)) from error
    return meta


def damaged(path: Path, error: Exception | str) -> str:
    """The message about a checkpoint that cannot be read."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
    return (
        f'{path}: damaged, incomplete or not a checkpoint of this project ({reason}); '
        'copy it again, or use an earlier step'
    )


class OtherRunError(InputError):
    """The checkpoint is intact, but of another run."""


def check_run(description: dict, like: Mapping[str, Any], meta: dict, folder: Path) -> None:
    """Raises OtherRunError if the checkpoint in `folder` is not of the described run.

    `meta` is the checkpoint's metadata, and `like` are the arrays of the run.
    """
    old, new = ({k: d[k] for k in ('kind', 'model', 'normalisation')} for d in (meta, description))
    lines = differences(old, new)
    if lines:
        listed = '\n  '.join(lines)
        raise OtherRunError(
            f'{folder}: was written by a run with another config; continue it with that config, or '
            f'use another workdir:\n  {listed}'
        )
    here, there = set(checksums.names(like)), set(meta['checksums'])
    if here != there:
        some = sorted(here ^ there)[:3]
        raise OtherRunError(
            f'{folder}: holds other arrays than this run ({len(there - here)} more, '
            f'{len(here - there)} fewer: {", ".join(some)}, ...): it was written by another config '
            'or version; continue it with that one, or use another workdir'
        )


def best_step(metas: Mapping[int, dict]) -> int | None:
    """The latest step with the best value of the run's selection metric.

    None if there was no validation, or only NaN values.
    """
    scored = {}
    for step, meta in metas.items():
        selection = meta.get('selection', {})
        score = meta['metrics'].get(selection.get('metric'), math.nan)
        if not math.isnan(score):
            scored[step] = -score if selection.get('mode') == 'min' else score
    return max(scored, key=lambda step: (scored[step], step), default=None)
