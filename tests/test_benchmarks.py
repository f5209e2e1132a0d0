"""Every benchmark runs from its command line to its results, at the smallest size.

A small network replaces STSA-Net, which takes minutes to compile, and another one the released
PyTorch code. The measured values do not matter. Not covered: the metrics of the released code, one
core against two with clips (`benchmarks.data --rounds`), PyTorch on a GPU, and our side of the
fidelity, which supports only the full size.
"""

import dataclasses
import importlib.util
import json
import subprocess
import sys

import data_copies
import jax
import numpy as np
import pytest
from small_network import SmallNetwork, train_it
from test_train_script import ROOT, config_file, prepared  # noqa: F401 (fixtures)

from benchmarks import (
    bfloat16,
    data,
    fidelity,
    gpu,
    hlo_runs,
    inference,
    metrics,
    released,
    released_results,
    rematerialisation,
    scaling,
    topologies,
    tpu,
    train_step,
    training,
)
from benchmarks import onnx as onnx_benchmark
from benchmarks.hlo import parse
from benchmarks.processes import in_own_process
from data.copies.sources import Report
from data.dhf1k import Dhf1k
from stsa_jax.errors import InputError
from stsa_jax.metrics import losses
from stsa_jax.models import stsanet
from stsa_jax.ops.pooling import max_pool_2x2_with_indices
from stsa_jax.training import meter
from stsa_jax.weights import known

REFERENCE = """
import torch


class STSANet(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.map = torch.nn.Conv3d(3, 1, (1, 3, 3), padding=(0, 1, 1))

    def forward(self, clip):
        return torch.sigmoid(self.map(clip).mean(2)[:, 0])
"""


@pytest.fixture(autouse=True)
def compiled_fast(quick_compilation):
    """Without optimising, and what two runs have in common once."""
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    yield
    jax.config.update('jax_persistent_cache_min_compile_time_secs', seconds)


@pytest.fixture
def reference(tmp_path):
    (tmp_path / 'checkout').mkdir()
    (tmp_path / 'checkout' / 'STSA_model.py').write_text(REFERENCE)
    return f'--reference={tmp_path / "checkout"}'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark's main with arguments; checks its exit code and returns its output."""
    for module in (stsanet, rematerialisation):
        monkeypatch.setattr(module, 'STSANet', SmallNetwork)
    first, *others = known.KNOWN
    small = dataclasses.replace(first, module=SmallNetwork)
    monkeypatch.setattr(known, 'KNOWN', (small, *others))
    train_it(monkeypatch.setattr)

    def run(main, *arguments):
        monkeypatch.setattr(sys, 'argv', ['benchmark', *map(str, arguments)])
        code, printed = main(), capsys.readouterr().out
        assert (code or 0) == int('missed' in printed), printed
        return printed

    return run


@pytest.mark.long
def test_training(run, config_file):  # noqa: F811
    printed = run(training.main, f'--config={config_file}', '--steps=8')
    assert 'bare compiled step: ' in printed and 'by processor time: ' in printed
    assert '(limit 3 %: ' in printed and 'median of 2 windows' in printed


def test_the_loops_overhead_is_robust():
    rng = np.random.default_rng(0)
    bare = np.linspace(1, 2, 41)[:, None] * [1, 3]  # the machine gets slower all the time
    loop = 1.02 * (bare[:-1] + bare[1:]) / 2
    found = training.overheads(list(loop), list(bare))
    np.testing.assert_allclose(found, 0.02)
    found[::5] = 3  # and does something else now and then
    noisy = found[:, 0] + rng.normal(0, 0.01, 40)
    low, high = training.interval(noisy)
    assert low < 0.02 < high and low < np.median(noisy) < high and high - low < 0.02


@pytest.mark.long
def test_bfloat16(run, config_file, prepared, tmp_path):  # noqa: F811
    (tmp_path / 'data').symlink_to(prepared)
    where = (f'--config={config_file}', f'--workdir={tmp_path}')
    printed = run(bfloat16.main, *where, '--steps=2', '--config.validation.clips=3')
    assert 'mixed: held-out CC ' in printed and printed.count('(limit 0.98 to 1.02: ') == 2


@pytest.mark.long
def test_rematerialisation(run, config_file):  # noqa: F811
    printed = run(rematerialisation.main, f'--config={config_file}', '--repeats=1')
    assert '(limit 0.5: ' in printed and '(limit 1.35: ' in printed


@pytest.mark.long
def test_inference(run, config_file, reference):  # noqa: F811
    options = ('--repeats=1', '--matrix_size=64', reference)
    printed = run(inference.main, f'--config={config_file}', *options)
    assert 'ratio to the matrix-product floor' in printed and '(limit 0.55: ' in printed
    assert 'processor seconds: ' in printed


def test_onnx(run, config_file):  # noqa: F811
    printed = run(onnx_benchmark.main, f'--config={config_file}', '--repeats=1')
    assert 'ratio of onnxruntime to ours: ' in printed


@pytest.mark.long
def test_train_step(run, config_file, reference, monkeypatch, capsys):  # noqa: F811
    sides = {'benchmarks.train_step': train_step.main, 'benchmarks.released': released.main}

    def in_this_process(module, arguments):
        printed = run(sides.pop(module), *arguments)
        return json.loads(printed.splitlines()[-1])

    monkeypatch.setattr(train_step, 'in_own_process', in_this_process)
    options = ('--repeats=1', '--matrix_size=64', reference)
    printed = run(train_step.main, f'--config={config_file}', *options)
    assert not sides and 'ratio of the times: ' in printed and 'ratio of the peaks: ' in printed


@pytest.mark.parametrize('module', ['released', 'released_results'])
def test_the_released_code_is_measured_without_jax(module):
    code = f'import sys; from benchmarks import {module}; sys.exit("jax" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_a_missed_limit_is_the_exit_code(capsys):
    theirs = {'time': 1.0, 'peak': 1e9}
    assert train_step.report({'time': 0.6, 'peak': 2e9}, theirs, 0.1) == 1
    printed = capsys.readouterr().out
    assert 'ratio of the times: 0.60 (limit 0.65: held)' in printed
    assert 'ratio of the peaks: 2.00 (limit 1: missed)' in printed
    assert train_step.report({'time': 0.6, 'peak': 1e9}, theirs, 0.1) == 0
    assert train_step.report({'time': 0.6, 'peak': 1e9}, None, 0.1) == 0, 'nothing to compare with'


def test_errors_of_a_map():
    exact = np.linspace(0, 1, 1001)
    found = exact + 1e-3 * exact  # differences from 0 to 1e-3, evenly
    places = np.zeros((4, 2, 3, 5), np.int8)
    others = places.copy()
    others[1, 0, 2, 3] = others[3, 1, 0, 0] = 3
    before = np.array([0, 1, 2, 4.0])
    exact = {'map': exact, 'place_1': places, 'place_2': places}
    exact |= {'before_1': before, 'before_2': before}
    found = {'map': found, 'place_1': others, 'place_2': places}
    found |= {'before_1': before + np.array([9, 0.1, 0.4, 0.4]), 'before_2': before * 0.75}
    errors = fidelity.map_errors(found, exact)
    np.testing.assert_allclose(errors.quantiles, [0.5e-3, 0.99e-3, 0.999e-3, 1e-3])
    assert errors.largest == errors.quantiles[-1] and errors.flipped == [2, 0]
    np.testing.assert_allclose(errors.noise, [0.1, 0.25])


def test_errors_of_a_training_pass():
    exact = {'map': np.ones((2, 2)), 'loss': np.array(2.0), 'grad_norm': np.array([1.0, 2.0, 4.0])}
    found = {
        'map': np.ones((2, 2), np.float32),
        'loss': np.float32(1.5),
        'grad_norm': np.array([1.01, 2, 3]),
    }
    errors = fidelity.train_errors(found, exact)
    assert errors.quantiles == [0, 0, 0, 0] and errors.loss == 0.25
    np.testing.assert_allclose(errors.gradients, [0.01, 0.25])


def test_one_more_map_than_pytorchs_may_be_far_off(capsys):
    far, near = (fidelity.MapErrors([0, 0, 0, x], [1, 2], [0, 0]) for x in (2e-5, 1e-6))
    sides = {fidelity.PYTORCH: [far, near, near], 'ours': [near, far, far]}
    assert fidelity.summary(sides) == 0
    printed = capsys.readouterr().out
    assert 'ours: 2 of 3 maps beyond 1e-05 somewhere (limit 2: held), 9 flipped' in printed
    assert fidelity.summary(sides | {'again': [far] * 3}) == 1
    assert 'again: 3 of 3 maps beyond 1e-05 somewhere (limit 2: missed)' in capsys.readouterr().out


def test_results_of_the_released_network(tmp_path):
    import torch

    class Pools(torch.nn.Module):
        """Pools with indices twice, as the released network does."""

        def __init__(self):
            super().__init__()
            self.scale, self.shift = (torch.nn.Parameter(torch.tensor(x)) for x in (1.5, 0.25))
            window = {'kernel_size': (1, 2, 2), 'stride': (1, 2, 2)}
            self.pool_2 = torch.nn.MaxPool3d(**window, return_indices=True)

        def forward(self, clip):
            first, _ = self.pool_2(torch.relu(clip))
            second, _ = self.pool_2(self.scale * first + self.shift)
            return second.mean((1, 2))

    rng = np.random.default_rng(0)
    clip = rng.normal(size=(1, 3, 4, 16, 24)).astype(np.float32)
    density = rng.uniform(size=(1, 4, 6)).astype(np.float32)
    for kind, *inputs in (('evaluated', clip), ('trained', clip, density)):
        run = getattr(released_results, kind)
        released_results.write(tmp_path / f'{kind}_0.npz', Pools(), run, *inputs)

    channels_last = clip.transpose(0, 2, 3, 4, 1)
    first, place = max_pool_2x2_with_indices(np.maximum(channels_last, 0))
    second, next_place = max_pool_2x2_with_indices(first)
    mean = np.asarray(second.mean((1, 4)), np.float64)

    def loss(scale, shift):
        return losses.saliency_loss(scale * mean + shift, density)[0]

    with jax.enable_x64(True):
        loss, gradients = jax.value_and_grad(loss, (0, 1))(1.5, 0.25)
    for dtype in released_results.DTYPES:
        found = fidelity.released(tmp_path, 'evaluated', 0, dtype)
        np.testing.assert_array_equal(found['place_1'], place[0])
        np.testing.assert_array_equal(found['place_2'], next_place[0])
        before = released_results.sample(1.5 * np.asarray(first[0]) + 0.25)
        np.testing.assert_allclose(found['before_2'], before, rtol=1e-6)
        np.testing.assert_allclose(found['map'], 1.5 * mean[0] + 0.25, rtol=1e-6)
        assert found['map'].dtype == found['before_1'].dtype == dtype
        found = fidelity.released(tmp_path, 'trained', 0, dtype)
        np.testing.assert_allclose(found['loss'], loss, rtol=1e-5)
        # The loss does not depend on the map's scale: the gradient is small beside its terms.
        np.testing.assert_allclose(found['grad_norm'], np.abs(gradients), atol=1e-6)


@pytest.mark.long
def test_scaling(run, config_file, monkeypatch):  # noqa: F811
    for name in ('XLA_FLAGS', 'JAX_PLATFORMS'):  # which it sets
        monkeypatch.setenv(name, '')
    printed = run(scaling.main, f'--config={config_file}', '--clips=1')
    assert printed.count('\n| ') == 11, 'one line per number of devices'
    assert 'state on a device: ' in printed and 'with fsdp=8' in printed
    assert '(limit 7: ' in printed


@pytest.mark.long
def test_metrics(run):
    printed = run(metrics.main, '--frames=1', '--repeats=1', '--videos=2', '--png_frames=4')
    assert 'largest difference to pysaliency: ' in printed and '(limit 0.0001: held)' in printed
    assert '\n2 frames from PNG' in printed and '\n4 frames from PNG' in printed


@pytest.mark.long
def test_data(run, tmp_path):
    source = data_copies.dhf1k(tmp_path, {1: 40})
    printed = run(data.main, f'--source={source}', '--repeats=1', '--rounds=0')
    assert 'frames/s per core with writing (wanted 150: ' in printed
    assert "The PyTorch loader's method: " in printed and '(wanted under 8: held)' in printed


def test_the_generated_copy(tmp_path):
    folder = data.made_up_copy(tmp_path, 2)
    (video,) = Dhf1k(data_dir=str(tmp_path)).find_videos(folder, Report())['train']
    assert [frame.image.shape for frame in video.frames(Report())] == [(360, 640, 3)] * 2


def test_gpu(run, config_file, reference, monkeypatch):  # noqa: F811
    monkeypatch.setitem(meter.PEAK_FLOPS, 'cpu', 1e8)
    options = ('--inference=2', f'--training=1,{10**9},{2 * 10**9}', '--repeats=1', reference)
    printed = run(lambda: gpu.main(gpu.measure), f'--config={config_file}', *options)
    head, _, *table = [line for line in printed.splitlines() if line.startswith('|')]
    rows = [[cell.strip() for cell in line.split('|')[1:-1]] for line in table]
    assert {len(row) for row in rows} == {head.count('|') - 1}
    assert [row[:3] for row in rows] == [
        [work, dtype, batch]
        for work, batches in (
            ('inference', ['2']),
            ('training', ['1', '1000000000', '2000000000']),
        )
        for dtype in ('float32', 'bfloat16')
        for batch in batches
    ]
    for row in rows:
        if len(row[2]) > 1:
            assert row[3] == 'does not fit'
            continue
        best, median, rate, memory = map(float, (*row[3:6], row[8]))
        assert 0 < best <= median and rate > 0 and memory > 0
        assert all(float(cell.removesuffix('%')) > 0 for cell in row[6:8])
        assert row[9].endswith('clips/s') == (row[0] == 'inference')


def test_a_row_of_the_gpu_benchmark_as_text():
    row = gpu.Row('training', 'bfloat16', 8, platform='gpu')
    assert gpu.parse_row(str(row)) == row


def test_a_measurement_in_a_separate_process(tmp_path):
    (tmp_path / 'figures.json').write_text('{"time": 2}')
    arguments = ['--compact', str(tmp_path / 'figures.json')]
    assert in_own_process('json.tool', arguments) == {'time': 2}


def test_the_operations_of_a_tpus_program():
    """A program in the TPU compiler's format, shortened.

    A loop counts 1, 3, 5, ... to a bound passed into it, and multiplies in 100 cycles; one of
    unknown and one of known length take 7; the more expensive of two branches 50; a fusion 1000,
    which includes its contents, 400; a copy in two halves 30, and one more 9.
    """
    text = (ROOT / 'tests' / 'data' / 'tpu_program.txt').read_text()
    program = parse(text.replace('ROOT/', f'{ROOT}/'))
    runs = {(run.instruction.name, run.times): run for run in hlo_runs.runs(program)}
    cycles = {key: run.cycles for key, run in runs.items() if run.cycles}
    assert cycles == {
        ('moved', 1): 30,
        ('dot.1', 5): 500,  # 1, 3, 5, 7, 9
        ('half', 1): 7,
        ('half', 6): 42,
        ('exp', 1): 50,
        ('both', 1): 1000,
        ('out', 1): 9,
    }
    overflowing = parse(
        text.replace('"estimated_cycles":"1000"', f'"estimated_cycles":"{2**63 - 1}"')
    )
    (both,) = (r for r in hlo_runs.runs(overflowing, 0.5) if r.instruction.name == 'both')
    assert both.cycles == 3 * (8 * 4 * 4) / 0.5  # reads two arrays, writes one
    assert {key: run.loop for key, run in runs.items() if run.loop} == {
        ('half', 1): 'y.2',
        ('small', 1): 'y.2',
    }
    kinds = {name: hlo_runs.kind(program, run.instruction) for (name, _), run in runs.items()}
    assert kinds['both'] == 'convolution' and kinds['dot.1'] == 'matrix product'
    assert kinds['exp'] == 'elementwise' and kinds['moved'] == kinds['out'] == 'copy'
    layers, s3d = 'stsa_jax/models/layers.py:30', 'stsa_jax/models/s3d.py:20'
    sources = {
        name: tpu.own_places(hlo_runs.stack(program, run)) for (name, _), run in runs.items()
    }
    assert sources['both'] == [layers, s3d] and sources['dot.1'] == [s3d]
    assert sources['out'] == [layers, s3d], 'a copy is where what it copies is'
    assert sources['moved'] == []
    weights = {name: hlo_runs.weights(program, run) for (name, _), run in runs.items()}
    assert {name for name in weights if weights[name]} == {'both', 'w.2'}
    assert weights['both'] == weights['w.2'] == ['mix.kernel']


@pytest.mark.tpu
def test_tpu(run, config_file, tmp_path, monkeypatch):  # noqa: F811
    pytest.importorskip('libtpu', reason='the TPU compiler is not installed')
    for name in ('JAX_PLATFORMS', 'JAX_ENABLE_COMPILATION_CACHE'):  # which it sets
        monkeypatch.setenv(name, '')
    files = (f'--json={tmp_path / "all.json"}', f'--hlo={tmp_path / "program.txt"}')
    options = ('--batch=2,100000', '--dtype=bfloat16', '--top=3', *files)
    printed = run(tpu.main, f'--config={config_file}', *options)
    assert printed.startswith('stsanet, modelled, not measured: one TPU v5 lite (197 TFLOP/s')
    found = json.loads((tmp_path / 'all.json').read_text())
    fits, too_large = found['programs'][::2], found['programs'][1::2]
    assert [program['work'] for program in fits] == ['inference', 'training']
    assert {program['error'] for program in too_large} == {'does not fit'}
    assert '| training | bfloat16 | 100000 | does not fit |' in printed
    for program in fits:
        name = f'| {program["work"]} | bfloat16 | 2 | {program["modelled_ms"]:.4g} |'
        assert name in printed
        operations = program['operations_by_time']
        total = sum(each['modelled_ms'] for each in operations)
        np.testing.assert_allclose(total, program['modelled_ms'])
        assert len(operations) == program['operations'] > 3
        assert any(each['kind'] == 'convolution' for each in operations)
        assert any(each['source'] for each in operations)
        assert any(each['weights'] == ['map.kernel'] for each in operations)
        assert (tmp_path / f'program-{program["work"]}-bfloat16-2.txt').stat().st_size


@pytest.mark.skipif(bool(importlib.util.find_spec('libtpu')), reason='libtpu is installed')
def test_a_missing_tpu_compiler():
    with pytest.raises(InputError, match='--topology=v5e:2x2 needs the TPU compiler'):
        topologies.slice_devices('v5e:2x2')
