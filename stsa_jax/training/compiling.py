"""Compilation of the training step: settings for each platform; a signal can interrupt it."""

import threading
from concurrent.futures import Future

import jax
from jax.sharding import Mesh

from stsa_jax.ops import cpu
from stsa_jax.ops.cpu import memory

# With `fsdp`: gather a kernel before its convolution. By default a TPU convolves with one part
# after the other while they go round a ring: on a v5e, modelled, that takes 54 ms per clip and 16.0
# GB of temporaries instead of 36 ms and 8.5 GB.
WHOLE_KERNELS = {'xla_jf_spmd_threshold_for_windowed_einsum_mib': '1000000'}
# Do not cut the width of images into eight parts that are computed like clips: see
# `leaves_width_whole`.
WHOLE_WIDTH = {'xla_disable_hlo_passes': 'space-to-batch-converter'}
_NAME = 'compiling'


def leaves_width_whole(mesh: Mesh, batch_size: int, accumulate: int, on_s3d: bool) -> bool:
    """Whether TPUs are told not to cut the width of a batch's images into parts.

    A TPU's arrays hold eight examples side by side. With fewer in a micro-batch on a chip its
    compiler cuts the width into eight parts, which have to be copied to and fro. With three clips
    or more that costs models on S3D more than it gains; tinyHD is faster with the parts
    (docs/scaling.md).
    """
    return on_s3d and 3 <= batch_size // (accumulate * mesh.size) < 8


def compiler_options(mesh: Mesh, keep: str, whole_width: bool) -> dict[str, str] | None:
    """The compiler's options for a training step on the mesh's devices, None for its defaults.

    `keep` is the rematerialisation policy (`stsa_jax.training.remat`); `whole_width` is the result
    of `leaves_width_whole`.
    """
    platform = mesh.devices.flat[0].platform
    if platform == 'cpu':
        return cpu.step_options(keep)
    if platform != 'tpu':
        return None
    chosen = WHOLE_KERNELS if mesh.shape['fsdp'] > 1 else {}
    return (chosen | WHOLE_WIDTH if whole_width else chosen) or None


def compiled(lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles the program in a thread, so that signal handlers can run in the main thread.

    If a handler raises, the result is abandoned, but the compilation keeps running: see `goes_on`.
    Memory that LLVM frees, 2.3 GB for the training step at full size, is returned to the system.
    """
    result: Future[jax.stages.Compiled] = Future()

    def work():
        try:
            program = lowered.compile()
            memory.release()
            result.set_result(program)
        except BaseException as error:  # re-raised in the waiting thread
            result.set_exception(error)

    threading.Thread(target=work, name=_NAME, daemon=True).start()
    return result.result()


def goes_on() -> bool:
    """Whether an abandoned compilation is still running; Python then cannot exit normally."""
    return any(thread.name == _NAME for thread in threading.enumerate())
