"""Real-world weight files: any name, any wrapper, old formats, and invalid numbers."""

import argparse
import collections
import tarfile
import zipfile

import numpy as np
import pytest
import torch
from flax import nnx, traverse_util
from safetensors.numpy import save_file

import stsa_jax
from stsa_jax import InputError, STSANet, STSANetConfig
from stsa_jax.checkpoints import save_weights
from stsa_jax.errors import exit_cleanly
from stsa_jax.models import functional
from stsa_jax.weights import port
from stsa_jax.weights.files import read_state_dict, read_weights
from stsa_jax.weights.port_command import main as convert
from stsa_jax.weights.pretrained import initialise

TINY = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)
WEIGHT = 'base1.0.conv_s.weight'


@pytest.fixture(scope='module')
def tiny():
    """(params, batch_stats) of a tiny STSA-Net."""
    return functional.split(STSANet(TINY, rngs=nnx.Rngs(0)))[1:]


@pytest.fixture(scope='module')
def arrays(tiny):
    return port.to_torch(*tiny)


@pytest.fixture(scope='module')
def tensors(arrays):
    return {name: torch.tensor(array) for name, array in arrays.items()}


def assert_read(path, arrays) -> list[str]:
    """Asserts that `path` holds `arrays`; returns the messages."""
    said: list[str] = []
    weights = read_weights(path, say=said.append)
    back = port.to_torch(weights.params, weights.batch_stats)
    assert back.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(back[name], array, err_msg=name)
    return said


NAMES = ['a.ckpt', 'pytorch_model.bin', 'a.pth.tar', 'weights', 'a.pth', 'STSANet.v1', 'a.h5']


@pytest.mark.parametrize('name', NAMES)
def test_the_format_is_detected_from_the_content(arrays, tensors, tmp_path, name):
    new, old, safe = (tmp_path / folder / name for folder in ('new', 'old', 'safe'))
    for path in (new, old, safe):
        path.parent.mkdir()
    torch.save(tensors, new)
    torch.save(tensors, old, _use_new_zipfile_serialization=False)
    save_file(arrays, safe)
    for path in (new, old, safe):
        assert assert_read(path, arrays) == []


@pytest.mark.parametrize(
    'wrap, words',
    [
        (lambda w: {'net': w, 'epoch': 3}, ["under 'net'"]),
        (lambda w: {'params': w}, ["under 'params'"]),
        (lambda w: {'model_state': w, 'acc': 0.5}, ["under 'model_state'"]),
        (lambda w: {'ema': w, 'optimizer': {'state': {0: torch.zeros(3)}}}, ["under 'ema'"]),
        (lambda w: {'best': w}, ["under 'best'"]),
        (lambda w: {'checkpoint': {'model': w}, 'x': torch.zeros(2)}, ["under 'checkpoint.model'"]),
        (lambda w: {'ema': w, 'state_dict': w}, ["under 'state_dict', ignoring those under 'ema'"]),
        (lambda w: w | {'epoch': 3}, ['ignoring entries that are not arrays: epoch']),
        (lambda w: collections.OrderedDict(w), []),
    ],
)
def test_the_weights_are_found_in_a_checkpoint(arrays, tensors, tmp_path, wrap, words):
    path = tmp_path / 'a.pth'
    torch.save(wrap(tensors), path)
    said = assert_read(path, arrays)
    assert len(said) == len(words)
    assert all(w in line and line.startswith(f'{path}: ') for w, line in zip(words, said)), said


@pytest.mark.parametrize(
    'prefix, words',
    [
        ('module.', ''),
        ('module.module.', "prefix 'module.module.'"),
        ('model.', "prefix 'model.'"),
        ('net.encoder.', "prefix 'net.encoder.'"),
        ('_orig_mod.', "stripped '_orig_mod.'"),
        ('module._orig_mod.', "stripped '_orig_mod.'"),
    ],
)
def test_a_common_prefix_of_all_names_is_stripped(arrays, tensors, tmp_path, prefix, words):
    path = tmp_path / 'a.pth'
    torch.save({'state_dict': {prefix + n: t for n, t in tensors.items()}}, path)
    said = assert_read(path, arrays)
    assert words in ' '.join(said) and len(said) == 1 + bool(words), said
    params, batch_stats = port.from_torch({prefix + n: a for n, a in arrays.items()})
    assert port.to_torch(params, batch_stats).keys() == arrays.keys()


def test_of_two_models_in_one_dict_one_is_used_and_the_other_reported(arrays, tensors, tmp_path):
    path = tmp_path / 'a.ckpt'
    zeros = {f'ema.{n}': torch.zeros_like(t) for n, t in tensors.items()}
    torch.save({'state_dict': zeros | {f'model.{n}': t for n, t in tensors.items()}}, path)
    said = assert_read(path, arrays)
    assert any("ignoring the names that begin with 'ema.'" in line for line in said), said


def test_an_unknown_entry_is_an_error(tensors, tmp_path):
    path = tmp_path / 'a.ckpt'
    wrapped = {f'model.{n}': t for n, t in tensors.items()} | {'loss.weight': torch.ones(2)}
    torch.save({'state_dict': wrapped}, path)
    with pytest.raises(InputError, match=r'loss\.weight with shape \(2,\) is not part') as error:
        read_weights(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize('zipped', [True, False])
def test_numbers_of_numpy_beside_the_weights_do_not_matter(arrays, tensors, tmp_path, zipped):
    path = tmp_path / 'a.pth'
    beside = {'loss': np.float64(0.25), 'epoch': np.int64(3), 'best': np.bool_(True), 'half': 0.5}
    torch.save(
        {'model': tensors, **beside, 'lr': np.float32(1e-3)},
        path,
        _use_new_zipfile_serialization=zipped,
    )
    (said,) = assert_read(path, arrays)
    assert said == f"{path}: using the weights under 'model'"


def test_old_files_without_counts(arrays, tensors, tmp_path):
    path, count = tmp_path / 'a.pth', 'num_batches_tracked'
    torch.save({n: t for n, t in tensors.items() if not n.endswith(count)}, path)
    zero = {n: np.zeros_like(a) if n.endswith(count) else a for n, a in arrays.items()}
    (said,) = assert_read(path, zero)
    counts = sum(n.endswith(count) for n in arrays)
    assert said == f'{path}: an old file without {count}; {counts} are set to 0'
    some = dict(tensors)
    del some[next(n for n in tensors if n.endswith(count))]
    torch.save(some, path)
    with pytest.raises(InputError, match=f'{count} is missing'):  # not an old file: a damaged one
        read_weights(path)


def whole_model():
    return torch.nn.Sequential(torch.nn.Linear(2, 2))


def write_odd_files(folder) -> dict[str, list[str]]:
    """Files without a plain state dict: name -> parts of their message."""
    torch.save(whole_model(), folder / 'whole.pth')
    torch.save(whole_model(), folder / 'whole_old.pt', _use_new_zipfile_serialization=False)
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), folder / 'script.pt')
    beside = {'args': argparse.Namespace(lr=1), 'net': {WEIGHT: torch.zeros(2)}}
    torch.save(beside, folder / 'args.ckpt')
    (folder / 'page.pth').write_text('<!DOCTYPE html><title>Sign in</title>')
    (folder / 'lfs.pth').write_text('version https://git-lfs.github.com/spec/v1\noid sha256:0\n')
    (folder / 'packed.pth').write_bytes(b'\x1f\x8b\x08\x00')
    (folder / 'empty.pth').write_bytes(b'')
    np.savez(folder / 'arrays.npz', weight=np.zeros(3))
    with zipfile.ZipFile(folder / 'download.pth', 'w') as archive:
        archive.write(folder / 'whole.pth', 'STSANet_DHF1K.pth')
    with tarfile.open(folder / 'download.pth.tar', 'w') as archive:
        archive.add(folder / 'whole.pth', 'STSANet_DHF1K.pth')
    (folder / 'notes').write_text('hello')
    return {
        'whole.pth': ['a whole pickled model', 'Sequential', 'found.state_dict()'],
        'whole_old.pt': ['a whole pickled model', 'found.state_dict()'],
        'script.pt': ['a TorchScript archive', 'torch.jit.load('],
        'args.ckpt': ['has argparse.Namespace objects beside the weights', "found['net']"],
        'page.pth': ['is a web page'],
        'lfs.pth': ['Git LFS', 'git lfs pull'],
        'packed.pth': ['a gzip archive', 'unpack it'],
        'empty.pth': ['is empty'],
        'arrays.npz': ['a zip archive of weight.npy'],
        'download.pth': ['a zip archive of STSANet_DHF1K.pth', 'unpack it'],
        'download.pth.tar': ['a tar archive', 'unpack it'],
        'notes': ["extension 'none'", "begins with b'hello'"],
    }


def test_other_files_say_how_to_save_a_state_dict(tmp_path, capsys):
    for name, words in write_odd_files(tmp_path).items():
        path = tmp_path / name
        with pytest.raises(SystemExit) as ended:
            exit_cleanly(lambda path=path: convert([str(path), str(tmp_path / 'out')]))
        told = capsys.readouterr().err
        assert ended.value.code == 2 and told.startswith(f'error: {path}: '), told
        assert all(word in told for word in words), told
        assert '\x1b' not in told and 'PyTorch 2.6' not in told and told.count('\n') <= 2
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize(
    'name, names',
    [
        ('whole.pth', ['0.weight', '0.bias']),
        ('script.pt', ['weight', 'bias']),
        ('args.ckpt', [WEIGHT]),
    ],
)
def test_the_command_in_the_message_saves_a_state_dict(tmp_path, monkeypatch, name, names):
    write_odd_files(tmp_path)
    with pytest.raises(InputError) as error:
        read_state_dict(tmp_path / name)
    program = str(error.value).split('python -c "')[1].removesuffix('"')
    monkeypatch.chdir(tmp_path)
    exec(program)
    saved = torch.load(tmp_path / 'weights.pth', weights_only=True)
    assert saved.keys() == set(names)


@pytest.fixture
def broken(tiny, arrays, tmp_path):
    """Weights with 3 NaN in one entry and one infinity in another, in every kind of file."""
    spoilt = {name: array.copy() for name, array in arrays.items()}
    spoilt[WEIGHT].reshape(-1)[:3] = np.nan
    spoilt['readout_1.0.bias'][0] = np.inf
    torch.save({'net': {n: torch.tensor(a) for n, a in spoilt.items()}}, tmp_path / 'a.pth')
    save_file(spoilt, tmp_path / 'a.safetensors')
    params, batch_stats = port.from_torch(spoilt)
    config = {'image_size': (32, 64), 'frames': 16, 'width': 0.125}
    save_weights(tmp_path / 'folder', 'stsanet', config, params, batch_stats)
    return tmp_path


@pytest.mark.parametrize('name', ['a.pth', 'a.safetensors', 'folder'])
def test_weights_with_nan_or_infinity_are_refused(broken, arrays, name, capsys):
    path = broken / name
    entry = WEIGHT if name != 'folder' else 'backbone/base1/conv1/spatial/kernel'
    total, size = len(arrays), arrays[WEIGHT].size
    words = f'2 of {total} entries hold NaN or infinity'
    for read in (stsa_jax.load, lambda path: initialise(path, TINY)):
        with pytest.raises(InputError) as error:
            read(path)
        told = str(error.value)
        assert str(path) in told and words in told and '--allow_nonfinite' in told
        assert f'{entry} (3 of {size:,} values)' in told, told
    with pytest.raises(InputError, match=words):
        convert([str(path), str(broken / 'out.safetensors')])
    assert not (broken / 'out.safetensors').exists()
    capsys.readouterr()
    model = stsa_jax.load(path, allow_nonfinite=True)
    assert words in capsys.readouterr().err
    flat = traverse_util.flatten_dict(model.params)
    assert sum(int(np.isnan(a).sum()) for a in flat.values()) == 3
    convert(['--allow_nonfinite', str(path), str(broken / 'out.safetensors')])
    assert (broken / 'out.safetensors').exists()


def test_values_beyond_float32_are_infinity(tensors, tmp_path):
    wide = {n: t.double() if t.is_floating_point() else t for n, t in tensors.items()}
    wide[WEIGHT] = wide[WEIGHT].clone()
    wide[WEIGHT][0] = 1e300
    torch.save(wide, tmp_path / 'a.pth')
    with pytest.raises(InputError, match=f'1 of {len(wide)} entries hold NaN or infinity'):
        read_weights(tmp_path / 'a.pth')
    torch.save({n: t.double() if t.is_floating_point() else t for n, t in tensors.items()},
               tmp_path / 'b.pth')  # fmt: skip
    read_weights(tmp_path / 'b.pth')
