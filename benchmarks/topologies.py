"""Programs for devices that are not there: a TPU's compiler needs libtpu, but no TPU.

    (device, *_) = slice_devices('v5e:2x2')
    compiled = lowered_inference(model, 8, device).compile()

libtpu comes with `pip install 'jax[tpu]'`. JAX looks for a TPU where it is installed, so set
JAX_PLATFORMS=cpu before JAX is imported.
"""

import functools
import importlib.util
import os

from stsa_jax.errors import InputError


def slice_devices(topology: str) -> list:
    """Stand-ins for the devices of a TPU slice, 'v5e:2x4' say, to compile for.

    Raises InputError without libtpu, and for a name that it does not know.
    """
    import jax
    from jax.experimental import topologies

    if not importlib.util.find_spec('libtpu'):
        raise InputError(
            f'--topology={topology} needs the compiler for TPUs, libtpu, which is not installed: '
            "pip install 'jax[tpu]', in an environment of its own where there is no TPU"
        )
    # It would ask a server what TPU this is, and work in one process at a time, as a TPU does.
    os.environ |= {'TPU_SKIP_MDS_QUERY': '1', 'ALLOW_MULTIPLE_LIBTPU_LOAD': '1'}
    # What these say does not matter to the compiler, but it complains where they are not set.
    os.environ.setdefault('TPU_ACCELERATOR_TYPE', 'v5litepod-4')
    os.environ.setdefault('TPU_WORKER_HOSTNAMES', 'localhost')
    try:
        return topologies.get_topology_desc(topology, 'tpu').devices
    except jax.errors.JaxRuntimeError as error:
        raise InputError(
            f'--topology={topology}: the compiler for TPUs does not know it '
            f'({str(error).splitlines()[0]}); a name is as v5e:2x2 or v5p:2x2x1'
        ) from error


def lowered_inference(model, clips: int, device):
    """The forward pass of float32 clips, by a model config, for this device."""
    import jax
    import jax.numpy as jnp

    from stsa_jax.models import functional
    from stsa_jax.models.stsanet import STSANet

    place = jax.sharding.SingleDeviceSharding(device)
    graphdef, *weights = functional.abstract(STSANet, model)
    clip = jax.ShapeDtypeStruct((clips, model.frames, *model.image_size, 3), jnp.float32)
    inputs = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=place), (*weights, clip)
    )
    return jax.jit(functools.partial(functional.apply, graphdef)).lower(*inputs)


def lowered_step(config, mesh, clips: int, options=None):
    """The training step of a config for this mesh, and its batch, with shapes for arrays.

    `options` are `training.StepOptions`, by default those of a plain step.
    """
    from stsa_jax import training
    from stsa_jax.models import functional
    from stsa_jax.models.stsanet import STSANet, STSANetConfig
    from stsa_jax.training import optimizer

    model = STSANetConfig(**config.model)
    graphdef, params, batch_stats = functional.abstract(STSANet, model)
    settings = optimizer.OptimizerConfig(**config.optimizer)
    tx = optimizer.optimizer(settings, 200)
    options = options or training.StepOptions()
    state = training.abstract_state(mesh, params, batch_stats, tx, ema=options.ema_decay > 0)
    batch = training.abstract_batch(mesh, clips, model)
    rate = optimizer.learning_rate(settings, 200, 6000)
    step = training.make_train_step(graphdef, tx, rate, mesh, options)
    return step.lower(state, batch), batch
