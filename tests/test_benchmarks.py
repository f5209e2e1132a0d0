"""Every benchmark runs from its command line to its figures, at the smallest size.

A small network stands in STSA-Net's place, which takes minutes to compile, and another one in that
of the released PyTorch code. What the figures are does not matter. Left out: the metrics of the
released code, one core against two with clips (`benchmarks.data --rounds`), and PyTorch on a GPU.
"""

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
    gpu,
    inference,
    metrics,
    released,
    rematerialisation,
    scaling,
    train_step,
    training,
)
from benchmarks.processes import in_own_process
from data.copies.sources import Report
from data.sets.dhf1k import Dhf1k
from stsa_jax.inference import cost
from stsa_jax.models import stsanet
from stsa_jax.training import meter
from stsa_jax.weights import pretrained

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
def compiled_fast():
    """Without optimising, and what two runs have in common once."""
    seconds = jax.config.jax_persistent_cache_min_compile_time_secs
    jax.config.update('jax_disable_most_optimizations', True)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', 0)
    yield
    jax.config.update('jax_disable_most_optimizations', False)
    jax.config.update('jax_persistent_cache_min_compile_time_secs', seconds)


@pytest.fixture
def reference(tmp_path):
    (tmp_path / 'checkout').mkdir()
    (tmp_path / 'checkout' / 'STSA_model.py').write_text(REFERENCE)
    return f'--reference={tmp_path / "checkout"}'


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs a benchmark's main with arguments; checks its exit code and returns what it prints."""
    for module in (cost, pretrained, stsanet, rematerialisation):
        monkeypatch.setattr(module, 'STSANet', SmallNetwork)
    train_it(monkeypatch.setattr)

    def run(main, *arguments):
        monkeypatch.setattr(sys, 'argv', ['benchmark', *map(str, arguments)])
        code, printed = main(), capsys.readouterr().out
        assert (code or 0) == int('missed' in printed), printed
        return printed

    return run


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


def test_bfloat16(run, config_file, prepared, tmp_path):  # noqa: F811
    (tmp_path / 'data').symlink_to(prepared)
    where = (f'--config={config_file}', f'--workdir={tmp_path}')
    printed = run(bfloat16.main, *where, '--steps=2', '--config.validation.clips=3')
    assert 'bfloat16: held-out CC ' in printed and '(limit 0.98 to 1.02: ' in printed


def test_rematerialisation(run, config_file):  # noqa: F811
    printed = run(rematerialisation.main, f'--config={config_file}', '--repeats=1')
    assert '(limit 0.5: ' in printed and '(limit 1.35: ' in printed


def test_inference(run, config_file, reference):  # noqa: F811
    options = ('--repeats=1', '--matrix_size=64', reference)
    printed = run(inference.main, f'--config={config_file}', *options)
    assert 'ratio to the matrix-product floor' in printed and '(limit 0.6: ' in printed


def test_train_step(run, config_file, reference, monkeypatch, capsys):  # noqa: F811
    sides = {'benchmarks.train_step': train_step.main, 'benchmarks.released': released.main}

    def in_this_process(module, arguments):
        printed = run(sides.pop(module), *arguments)
        return json.loads(printed.splitlines()[-1])

    monkeypatch.setattr(train_step, 'in_own_process', in_this_process)
    options = ('--repeats=1', '--matrix_size=64', reference)
    printed = run(train_step.main, f'--config={config_file}', *options)
    assert not sides and 'ratio of the times: ' in printed and 'ratio of the peaks: ' in printed


def test_the_released_code_is_measured_without_jax():
    code = 'import sys; from benchmarks import released; sys.exit("jax" in sys.modules)'
    subprocess.run([sys.executable, '-c', code], cwd=ROOT, check=True)


def test_a_missed_limit_is_the_exit_code(capsys):
    theirs = {'time': 1.0, 'peak': 1e9}
    assert train_step.report({'time': 0.6, 'peak': 2e9}, theirs, 0.1) == 1
    printed = capsys.readouterr().out
    assert 'ratio of the times: 0.60 (limit 0.7: held)' in printed
    assert 'ratio of the peaks: 2.00 (limit 1: missed)' in printed
    assert train_step.report({'time': 0.6, 'peak': 1e9}, theirs, 0.1) == 0
    assert train_step.report({'time': 0.6, 'peak': 1e9}, None, 0.1) == 0, 'nothing to compare with'


def test_scaling(run, config_file, monkeypatch):  # noqa: F811
    for name in ('XLA_FLAGS', 'JAX_PLATFORMS'):  # which it sets
        monkeypatch.setenv(name, '')
    printed = run(scaling.main, f'--config={config_file}', '--clips=1')
    assert printed.count('\n| ') == 11, 'a line for each number of devices'
    assert 'state on a device: ' in printed and 'with fsdp=8' in printed
    assert '(limit 7: ' in printed


def test_metrics(run):
    printed = run(metrics.main, '--frames=1', '--repeats=1', '--videos=2', '--png_frames=4')
    assert 'largest difference to pysaliency: ' in printed and '(limit 0.0001: held)' in printed
    assert '\n2 frames from PNG' in printed and '\n4 frames from PNG' in printed


def test_data(run, tmp_path):
    source = data_copies.dhf1k(tmp_path, {1: 40})
    printed = run(data.main, f'--source={source}', '--repeats=1', '--rounds=0')
    assert 'frames/s a core with writing (wanted 150: ' in printed
    assert "The PyTorch loader's way: " in printed and '(wanted under 8: held)' in printed


def test_the_copy_that_is_made_up(tmp_path):
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


def test_a_measurement_in_a_process_of_its_own(tmp_path):
    (tmp_path / 'figures.json').write_text('{"time": 2}')
    arguments = ['--compact', str(tmp_path / 'figures.json')]
    assert in_own_process('json.tool', arguments) == {'time': 2}
