"""Compiles programs for TPUs without a TPU: the compiler needs only libtpu.

    (device, *_) = slice_devices('v5e:2x2')
    compiled = lowered_inference(model, 8, device).compile()

libtpu comes with `pip install 'jax[tpu]'`. With it installed JAX looks for a TPU, so set
JAX_PLATFORMS=cpu before importing JAX.
"""

import importlib.util
import os

from stsa_jax.errors import InputError

# By JAX's name of the device: cycles per second, and bytes per second and bytes of HBM. The peak is
# in stsa_jax/training/meter.py. TPU v5e: cloud.google.com/tpu/docs/v5e.
CHIPS = {'TPU v5 lite': (1.5e9, 819e9, 16e9)}


def slice_devices(topology: str) -> list:
    """Device descriptions of a TPU slice, such as 'v5e:2x4', to compile for.

    Raises InputError without libtpu, and for unknown names.
    """
    import jax
    from jax.experimental import topologies

    if not importlib.util.find_spec('libtpu'):
        raise InputError(
            f'--topology={topology} needs the TPU compiler, libtpu, which is not installed: '
            "pip install 'jax[tpu]', in a separate environment if there is no TPU"
        )
    # Otherwise it would query a server for the TPU type, and allow only one process at a time.
    os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
    # The compiler ignores these values, but warns if they are not set.
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    try:
        return topologies.get_topology_desc(topology, 'tpu').devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f'--topology={topology}: unknown to the TPU compiler '
            f'({str(error).splitlines()[0]}); expected a name such as v5e:2x2 or v5p:2x2x1'
        ) from error


def lowered_inference(model, clips: int, device, dtype: str = 'float32'):
    """The lowered forward pass of float32 clips, for a model config and device.

    `dtype` is that of the activations of a model whose config has no such field.
    """
    import jax
    import jax.numpy as jnp

    from stsa_jax.models import functional
    from stsa_jax.weights import known

    place = jax.sharding.SingleDeviceSharding(device)
    graphdef, *weights = functional.abstract(known.of_config(model).module, model)
    clip = jax.ShapeDtypeStruct((clips, model.frames, *model.image_size, 3), jnp.float32)
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (*weights, clip)
    )
    own = hasattr(model, 'dtype')  # which the network then casts to

    def run(params, batch_stats, clip):
        clip = clip if own else clip.astype(dtype)
        return functional.apply(graphdef, params, batch_stats, clip)

    return jax.jit(run).lower(*inputs)


def lowered_step(config, mesh, clips: int, options=None):
    """The lowered training step of a config for this mesh, and its abstract batch.

    `options` are `training.StepOptions`, by default those of a plain step.
    """
    from stsa_jax import training
    from stsa_jax.models import functional
    from stsa_jax.training import compiling, optimizer, run_config
    from stsa_jax.weights import known

    model = run_config.model_of(config)
    model_known = known.of_config(model)
    graphdef, params, batch_stats = functional.abstract(model_known.module, model)
    settings = optimizer.OptimizerConfig(**config.optimizer)
    tx = optimizer.optimizer(settings, 200)
    options = options or training.StepOptions()
    state = training.abstract_state(mesh, params, batch_stats, tx, ema=options.ema_decay > 0)
    batch = training.abstract_batch(mesh, clips, model)
    rate = optimizer.learning_rate(settings, 200, 6000)
    whole_width = compiling.leaves_width_whole(mesh, clips, options.accumulate, model_known.on_s3d)
    step = training.make_train_step(graphdef, tx, rate, mesh, options, whole_width=whole_width)
    return step.lower(state, batch), batch
