"""The counts of `stsa_jax.cost` against the paper's, and against sums by hand."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from configs import ablations
from stsa_jax import STSANet, STSANetConfig
from stsa_jax.inference import cost
from stsa_jax.models import functional
from stsa_jax.ops import attention, forms
from stsa_jax.weights import port

ROOT = Path(__file__).parents[1]
SMALL = STSANetConfig(image_size=(64, 96), frames=32, width=0.125)


def run(*arguments):
    command = [sys.executable, '-m', 'stsa_jax.cost', *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT)


@pytest.fixture(scope='module')
def published():
    return cost.cost(STSANetConfig())


def test_the_published_model(published):
    whole = cost.total(published)
    assert whole.parameters == 160_840_060
    assert round(whole.convolutions / 1e9, 2) == 192.75  # the paper: 193.3


def test_parts(published):
    assert list(published)[:2] == ['backbone.base1', 'backbone.base2']
    assert list(published)[-1] == 'readout' and len(published) == 24
    compression = published['branch1.compress']
    assert compression.parameters == 4 * 480 * 480 + 480
    assert compression.convolutions == 4 * 28 * 48 * 480 * 4 * 480 and not compression.attention
    # Two halves of 2 x 28 x 48 places, each as query and as key; embeddings of 128, values of 240.
    attention = published['branch1.stsa.layer_2'].attention
    assert attention == 2 * (2 * 28 * 48) ** 2 * (128 + 240)
    # Of upsampled features, at their size: 192 -> 64 at four times, 64 -> 32 at pairs of times.
    first, second = 4 * 112 * 192 * 9 * 192 * 64, 2 * 224 * 384 * 2 * 9 * 64 * 32
    last = 224 * 384 * (2 * 32 * 32 + 9 * 32)
    assert published['readout'].convolutions == first + second + last


def test_the_forms_for_cpus_multiply_less(published):
    with forms.use('cpu'):
        convolutions, attention = cost.multiply_adds(STSANetConfig())
    assert convolutions['readout'] < published['readout'].convolutions / 3
    # Winograd's algorithm halves the multiply-adds of large kernels.
    assert sum(convolutions.values()) < 0.8 * cost.total(published).convolutions
    # A column of ones beside 192 values or more gives the sums of the softmax.
    counted = {name: part.attention for name, part in published.items() if part.attention}
    assert attention == pytest.approx(counted, rel=1 / 192) and attention != counted


def test_attention_in_blocks_counts_the_same(monkeypatch):
    whole = cost.cost(SMALL)
    size_free = cost.cost(dataclasses.replace(SMALL, norm='size_free'))
    monkeypatch.setattr(attention, 'LARGEST_MATRIX', 48 * 96 // 2)  # blocks without a remainder
    assert cost.cost(SMALL) == whole
    assert cost.total(size_free).parameters < cost.total(whole).parameters


@pytest.mark.parametrize('row', ['single_stream', 'single_similarity_matrix', 'unet'])
def test_variants(row):
    config = dataclasses.replace(SMALL, **ablations.ROWS[row])
    parts = cost.cost(config)
    params = functional.abstract(STSANet, config)[1]
    assert cost.total(parts).parameters == port.parameter_count(params)
    assert all(part.convolutions for part in parts.values())
    attention = cost.total(parts).attention
    assert (attention > 0) == (config.stsa_levels != ())
    if row == 'single_similarity_matrix':  # 4 x 8 x 12 places; embeddings of 12, values of 24
        assert parts['branch0.stsa.layer_1'].attention == (4 * 8 * 12) ** 2 * (12 + 24)


@pytest.mark.long
def test_command():
    done = run('--config=configs/dhf1k.py')
    assert done.returncode == 0, done.stderr
    for words in (
        '160.84 M (160,840,060)',
        '643 MB',
        '193 G in convolutions',
        '32 frames of 224x384',
    ):
        assert words in done.stdout
    done = run('--config=configs/dhf1k.py', '--config.model.image_size=100,384')
    assert done.returncode == 2 and 'multiples of 16' in done.stderr
    done = run('--config=configs/dhf1k.py', '--memry')
    assert done.returncode == 2 and '--memry: not an option' in done.stderr


@pytest.mark.long
def test_memory_and_time_of_a_small_model():
    size = '--config.model.image_size=32,64'
    done = run('--config=configs/tiny.py', size, '--config.model.width=0.125', '--memory', '--time')
    assert done.returncode == 0, done.stderr
    values = {line[:16].strip(): line[16:].split() for line in done.stdout.splitlines()}
    assert float(values['time per clip'][0]) > 0
    # 16 frames of 16x32 with 8 channels alone are 0.26 MB, and all of it together not 100 MB.
    assert 0 < float(values['activations'][0]) < 0.1
