"""The datasets by name: their builders, and preparing one."""

import importlib
import os
import re
from pathlib import Path
from typing import Literal

import tensorflow_datasets as tfds

from data.preparation.features import FrameStorage, storage
from stsa_jax.errors import InputError

# Rendered, with all that is known of them.
EMBEDDED = ('stsa_synthetic', 'stsa_matching', 'stsa_contrast')
# The location of each dataset's builder: the module beside this package, and its class.
BUILDERS = {
    'stsa_synthetic': ('synthetic', 'StsaSynthetic'),
    'stsa_matching': ('synthetic', 'StsaMatching'),
    'stsa_contrast': ('synthetic', 'StsaContrast'),
    'dhf1k': ('dhf1k', 'Dhf1k'),
    'hollywood2': ('hollywood2', 'Hollywood2'),
    'ucf_sports': ('ucf_sports', 'UcfSports'),
    'diem': ('diem', 'Diem'),
}


def load_builder(
    name: str,
    data_dir: str | os.PathLike | None = None,
    *,
    size: tuple[int, int] | Literal['default'] | None = 'default',
    encoding: str = 'jpeg',
    num_workers: int | None = None,
    strict: bool = False,
) -> tfds.core.DatasetBuilder:
    """The TFDS builder of dataset `name`.

    Args:
      size: (H, W) of stored frames, None for the video's own, or 'default': the training size,
        and the rendered size for the synthetic datasets.
      encoding: 'jpeg', or lossless 'png'.
      num_workers: processes; all cores by default.
      strict: whether any problem with the copy is an error.

    Raises InputError if there is no dataset of this name.
    """
    if name not in BUILDERS:
        raise InputError(f'no dataset {name!r}; available: {", ".join(sorted(BUILDERS))}')
    module, class_name = BUILDERS[name]
    builder = getattr(importlib.import_module(f'..{module}', __package__), class_name)
    return builder(
        data_dir=str(Path(data_dir).expanduser() if data_dir else default_data_dir()),
        config=config_of(builder, size, encoding),
        num_workers=num_workers,
        strict=strict,
    )


def config_of(
    builder: type[tfds.core.DatasetBuilder],
    size: tuple[int, int] | Literal['default'] | None,
    encoding: str,
) -> FrameStorage:
    """How a builder of this class stores frames of this size and encoding, see `load_builder`."""
    config = storage(builder.BUILDER_CONFIGS[0].size if size == 'default' else size, encoding)
    return {each.name: each for each in builder.BUILDER_CONFIGS}.get(config.name, config)


def check_name(name: str) -> None:
    """Raises InputError if `name` cannot be that of a user's own dataset."""
    if not re.fullmatch('[a-z][a-z0-9_]*', name):
        raise InputError(
            f'--name={name}: small letters, digits and _, a letter first, were expected: mine, say'
        )
    if name in BUILDERS:
        raise InputError(f'--name={name}: is the name of a known dataset; take another')


def prepare_command(name: str, *options: str) -> str:
    """What prepares the dataset of this name, with these options."""
    dataset = [name] if name in BUILDERS else ['folder', f'--name={name}']
    source = [] if name in EMBEDDED else ['--source=...']
    return ' '.join(['python -m data.prepare', *dataset, *options, *source])


def prepare_dataset(
    name: str,
    data_dir: str | os.PathLike | None = None,
    source: str | os.PathLike | None = None,
    **options,
) -> tfds.core.DatasetBuilder:
    """Prepares dataset `name` from `source`, unless already prepared, and returns its builder.

    `source` is the folder of the copy, not needed for the synthetic datasets; `options` are those
    of `load_builder`. Raises InputError if the copy is missing or cannot be used.
    """
    builder = load_builder(name, data_dir, **options)
    if source is not None:
        source = Path(source).expanduser().absolute()
    config = tfds.download.DownloadConfig(manual_dir=source)
    builder.download_and_prepare(download_config=config)
    return builder


def default_data_dir() -> Path:
    """Where TFDS stores datasets: $TFDS_DATA_DIR or ~/tensorflow_datasets."""
    return Path(os.environ.get('TFDS_DATA_DIR') or '~/tensorflow_datasets').expanduser()
