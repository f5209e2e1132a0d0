"""predict: parts of a video, every n-th frame, formats of maps, resuming, several videos, pipes."""

import io
import json
import multiprocessing
import os
import signal
import sys
import tempfile
import time
from fractions import Fraction
from types import SimpleNamespace

import av
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from test_predict import RedModel, moving_square, run_main, tree

import stsa_jax
from stsa_jax.configuration import parse_time
from stsa_jax.errors import InputError
from stsa_jax.inference.devices import SpreadModel
from stsa_jax.lock import locked_folder
from stsa_jax.media import video

# Forked from a process without threads, as this one may run JAX's, which a fork would break.
PROCESSES = multiprocessing.get_context('forkserver')
PROCESSES.set_forkserver_preload(['test_predict'])


class MeanModel(RedModel):
    """Its map depends on all frames of the window: their mean, weighted by position."""

    def __call__(self, clips):
        self.calls += 1
        weights = np.linspace(1, 2, clips.shape[1])[:, None, None]
        return (clips[..., 0] * weights).mean(1) * 0.5 + 1e-3


class KilledModel(MeanModel):
    """Ends its process by a signal in a chosen call."""

    def __init__(self, call, number):
        self.call, self.number = call, number

    def __call__(self, clips):
        if self.calls == self.call:
            os.kill(os.getpid(), self.number)
        return super().__call__(clips)


@pytest.fixture
def model(monkeypatch):
    model = MeanModel()
    monkeypatch.setattr(stsa_jax, 'load', lambda path: model)
    return model


@pytest.fixture
def film(tmp_path):
    path = tmp_path / 'in' / 'film.mp4'
    video.write_video(path, moving_square(17, (48, 80)), 25)
    return path


def predict(out, *videos, **flags):
    given = [f'--{name}={value}' for name, value in flags.items()]
    assert (
        run_main('--checkpoint=c', *[f'--video={v}' for v in videos], f'--output={out}', *given)
        == 0
    )


def files(folder):
    """Contents by name; the record without what differs between two folders."""
    found = {p.name: p.read_bytes() for p in folder.rglob('*') if p.is_file()}
    assert json.loads(found.pop('prediction.json'))['frames']
    return found


def times_in(path):
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        return sorted(float(p.pts * stream.time_base) for p in file.demux(stream) if p.size)


def uneven(path, times):
    """A video whose frames are shown at `times`, in 1/25 s."""
    with av.open(str(path), 'w') as file:
        stream = file.add_stream('libx264', rate=25, options={'g': '4', 'bf': '0'})
        stream.height, stream.width, stream.pix_fmt = 48, 80, 'yuv420p'
        stream.codec_context.time_base = Fraction(1, 25)
        for time, pixels in zip(times, moving_square(len(times), (48, 80))):
            picture = av.VideoFrame.from_ndarray(pixels, format='rgb24')
            picture.pts, picture.time_base = time, Fraction(1, 25)
            file.mux(stream.encode(picture))
        file.mux(stream.encode(None))
    return path


def test_a_part_has_the_maps_of_the_whole_video(tmp_path, film, model):
    predict(tmp_path / 'whole', film)
    predict(tmp_path / 'part', film, start='0.2', end='0:00.44')  # frames 6 to 11
    assert tree(tmp_path / 'part' / 'maps') == [f'{n:04d}.png' for n in range(6, 12)]
    for path in (tmp_path / 'part' / 'maps').iterdir():
        assert path.read_bytes() == (tmp_path / 'whole' / 'maps' / path.name).read_bytes()
    assert times_in(tmp_path / 'part' / 'overlay.mp4') == pytest.approx(np.arange(6) / 25)
    assert model.calls == 17 + 6


def test_a_part_without_frames(tmp_path, film, model, capsys):
    flags = ['--checkpoint=c', f'--video={film}', f'--output={tmp_path / "out"}']
    for wrong, words in {
        '--start=9': ['no frame from 9 s', '0.000 to 0.640 s'],
        '--end=0': ['--end is not after --start'],
        '--start=a': ['a: expected seconds, or hours:minutes:seconds'],
    }.items():
        assert run_main(*flags, wrong) == 2
        told = capsys.readouterr().err
        assert all(word in told for word in words), told
    assert not (tmp_path / 'out').exists() and model.calls == 0


@pytest.mark.parametrize(
    ('text', 'seconds'),
    [('75', 75), ('75.5', 75.5), ('1:15', 75), ('02:00:01.25', 7201.25), ('90:00', 5400)],
)
def test_times(text, seconds):
    assert parse_time(text) == seconds


@pytest.mark.parametrize('text', ['', '-1', '1:75', '1:2:3:4', '0:61:00', '1e3', 'nan', ':5'])
def test_what_is_no_time(text):
    with pytest.raises(InputError, match='expected seconds'):
        parse_time(text)


@pytest.mark.parametrize('batch_size', [1, 3])
def test_maps_between_are_interpolated_in_time(tmp_path, model, capsys, batch_size):
    times = np.array([0, 1, 2, 3, 50, 51, 80, 81, 100])
    path = uneven(tmp_path / 'a.mkv', times)
    predict(tmp_path / 'all', path, maps='npz')
    model.calls = 0
    predict(tmp_path / 'some', path, maps='npz', every=3, batch_size=batch_size)
    assert 'of them predicted, 5 interpolated in time' in capsys.readouterr().out
    whole, some = (np.load(tmp_path / name / 'maps.npz') for name in ('all', 'some'))
    anchors = [0, 3, 6, 8]  # the last one too
    assert model.calls == -(-4 // batch_size)
    assert np.flatnonzero(~some['interpolated']).tolist() == anchors
    assert not whole['interpolated'].any()
    expected = np.empty_like(whole['maps'])
    for place in np.ndindex(expected.shape[1:]):
        at = (slice(None), *place)
        expected[at] = np.interp(times, times[anchors], whole['maps'][at][anchors])
    np.testing.assert_allclose(some['maps'], expected, atol=1e-6)
    np.testing.assert_allclose(some['times'], times / 25, atol=0.001)
    record = json.loads((tmp_path / 'some' / 'prediction.json').read_text())
    assert record['frames'] == 9 and record['frames_interpolated'] == 5


def test_every_with_a_model_that_maps_all_frames(tmp_path, film, monkeypatch, capsys):
    model = MeanModel()
    model.config = SimpleNamespace(image_size=(8, 12), frames=8, target='all')
    monkeypatch.setattr(stsa_jax, 'load', lambda path: model)
    out = f'--output={tmp_path / "out"}'
    assert run_main('--checkpoint=c', f'--video={film}', out, '--every=2') == 2
    assert '--every=2 saves nothing with this model' in capsys.readouterr().err


def test_formats_of_maps(tmp_path, film, model):
    for kind in ('png', 'npz', 'video', 'none'):
        predict(tmp_path / kind, film, maps=kind)
    assert tree(tmp_path / 'none') == ['overlay.mp4', 'prediction.json']
    pictures = [np.asarray(Image.open(p)) for p in sorted((tmp_path / 'png' / 'maps').iterdir())]
    with av.open(str(tmp_path / 'video' / 'maps.mkv')) as file:
        decoded = [frame.to_ndarray() for frame in file.decode(video=0)]
    np.testing.assert_array_equal(decoded, pictures)  # without loss
    assert times_in(tmp_path / 'video' / 'maps.mkv') == pytest.approx(np.arange(17) / 25)
    arrays = np.load(tmp_path / 'npz' / 'maps.npz', allow_pickle=False)
    assert arrays['maps'].shape == (17, 8, 12) and arrays['maps'].dtype == np.float32
    assert arrays['numbers'].tolist() == list(range(1, 18)) and arrays['names'][4] == '0005'
    levels = [stsa_jax.media.visualize.to_8bit(m, (48, 80)) for m in arrays['maps']]
    np.testing.assert_array_equal(levels, pictures)


def _predict_until_killed(call, number, arguments):
    signal.signal(signal.SIGINT, signal.default_int_handler)
    stsa_jax.load = lambda path: KilledModel(call, number)
    os._exit(run_main(*arguments))


def killed(call, number, *arguments):
    """Runs predict in a process of its own, which a signal ends; returns its exit code."""
    process = PROCESSES.Process(target=_predict_until_killed, args=(call, number, arguments))
    process.start()
    process.join()
    return process.exitcode


def _lock_and_wait(folder, told):
    with locked_folder(folder):
        told.touch()
        signal.pause()


@pytest.mark.parametrize('flags', [[], ['--maps=npz', '--every=3'], ['--maps=video', '--end=0.6']])
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGINT])
def test_an_interrupted_prediction_is_resumed(tmp_path, film, model, capsys, flags, number):
    """At no loss: the output is that of an undisturbed run, and no kept map is predicted again."""
    every = '--every=3' in flags
    given = ['--checkpoint=c', f'--video={film}', *flags]
    assert run_main(*given, f'--output={tmp_path / "whole"}') == 0
    calls, model.calls = model.calls, 0
    out = f'--output={tmp_path / "out"}'
    code = killed(4 if every else 9, number, *given, out, '--resume')
    assert code == (-number if number == signal.SIGKILL else 128 + number)
    assert [p.name[:12] for p in (tmp_path / 'out').iterdir()] == ['.unfinished-']
    capsys.readouterr()
    assert run_main(*given, out, '--resume') == 0
    # Of nine calls eight results were yielded and kept, and one runs ahead. With --every=3 the
    # third one is needed again to interpolate.
    assert model.calls == calls - (2 if every else 8)
    assert f'; {7 if every else 8} were there' in capsys.readouterr().out
    assert files(tmp_path / 'out') == files(tmp_path / 'whole')
    assert not [p for p in (tmp_path / 'out').iterdir() if p.name.startswith('.')]
    model.calls = 0  # and once more: nothing to do
    assert run_main(*given, out, '--resume') == 0
    assert 'already predicted' in capsys.readouterr().out and model.calls == 0


def test_a_killed_run_without_the_flag_is_resumed_too(tmp_path, film, model):
    given = ['--checkpoint=c', f'--video={film}', f'--output={tmp_path / "out"}']
    assert killed(9, signal.SIGKILL, *given) == -signal.SIGKILL
    assert run_main(*given, '--resume') == 0
    assert model.calls == 9 and len(tree(tmp_path / 'out' / 'maps')) == 17


def test_files_that_a_power_failure_emptied_are_made_again(tmp_path, film, model):
    given = ['--checkpoint=c', f'--video={film}', f'--output={tmp_path / "out"}', '--resume']
    assert killed(9, signal.SIGKILL, *given) == -signal.SIGKILL
    (left,) = (tmp_path / 'out').iterdir()
    os.truncate(left / 'maps' / '0007.png', 0)
    assert run_main(*given) == 0
    assert model.calls == 17 - 6 and len(tree(tmp_path / 'out' / 'maps')) == 17
    assert all(p.stat().st_size for p in (tmp_path / 'out' / 'maps').iterdir())


def test_other_settings_are_not_mixed_with_kept_maps(tmp_path, film, model):
    given = ['--checkpoint=c', f'--video={film}', f'--output={tmp_path / "out"}', '--resume']
    assert killed(9, signal.SIGKILL, *given) == -signal.SIGKILL
    assert run_main(*given, '--start=0.04') == 0
    assert model.calls == 16 and tree(tmp_path / 'out' / 'maps')[0] == '0002.png'


def test_two_runs_do_not_resume_the_same_work(tmp_path, film, model, capsys):
    given = ['--checkpoint=c', f'--video={film}', f'--output={tmp_path / "out"}', '--resume']
    assert killed(9, signal.SIGKILL, *given) == -signal.SIGKILL
    (left,) = (tmp_path / 'out').iterdir()
    other = PROCESSES.Process(target=_lock_and_wait, args=(left, tmp_path / 'locked'))
    other.start()
    try:
        while not (tmp_path / 'locked').exists():
            time.sleep(0.01)
        assert run_main(*given) == 2
        assert f'another process is writing here (process {other.pid}' in capsys.readouterr().err
    finally:
        other.kill()
        other.join()
    assert run_main(*given) == 0 and model.calls == 9


def test_folders_of_videos_and_warnings_told_once(tmp_path, film, model, capfd, caplog):
    more = tmp_path / 'more'
    (more / 'shot' / 'images').mkdir(parents=True)
    for number, frame in enumerate(moving_square(3), 1):
        Image.fromarray(frame).save(more / 'shot' / 'images' / f'{number}.png')
    (more / 'shot' / 'images' / 'notes.txt').write_text('a file that is skipped')
    (more / 'readme.txt').write_text('not a video')
    video.write_video(more / 'b.mp4', moving_square(2, (48, 80)), 25)
    predict(tmp_path / 'out', film, more)
    assert sorted(p.name for p in (tmp_path / 'out').iterdir()) == ['b', 'film', 'shot']
    assert [len(tree(tmp_path / 'out' / n / 'maps')) for n in ('b', 'film', 'shot')] == [2, 17, 3]
    assert sum('1 of 4 entries skipped' in message for message in caplog.messages) == 1


def test_a_video_from_a_pipe(tmp_path, film, model, monkeypatch, capsys):
    (tmp_path / 'temp').mkdir()
    monkeypatch.setattr(tempfile, 'tempdir', str(tmp_path / 'temp'))
    pipe = SimpleNamespace(buffer=io.BytesIO(film.read_bytes()))
    monkeypatch.setattr(sys, 'stdin', pipe)
    predict(tmp_path / 'piped', '-')
    predict(tmp_path / 'read', film)
    assert files(tmp_path / 'piped') == files(tmp_path / 'read')
    assert tree(tmp_path / 'temp') == []  # the copy is gone
    out = f'--output={tmp_path / "other"}'
    assert run_main('--checkpoint=c', '--video=-', out, '--resume') == 2
    assert 'standard input cannot be read again' in capsys.readouterr().err


def test_all_devices_share_a_batch():
    seen = []

    class Model:
        params, batch_stats = {'scale': jnp.float32(2)}, {}
        config = None

        def __call__(self, clips):
            seen.append(clips.sharding)
            return clips.mean((1, 4)) * self.params['scale']

    devices = jax.devices()[:2]
    model = SpreadModel(Model(), devices)
    clips = np.random.default_rng(0).random((4, 8, 2, 3, 3)).astype(np.float32)
    maps = model(clips)
    np.testing.assert_allclose(maps, 2 * clips.mean((1, 4)), rtol=1e-6)
    assert seen[0].device_set == set(devices) == maps.sharding.device_set
    assert [s.data.shape[0] for s in maps.addressable_shards] == [2, 2]
    assert model.count == 2 and model.config is None


def test_more_devices_than_there_are(tmp_path, film, model, capsys):
    out = f'--output={tmp_path / "out"}'
    assert run_main('--checkpoint=c', f'--video={film}', out, '--devices=99') == 2
    assert f'this machine has {len(jax.devices())}' in capsys.readouterr().err
