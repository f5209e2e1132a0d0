"""`stsa-jax export`: files that run without this project."""

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import test_hub
from full_disk import file_size_limit

from stsa_jax.commands import export as command
from stsa_jax.errors import InputError
from stsa_jax.inference import export
from stsa_jax.weights import known

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """The weights of a small HD2S, and its StableHLO."""
    folder = tmp_path_factory.mktemp('export')
    test_hub.small_model('hd2s').save_pretrained(folder / 'weights')
    command.main([str(folder / 'weights'), str(folder / 'model.stablehlo')])
    return folder


@pytest.mark.long
def test_the_lines_of_the_docs_run_with_jax_alone(folder):
    """The maps are those of the model, for any number of clips; nothing of this project is used."""
    text = (ROOT / 'docs' / 'sharing.md').read_text()
    (lines,) = re.findall(r'```python\n(import jax\n.*?)```', text, re.DOTALL)
    assert len(list(filter(None, lines.splitlines()))) == 5
    program = (
        'import sys\nsys.modules.update(stsa_jax=None, flax=None)\n'
        + lines
        + 'np.save("maps.npy", saliency)\n'
        'two = np.random.default_rng(0).integers(0, 256, (2, *frames.shape[1:]), np.uint8)\n'
        'np.save("two.npy", model.call(two))\n'
        'assert model.platforms == ("cpu", "cuda", "tpu")\n'
    )
    done = subprocess.run(
        [sys.executable, '-c', program], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    model = test_hub.small_model('hd2s')
    shape = export.frames_of(model, 2).shape
    assert np.load(folder / 'maps.npy').shape == (1, *shape[2:4])
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    ours = model(np.stack([model.preprocess(f) for f in frames]))
    np.testing.assert_allclose(np.load(folder / 'two.npy'), ours, atol=1e-5)


@pytest.mark.long
@pytest.mark.parametrize('kind', [k.kind for k in known.KNOWN if k.kind != 's3d'])
def test_every_model_of_the_zoo_is_exported(kind):
    model = test_hub.small_model(kind)
    exported = export.to_stablehlo(model)
    shape = exported.out_avals[0].shape
    assert str(shape[0]) == 'b' and shape[-2:] == model.config.image_size


def test_wrong_targets(folder, tmp_path, monkeypatch):
    weights = str(folder / 'weights')
    cases = [
        ([weights, str(tmp_path)], 'is a folder, but a file name was expected'),
        ([weights, str(tmp_path / 'a'), '--format=tflite'], "invalid choice: 'tflite'"),
        ([str(tmp_path / 'no'), str(tmp_path / 'a')], 'there is no such file or folder'),
    ]
    for arguments, words in cases:
        with pytest.raises(InputError, match=words):
            command.main(arguments)
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    monkeypatch.delitem(sys.modules, 'stsa_jax.inference.onnx_file', raising=False)
    monkeypatch.delattr('stsa_jax.inference.onnx_file', raising=False)
    with pytest.raises(InputError, match=r"onnxruntime is needed.*pip install 'stsa-jax\[onnx\]'"):
        command.main([weights, str(tmp_path / 'a.onnx'), '--format=onnx'])
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(folder, tmp_path):
    model = test_hub.small_model('hd2s')
    with file_size_limit(20_000), pytest.raises(OSError, match=r'model\.stablehlo'):
        export.save_stablehlo(model, tmp_path / 'model.stablehlo')
    assert not list(tmp_path.iterdir())
