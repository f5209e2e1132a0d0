"""Weights in and out: bit-identical round trips, strictness, and every kind of file."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import golden_rule as rule
import jax
import numpy as np
import pytest
import torch
from flax import nnx, traverse_util
from full_disk import file_size_limit
from safetensors.numpy import save_file

import stsa_jax
from stsa_jax import InputError, STSANet, STSANetConfig
from stsa_jax.errors import exit_cleanly
from stsa_jax.models import functional
from stsa_jax.models.s3d import S3DConfig
from stsa_jax.weights import port, pretrained
from stsa_jax.weights.port_command import main as convert
from stsa_jax.weights.pretrained import initialise, read_weights

TINY = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)
NAMES = ['stsanet', 's3d_kinetics', 's3d_torchvision']


def golden_state_dict(golden_dir, name, seed=1):
    shapes = json.loads((golden_dir / f'{name}_state_dict.json').read_text())
    return {entry: rule.tensor(entry, shape, seed) for entry, shape in shapes.items()}


@pytest.fixture(scope='module')
def tiny():
    """A tiny STSA-Net: (params, batch_stats) with nothing at its initial value."""
    _, params, batch_stats = functional.split(STSANet(TINY, rngs=nnx.Rngs(0)))
    rng = np.random.default_rng(0)

    def fill(x):
        return rng.uniform(0.5, 1.5, x.shape).astype(x.dtype)

    batch_stats = jax.tree.map(lambda x: fill(x) if x.ndim else np.int32(7), batch_stats)
    return jax.tree.map(lambda x: fill(x) - np.float32(1), params), batch_stats


def assert_same(a, b):
    a, b = traverse_util.flatten_dict(a), traverse_util.flatten_dict(b)
    assert a.keys() == b.keys()
    for path in a:
        assert a[path].dtype == b[path].dtype, path
        np.testing.assert_array_equal(a[path], b[path], err_msg='.'.join(path))


@pytest.mark.parametrize('name', NAMES)
def test_round_trip_is_bit_identical(golden_dir, name):
    state_dict = golden_state_dict(golden_dir, name)
    for entry in state_dict:
        if entry.endswith('num_batches_tracked'):
            state_dict[entry] = np.array(len(entry), np.int64)
    back = port.to_torch(*port.from_torch(state_dict), naming=name)
    assert back.keys() == state_dict.keys()
    assert len(back) == (849 if name == 'stsanet' else 464)
    for entry, array in state_dict.items():
        assert back[entry].dtype == array.dtype and back[entry].shape == array.shape, entry
        assert np.array_equal(back[entry], array), entry


def test_from_torch_inverts_to_torch(tiny):
    state_dict = port.to_torch(*tiny)
    params, batch_stats = port.from_torch(state_dict)  # the config is inferred from the shapes
    assert_same(params, tiny[0])
    assert_same(batch_stats, tiny[1])


def test_to_torch_takes_a_gradient_tree(tiny):
    grads = port.to_torch(tiny[0])
    everything = port.to_torch(*tiny)
    buffers = ('running_mean', 'running_var', 'num_batches_tracked')
    assert set(grads) == {n for n in everything if not n.endswith(buffers)}


def test_tensors_and_module_prefixes_are_understood(tiny):
    wrapped = {f'module.{n}': torch.tensor(a) for n, a in port.to_torch(*tiny).items()}
    assert_same(port.from_torch(wrapped)[0], tiny[0])


def test_strict(tiny):
    state_dict = port.to_torch(*tiny)
    unknown = state_dict | {'branch9.weight': np.zeros((2, 3))}
    with pytest.raises(InputError, match=r'branch9\.weight with shape \(2, 3\)'):
        port.from_torch(unknown)
    missing = {n: a for n, a in state_dict.items() if n != 'SA_1.0.bias'}
    with pytest.raises(InputError, match=r'SA_1\.0\.bias is missing, expected with shape \(1,\)'):
        port.from_torch(missing)
    misshapen = state_dict | {'CA_0.1.bias': np.zeros(5, np.float32)}
    expected = state_dict['CA_0.1.bias'].shape
    with pytest.raises(InputError) as error:
        port.from_torch(misshapen)
    assert f'CA_0.1.bias has shape (5,), expected {expected}' in str(error.value)
    with pytest.raises(InputError, match='not the weights of STSA-Net or S3D'):
        port.from_torch({'conv1.weight': np.zeros(3)})
    with pytest.raises(InputError, match='do not fit'):  # of another input size
        port.from_torch(state_dict, STSANetConfig(image_size=(64, 64), frames=16, width=0.125))


@pytest.mark.parametrize('kind', ['s3d_kinetics', 's3d_torchvision', 'backbone of stsanet'])
def test_a_backbone_alone_fills_the_backbone(tiny, kind):
    params, batch_stats = tiny
    if kind == 'backbone of stsanet':
        source = port.to_torch({'backbone': params['backbone']}, batch_stats)
    else:
        head = {'kernel': np.ones((1, 1, 1, 128, 400), np.float32), 'bias': np.ones(400)}
        s3d = {'backbone': params['backbone'], 'classifier': head}
        source = port.to_torch(s3d, batch_stats, naming=kind)
    found, stats = port.from_torch(source, TINY, seed=3)
    assert_same(found['backbone'], params['backbone'])
    assert_same(stats, batch_stats)
    fresh = functional.split(STSANet(TINY, rngs=nnx.Rngs(3)))[1]
    del found['backbone'], fresh['backbone']
    assert_same(found, jax.device_get(fresh))


def test_a_backbone_with_a_hole_is_an_error(tiny):
    source = port.to_torch({'backbone': tiny[0]['backbone']}, tiny[1])
    del source['base3.2.branch1.1.bn_t.running_var']
    with pytest.raises(InputError, match=r'base3\.2\.branch1\.1\.bn_t\.running_var is missing'):
        port.from_torch(source, TINY)


def s3d_of(tiny, naming):
    """The state dict of an S3D classifier of two classes with the tiny model's backbone."""
    params, batch_stats = tiny
    head = {'kernel': np.ones((1, 1, 1, 128, 2), np.float32), 'bias': np.ones(2, np.float32)}
    s3d = {'backbone': params['backbone'], 'classifier': head}
    return port.to_torch(s3d, batch_stats, naming=naming)


def backbone_of(tiny):
    return port.to_torch({'backbone': tiny[0]['backbone']}, tiny[1])


@pytest.mark.parametrize('kind', ['s3d_kinetics', 's3d_torchvision', 'backbone of stsanet'])
@pytest.mark.parametrize('fields', [{}, {'stsa_levels': ()}])
def test_loading_a_backbone_reports_what_was_loaded(tiny, tmp_path, kind, fields):
    source = backbone_of(tiny) if 'of' in kind else s3d_of(tiny, kind)
    path, said = tmp_path / 'x.safetensors', []
    save_file(source, path)
    config = dataclasses.replace(TINY, **fields)
    initialise(path, config, say=said.append)
    loaded = port.parameter_count(tiny[0]['backbone'])
    whole = port.parameter_count(functional.abstract(STSANet, config)[1])
    assert said[0] == f"{path}: loaded the backbone: {loaded:,} of the model's {whole:,} parameters"
    rest = 'branch0, branch1, branch2, branch3, lateral, amsf0, amsf1, amsf2, readout'
    new = said[1].removeprefix('  not in the file, initialised randomly: ').split(', ')
    assert sorted(new) == sorted(rest.split(', '))
    left = {'s3d_kinetics': 'fc', 's3d_torchvision': 'classifier'}.get(kind)
    wanted = [f'  not in the model, left out: {left} (2 arrays)'] if left else []
    assert said[2:] == wanted


@pytest.fixture(scope='module')
def files(tiny, tmp_path_factory):
    """The tiny weights as a .pth, a .safetensors and a checkpoint folder, by the command."""
    folder = tmp_path_factory.mktemp('port')
    torch.save({n: torch.tensor(a) for n, a in port.to_torch(*tiny).items()}, folder / 'a.pth')
    convert([str(folder / 'a.pth'), str(folder / 'b.safetensors')])
    convert([str(folder / 'b.safetensors'), str(folder / 'checkpoint')])
    convert([str(folder / 'checkpoint'), str(folder / 'c.pt')])
    return folder


@pytest.mark.parametrize('name', ['a.pth', 'b.safetensors', 'checkpoint', 'c.pt'])
def test_every_kind_of_file_holds_the_same(files, tiny, name):
    weights = read_weights(files / name)
    assert weights.kind == 'stsanet'
    assert STSANetConfig(**weights.model_config) == TINY
    assert_same(weights.params, tiny[0])
    assert_same(weights.batch_stats, tiny[1])
    assert_same(initialise(files / name, TINY)[0], tiny[0])


def test_the_last_file_equals_the_first(files):
    first, last = (torch.load(files / n, weights_only=True) for n in ('a.pth', 'c.pt'))
    assert first.keys() == last.keys()
    assert all(torch.equal(first[n], last[n]) for n in first)
    assert not [p.name for p in files.iterdir() if p.name.startswith('.')]


def test_s3d_remembers_its_implementation(golden_dir, tmp_path):
    for name in ('s3d_kinetics', 's3d_torchvision'):
        state_dict = golden_state_dict(golden_dir, name)
        torch.save({n: torch.tensor(a) for n, a in state_dict.items()}, tmp_path / 'x.pt')
        convert([str(tmp_path / 'x.pt'), str(tmp_path / name)])
        convert([str(tmp_path / name), str(tmp_path / 'y.pth')])
        back = torch.load(tmp_path / 'y.pth', weights_only=True)
        assert back.keys() == state_dict.keys()
        weights = read_weights(tmp_path / name)
        assert weights.kind == 's3d' and S3DConfig(**weights.model_config) == S3DConfig()


def test_model_as_a_library(files):
    model = stsa_jax.load(files / 'a.pth')
    assert model.config == TINY
    frames = np.random.default_rng(0).integers(0, 256, (16, 40, 70, 3), np.uint8)
    clip = model.preprocess(frames)
    assert clip.shape == (16, 32, 64, 3) and clip.dtype == np.float32
    saliency = np.asarray(model(clip[None]))
    assert saliency.shape == (1, 32, 64) and saliency.dtype == np.float32
    assert saliency.min() >= 0 and saliency.max() <= 1
    with pytest.raises(InputError, match=r'shape \(1, 15, 32, 64, 3\) does not fit'):
        model(clip[None, :15])
    with pytest.raises(InputError, match='preprocess'):
        model(frames[None])
    with pytest.raises(InputError, match='up to 255'):
        model(np.full((1, 16, 32, 64, 3), 255, np.float32))
    with pytest.raises(InputError, match='nan'):
        model(np.full((1, 16, 32, 64, 3), np.nan, np.float32))
    with pytest.raises(InputError, match='from 0 to 1, scaled but not normalised'):
        model(np.stack([frames]).astype(np.float32)[:, :, :32, :64] / 255)
    grey = model.preprocess(np.full((16, 32, 64, 3), 128, np.uint8))[None]
    assert grey.min() > 0 and grey.max() < 1
    assert np.isfinite(model(grey)).all()
    with pytest.raises(InputError, match='uint8 RGB'):
        model.preprocess(frames[..., 0])


class Evil:
    def __reduce__(self):
        return (Path.write_text, (Path('evil'), 'x'))


def damaged(tmp_path, files, tiny) -> dict[str, tuple[Path, str]]:
    whole = (files / 'a.pth').read_bytes()
    tensors = (files / 'b.safetensors').read_bytes()
    cases = {
        'missing': (tmp_path / 'nowhere.pth', 'there is no such file'),
        'truncated': (tmp_path / 'cut.pth', 'damaged, incomplete'),
        'truncated safetensors': (tmp_path / 'cut.safetensors', 'incomplete safetensors file'),
        'not weights': (tmp_path / 'text.pt', 'damaged, incomplete'),
        'another ending': (tmp_path / 'weights.h5', r"extension '\.h5'"),
        'another model': (tmp_path / 'resnet.pth', 'not the weights of STSA-Net or S3D'),
        'code': (tmp_path / 'evil.pth', 'refused'),
        'a list': (tmp_path / 'list.pth', 'expected a state dict'),
        'an empty folder': (tmp_path / 'empty', 'holds no checkpoint'),
        'a backbone': (tmp_path / 'backbone.pth', 'only a backbone .*--config.init_from'),
    }
    backbone = {f'module.{n}': torch.tensor(a) for n, a in backbone_of(tiny).items()}
    torch.save(backbone, cases['a backbone'][0])
    cases['truncated'][0].write_bytes(whole[: len(whole) // 2])
    cases['truncated safetensors'][0].write_bytes(tensors[: len(tensors) // 2])
    cases['not weights'][0].write_text('hello')
    cases['another ending'][0].write_text('hello')
    torch.save({'conv1.weight': torch.zeros(3)}, cases['another model'][0])
    torch.save({'base1.0.conv_s.weight': Evil()}, cases['code'][0])
    torch.save([torch.zeros(3)], cases['a list'][0])
    cases['an empty folder'][0].mkdir()
    return cases


def test_bad_files_are_named(files, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, (path, message) in damaged(tmp_path, files, tiny).items():
        with pytest.raises(InputError, match=message) as error:
            stsa_jax.load(path)
        assert str(path) in str(error.value), name
    assert not (tmp_path / 'evil').exists()
    with pytest.raises(InputError, match='only a backbone'):  # nor is it made into a whole model
        convert([str(tmp_path / 'backbone.pth'), str(tmp_path / 'whole.safetensors')])
    assert not (tmp_path / 'whole.safetensors').exists()


def test_metadata_of_another_program(files, tiny, tmp_path):
    """A safetensors file may contain any metadata; without a config, names and shapes are used."""
    state_dict, path = port.to_torch(*tiny), tmp_path / 'x.safetensors'
    for foreign in ({'model': 'vit'}, {'model': '"stsanet"'}, {'format': 'pt'}):
        save_file(state_dict, path, foreign)
        assert stsa_jax.load(path).config == TINY
        assert_same(initialise(path, TINY)[0], tiny[0])
    for damaged, words in (
        ({'model': '{"layers": 12}'}, "not a valid STSANetConfig: .*'layers'"),
        ({'model': '{"image_size": 5}'}, 'not a valid STSANetConfig'),
        ({'model': '{"frames": 17}'}, 'config.model.frames is 17'),
        ({'normalisation': '[1, 2]'}, r"'normalisation' is '\[1, 2\]', expected mean and std"),
    ):
        save_file(state_dict, path, damaged)
        for read in (stsa_jax.load, lambda path: initialise(path, TINY)):
            if 'normalisation' in damaged and read is not stsa_jax.load:
                continue
            with pytest.raises(InputError, match=words) as error:
                read(path)
            assert str(path) in str(error.value)
    meta = tmp_path / 'c' / 'checkpoints' / '0' / 'meta' / 'metadata'
    shutil.copytree(files / 'checkpoint', tmp_path / 'c')
    meta.write_text(meta.read_text().replace('"width"', '"depth"'))
    for read in (stsa_jax.load, lambda path: initialise(path, TINY)):
        with pytest.raises(InputError, match=r"c: the config stored .*'depth'"):
            read(tmp_path / 'c')


@pytest.mark.parametrize('name', ['out.safetensors', 'out.pth'])
@pytest.mark.parametrize('existing', [False, True])
def test_nothing_is_left_behind_when_writing_fails(files, tmp_path, capsys, name, existing):
    target = tmp_path / name
    if existing:
        target.write_text('what was there')
    with file_size_limit(20_000), pytest.raises(SystemExit) as ended:
        exit_cleanly(lambda: convert([str(files / 'a.pth'), str(target)]))
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith(f'error: {target}: '), told
    assert 'free some space' in told
    if existing:
        assert target.read_text() == 'what was there'
        target.unlink()
    assert list(tmp_path.iterdir()) == []


def test_the_command(files, tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, '-m', 'stsa_jax.port', *map(str, arguments)],
            capture_output=True,
            text=True,
            cwd=Path(__file__).parents[1],
        )

    good = run(files / 'a.pth', tmp_path / 'out.safetensors')
    assert good.returncode == 0, good.stderr
    assert 'stsanet' in good.stdout and 'width=0.125' in good.stdout
    bad = run(tmp_path / 'nothing.pth', tmp_path / 'out')
    assert bad.returncode == 2 and 'nothing.pth' in bad.stderr
    assert 'Traceback' not in bad.stderr and not (tmp_path / 'out').exists()


def test_pytorch_is_needed_for_its_own_files_only(files, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    assert pretrained.read_weights(files / 'b.safetensors').kind == 'stsanet'
    with pytest.raises(InputError, match=r"pip install -e '\.\[port\]'"):
        pretrained.read_weights(files / 'a.pth')
