"""Other models against their released code, run in PyTorch in float64.

Weights and clips are made by `zoo_rule`; the numbers in `tests/data/<name>.npz` are of two clips at
a small size. The tap names are ours.
"""

import dataclasses
import functools
import json

import jax
import numpy as np
import pytest
from conftest import SHARED

import stsa_jax
from stsa_jax.distribution import sharding
from stsa_jax.metrics import losses
from stsa_jax.models import functional
from stsa_jax.models.hd2s import HD2SConfig
from stsa_jax.models.salema import SalEMAConfig
from stsa_jax.models.tased import TASEDConfig
from stsa_jax.models.tinyhd import TinyHDConfig
from stsa_jax.models.unisal import UNISALConfig
from stsa_jax.models.vinet import ViNetConfig
from stsa_jax.ops import forms
from stsa_jax.weights import known, port
from stsa_jax.weights.pretrained import SaliencyModel
from tests import golden_rule, zoo_rule

SIZE = (64, 96)
SIZES = {'s': 513_121, 'm': 515_281}  # of the released tinyHD, in parameters


@dataclasses.dataclass(frozen=True)
class Case:
    """A released model: its file of goldens, its name in `zoo_rule`, and its config."""

    name: str
    rule: str
    config: object
    frames_kept: tuple = ()  # of a map for every frame, those in the file
    long: bool = False  # another variant of the model has the short test
    loss_noise: float = 0  # of a step's loss, where float32 puts maxima of near ties elsewhere
    training: tuple = ()  # fields of the config in training: nothing is left out at random
    levels: float = 1  # multiplies the clip, of a model whose frames are not divided by a deviation


CASES = (
    Case('tinyhd_s', 'tinyhd', TinyHDConfig(image_size=SIZE)),
    Case('tinyhd_m', 'tinyhd', TinyHDConfig(image_size=SIZE, target='all'), (0, 7, 15), True),
    Case('hd2s', 'hd2s', HD2SConfig(image_size=SIZE), long=True),
    Case('vinet', 'vinet', ViNetConfig(image_size=SIZE), long=True),
    Case('tased', 'tased', TASEDConfig(image_size=SIZE), long=True, loss_noise=2e-4),
    Case(
        'unisal',
        'unisal',
        UNISALConfig(image_size=SIZE),
        (0, 5, 11),
        long=True,
        training=(('drop_skip', 0), ('drop_state', 0)),
    ),
    Case(
        'salema',
        'salema',
        SalEMAConfig(image_size=SIZE, frames=4),
        long=True,
        training=(('dropout', 0),),
        levels=1 / 255,
    ),
)


@pytest.fixture(
    scope='module',
    params=[
        pytest.param(case, id=case.name, marks=[pytest.mark.long] * case.long) for case in CASES
    ],
)
def case(request):
    return request.param


@pytest.fixture(scope='module')
def golden(case, golden_dir):
    return dict(np.load(golden_dir / f'{case.name}.npz'))


@pytest.fixture(scope='module')
def state_dict(case, golden_dir):
    shapes = json.loads((golden_dir / f'{case.name}_state_dict.json').read_text())
    return {n: zoo_rule.tensor(n, tuple(shape), 1, case.rule) for n, shape in shapes.items()}


@pytest.fixture(scope='module')
def weights(case, state_dict):
    return port.from_torch(state_dict, case.config)


@pytest.fixture(scope='module')
def clip(case):
    """Two clips; the rule's blobs need some room."""
    height, width = case.config.image_size
    room = 32 if case.rule == 'tinyhd' else 64
    whole = zoo_rule.clip(1, 2, case.config.frames, height + room, width + room)
    return whole[:, :, :height, :width] * np.float32(case.levels)


@pytest.fixture(scope='module')
def graphdef(case):
    return functional.abstract(known.of_config(case.config).module, case.config)[0]


@pytest.fixture(scope='module')
def evaluated(graphdef, weights, clip):
    run = jax.jit(functools.partial(functional.apply, graphdef, return_intermediates=True))
    saliency, taps = run(*weights, clip)
    return np.asarray(saliency), jax.device_get(taps)


def test_recognised_and_back(case, state_dict, weights):
    naming = port.recognise(state_dict)
    model = known.of_naming(naming)
    assert type(case.config) is model.config
    found = port.infer_config(state_dict, naming)
    free = {'image_size': case.config.image_size, 'frames': case.config.frames}
    assert dataclasses.replace(found, **free) == case.config
    again = port.to_torch(*weights)
    assert set(again) == set(state_dict)
    for name, array in state_dict.items():
        assert again[name].dtype == array.dtype and np.array_equal(again[name], array), name


def test_map(case, golden, evaluated):
    saliency = evaluated[0]
    if case.frames_kept:
        assert saliency.shape == (2, case.config.frames, *case.config.image_size)
        saliency = saliency[:, list(case.frames_kept)]
    assert saliency.shape == golden['map'].shape and golden['map'].std() > 0.01
    tolerance = max(1e-5, 2 * float(golden['float32_error']))
    np.testing.assert_allclose(saliency, golden['map'], atol=tolerance, rtol=0)


def test_stages(golden, evaluated):
    names = sorted({key.split('/')[1] for key in golden if key.startswith('stage/')})
    assert len(names) >= 5
    for name in names:
        found = evaluated[1][name][0].astype(np.float64)
        assert found.shape == tuple(golden[f'stage/{name}/shape']), name
        mean, std, extreme = golden[f'stage/{name}/moments']
        noise = 5e-5 * extreme  # as of STSA-Net's stages, see test_parity
        assert abs(found.mean() - mean) < 0.02 * noise, name
        assert abs(found.std() - std) < 0.02 * noise, name
        places = np.random.Generator(np.random.PCG64(sum(map(ord, name))))
        values = found.ravel()[places.integers(0, found.size, 64)]
        np.testing.assert_allclose(
            values, golden[f'stage/{name}/values'], atol=noise, rtol=0, err_msg=name
        )


@pytest.mark.long
def test_train_mode(case, golden, weights, clip):
    """Loss, gradients and running statistics of a step's forward and backward pass."""
    params, batch_stats = weights
    height, width = case.config.image_size
    density = golden_rule.density(1, 2, height, width)
    steps = case.config.frames if case.config.target == 'all' else 1
    density = np.repeat(density, steps, axis=0)
    config = dataclasses.replace(case.config, **dict(case.training))
    graphdef, *_ = functional.abstract(known.of_config(config).module, config)

    @jax.jit
    def step(params, batch_stats):  # with the forms for CPUs, as training has them there
        def loss(params):
            saliency, new = functional.apply(graphdef, params, batch_stats, clip, train=True)
            maps = saliency.reshape(-1, height, width)
            kl, cc = losses.kl(maps, density).mean(), losses.cc(maps, density).mean()
            return kl - cc, (kl, cc, new)

        return jax.grad(loss, has_aux=True)(params)

    mesh = sharding.make_mesh(devices=jax.devices()[:1])
    with forms.use('cpu'), jax.sharding.use_abstract_mesh(mesh.abstract_mesh):
        grads, (kl, cc, new) = jax.device_get(step(params, batch_stats))
    # With the statistics of the few values at the coarsest level PyTorch's own float32 is off too.
    noise = max(1e-5, case.loss_noise, 2 * float(golden.get('train/float32_loss_error', 0)))
    assert float(kl) == pytest.approx(float(golden['train/kl']), rel=noise)
    assert float(cc) == pytest.approx(float(golden['train/cc']), abs=noise)
    found, expected = port.to_torch(grads), golden['train/grad_norm']
    names = golden['train/names'].tolist()
    assert set(names) <= set(found)
    norms = np.array([np.linalg.norm(found[n].astype(np.float64)) for n in names])
    # A bias in front of a BatchNorm has no gradient but rounding.
    real = expected > 1e-6 * expected.max()
    relative = np.abs(norms[real] / expected[real] - 1)
    # In some entries PyTorch's own float32 is further off.
    limit = max(0.03, float(golden['train/float32_error']))
    assert relative.max() < limit, np.array(names)[real][relative.argmax()]
    # TASED-Net's pools have near ties, HD2S's decoder few values to normalise with: PyTorch's too.
    assert np.median(relative) < max(0.002, float(golden.get('train/float32_median', 0)))
    buffers = port.to_torch(params, new)
    norms = [np.linalg.norm(buffers[n].astype(np.float64)) for n in golden['train/buffer_names']]
    np.testing.assert_allclose(norms, golden['train/buffer_norm'], rtol=5e-5)  # of few values


@pytest.mark.long
@pytest.mark.parametrize(('letter', 'frames'), [('s', 0), ('m', [0, 5, 15])])
def test_released_tinyhd(tinyhd_weights, letter, frames):
    """The real weights at full size, as the released code runs them in float64."""
    file = next(tinyhd_weights.glob(f'd123{letter}_*.pth'))
    model = stsa_jax.load(file)
    assert model.kind == 'tinyhd' and port.parameter_count(model.params) == SIZES[letter]
    golden = np.load(SHARED / 'golden' / f'tinyhd_{letter}_seed1.npz')
    with forms.use('cpu'):
        saliency = np.asarray(model(golden_rule.clip(1, 1, 16, 192, 256)))[0]
    found = saliency[frames] if frames else saliency
    np.testing.assert_allclose(found, golden['map'].squeeze(), atol=1e-6, rtol=0)


@pytest.mark.long
def test_vinet_at_full_size():
    """Of weights by the rule; PyTorch's own float32 is 6.6e-7 from its float64."""
    path = SHARED / 'golden' / 'vinet_seed1.npz'
    if not path.exists():
        pytest.skip('the golden at full size (shared/golden beside the checkout) is not here')
    golden = np.load(path)
    shapes = json.loads((SHARED / 'golden' / 'vinet_state_dict.json').read_text())
    tensors = {n: zoo_rule.tensor(n, tuple(shape), 1, 'vinet') for n, shape in shapes.items()}
    model = SaliencyModel(ViNetConfig(), *port.from_torch(tensors, ViNetConfig()))
    with forms.use('cpu'):
        saliency = np.asarray(model(zoo_rule.clip(1)))[0]
    noise = 2 * golden['float32_error'].max()
    np.testing.assert_allclose(saliency, golden['map'], atol=max(1e-5, noise), rtol=0)


@pytest.mark.long
@pytest.mark.parametrize(('domain', 'frames'), [('salicon', 1), ('hollywood', 12)])
def test_other_domains_of_unisal(golden_dir, domain, frames):
    """Pictures, which bypass the GRU, and another dataset's parts; every fourth pixel."""
    config = UNISALConfig(image_size=SIZE, domain=domain, frames=frames)
    shapes = json.loads((golden_dir / 'unisal_state_dict.json').read_text())
    tensors = {n: zoo_rule.tensor(n, tuple(shape), 1, 'unisal') for n, shape in shapes.items()}
    model = SaliencyModel(config, *port.from_torch(tensors, config))
    clip = zoo_rule.clip(1, 2, 12, SIZE[0] + 64, SIZE[1] + 64)[:, :frames, : SIZE[0], : SIZE[1]]
    found = np.asarray(model(clip))[:, -1, ::4, ::4]
    golden = np.load(golden_dir / 'unisal.npz')
    expected, noise = golden[f'domain/{domain}'], float(golden['float32_error'])
    assert expected.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=max(1e-5, 2 * noise), rtol=0)
