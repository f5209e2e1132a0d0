"""Video saliency datasets: TFDS builders, access by video, and training clips with Grain.

`data.open_split('dhf1k', 'test')` opens a prepared split for access by video (evaluation,
inference); `data.train_clips(...)` is an endless, resumable iterator of training batches. Nothing
here imports JAX or TensorFlow, and importing the package is cheap: names are loaded on first use.
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
        raise AttributeError(f'module {__name__} has no attribute {name!r}')
    return getattr(importlib.import_module(f'{__name__}.{_WHERE[name]}'), name)
