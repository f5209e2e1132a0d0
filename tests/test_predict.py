"""predict.py: its output, and its messages and leftovers when something is wrong."""

import dataclasses
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
from full_disk import file_size_limit
from PIL import Image

import stsa_jax
from stsa_jax.commands import predict
from stsa_jax.errors import exit_cleanly
from stsa_jax.media import video
from stsa_jax.media.visualize import to_8bit

SCRIPT = Path(__file__).parents[1] / 'predict.py'


@dataclasses.dataclass
class Config:
    image_size: tuple = (8, 12)
    frames: int = 8
    target: str = 'middle'


class RedModel:
    """Deterministic and fast: red pixels of the target frame are salient."""

    config = Config()
    calls = 0

    def preprocess(self, frames):
        return np.stack([np.asarray(Image.fromarray(f).resize((12, 8))) for f in frames]) / 255.0

    def __call__(self, clips):
        self.calls += 1
        return clips[:, 3, :, :, 0] * 0.5 + 1e-3


@pytest.fixture
def model(monkeypatch):
    model = RedModel()
    monkeypatch.setattr(stsa_jax, 'load', lambda path: model)
    return model


def moving_square(count, size=(49, 81), rng=None):
    """A red square that moves right by four pixels a frame; noise behind it if `rng` is given."""
    for number in range(count):
        frame = np.zeros((*size, 3), np.uint8)
        if rng is not None:
            frame[..., 1:] = rng.integers(0, 256, (*size, 2))
        frame[20:30, 4 * number : 4 * number + 10, 0] = 255
        yield frame


@pytest.fixture
def film(tmp_path):
    path = tmp_path / 'in' / 'film.mp4'
    video.write_video(path, moving_square(17, (48, 80)), 25)
    return path


def run_main(*arguments):
    """Runs main like the script; returns the exit code."""
    handler = signal.getsignal(signal.SIGTERM)  # the script sets its own
    try:
        with pytest.raises(SystemExit) as ended:
            exit_cleanly(lambda: predict.main([*map(str, arguments)]))
    finally:
        signal.signal(signal.SIGTERM, handler)
    return ended.value.code


def run_script(*arguments, **options):
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=SCRIPT.parent, **options)


@pytest.fixture
def called(capsys):
    """As `run_script`, in this process."""

    def run(*arguments):
        capsys.readouterr()
        code = run_main(*arguments)
        return subprocess.CompletedProcess(arguments, code, *capsys.readouterr())

    return run


def tree(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob('*'))


def assert_refused(done, *words):
    """Exit code 2, one message that names everything needed, no traceback."""
    assert done.returncode == 2, done.stderr
    assert 'Traceback' not in done.stderr
    assert done.stderr.startswith('error: ')
    for word in words:
        assert str(word) in done.stderr


@pytest.mark.parametrize('batch_size', [1, 5])
def test_a_map_for_every_frame_and_the_overlay(tmp_path, film, model, batch_size):
    out = tmp_path / 'new' / 'out'
    flags = ['--checkpoint=c', f'--video={film}', f'--output={out}', f'--batch_size={batch_size}']
    assert run_main(*flags) == 0
    assert tree(out) == sorted(
        ['maps', 'overlay.mp4', 'prediction.json']
        + [f'maps/{number:04d}.png' for number in range(1, 18)]
    )
    for number in range(17):
        image = Image.open(out / 'maps' / f'{number + 1:04d}.png')
        saliency = np.asarray(image)
        assert (image.mode, saliency.shape, saliency.max()) == ('L', (48, 80), 255)
        row, column = np.argwhere(saliency > 200).mean(0)
        assert abs(row - 24.5) < 4 and abs(column - (4 * number + 4.5)) < 6  # its own frame's
    info, frames = video.read_frames(out / 'overlay.mp4')
    assert info[1:] == (48, 80, 25, 17) and len(list(frames)) == 17
    record = json.loads((out / 'prediction.json').read_text())
    assert record['frames'] == 17 and record['model']['frames'] == 8


def test_folder_of_frames_of_odd_size_and_several_videos(tmp_path, film, model):
    for number, frame in enumerate(moving_square(3), 1):
        (tmp_path / 'shots').mkdir(exist_ok=True)
        Image.fromarray(frame).save(tmp_path / 'shots' / f'{number}.png')
    videos = [f'--video={film}', f'--video={tmp_path / "shots"}']
    assert run_main('--checkpoint=c', *videos, f'--output={tmp_path / "out"}', '--fps=10') == 0
    assert len(tree(tmp_path / 'out' / 'film' / 'maps')) == 17
    maps = [Image.open(p).size for p in sorted((tmp_path / 'out' / 'shots' / 'maps').iterdir())]
    assert maps == [(81, 49)] * 3
    info, _ = video.read_frames(tmp_path / 'out' / 'shots' / 'overlay.mp4')
    assert info[1:] == (50, 82, 10, 3)  # even, as H.264 wants


def test_one_frame_video(tmp_path, model):
    film = tmp_path / 'one.mp4'
    video.write_video(film, moving_square(1, (48, 80)), 30)
    out = tmp_path / 'out'
    assert run_main('--checkpoint=c', f'--video={film}', f'--output={out}', '--nooverlay') == 0
    assert tree(out) == ['maps', 'maps/0001.png', 'prediction.json']


def test_another_size_of_the_weights(tmp_path, film, model, monkeypatch, capsys):
    asked = {}
    monkeypatch.setattr(stsa_jax, 'load', lambda path, **sizes: asked.update(sizes) or model)
    flags = ['--checkpoint=c', f'--video={film}', f'--output={tmp_path / "out"}', '--nooverlay']
    assert run_main(*flags, '--image_size=288,512', '--clip_frames=64') == 0
    assert asked == {'image_size': (288, 512), 'frames': 64}
    capsys.readouterr()
    for wrong, words in {
        '--image_size=288': 'expected height and width, such as 288,512',
        '--clip_frames=8': 'expected an integer, 16 or more',
    }.items():
        assert run_main(*flags, wrong, '--overwrite') == 2
        assert words in capsys.readouterr().err


def test_an_earlier_prediction_is_replaced_only_on_demand(tmp_path, film, model, capsys):
    out = tmp_path / 'out'
    (out / 'maps').mkdir(parents=True)
    (out / 'maps' / '9999.png').write_text('mine')
    (out / 'notes.txt').write_text('mine')
    flags = ['--checkpoint=c', f'--video={film}', f'--output={out}']
    assert run_main(*flags) == 2
    assert 'already holds maps' in capsys.readouterr().err and model.calls == 0
    assert tree(out) == ['maps', 'maps/9999.png', 'notes.txt']
    assert run_main(*flags, '--overwrite') == 0
    assert len(tree(out / 'maps')) == 17 and (out / 'notes.txt').read_text() == 'mine'
    assert not (out / 'maps' / '9999.png').exists()
    assert [p for p in out.iterdir() if p.name.startswith('.')] == []


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize('existing', [False, True])
def test_an_interrupted_run_leaves_nothing(tmp_path, film, monkeypatch, number, existing):
    class Interrupted(RedModel):
        def __call__(self, clips):
            if self.calls == 9:
                os.kill(os.getpid(), number)
            return super().__call__(clips)

    monkeypatch.setattr(stsa_jax, 'load', lambda path: Interrupted())
    if number == signal.SIGINT:  # a shell starts what runs in the background with it ignored
        signal.signal(signal.SIGINT, signal.default_int_handler)
    out = tmp_path / 'a' / 'b'
    if existing:
        out.mkdir(parents=True)
    before = tree(tmp_path)
    assert run_main('--checkpoint=c', f'--video={film}', f'--output={out}') == 128 + number
    assert tree(tmp_path) == before


def test_a_truncated_video(tmp_path, model, capsys):
    """Truncated in two ways: detected at once, and detected when the damage is reached."""
    film = tmp_path / 'film.mp4'
    video.write_video(film, moving_square(17, rng=np.random.default_rng(0)), 25)
    whole = film.read_bytes()
    film.write_bytes(whole[: len(whole) * 2 // 3])
    damaged = tmp_path / 'damaged.mp4'
    damaged.write_bytes(whole[: len(whole) * 2 // 3] + b'\xff' * (len(whole) // 3 + 1))
    for path in (film, damaged):
        out = tmp_path / 'out'
        flags = ['--checkpoint=c', f'--video={path}', f'--output={out}']
        assert run_main(*flags) == 2
        message = capsys.readouterr().err
        assert str(path) in message and '--allow_truncated' in message
        assert not out.exists()
        assert run_main(*flags, '--allow_truncated') == 0
        count = len(tree(out / 'maps'))
        assert 1 <= count < 17
        assert len(list(video.read_frames(out / 'overlay.mp4')[1])) == count
        shutil.rmtree(out)


@pytest.fixture
def tmpfs(tmp_path):
    """Mounts a small file system; skips where that is not allowed."""
    place = tmp_path / 'mounted'
    place.mkdir()

    def mount(options):
        command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', str(place)]
        try:
            subprocess.run(command, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f'mounting a small file system is not allowed here: {error}')
        return place

    yield mount
    subprocess.run(['umount', str(place)], capture_output=True)


def test_full_disk(tmpfs, film, model, capsys):
    place = tmpfs('size=24k')
    code = run_main('--checkpoint=c', f'--video={film}', f'--output={place / "out"}')
    message = capsys.readouterr().err
    assert code == 2 and 'the disk is full' in message and str(place) in message
    assert tree(place) == []


def test_read_only_disk(tmpfs, film, model, capsys):
    place = tmpfs('ro')
    for out in (place, place / 'out'):
        assert run_main('--checkpoint=c', f'--video={film}', f'--output={out}') == 2
        message = capsys.readouterr().err
        assert 'read-only' in message and str(place) in message
    assert model.calls == 0


def test_file_size_limit_names_the_file_of_the_user(tmp_path, film, model, capsys):
    """Runs where mounting is not allowed: writing fails midway through the overlay."""
    out = tmp_path / 'out'
    with file_size_limit(1500):
        code = run_main('--checkpoint=c', f'--video={film}', f'--output={out}')
    message = capsys.readouterr().err
    assert code == 2 and f'{out}/overlay.mp4: the file would be larger' in message
    assert not out.exists()


# From here on the real script, in a separate process.


def flags_for(tmp_path, film, **changed):
    flags = {'checkpoint': tmp_path / 'w.safetensors', 'video': film, 'output': tmp_path / 'out'}
    return [f'--{name}={value}' for name, value in (flags | changed).items()]


def test_wrong_flags(tmp_path, film, called):
    done = run_script(*flags_for(tmp_path, film), '--batchsize=3')
    assert_refused(done, "Unknown command line flag 'batchsize'", '--help')
    assert_refused(called('--video=a.mp4'), '--checkpoint and --output missing')
    assert_refused(called(*flags_for(tmp_path, film), 'film.mp4'), '--video=film.mp4')
    done = called(*flags_for(tmp_path, film), '--batch_size=0')
    assert_refused(done, 'batch_size', 'positive integer')


def test_wrong_videos(tmp_path, film, called):
    missing, junk, empty = tmp_path / 'missing.mp4', tmp_path / 'junk.mp4', tmp_path / 'empty'
    junk.write_bytes(film.read_bytes()[:900])
    empty.mkdir()
    done = called(*flags_for(tmp_path, missing))
    assert_refused(done, missing, 'no such video')
    assert_refused(called(*flags_for(tmp_path, junk)), junk, 'check', 'complete')
    assert_refused(called(*flags_for(tmp_path, empty)), empty, 'without frames')
    for number, frame in enumerate(moving_square(2)):
        Image.fromarray(frame[: 40 + number]).save(empty / f'{number}.png')
    done = called(*flags_for(tmp_path, empty))
    assert_refused(done, empty / '1.png', '81x41', '81x40')
    twice = [*flags_for(tmp_path, film), f'--video={tmp_path / "film.mkv"}']
    assert_refused(called(*twice), 'film.mp4', 'film.mkv', 'two runs')
    assert not (tmp_path / 'out').exists()


def test_wrong_outputs(tmp_path, film, called):
    file = tmp_path / 'file'
    file.write_text('mine')
    assert_refused(called(*flags_for(tmp_path, film, output=file)), file, 'is a file')
    assert file.read_text() == 'mine'


def test_wrong_checkpoints(tmp_path, film, called):
    from safetensors.numpy import save_file

    missing, foreign, cut = (tmp_path / f'{n}.safetensors' for n in ('missing', 'foreign', 'cut'))
    save_file({'conv1.weight': np.zeros((3, 3), np.float32)}, foreign)
    cut.write_bytes(foreign.read_bytes()[:-9])
    (tmp_path / 'folder').mkdir()
    for path, words in {
        missing: 'no such file',
        foreign: 'not the weights of STSA-Net',
        cut: 'incomplete safetensors file',
        tmp_path / 'folder': 'holds no checkpoint',
    }.items():
        assert_refused(called(*flags_for(tmp_path, film, checkpoint=path)), path, words)
    assert not (tmp_path / 'out').exists()


def test_other_weights_are_not_a_saliency_model(tmp_path, film, not_saliency_models, capsys):
    for words, path in not_saliency_models.items():
        for flag in ('--nooverlay', '--gradient'):
            assert run_main(*flags_for(tmp_path, film, checkpoint=path), flag) == 2
            message = capsys.readouterr().err
            assert message.startswith(f'error: {path}: ') and words in message
    assert not (tmp_path / 'out').exists()


def test_output_below_a_file(tmp_path, film, model, capsys):
    (tmp_path / 'file').write_text('mine')
    assert run_main(*flags_for(tmp_path, film, output=tmp_path / 'file' / 'out')) == 2
    assert str(tmp_path / 'file') in capsys.readouterr().err


class AttentiveModel(RedModel):
    """Has attention matrices besides, uniform; and what is salient is the sum over the clip."""

    config = Config(image_size=(32, 64))
    kind = 'stsanet'

    def preprocess(self, frames):
        return np.stack([np.asarray(Image.fromarray(f).resize((64, 32))) for f in frames]) / 255.0

    def __call__(self, clips, return_intermediates=False):
        saliency = clips[..., 0].sum(1) / 100
        if not return_intermediates:
            return saliency
        taps = {}
        for level, places in enumerate((32, 32, 8, 2)):
            for pair in ('layer_1.pair0', 'layer_1.pair1', 'layer_2.pair0'):
                n = places * (1 if 'layer_1' in pair else 2)
                for name in ('a_to_b', 'b_to_a'):
                    taps[f'branch{level}.{pair}.{name}'] = np.full((1, n, n), 1 / n, np.float32)
        return saliency, taps


def test_attention_of_a_pixel(tmp_path, film, monkeypatch, capsys):
    monkeypatch.setattr(stsa_jax, 'load', lambda path: AttentiveModel())
    out = tmp_path / 'out'
    flags = ['--checkpoint=c', f'--video={film}', f'--output={out}']
    assert run_main(*flags, '--attention=20,24', '--frame=5') == 0
    assert run_main(*flags, '--attention=20,24') == 0  # the middle frame, 9 of 17
    assert tree(out) == ['attention-0005-20-24.png', 'attention-0009-20-24.png']
    assert Image.open(out / 'attention-0005-20-24.png').width > 600
    capsys.readouterr()
    for wrong, words in {
        '--attention=20': 'two integers',
        '--attention=80,24': 'x below 80 and y below 48',
        '--attention=20,-1': 'outside the video',
        '--attention=1,1 --frame=18': 'frames 1 to 17',
        '--attention=1,1 --frame=0': 'frames 1 to 17',  # a folder may count from 0
        '--attention=20,24 --frame=9': 'already holds attention-0009-20-24.png',
    }.items():
        assert run_main(*flags, *wrong.split()) == 2
        assert words in capsys.readouterr().err
    assert len(tree(out)) == 2


@pytest.mark.parametrize('kind', ['--attention=20,24', '--gradient'])
def test_a_picture_that_fails_leaves_no_folder(tmp_path, film, monkeypatch, capsys, kind):
    out = tmp_path / 'new' / 'out'
    flags = [f'--video={film}', f'--output={out}', kind]
    assert run_main(f'--checkpoint={tmp_path / "no.pth"}', *flags) == 2
    assert 'no.pth: there is no such file' in capsys.readouterr().err
    monkeypatch.setattr(stsa_jax, 'load', lambda path: AttentiveModel())
    assert run_main('--checkpoint=c', *flags, '--frame=18') == 2
    with file_size_limit(1000):
        assert run_main('--checkpoint=c', *flags, '--frame=2') == 2
    assert f'error: {out}/{kind[2:].split("=")[0]}' in capsys.readouterr().err
    assert not out.parent.exists()


def test_gradient_of_a_pixel_and_of_the_map(tmp_path, film, monkeypatch, capsys):
    monkeypatch.setattr(stsa_jax, 'load', lambda path: AttentiveModel())
    out = tmp_path / 'out'
    flags = ['--checkpoint=c', f'--video={film}', f'--output={out}']
    assert run_main(*flags, '--gradient=20,24', '--frame=5') == 0
    assert run_main('--gradient', *flags) == 0
    assert run_main(*flags, '--frame=3', '--gradient') == 0
    made = ['gradient-0003.png', 'gradient-0005-20-24.png', 'gradient-0009.png']
    assert tree(out) == made
    told = capsys.readouterr().out.splitlines()
    assert 'frame 5, pixel 20,24' in told[0] and 'frame 9, the whole map' in told[1]
    for wrong, words in {
        '--gradient=20': '--gradient=20: expected two integers',
        '--gradient=80,24': 'x below 80 and y below 48',
        '--gradient --attention=1,1': 'use only one of them',
        '--gradient --frame=9': 'already holds gradient-0009.png',
    }.items():
        assert run_main(*flags, *wrong.split()) == 2
        assert words in capsys.readouterr().err
    assert tree(out) == made


def test_videos_in_storage_and_maps_and_figures_to_it(tmp_path, film, monkeypatch, capsys):
    monkeypatch.setattr(stsa_jax, 'load', lambda path: AttentiveModel())
    monkeypatch.setenv('STSA_JAX_CACHE', str(tmp_path / 'cache'))
    store = fsspec.filesystem('memory')
    store.put_file(str(film), '/films/film.mp4')
    flags = ['--checkpoint=c', '--video=memory://films/film.mp4', '--output=memory://films/one']
    assert run_main(*flags, '--gradient', '--frame=5') == 0
    assert run_main(*flags, '--overlay=false') == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].endswith(': memory://films/one/gradient-0005.png')
    assert told[1].endswith('maps in memory://films/one/maps')
    assert {'gradient-0005.png', 'maps'} <= {
        p.rsplit('/', 1)[1] for p in store.ls('/films/one', False)
    }
    assert not list(tmp_path.rglob('*.png'))  # nothing stays here
    assert run_main('--checkpoint=c', '--video=memory://films/none', '--output=out') == 2
    assert capsys.readouterr().err.startswith('error: memory://films/none: there is no such file')


def test_classes_of_a_video(film, monkeypatch, capsys):
    from stsa_jax.inference import classify

    class Zumba(classify.Classifier):
        def __init__(self):
            self.labels = classify.LABELS

        def preprocess(self, frame):
            return frame[:2, :2].astype(np.float32)

        def __call__(self, clips):
            return np.linspace(0, 1, 400)[None]

    monkeypatch.setattr(classify, 'load_classifier', lambda path: Zumba())
    assert run_main('--checkpoint=c', f'--video={film}', '--classify') == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and lines[0] == str(film) and lines[1].split() == ['100.0%', 'zumba']


def test_classifier_and_saliency_model_are_not_confused(tmp_path, film):
    from safetensors.numpy import save_file

    wrong = tmp_path / 'w.safetensors'
    save_file({'base1.0.conv_s.weight': np.zeros((64, 3, 1, 7, 7), np.float32)}, wrong)
    done = run_script('--classify', f'--video={film}', f'--checkpoint={wrong}')
    assert_refused(done, wrong)


@pytest.mark.long
def test_the_real_model_on_a_real_video(tmp_path, real_data, monkeypatch, capsys):
    """A random network of a tiny size; most of the time is its compilation, so it is done once."""
    from stsa_jax import STSANetConfig
    from stsa_jax.checkpoints.weights import Weights
    from stsa_jax.media.preprocess import IMAGENET
    from stsa_jax.weights import pretrained
    from stsa_jax.weights.initial import initial_weights

    config = STSANetConfig(image_size=(32, 64), frames=16, width=0.125)
    _, params, stats = initial_weights(config, seed=0)
    weights = Weights('stsanet', dataclasses.asdict(config), params, stats, IMAGENET)
    pretrained.save(tmp_path / 'w.safetensors', weights)
    _, frames = video.read_frames(real_data / 'videos' / 'dhf1k_068.avi')
    film = tmp_path / 'part.mp4'
    video.write_video(film, itertools.islice(frames, 18), 30)

    model = stsa_jax.load(tmp_path / 'w.safetensors')
    monkeypatch.setattr(stsa_jax, 'load', lambda path: model)  # the same, compiled once
    assert run_main(*flags_for(tmp_path, film), '--batch_size=3') == 0
    assert capsys.readouterr().out == f'{film}: 18 maps in {tmp_path / "out" / "maps"}\n'
    maps = [np.asarray(Image.open(p)) for p in sorted((tmp_path / 'out' / 'maps').iterdir())]
    assert len(maps) == 18 and all(m.shape == (360, 640) and m.max() == 255 for m in maps)
    # The library on the same frames, in windows made by the definition, gives the same.
    frames = [model.preprocess(f[None])[0] for f in video.read_frames(film)[1]]
    chosen = (0, 9, 17)
    clips = [[frames[min(max(j, 0), 17)] for j in range(i - 7, i + 9)] for i in chosen]
    for number, saliency in zip(chosen, np.asarray(model(np.stack(clips)))):
        np.testing.assert_array_equal(to_8bit(saliency, (360, 640)), maps[number])
