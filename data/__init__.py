"""Datasets of video saliency: TFDS builders, access by video, and training clips by Grain.

`data.open_split('dhf1k', 'test')` gives a prepared split video by video (evaluation, inference),
`data.train_clips(...)` an endless, resumable iterator of training batches. Nothing here imports
JAX or TensorFlow, and importing the package does no work: names are loaded on first use.
"""

import importlib

_WHERE = {
    'open_split': 'videos',
    'VideoDataset': 'videos',
    'VideoInfo': 'videos',
    'train_clips': 'pipeline',
    'ClipIterator': 'pipeline',
    'load_builder': 'preparation.registry',
    'prepare_dataset': 'preparation.registry',
}
__all__ = sorted(_WHERE)


def __getattr__(name: str):
    if name not in _WHERE:
        raise AttributeError(f'module data has no attribute {name!r}')
    return getattr(importlib.import_module(f'data.{_WHERE[name]}'), name)
