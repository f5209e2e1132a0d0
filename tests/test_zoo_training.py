"""Training of the other models by their recipes in configs/."""

import dataclasses
import math
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from test_train_script import prepared  # noqa: F401 (a fixture)

import stsa_jax
from stsa_jax import training
from stsa_jax.checkpoints.weights import load_weights
from stsa_jax.commands import train
from stsa_jax.configuration import load_config
from stsa_jax.distribution import sharding
from stsa_jax.errors import InputError
from stsa_jax.metrics import losses
from stsa_jax.models import functional
from stsa_jax.models.layers import ConvBN
from stsa_jax.models.mobilenet import BATCH_NORM_EPS, InvertedResidual
from stsa_jax.ops import forms
from stsa_jax.ops.upsampling import pixel_shuffle, upsample_aligned
from stsa_jax.training import optimizer, run_config
from stsa_jax.weights import known
from stsa_jax.weights.initial import initial_weights, random_weights

CONFIGS = Path(__file__).parents[1] / 'configs'
RECIPES = {'vinet': 'ViNet', 'tased_net': 'TASED-Net', 'hd2s': 'HD2S', 'tinyhd_s': 'tinyHD'}
RECIPES |= {'tinyhd_m': 'tinyHD', 'unisal': 'UNISAL', 'salema': 'SalEMA'}
STEPS = 2


def recipe(name, *overrides):
    return load_config(str(CONFIGS / f'{name}.py'), [f'--config.{field}' for field in overrides])


def test_every_model_has_a_recipe():
    kinds = {recipe(name).kind for name in RECIPES}
    assert kinds == {model.kind for model in known.KNOWN} - {'stsanet', 's3d'}


@pytest.mark.parametrize('name', RECIPES)
def test_recipes_are_of_their_models(name, tmp_path):
    config = recipe(name)
    run_config.check(config, str(tmp_path))
    model = known.of_config(run_config.model_of(config))
    assert model.title == RECIPES[name] and config.data.datasets == ('dhf1k',)
    training.StepOptions.of(config)
    assert bool(config.init_from) == model.on_s3d


def test_kinds_and_fields_that_do_not_fit_are_named(tmp_path):
    config = recipe('vinet', 'kind=vnet')
    with pytest.raises(InputError, match=r"config\.kind is 'vnet', expected one of stsanet"):
        run_config.check(config, str(tmp_path))
    config = recipe('dhf1k', 'kind=vinet')
    with pytest.raises(InputError, match=r'config\.model has amsf_concat, .*which ViNet .*has not'):
        run_config.check(config, str(tmp_path))
    with pytest.raises(InputError, match=r"config\.loss is 'mse', expected one of kl_cc, kl,"):
        training.StepOptions.of(recipe('vinet', 'loss=mse'))
    config = recipe('tinyhd_m', 'loss=kl_of_batch')
    with pytest.raises(InputError, match='a map for every frame'):
        run_config.check(config, str(tmp_path))


def test_runs_of_older_versions_go_on(tmp_path):
    """Their configs lack the fields that came with the other models."""
    config = recipe('tiny')
    old = config.to_dict()
    for field in run_config.ADDED:
        *groups, name = field.split('.')
        del (old[groups[0]] if groups else old)[name]
    run_config.write_config(tmp_path, old)
    run_config.check_same(tmp_path, config.to_dict())
    with pytest.raises(InputError, match="kind: 'stsanet' in the run, 'vinet' now"):
        run_config.check_same(tmp_path, config.to_dict() | {'kind': 'vinet'})


def test_kl_of_a_batch_is_that_of_one_distribution():
    rng = np.random.default_rng(0)
    s, g = rng.uniform(0.1, 1, (2, 3, 4, 5)).astype(np.float32)
    p, q = s / s.sum(dtype=np.float64), g / g.sum(dtype=np.float64)
    expected = (q * np.log(q / p)).sum()
    assert losses.kl_of_batch(s, g).mean() == pytest.approx(expected, rel=1e-4)
    assert losses.kl_of_batch(s, 7 * g).mean() == pytest.approx(expected, rel=1e-4)


def test_frames_without_density_do_not_count():
    rng = np.random.default_rng(0)
    s, g = rng.uniform(0.1, 1, (2, 2, 3, 4, 5)).astype(np.float32)
    g[0, 1] = 0
    found = losses.over_frames(losses.kl, s, g)
    each = [np.asarray(losses.kl(s[0, ::2], g[0, ::2])), np.asarray(losses.kl(s[1], g[1]))]
    np.testing.assert_allclose(found, [values.mean() for values in each], rtol=1e-5)
    gradient = jax.grad(lambda s: losses.over_frames(losses.kl, s, g).sum())(s)
    assert np.isfinite(gradient).all() and not gradient[0, 1].any() and gradient[0, 0].any()


PARTS, ARRAYS = ('backbone', 'map'), ('kernel', 'bias')


def assert_pytorchs(config, per_epoch, options, before_step):
    """Eight steps of SGD on random gradients are those of torch.optim.

    `options(part, array)` are PyTorch's for an array; `before_step(step, sgd, theirs)` may change
    them and the gradients, which are those of ours at first.
    """
    torch = pytest.importorskip('torch')
    rng = np.random.default_rng(0)
    shapes = {(part, array): 3 for part in PARTS for array in ARRAYS}
    start = {path: rng.normal(size=n).astype(np.float32) for path, n in shapes.items()}
    theirs = {path: torch.nn.Parameter(torch.tensor(array)) for path, array in start.items()}
    groups = [{'params': [theirs[path]], **options(*path)} for path in shapes]
    sgd = torch.optim.SGD(groups, lr=0.1, momentum=0.9)

    def nested(flat):
        return {part: {array: flat[part, array] for array in ARRAYS} for part in PARTS}

    params, tx = nested(start), optimizer.optimizer(config, per_epoch)
    state = tx.init(params)
    rates = {
        'backbone': optimizer.backbone_learning_rate(config, per_epoch, 8),
        'map': optimizer.learning_rate(config, per_epoch, 8),
    }

    @jax.jit
    def update(params, state, gradient, step):
        updates, state = tx.update(gradient, state, params, value=0.0)
        for part in PARTS:
            rate = dict.fromkeys(ARRAYS, rates[part](step))
            moved = jax.tree.map(lambda p, u, r: p - r * u, params[part], updates[part], rate)
            params = params | {part: moved}
        return params, state

    for step in range(8):
        gradient = {path: rng.normal(size=n).astype(np.float32) for path, n in shapes.items()}
        for path, array in gradient.items():
            theirs[path].grad = torch.tensor(array)
        before_step(step, sgd, theirs)
        sgd.step()
        params, state = update(params, state, nested(gradient), step)
        for (a, b), tensor in theirs.items():
            np.testing.assert_allclose(params[a][b], tensor.detach(), rtol=1e-5, atol=1e-6)


def test_sgd_is_pytorchs():
    """With momentum, weight decay, other rates for biases and the backbone, and milestones."""
    config = optimizer.OptimizerConfig(
        algorithm='sgd', learning_rate=0.1, weight_decay=1e-2, bias_factor=2, backbone_factor=0.5,
        backbone_drops=False, schedule='milestones', milestones=(0.5, 0.75),
    )  # fmt: skip

    def options(part, array):
        rate = 0.1 * (0.5 if part == 'backbone' else 1) * (2 if array == 'bias' else 1)
        return {'lr': rate, 'weight_decay': 0 if array == 'bias' else 1e-2}

    def drops(step, sgd, theirs):
        if step in (4, 6):
            for (part, _), group in zip(theirs, sgd.param_groups):
                group['lr'] *= 0.1 if part == 'map' else 1

    assert_pytorchs(config, 10, options, drops)


def test_a_backbone_that_learns_later_and_decays_less_is_pytorchs():
    """As UNISAL's: without gradients for two epochs, a smaller rate and decay, clipping, drops."""
    torch = pytest.importorskip('torch')
    config = optimizer.OptimizerConfig(
        algorithm='sgd', learning_rate=0.1, weight_decay=0.5, clip_norm=0.5, backbone_factor=0.2,
        backbone_decay_factor=0.3, backbone_frozen_epochs=2, drop_factor=0.8,
        first_drop_epochs=1, drop_every_epochs=1,
    )  # fmt: skip

    def options(part, _):
        return (
            {'lr': 0.02, 'weight_decay': 0.15}
            if part == 'backbone'
            else {'lr': 0.1, 'weight_decay': 0.5}
        )

    def before_step(step, sgd, theirs):
        if step < 4:  # two epochs of two steps
            for array in ARRAYS:
                theirs['backbone', array].grad = None
        torch.nn.utils.clip_grad_norm_(theirs.values(), 0.5)
        if step and step % 2 == 0:
            for group in sgd.param_groups:
                group['lr'] *= 0.8

    assert_pytorchs(config, 2, options, before_step)


def test_s3ds_weights_fill_the_backbone(tmp_path):
    from safetensors.numpy import save_file

    from stsa_jax.weights import port

    s3d = known.of_kind('s3d', '')
    params, statistics = random_weights(
        *functional.abstract(s3d.module, s3d.config(num_classes=3, width=0.125))[1:], seed=4
    )
    save_file(port.to_torch(params, statistics), tmp_path / 's3d.safetensors')
    model = dataclasses.replace(run_config.model_of(recipe('hd2s')), width=0.125)
    _, found, _ = initial_weights(model, 0, str(tmp_path / 's3d.safetensors'))
    for a, b in zip(*(jax.tree.leaves(tree['backbone']) for tree in (found, params)), strict=True):
        np.testing.assert_array_equal(a, b)


class PartsOfTinyHD(nnx.Module):
    """`(B, T, H, W, 3)` -> `(B, H, W)`: a few of tinyHD's layers, one after the other."""

    def __init__(self, config=None, *, rngs):
        options = {'eps': BATCH_NORM_EPS, 'momentum': 0.1, 'rngs': rngs}
        self.first = ConvBN(3, 4, (3, 3, 3), stride=(2, 2, 2), **options)
        self.block = InvertedResidual(4, 8, expansion=2, time=(3, 2), space_stride=2, **options)
        self.same = InvertedResidual(8, 8, expansion=2, residual=True, **options)
        self.last = InvertedResidual(2, 1, expansion=2, time=(3, 2), **options)

    def __call__(self, clip, *, train=False):
        x = self.same(self.block(self.first(clip, train=train), train=train), train=train)
        x = self.last(upsample_aligned(pixel_shuffle(x), (1, 2, 3)), train=train)
        return jax.nn.sigmoid(x.mean((1, 4)))


@pytest.mark.long
@pytest.mark.parametrize('form', ['plain', 'cpu'])
def test_steps_of_tinyhds_parts_do_not_depend_on_the_layout(form, quick_compilation):
    """In both forms; the whole network, whose step takes a minute to compile, in one."""
    chosen = optimizer.OptimizerConfig(algorithm='sgd', learning_rate=0.1, schedule='constant')
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (8, 8, 16, 16, 3), np.uint8)
    batch = {'clip': clip, 'density': rng.uniform(size=(8, 16, 16)).astype(np.float32)}
    graphdef, *shapes = functional.abstract(PartsOfTinyHD, None)
    found = {}
    for layout in ((1, 1), (2, 4)):
        mesh = sharding.make_mesh(*layout, jax.devices()[: math.prod(layout)])
        tx = optimizer.optimizer(chosen, 1)
        state = training.create_state(mesh, *random_weights(*shapes, seed=1), tx)
        rate = optimizer.learning_rate(chosen, 1, STEPS)
        with forms.use(form):
            step = training.make_train_step(graphdef, tx, rate, mesh)
            for _ in range(3):
                state, metrics = step(state, sharding.put_batch(mesh, batch))
        found[layout] = jax.device_get((state.params, state.batch_stats, metrics['loss']))
    for a, b in zip(*(jax.tree.leaves(each) for each in found.values()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5)
    start = random_weights(*shapes, seed=1)[0]
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), start, found[1, 1][0])
    assert min(jax.tree.leaves(moved)) > 0


@pytest.fixture
def kept_programs(tmp_path):
    """A program that was compiled before is read from a file: tinyHD's step takes a minute."""
    compilation_cache.set_cache_dir(str(tmp_path / 'programs'))
    yield
    jax.config.update('jax_compilation_cache_dir', None)
    compilation_cache.reset_cache()


@pytest.mark.long
@pytest.mark.parametrize('name', RECIPES)
def test_recipe_trains_on_any_layout_resumes_and_predicts(
    name,
    prepared,  # noqa: F811
    tmp_path,
    quick_compilation,
    kept_programs,
):
    fields = [
        'model.image_size=32,64', 'init_from=',
        'data.datasets=stsa_synthetic', f'data.data_dir={prepared}', 'batch_size=8',
        f'num_steps={STEPS}', 'log_every=1', 'checkpoint_every=1', 'validation.every=2',
        'validation.clips=2', 'optimizer.learning_rate=1e-3',
    ]  # fmt: skip
    config = recipe(name, *fields)
    config.accumulate = min(config.accumulate, 1)
    if 'width' in config.model:
        config.model.width = 0.125
    if 'batch_norm_momentum' in config.model:
        config.model.batch_norm_momentum = 0.1
    workdir = tmp_path / 'run'
    history = train.train(config, str(workdir))  # on eight devices
    steps = [entry for entry in history if entry['kind'] == 'train']
    assert [entry['step'] for entry in steps] == [1, 2] and history[-1]['kind'] == 'validation'
    assert all(np.isfinite(entry['loss']) for entry in history)
    trained = load_weights(workdir)
    assert trained.kind == config.kind

    # Interrupted after the first step, it ends with the same bits.
    shutil.rmtree(workdir / 'checkpoints' / '2')
    again = train.train(config, str(workdir))
    assert [entry['loss'] for entry in again] == [entry['loss'] for entry in history]
    for a, b in zip(*(jax.tree.leaves(w[2:4]) for w in (trained, load_weights(workdir)))):
        np.testing.assert_array_equal(a, b)

    # One device has the same loss, and after a step nearly the same: where a gradient is rounding
    # alone, Adam moves by its sign. With HD2S, whose eps is 4e-10, they are 0.65 % apart.
    alone, eight = one_device(config), [entry['loss'] for entry in steps]
    assert alone[0] == pytest.approx(eight[0], rel=1e-3)
    assert alone[1] == pytest.approx(eight[1], rel=2e-2)

    model = stsa_jax.load(workdir)
    assert model.config == run_config.model_of(config)
    frames = np.random.default_rng(0).integers(0, 256, (model.config.frames, 40, 70, 3), np.uint8)
    saliency = np.asarray(model(model.preprocess(frames)[None]))
    assert saliency.shape[-2:] == (32, 64) and np.ptp(saliency) > 0


def one_device(config):
    """The losses of the run on one device."""
    model = run_config.model_of(config)
    chosen = optimizer.OptimizerConfig(**config.optimizer)
    graphdef, *weights = initial_weights(model, config.seed)
    mesh = sharding.make_mesh(1, 1, jax.devices()[:1])
    clips, _ = train.open_clips(config, config.batch_size)
    per_epoch = clips.steps_per_epoch
    tx = optimizer.optimizer(chosen, per_epoch)
    state = training.create_state(mesh, *weights, tx)
    step = training.make_train_step(
        graphdef,
        tx,
        optimizer.learning_rate(chosen, per_epoch, STEPS),
        mesh,
        training.StepOptions.of(config),
        known.of_config(model).normalisation,
        optimizer.backbone_learning_rate(chosen, per_epoch, STEPS),
    )
    losses = []
    for _ in range(STEPS):
        named = ('clip', 'density', 'fixations')
        batch = {k: v for k, v in next(clips).items() if k in named}
        state, metrics = step(state, sharding.put_batch(mesh, batch))
        losses.append(float(metrics['loss']))
    clips.close()
    return losses
