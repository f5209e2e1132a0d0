"""The training and validation steps: pure functions of a state and a batch.

    state, metrics = train_step(state, batch)      # compiled; the old state is donated
    losses = eval_step(params, batch_stats, batch)

A batch is `clip` (B, T, H, W, 3), float32 normalised or uint8, normalised here (a quarter of the
bytes to transfer to the device), and `density` (B, H, W) float32, or (B, T, H, W) for a model of a
map for every frame; also `fixations`, of the same shape, for a loss that needs them. The loss of an
example, by default KL - CC (paper, equation 12), is averaged over the global batch.
"""

import dataclasses
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import optax
from flax import nnx, traverse_util
from jax.sharding import Mesh

from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.media.preprocess import IMAGENET, Normalisation
from stsa_jax.metrics import losses
from stsa_jax.models import functional
from stsa_jax.training import remat
from stsa_jax.training.compiling import compiler_options
from stsa_jax.training.optimizer import plateau_scale
from stsa_jax.training.state import TrainState

NORM_ONLY = frozenset({'scale', 'bias'})


@dataclasses.dataclass(frozen=True)
class StepOptions:
    """How a step is computed; the fields are the config fields of the same names.

    Attributes:
        accumulate: number of micro-batches per step; BatchNorm then sees one at a time.
        ema_decay: of the averaged parameters, 0 for none.
        freeze_backbone: do not update S3D's weights and statistics.
        freeze_batch_norm: do not update BatchNorm's statistics, scales and biases.
        keep_for_gradient: 'everything', 'products' or 'blocks': see `stsa_jax.training.remat`.
        remat: the same as keep_for_gradient='blocks'.
        loss: its name in `losses.NAMED`.
        supervise: names of the network's intermediate maps whose losses are added.
    """

    accumulate: int = 1
    ema_decay: float = 0.0
    freeze_backbone: bool = False
    freeze_batch_norm: bool = False
    keep_for_gradient: str = 'products'
    remat: bool = False
    loss: str = 'kl_cc'
    supervise: tuple[str, ...] = ()

    def __post_init__(self):
        object.__setattr__(self, 'supervise', tuple(self.supervise))
        if self.loss not in losses.NAMED:
            raise InputError(
                f'config.loss is {self.loss!r}, expected one of {", ".join(losses.NAMED)}'
            )
        if self.keep_for_gradient not in remat.KEEP:
            raise InputError(
                f'config.keep_for_gradient is {self.keep_for_gradient!r}, expected one of '
                f'{", ".join(remat.KEEP)}'
            )

    @property
    def keep(self) -> str:
        """The rematerialisation policy, from either field."""
        return 'blocks' if self.remat else self.keep_for_gradient

    @property
    def also_needs(self) -> tuple[str, ...]:
        """What batches need besides clip and density."""
        return ('fixations',) if self.loss in losses.NEED_FIXATIONS else ()

    @classmethod
    def of(cls, config: Mapping) -> 'StepOptions':
        """The options of a training config."""
        return cls(**{field.name: config[field.name] for field in dataclasses.fields(cls)})


def make_train_step(
    graphdef: nnx.GraphDef,
    tx: optax.GradientTransformationExtraArgs,
    learning_rate: Callable,
    mesh: Mesh,
    options: StepOptions = StepOptions(),
    normalisation: Normalisation = IMAGENET,
    backbone_rate: Callable | None = None,
    whole_width: bool = False,
) -> jax.stages.Wrapped:
    """The compiled `train_step(state, batch) -> (state, metrics)`.

    `learning_rate` and `backbone_rate`, that of the backbone if it has its own, are functions of
    the step. `whole_width` is the result of `compiling.leaves_width_whole`, for TPUs.

    The input state is donated: its memory is reused for the new one. Metrics, on every device:
    `loss`, `kl`, `cc` (means over the batch), `losses` (B,), `grad_norm`, `learning_rate`,
    `skipped` (0 or 1). If the loss or the gradient is not finite, only the counters change.
    """

    def loss_fn(params, batch_stats, batch):
        params = _freeze(_gathered(mesh, params), options)
        train = not (options.freeze_batch_norm or options.freeze_backbone)
        clip = _normalised(batch['clip'], normalisation)
        run = remat.apply(graphdef, options.keep)
        wanted = {'return_intermediates': options.supervise} if options.supervise else {}
        saliency, *rest = _as_list(run(params, batch_stats, clip, train=train, **wanted))
        maps = _maps(rest.pop(), saliency) if options.supervise else []
        batch_stats, density = rest.pop() if train else batch_stats, batch['density']
        scores = _scores(saliency, density)
        truth = [density] + [batch[name] for name in options.also_needs]
        scores['losses'] = losses.over_frames(losses.NAMED[options.loss], saliency, *truth)
        for extra in maps:
            scores['losses'] += losses.over_frames(losses.NAMED[options.loss], extra, *truth)
        return scores['losses'].mean(), (batch_stats, scores)

    def gradient(params, batch_stats, batch):
        return jax.grad(loss_fn, has_aux=True)(params, batch_stats, batch)

    def train_step(state: TrainState, batch: dict) -> tuple[TrainState, dict]:
        grads, batch_stats, scores = _accumulated(
            gradient, state.params, state.batch_stats, batch, options.accumulate
        )
        loss, grad_norm = scores['losses'].mean(), optax.global_norm(grads)
        rate = learning_rate(state.step) * plateau_scale(state.opt_state)
        good = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

        def take(state):
            updates, opt_state = tx.update(grads, state.opt_state, state.params, value=loss)
            params = _moved(state.params, updates, learning_rate(state.step))
            if backbone_rate is not None:
                moved = _moved(
                    state.params['backbone'], updates['backbone'], backbone_rate(state.step)
                )
                params = params | {'backbone': moved}
            new = state.replace(params=params, batch_stats=batch_stats, opt_state=opt_state)
            if not options.ema_decay:
                return new
            # A smaller decay at first, so that the random start is soon forgotten.
            decay = jnp.minimum(options.ema_decay, (1 + state.step) / (10 + state.step))
            ema = jax.tree.map(lambda e, p: decay * e + (1 - decay) * p, state.ema, params)
            return new.replace(ema=ema)

        # A branch, because selecting between the old and new state would need memory for both.
        new = jax.lax.cond(good, take, lambda state: state, state)
        new = new.replace(step=state.step + 1, skipped=state.skipped + ~good)
        metrics = {
            'loss': loss,
            'kl': scores['kl'].mean(),
            'cc': scores['cc'].mean(),
            'losses': scores['losses'],
            'grad_norm': grad_norm,
            'learning_rate': rate,
            'skipped': ~good,
        }
        return new, metrics

    def constrained(state, batch):
        # The CPU forms read the mesh (`stsa_jax.ops.cpu.convolution`).
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
            new, metrics = train_step(state, batch)
        new = jax.lax.with_sharding_constraint(new, sharding.state_sharding(mesh, new))
        return new, jax.lax.with_sharding_constraint(metrics, sharding.replicated(mesh))

    settings = compiler_options(mesh, options.keep, whole_width)
    return jax.jit(constrained, donate_argnums=0, compiler_options=settings)


def make_eval_step(
    graphdef: nnx.GraphDef, mesh: Mesh, normalisation: Normalisation = IMAGENET
) -> Callable:
    """The compiled `eval_step(params, batch_stats, batch) -> {'kl', 'cc', 'saliency'}`, (B, ...).

    The results are replicated on every device.
    """

    def eval_step(params, batch_stats, batch):
        clip = _normalised(batch['clip'], normalisation)
        saliency = functional.apply(graphdef, _gathered(mesh, params), batch_stats, clip)
        scores = _scores(saliency, batch['density']) | {'saliency': saliency}
        return jax.lax.with_sharding_constraint(scores, sharding.replicated(mesh))

    return jax.jit(eval_step)


def flops(compiled: jax.stages.Compiled, accumulate: int = 1) -> float:
    """Operations of one call on one device, by XLA's count; 0 if it has none.

    XLA counts the body of a loop once, and nearly everything is in the loop over the `accumulate`
    micro-batches. On a single CPU device the kernel gradients are in loops too and are
    undercounted.
    """
    analysis = compiled.cost_analysis() or {}
    return accumulate * float(analysis.get('flops', 0))


def memory(compiled: jax.stages.Compiled) -> int:
    """Bytes that one call takes on one device, by XLA's memory analysis; 0 if it has none."""
    plan = compiled.memory_analysis()
    if plan is None:
        return 0
    held = plan.argument_size_in_bytes + plan.output_size_in_bytes - plan.alias_size_in_bytes
    return held + plan.temp_size_in_bytes


def _as_list(result) -> list:
    return list(result) if isinstance(result, tuple) else [result]


def _maps(taps: dict[str, jax.Array], saliency: jax.Array) -> list[jax.Array]:
    """The maps in intermediate results `(B, T, H, W, C)`, each of the shape of `saliency`."""
    maps = [tap[..., c].astype(jnp.float32) for tap in taps.values() for c in range(tap.shape[-1])]
    return [x.reshape(saliency.shape) for x in maps]


def _scores(saliency: jax.Array, density: jax.Array) -> dict[str, jax.Array]:
    """KL and CC, `(B,)`."""
    return {
        'kl': losses.over_frames(losses.kl, saliency, density),
        'cc': losses.over_frames(losses.cc, saliency, density),
    }


def _moved(params, updates, rate):
    return jax.tree.map(lambda p, u: p - rate * u, params, updates)


def _normalised(clip: jax.Array, normalisation: Normalisation) -> jax.Array:
    if clip.dtype != jnp.uint8:
        return clip
    mean, std = (jnp.asarray(x, jnp.float32) for x in normalisation)
    return clip.astype(jnp.float32) * (1 / (255 * std)) - mean / std


def _gathered(mesh: Mesh, params):
    """All-gathers the parameters; their gradients are reduce-scattered."""
    if mesh.shape['fsdp'] == 1:
        return params

    def gather(array):
        split = sharding.state_sharding(mesh, array)

        @jax.custom_vjp
        def whole(x):
            return jax.lax.with_sharding_constraint(x, sharding.replicated(mesh))

        whole.defvjp(
            lambda x: (whole(x), None),
            lambda _, g: (jax.lax.with_sharding_constraint(g, split),),
        )
        return whole(array)

    return jax.tree.map(gather, params)


def _freeze(params: dict, options: StepOptions) -> dict:
    """Stops the gradient of frozen parameters; XLA then removes its computation."""
    if not (options.freeze_backbone or options.freeze_batch_norm):
        return params
    flat = traverse_util.flatten_dict(params)

    def frozen(path):
        if path[0] != 'backbone':
            return False
        return options.freeze_backbone or path[-1] in NORM_ONLY  # all of its biases are BatchNorm's

    return traverse_util.unflatten_dict(
        {k: jax.lax.stop_gradient(v) if frozen(k) else v for k, v in flat.items()}
    )


def _accumulated(gradient, params, batch_stats, batch, parts: int):
    """(mean gradient, batch statistics, per-example scores) of a batch in `parts` micro-batches.

    Part j holds the examples j, j + parts, ...: with the batch sharded over the devices in blocks,
    each device then holds its share of every part, on any layout, without communication.
    """
    if parts == 1:
        grads, (batch_stats, scores) = gradient(params, batch_stats, batch)
        return grads, batch_stats, scores
    batch = jax.tree.map(
        lambda x: jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1), batch
    )

    def add(carry, part):
        total, stats = carry
        grads, (stats, scores) = gradient(params, stats, part)
        return (jax.tree.map(lambda a, b: a + b / parts, total, grads), stats), scores

    zeros = jax.tree.map(jnp.zeros_like, params)
    (grads, batch_stats), scores = jax.lax.scan(add, (zeros, batch_stats), batch)
    scores = jax.tree.map(lambda x: jnp.swapaxes(x, 0, 1).reshape(-1), scores)
    return grads, batch_stats, scores
