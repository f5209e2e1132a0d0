"""Models handed on in folders and on the Hugging Face Hub, here one on this machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import local_hub
import numpy as np
import pytest
from full_disk import file_size_limit
from huggingface_hub import ModelCard

import stsa_jax
from stsa_jax import SaliencyModel
from stsa_jax.checkpoints import save_weights
from stsa_jax.errors import InputError
from stsa_jax.models import functional
from stsa_jax.models.hd2s import HD2SConfig
from stsa_jax.models.salema import SalEMAConfig
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.models.tased import TASEDConfig
from stsa_jax.models.tinyhd import TinyHDConfig
from stsa_jax.models.unisal import UNISALConfig
from stsa_jax.models.vinet import ViNetConfig
from stsa_jax.weights import known
from stsa_jax.weights.initial import initial_weights, random_weights

ROOT = Path(__file__).parents[1]
SMALL = {
    'stsanet': STSANetConfig(image_size=(32, 64), frames=16, width=0.125),
    'tinyhd': TinyHDConfig(image_size=(32, 64), target='all', reduction=4),
    'vinet': ViNetConfig(image_size=(32, 64), width=0.125),
    'tased': TASEDConfig(image_size=(32, 64), width=0.125),
    'hd2s': HD2SConfig(image_size=(32, 64), width=0.125),
    'unisal': UNISALConfig(image_size=(32, 64), width=0.125, frames=2, step=3),
    'salema': SalEMAConfig(image_size=(32, 64), width=0.125, frames=2),
}


def small_model(kind='stsanet'):
    """A model of random weights; nothing is compiled."""
    this = known.of_kind(kind, '')
    _, *weights = functional.abstract(this.module, SMALL[kind])
    return SaliencyModel(SMALL[kind], *random_weights(*weights), this.normalisations[this.naming])


def assert_same(model, other):
    assert (model.kind, model.config) == (other.kind, other.config)
    assert model.normalisation == other.normalisation
    jax.tree.map(
        np.testing.assert_array_equal,
        (model.params, model.batch_stats),
        (other.params, other.batch_stats),
    )


@pytest.mark.parametrize('kind', [k.kind for k in known.KNOWN if k.kind != 's3d'])
def test_every_model_from_a_folder(tmp_path, kind):
    model = small_model(kind)
    model.save_pretrained(tmp_path / 'a')
    names = ['README.md', 'config.json', 'model.safetensors']
    assert sorted(p.name for p in (tmp_path / 'a').iterdir()) == names
    assert_same(stsa_jax.load(tmp_path / 'a'), model)
    assert_same(SaliencyModel.from_pretrained(tmp_path / 'a'), model)
    assert_same(stsa_jax.load(tmp_path / 'a' / 'model.safetensors'), model)
    card = ModelCard.load(tmp_path / 'a' / 'README.md')
    assert card.data.library_name == 'stsa-jax' and 'saliency' in card.data.tags
    mean = ', '.join(f'{v:g}' for v in model.normalisation.mean)
    height, width = model.config.image_size
    for words in (
        f'mean {mean}',
        f'{model.config.frames} successive frames of {height}x{width}',
        '@article{',
        'Not recorded with these weights',
        known.of_kind(kind, '').title,
    ):
        assert words in card.text


def test_what_the_card_states_stays_with_the_weights(tmp_path):
    scores = {'dhf1k validation': {'cc': 0.51234, 'nss': 2.9}, 'diem test': {'cc': 0.6}}
    stated = {'training_data': 'DHF1K, 600 videos.', 'scores': scores, 'license': 'cc-by-4.0'}
    small_model().save_pretrained(tmp_path / 'a', **stated)
    stsa_jax.load(tmp_path / 'a').save_pretrained(tmp_path / 'b')
    for folder in 'ab':
        card = ModelCard.load(tmp_path / folder / 'README.md')
        assert '## Training data\n\nDHF1K, 600 videos.\n' in card.text
        assert '| dhf1k validation | 0.5123 | 2.9 |' in card.text
        assert '| diem test | 0.6 |  |' in card.text
        assert card.data.license == 'cc-by-4.0'
        found = {(r.dataset_name, r.metric_type): r.metric_value for r in card.data.eval_results}
        assert found['dhf1k validation', 'cc'] == 0.51234 and len(found) == 3


def test_a_card_of_the_users_own_stays(tmp_path):
    (tmp_path / 'README.md').write_text('mine')
    small_model().save_pretrained(tmp_path)
    assert (tmp_path / 'README.md').read_text() == 'mine'


def test_the_card_of_a_training_run_names_its_data(tmp_path):
    model = small_model()
    fields = {'image_size': (32, 64), 'frames': 16, 'width': 0.125}
    save_weights(tmp_path / 'run', 'stsanet', fields, model.params, model.batch_stats)
    data = {'datasets': ['dhf1k'], 'train_split': 'train', 'eval_split': 'validation'}
    (tmp_path / 'run' / 'config.json').write_text(json.dumps({'data': data}))
    stsa_jax.load(tmp_path / 'run').save_pretrained(tmp_path / 'a')
    assert 'Training data\n\ndhf1k, split train' in (tmp_path / 'a' / 'README.md').read_text()


def test_large_weights_are_split(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path, max_shard_size='300KB')
    index = json.loads((tmp_path / 'model.safetensors.index.json').read_text())
    files = sorted(tmp_path.glob('model-*.safetensors'))
    assert len(files) > 2 and {p.name for p in files} == {*index['weight_map'].values()}
    assert all(p.stat().st_size < 400_000 for p in files)
    assert_same(stsa_jax.load(tmp_path), model)
    trees = initial_weights(SMALL['stsanet'], init_from=str(tmp_path))[1:]
    jax.tree.map(np.testing.assert_array_equal, trees, (model.params, model.batch_stats))
    files[1].unlink()
    with pytest.raises(InputError, match=f'{files[1].name}: is missing'):
        stsa_jax.load(tmp_path)
    model.save_pretrained(tmp_path)  # in one file; the parts go
    assert sorted(p.name for p in tmp_path.glob('model*')) == ['model.safetensors']
    assert_same(stsa_jax.load(tmp_path), model)


def test_wrong_folders(tmp_path):
    small_model().save_pretrained(tmp_path)
    config = tmp_path / 'config.json'
    good = json.loads(config.read_text())
    for content, words in {
        json.dumps(good | {'kind': 'vinet'}): "kind 'vinet', but the weights beside it are of stsa",
        json.dumps({'model_type': 'bert'}): "expected 'kind' and 'model'",
        '{': 'is not JSON',
        json.dumps(good | {'model': {'depth': 3}}): 'not a valid STSANetConfig',
    }.items():
        config.write_text(content)
        with pytest.raises(InputError, match=words) as raised:
            stsa_jax.load(tmp_path)
        assert str(tmp_path) in str(raised.value)
    config.unlink()
    with pytest.raises(InputError, match=r'config\.json: is missing beside the weights'):
        stsa_jax.load(tmp_path)


def test_a_full_disk_leaves_nothing(tmp_path):
    with file_size_limit(20_000), pytest.raises((InputError, OSError)) as raised:
        small_model().save_pretrained(tmp_path / 'new' / 'a')
    assert 'model.safetensors' in str(raised.value) and '.unfinished' not in str(raised.value)
    assert not list(tmp_path.iterdir())


def test_without_the_library_of_the_hub(tmp_path, monkeypatch):
    """Folders are read; writing and fetching name the extra."""
    small_model().save_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    monkeypatch.delitem(sys.modules, 'stsa_jax.weights.hub')
    monkeypatch.delattr('stsa_jax.weights.hub')
    model = SaliencyModel.from_pretrained(tmp_path)
    for action in (
        lambda: model.save_pretrained(tmp_path / 'b'),
        lambda: SaliencyModel.from_pretrained('org/name'),
    ):
        with pytest.raises(InputError, match=r"pip install 'stsa-jax\[hub\]'"):
            action()


PROGRAM = """
import sys
import jax
sys.path[:0] = [{root!r}, {tests!r}]
from stsa_jax import SaliencyModel
from stsa_jax.errors import InputError
from test_hub import assert_same, small_model

model = small_model()
first = model.push_to_hub('org/small', token='hf_known', stated={{'training_data': 'ours'}})
other = small_model()
other.params = jax.tree.map(lambda x: x + 1, other.params)
other.push_to_hub('org/small', token='hf_known')
assert_same(SaliencyModel.from_pretrained('org/small'), other)
assert_same(SaliencyModel.from_pretrained('org/small', revision=first.split('/')[-1]), model)
for wanted in (
    lambda: SaliencyModel.from_pretrained('org/none'),
    lambda: SaliencyModel.from_pretrained('org/small', revision='none'),
    lambda: SaliencyModel.from_pretrained('/no/such/folder'),
    lambda: model.push_to_hub('org/small', token='hf_other'),
):
    try:
        wanted()
    except InputError as error:
        print(error)
"""


@pytest.mark.long
def test_pushed_and_fetched_by_name_and_revision(tmp_path):
    """In its own process: the library reads its environment when it is imported."""
    server, repositories = local_hub.start()
    environment = os.environ | {
        'HF_ENDPOINT': f'http://127.0.0.1:{server.server_port}',
        'HF_HOME': str(tmp_path),
        'HF_HUB_DISABLE_TELEMETRY': '1',
        'HF_HUB_DISABLE_XET': '1',
        'HF_HUB_DISABLE_PROGRESS_BARS': '1',
    }
    program = PROGRAM.format(root=str(ROOT), tests=str(Path(__file__).parent))
    done = subprocess.run(
        [sys.executable, '-c', program], env=environment, capture_output=True, text=True
    )
    server.shutdown()
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 4, done.stdout
    for line, words in zip(lines, (
        'org/none: there is no such folder, and no such model', 'org/small: has no such revision',
        '/no/such/folder: there is no such folder', 'org/small: the Hub does not answer',
    )):  # fmt: skip
        assert line.startswith(words), line
    card = repositories['org/small']['main']['README.md'].decode()
    assert "from_pretrained('org/small')" in card
