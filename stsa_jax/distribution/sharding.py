"""The device mesh, and the sharding of the training state and the batches.

The mesh has two axes. Batches are sharded over both: every device processes its own clips. The
state is replicated over `data`. Over `fsdp` each parameter and its optimizer state are sharded
along one axis; a step gathers them where needed and scatters the gradients. With fsdp = 1 the state
is fully replicated. Unlike with PyTorch's DataParallel, BatchNorm sees the whole global batch,
because a jitted program has the same semantics on any number of devices.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from stsa_jax.errors import InputError

AXES = ('data', 'fsdp')


def make_mesh(data: int = -1, fsdp: int = 1, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh of `data` x `fsdp` devices; -1 for `data` uses all devices.

    The devices are in process order: the batch rows of a process are contiguous, those of process 0
    first, and a group of fsdp devices is on one host if possible. Raises InputError if the devices
    do not form such a mesh, or the processes have different numbers of them.
    """
    # `jax.make_mesh` orders devices by topology, and refuses several GPU nodes.
    devices = jax.devices() if devices is None else devices
    devices = sorted(devices, key=lambda device: (device.process_index, device.id))
    count = len(devices)
    shares = Counter(device.process_index for device in devices)
    if len(set(shares.values())) > 1:
        raise InputError(
            'every process must have the same number of devices; found '
            + ', '.join(f'{n} in process {process}' for process, n in shares.items())
        )
    if data == -1 and fsdp > 0 and count % fsdp == 0:
        data = count // fsdp
    if data < 1 or fsdp < 1 or data * fsdp != count:
        raise InputError(
            f'config.mesh: data={data}, fsdp={fsdp} does not fit {count} devices: fsdp must divide '
            f'{count}, and data be -1 or {count} / fsdp; divisors: {_divisors(count)}'
        )
    grid = np.array(devices).reshape(data, fsdp)
    return Mesh(grid, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Replicated on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharded along the first axis over all devices."""
    return NamedSharding(mesh, PartitionSpec(AXES))


def state_sharding(mesh: Mesh, tree: Any) -> Any:
    """The sharding of each array of `tree` (anything with shapes) as part of the state.

    Along its longest axis that is divisible by fsdp; replicated if there is none, or fsdp is 1.
    """
    return jax.tree.map(lambda array: _split_longest(mesh, array.shape), tree)


def _split_longest(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    size = mesh.shape['fsdp']
    axes = [i for i, n in enumerate(shape) if size > 1 and n >= size and n % size == 0]
    if not axes:
        return replicated(mesh)
    longest = max(axes, key=lambda i: (shape[i], i))
    return NamedSharding(mesh, PartitionSpec(*[None] * longest, 'fsdp'))


def local_batch_size(mesh: Mesh, batch_size: int, accumulate: int = 1) -> int:
    """The number of clips of the global batch that this process reads.

    Raises InputError if the batch is not divisible by the devices times the accumulation steps.
    """
    parts = mesh.size * accumulate
    if accumulate < 1 or batch_size < 1 or batch_size % parts:
        fits = sorted({max(batch_size // parts, 1) * parts, (batch_size // parts + 1) * parts})
        raise InputError(
            f'config.batch_size={batch_size} is not divisible by {mesh.size} devices'
            + (f' x accumulate={accumulate}' if accumulate != 1 else '')
            + f'; use {" or ".join(map(str, fits))}, or fewer devices'
        )
    return batch_size // jax.process_count()


def put_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """This process's part of a batch, numpy arrays, -> global arrays sharded over the devices.

    The parts are concatenated in process order.
    """
    sharding = batch_sharding(mesh)
    return {
        name: jax.make_array_from_process_local_data(sharding, np.asarray(array))
        for name, array in batch.items()
    }


def put_state(tree: Any, shardings: Any) -> Any:
    """The same numpy arrays on every process -> global arrays with the given shardings."""

    def put(array, sharding):
        array = np.asarray(array)
        return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])

    return jax.tree.map(put, tree, shardings)


def bytes_per_device(tree: Any) -> int:
    """Bytes of the arrays of `tree` on one device."""
    return sum(
        math.prod(array.sharding.shard_shape(array.shape)) * array.dtype.itemsize
        for array in jax.tree.leaves(tree)
    )


def _divisors(count: int) -> list[int]:
    return [n for n in range(1, count + 1) if count % n == 0]
