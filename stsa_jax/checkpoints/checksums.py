"""Checksums of arrays that do not depend on their sharding."""

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils


def of_tree(items: Mapping[str, Any]) -> dict[str, int]:
    """Name -> checksum of every array, over all processes; names are the keys joined by '/'."""
    leaves = jax.tree.leaves(dict(items))
    with ThreadPoolExecutor() as pool:  # numpy releases Python's lock while it sums
        own = np.array(list(pool.map(of_array, leaves)), np.uint32)
    if jax.process_count() > 1:
        own = multihost_utils.process_allgather(own).reshape(-1, len(leaves))
        own = own.sum(axis=0, dtype=np.uint32)
    return dict(zip(names(items), own.tolist(), strict=True))


def names(items: Mapping[str, Any]) -> list[str]:
    """The names that `of_tree` uses for the arrays, in the order of the tree's leaves."""
    leaves = jax.tree_util.tree_leaves_with_path(dict(items))
    return [jax.tree_util.keystr(path, simple=True, separator='/') for path, _ in leaves]


def of_array(array: jax.Array | np.ndarray) -> int:
    """A 32-bit checksum of the part of `array` that this process holds.

    It is a sum modulo 2**32 over the elements' bits, weighted by an odd number per column: the sum
    over all processes is the same for any sharding, and any change of a single element is detected.
    """
    if not isinstance(array, jax.Array):
        return _of_values(np.asarray(array), 0)
    total = 0
    for shard in array.addressable_shards:
        if shard.replica_id == 0:
            first = (shard.index[-1].start or 0) if shard.index else 0
            total += _of_values(jax.device_get(shard.data), first)
    return total % 2**32


def _of_values(values: np.ndarray, first_column: int) -> int:
    values = np.ascontiguousarray(values.reshape(1) if values.ndim == 0 else values)
    width = max(values.itemsize // 4, 1)  # words per element
    bits = values.view(f'u{min(values.itemsize, 4)}').reshape(-1, values.shape[-1] * width)
    columns = bits.sum(axis=0, dtype=np.uint32)
    index = np.arange(len(columns), dtype=np.uint32) + np.uint32(first_column * width)
    weights = (index * np.uint32(2654435761)) | np.uint32(1)
    return int((columns * weights).sum(dtype=np.uint32))
