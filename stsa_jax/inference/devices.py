"""A model on several devices of this machine: each gets its share of a batch of windows."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from stsa_jax.distribution.sharding import batch_sharding, make_mesh, replicated
from stsa_jax.errors import InputError


class SpreadModel:
    """Another model, whose weights are on every device and whose batches are divided among them.

    Use batches whose size is a multiple of `count`, the number of devices.
    """

    def __init__(self, model: Any, devices: Sequence[jax.Device]):
        """`model` is a `stsa_jax.SaliencyModel`; its weights are moved."""
        mesh = make_mesh(devices=devices)
        self._model, self._sharding, self.count = model, batch_sharding(mesh), len(devices)
        weights = jax.device_put((model.params, model.batch_stats), replicated(mesh))
        model.params, model.batch_stats = weights

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)

    def __call__(self, clips: np.ndarray) -> jax.Array:
        """Like the model's, for `(B, T, H, W, 3)` with B a multiple of the number of devices."""
        return self._model(jax.device_put(clips, self._sharding))


def default_devices() -> list[jax.Device]:
    """All accelerators of this machine, or one CPU."""
    devices = jax.local_devices()
    return devices[:1] if devices[0].platform == 'cpu' else devices


def on_devices(model: Any, count: int | None = None) -> Any:
    """The model on `count` local devices; by default `default_devices`.

    Raises InputError if there are fewer.
    """
    devices = jax.local_devices()
    count = count or len(default_devices())
    if count > len(devices):
        raise InputError(f'--devices={count}: this machine has {len(devices)}; choose fewer')
    return model if count == 1 else SpreadModel(model, devices[:count])
