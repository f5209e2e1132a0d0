"""Preparation as a long job: all cores, constant memory, interrupted and resumed."""

import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import pytest
from terminal import shown_in_a_terminal

import data
from data.dhf1k import Dhf1k
from data.hollywood2 import Hollywood2
from data.preparation.registry import BUILDERS, load_builder
from data.preparation.shards import _ctrl_c_held, available_cores
from data.ucf_sports import UcfSports
from stsa_jax.errors import InputError
from tests import data_copies as copies

ROOT = Path(__file__).parents[1]


def test_known_numbers_of_short_videos_are_checked(tmp_path, monkeypatch):
    shots = {
        ('training', 'Walk-Front-001'): (1, 5, 0),
        ('training', 'Walk-Front-002'): (1, 8, 0),
        ('testing', 'Walk-Front-003'): (1, 4, 0),
    }
    copy = copies.shots(tmp_path / 'copy', shots, copies.ucf_file)
    known = {('train', 'test'): (3, {8: 2, 5: 2}), ('test',): (2, {32: 7}), ('train',): (2, {9: 3})}
    monkeypatch.setattr(UcfSports, 'KNOWN_SHORT', known)
    builder = data.prepare_dataset('ucf_sports', tmp_path / 'out', copy, num_workers=1)
    told = [str(p) for p in builder.problems if 'below' in str(p)]
    # Of the split with another number of videos than is known there is nothing to say.
    assert told == [
        'split train and test: 1 videos below 5 frames where 2 are known',
        'split train: 2 videos below 9 frames where 3 are known',
    ]


def test_published_numbers_of_short_videos():
    assert Dhf1k.KNOWN_SHORT == {('train', 'validation', 'test'): (1000, {186: 0})}
    assert Hollywood2.KNOWN_SHORT == {('test',): (3558, {32: 1613, 10: 714})}
    assert UcfSports.KNOWN_SHORT == {('train', 'test'): (150, {32: 20})}


def test_all_cores_are_used_by_default(tmp_path):
    assert load_builder('dhf1k', tmp_path).num_workers == available_cores() >= 1


def test_ctrl_c_while_workers_start_is_not_lost():
    with pytest.raises(KeyboardInterrupt), _ctrl_c_held():
        os.kill(os.getpid(), signal.SIGINT)


def children_of(pid: int) -> list[str]:
    return Path(f'/proc/{pid}/task/{pid}/children').read_text().split()


def is_running(pid: str) -> bool:
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] != 'Z'
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.mark.slow
@pytest.mark.skipif(not Path('/proc').exists(), reason='needs Linux to see when workers start')
def test_preparation_stopped_by_ctrl_c_and_killed_is_taken_up_by_the_command(tmp_path):
    copies.dhf1k(tmp_path / 'copy', {n: 60 for n in range(1, 13)}, 'annotation')
    command = [sys.executable, '-m', 'data.prepare', 'dhf1k', f'--source={tmp_path / "copy"}',
               f'--data_dir={tmp_path / "out"}', '--num_workers=2']  # fmt: skip
    pattern = 'out/dhf1k/224x384/.parts*/train*.json'

    def inodes(paths) -> set[int]:
        return {path.stat().st_ino for path in paths}

    done: list = []
    for sent, code in ((signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)):
        started = subprocess.Popen(
            command, cwd=ROOT, start_new_session=True, stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        deadline, before = time.monotonic() + 120, len(done)

        def is_ready(pid=started.pid, sent=sent, before=before) -> bool:
            if sent == signal.SIGKILL:
                return len(list(tmp_path.glob(pattern))) > before
            # The workers are starting, and multiprocessing's tracker beside them.
            return len(children_of(pid)) == 3

        while not is_ready():
            assert started.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        time.sleep(0.3 if sent == signal.SIGINT else 0)
        children = children_of(started.pid)
        if sent == signal.SIGKILL:
            started.kill()  # alone
            while any(map(is_running, children)):
                assert time.monotonic() < deadline, 'the workers end too'
                time.sleep(0.02)
        else:
            os.killpg(started.pid, sent)  # to all of its processes, as a terminal does
        told = started.communicate(timeout=60)[1]
        assert started.returncode == code, told
        assert sent == signal.SIGKILL or ('interrupted' in told and 'Traceback' not in told)
        if sent == signal.SIGINT:
            # What the workers had been given is finished, and nothing half is left.
            parts = [p.name for p in tmp_path.glob('out/dhf1k/224x384/.parts*/*')]
            assert len(parts) == 2 * len(list(tmp_path.glob(pattern)))
            assert len(parts) > 0
            assert not [name for name in parts if name.startswith('.')]
            kept = inodes(p.with_suffix('.array_record') for p in tmp_path.glob(pattern))
        done = list(tmp_path.glob(pattern))
        assert len(done) < 12
        with pytest.raises(InputError, match='is not prepared here'):
            data.open_split('dhf1k', 'train', tmp_path / 'out')
    both = inodes(p.with_suffix('.array_record') for p in done)
    assert kept < both
    shown = shown_in_a_terminal(command)
    # The bar counts frames, the kept ones from the start, within videos too, and has an estimate.
    counts = [(int(n), int(total)) for n, total in re.findall(r'(\d+)/(\d+) \[', shown)]
    assert counts[0] == (60 * len(done), 720) and counts[-1] == (720, 720)
    assert any(n % 60 for n, _ in counts) and re.search(r'<\d\d:\d\d', shown)
    train = data.open_split('dhf1k', 'train', tmp_path / 'out')
    assert [(v.name, v.num_frames) for v in train.videos] == [
        (f'{n:04d}', 60) for n in range(1, 13)
    ]
    # The very files that were complete when it was stopped are in the dataset now.
    assert both <= inodes(tmp_path.glob('out/dhf1k/224x384/1.0.0/*array_record*'))
    i = train.videos[7].first_example + 49
    assert copies.number_in(train.frame(i)) == copies.number_in(train.density(i)) == 8 * 64 + 50


MEMORY = """
import re, sys
from pathlib import Path
from data.preparation import shards
from data.copies.folders import FolderVideo

def peak():
    return int(re.search(r'VmHWM:\\s+(\\d+) kB', Path('/proc/self/status').read_text())[1]) / 1024

video, peaks = FolderVideo('film', sys.argv[1], sys.argv[1] + '/film.avi'), []
for repeats in (1, 4):
    task = shards.ShardTask((video,) * repeats, sys.argv[1], 'train', repeats, (224, 384), 'jpeg')
    assert shards.write_shard(task)['examples'] == 50 * repeats
    peaks.append(peak())
print(*peaks)
"""


@pytest.mark.skipif(not Path('/proc/self/status').exists(), reason='needs Linux to measure memory')
def test_memory_of_preparation_does_not_grow_with_the_length(tmp_path):
    with av.open(str(tmp_path / 'film.avi'), 'w') as container:
        stream = container.add_stream('mjpeg', rate=30)
        stream.height, stream.width, stream.pix_fmt = 360, 640, 'yuvj420p'
        for i in range(50):
            frame = np.full((360, 640, 3), 5 * i, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())
    command = [sys.executable, '-c', MEMORY, str(tmp_path)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    one, four = map(float, done.stdout.split())
    # MB; the 150 more frames would be 104, and resized ones 39.
    assert four - one < 15, done.stdout


def test_a_builder_leaves_nothing_in_the_temporary_folder(tmp_path, monkeypatch):
    (tmp_path / 'temporary').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temporary'))
    for name in BUILDERS:
        load_builder(name, tmp_path / 'data')
    assert not list((tmp_path / 'temporary').iterdir())
