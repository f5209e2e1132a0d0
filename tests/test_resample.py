"""Resampling weights to another size: invariants, and what is refused."""

import dataclasses

import jax
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flax import nnx, traverse_util

import stsa_jax
from benchmarks import sizes
from stsa_jax import InputError, STSANet, STSANetConfig
from stsa_jax.checkpoints.weights import Weights
from stsa_jax.media.preprocess import IMAGENET
from stsa_jax.models import functional
from stsa_jax.ops import attention, upsampling
from stsa_jax.weights import port, pretrained
from stsa_jax.weights.initial import random_weights
from stsa_jax.weights.resample import resample, resample_taps, resize

CONFIG = STSANetConfig(image_size=(64, 96), frames=32, width=0.125)
MARK = 0.37  # a value that no initialisation gives


@pytest.fixture(scope='module')
def weights():
    """Params and batch statistics of CONFIG, LayerNorms filled with random numbers."""
    _, *shapes = functional.abstract(STSANet, CONFIG)
    params, batch_stats = random_weights(*shapes)
    rng = np.random.default_rng(0)
    flat = traverse_util.flatten_dict(params)
    for path, array in flat.items():
        if path[-2] == 'norm':
            flat[path] = rng.uniform(0.5, 1.5, array.shape).astype(np.float32)
    return traverse_util.unflatten_dict(flat), batch_stats


@pytest.fixture(scope='module')
def state_dict(weights):
    return port.to_torch(*weights)


def changed(**fields):
    return dataclasses.replace(CONFIG, **fields)


def fitted(state_dict, **fields):
    found, said = resample(state_dict, changed(**fields), 'here')
    port.from_torch(found, changed(**fields))  # strict: it really is of that model
    return found, said


def test_nothing_changes_at_the_same_size(state_dict):
    found, said = fitted(state_dict)
    assert said == '' and found.keys() == state_dict.keys()
    assert all(found[name] is state_dict[name] for name in found)


@pytest.mark.parametrize('size', [(32, 48), (48, 112), (128, 192), (80, 96)])
def test_layer_norms_are_resampled_in_space(state_dict, size):
    found, said = fitted(state_dict, image_size=size)
    assert f'level 0: 16x24 -> {size[0] // 4}x{size[1] // 4}' in said
    assert 'compression' not in said
    for name, array in found.items():
        before = state_dict[name]
        if name.startswith('ln_'):
            expected = F.interpolate(  # each of the four steps on its own
                torch.from_numpy(before).double().transpose(0, 1),
                array.shape[2:],
                mode='bilinear',
                align_corners=False,
            )
            np.testing.assert_allclose(array, expected.transpose(0, 1), atol=1e-6)
        else:
            assert array is before


def test_constant_fields_stay_constant():
    constant = np.full((3, 4, 7, 12), MARK, np.float32)
    for size in ((14, 24), (3, 5), (7, 12), (1, 1), (9, 40)):
        found = resize(constant, size)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, np.full((3, 4, *size), MARK, np.float32))


@pytest.mark.parametrize('image_size,frames', [((128, 96), 64), ((112, 48), 16)])
def test_there_and_back_in_time_and_constant_space(state_dict, image_size, frames):
    """Constant LayerNorms and tap sums survive any way; time is exact from fewer to more frames."""
    flat = {n: np.full_like(a, MARK) if n.startswith('ln_') else a for n, a in state_dict.items()}
    back, _ = fitted(fitted(flat, image_size=image_size, frames=frames)[0])
    assert back.keys() == flat.keys()
    for name, array in flat.items():
        if frames > CONFIG.frames or '_pre' not in name:
            np.testing.assert_allclose(back[name], array, atol=1e-7, err_msg=name)
        elif name.endswith('weight'):
            np.testing.assert_allclose(back[name].sum(2), array.sum(2), atol=1e-6)


def test_taps_by_area():
    taps = lambda *values: np.array(values, np.float32).reshape(1, 1, -1, 1, 1)  # noqa: E731
    assert resample_taps(taps(1, 2, 4, 8), 2).ravel().tolist() == [3, 12]
    assert resample_taps(taps(3, 12), 4).ravel().tolist() == [1.5, 1.5, 6, 6]
    np.testing.assert_allclose(resample_taps(taps(6, 12), 3).ravel(), [4, 6, 8])
    assert resample_taps(taps(1, 2, 4), 1).ravel().tolist() == [7]


@pytest.mark.parametrize('frames', [16, 24, 40, 64])
def test_a_still_video_keeps_its_features(state_dict, frames):
    """After the compression of every level, at each of the four steps."""
    found, said = fitted(state_dict, frames=frames)
    assert 'level 0: 4 -> ' in said
    assert ("level 3's new compression is the mean of 2 steps" in said) == (frames > 32)
    for level in range(4):
        channels = found[f'ln_{level}_0.weight'].shape[0]
        still = np.random.default_rng(level).random((1, 1, 2, 3, channels), np.float32)
        expected = compressed(state_dict, level, still, CONFIG.frames)
        np.testing.assert_allclose(
            compressed(found, level, still, frames), expected, rtol=1e-5, atol=1e-6
        )


def compressed(state_dict, level, still, frames):
    config = changed(frames=frames)
    branch = stsa_jax.models.stsanet.Branch(level, config, rngs=nnx.Rngs(0))
    branch.stsa = lambda x, *_: x
    if branch.compress is not None:
        kernel = state_dict[f'branch{level}_pre.0.weight'].transpose(2, 3, 4, 1, 0)
        branch.compress.kernel.set_value(kernel)
        branch.compress.bias.set_value(state_dict[f'branch{level}_pre.0.bias'])
    steps = frames // stsa_jax.models.stsanet.TIME_STRIDES[level]
    out = branch(np.repeat(still, steps, axis=1))
    assert out.shape[1] == 4
    return out


def test_a_single_stream_is_resampled_too():
    """A variant without level 0, whose compression determines the length of the clips."""
    config = changed(levels=(3,), stsa_levels=(3,), amsf_weighting=False)
    source = port.to_torch(*random_weights(*functional.abstract(STSANet, config)[1:]))
    longer = dataclasses.replace(config, frames=64)
    found, said = resample(source, longer)
    assert "level 3's new compression" in said
    port.from_torch(found, longer)


def test_what_level_3_cannot_keep_is_refused(state_dict):
    longer, _ = fitted(state_dict, frames=64)
    shorter, said = fitted(longer)
    assert (
        "level 3's compression, a mean, is left out" in said and 'branch3_pre.0.bias' not in shorter
    )
    trained = longer | {'branch3_pre.0.bias': longer['branch3_pre.0.bias'] + 1}
    with pytest.raises(InputError, match=r'here: branch3_pre.* trained .*frames above 32'):
        resample(trained, CONFIG, 'here')


def test_size_free_weights_fit_any_size(state_dict):
    free = changed(norm='size_free')
    weights = random_weights(*functional.abstract(STSANet, free)[1:])
    source = port.to_torch(*weights)
    assert source['ln_1_0.weight'].shape == (60,)
    assert port.infer_config(source, 'stsanet').norm == 'size_free'
    found, said = resample(source, dataclasses.replace(free, image_size=(112, 160)))
    assert said == '' and found == source
    back = port.from_torch(found, dataclasses.replace(free, image_size=(112, 160)))
    jax.tree.map(np.testing.assert_array_equal, back, weights)
    with pytest.raises(InputError, match=r"here: ln_0_0\.bias .*'size_free' needs one value"):
        resample(state_dict, free, 'here')
    with pytest.raises(InputError, match=r'ln_0_0.weight has shape \(24,\), expected \(24, 4'):
        fitted(source)


def test_other_misfits_stay_errors(state_dict):
    with pytest.raises(InputError, match='do not fit the model'):
        fitted(state_dict, width=0.25, image_size=(32, 48))
    lacking = {n: a for n, a in state_dict.items() if n != 'ln_2_1.bias'}
    with pytest.raises(InputError, match=r'ln_2_1\.bias is missing'):
        fitted(lacking, image_size=(32, 48))
    lacking = {n: a for n, a in state_dict.items() if n != 'branch2_pre.0.weight'}
    with pytest.raises(InputError, match=r'branch2_pre\.0\.weight is missing'):
        fitted(lacking, frames=64)
    longer = {n: a for n, a in fitted(state_dict, frames=64)[0].items() if 'branch3_pre' not in n}
    with pytest.raises(InputError, match=r'branch3_pre\.0\.weight is missing'):
        resampled, _ = resample(longer, changed(frames=64))
        port.from_torch(resampled, changed(frames=64))


@pytest.mark.parametrize('name', ['a.safetensors', 'folder'])
def test_loading_reports_what_was_resampled(tmp_path, weights, capsys, name):
    path = tmp_path / name
    fields = dataclasses.asdict(CONFIG)
    pretrained.save(path, Weights('stsanet', fields, *weights, IMAGENET))
    model = stsa_jax.load(path)
    assert model.config == CONFIG and capsys.readouterr().err == ''
    model = stsa_jax.load(path, image_size=(112, 96), frames=64)
    assert model.config == changed(image_size=(112, 96), frames=64)
    note = capsys.readouterr().err
    assert note.startswith(f'note: {path}: resampled') and note.count('\n') == 1
    assert 'level 3: 2x3 -> 3x3' in note and 'level 2: 2 -> 4' in note
    assert model.params['branch0']['stsa']['layer_2']['norm']['bias'].shape == (4, 28, 24, 24)
    lines = []
    params, _ = pretrained.initialise(path, changed(frames=16), say=lines.append)
    assert params['branch2']['compress']['kernel'].shape[0] == 1
    line = lines.pop()
    assert len(lines) == (name == 'folder'), 'of a folder, which checkpoint'
    assert line.startswith(f'{path}: resampled') and 'level 2: 2 -> 1' in line
    with pytest.raises(InputError, match='image_size is'):
        stsa_jax.load(path, image_size=(100, 96))


@pytest.mark.long
def test_a_model_of_another_size_runs(tmp_path, weights, monkeypatch):
    """112 is not a multiple of 32, and attention takes the way of the large sizes, in blocks."""
    monkeypatch.setattr(attention, 'LARGEST_MATRIX', 500 * 336)  # level 1: 336 and 672 places
    pretrained.save(
        tmp_path / 'a.safetensors',
        Weights('stsanet', dataclasses.asdict(CONFIG), *weights, IMAGENET),
    )
    model = stsa_jax.load(tmp_path / 'a.safetensors', image_size=(112, 192), frames=64)
    rng = np.random.default_rng(0)
    clip = model.preprocess(rng.integers(0, 256, (64, 60, 90, 3), np.uint8))
    saliency = np.asarray(model(clip[None]))
    assert saliency.shape == (1, 112, 192) and 0 < saliency.min() < saliency.max() < 1
    changed = np.asarray(model(clip[None, ::-1]))
    assert np.abs(changed - saliency).max() > 1e-5


@pytest.mark.long
def test_the_largest_size_runs(tmp_path):
    """One of the twelve that `python -m benchmarks.sizes` runs."""
    found = sizes.predict(sizes.write_weights(tmp_path), (448, 768), 64)
    assert found.shape == (1, 448, 768) and np.isfinite(found).all()
    assert 0 < found.min() < found.max() - 1e-3 < 1


def test_resizing_agrees_with_the_networks_own():
    x = np.random.default_rng(0).normal(size=(2, 4, 3, 5, 6)).astype(np.float32)
    inside = np.asarray(upsampling.resize(x, (7, 4))).transpose(0, 4, 1, 2, 3)
    np.testing.assert_allclose(resize(x.transpose(0, 4, 1, 2, 3), (7, 4)), inside, atol=1e-6)
