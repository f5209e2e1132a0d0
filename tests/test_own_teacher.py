"""Videos without annotation become a dataset by a model's maps; each map is of its frame."""

import numpy as np
import pytest
from test_own_folder import VIDEOS, code_of, film, frames, opened
from test_predict_then_evaluate import Echo

import data.prepare
import stsa_jax
from data.pipeline import train_clips
from stsa_jax.errors import InputError
from tests import data_copies as copies


@pytest.fixture
def calls(monkeypatch):
    """The teacher is a model whose map is the frame in grey; counts its calls."""
    asked = []

    class Teacher(Echo):
        def __call__(self, clips):
            asked.append(len(clips))
            return super().__call__(clips)

    monkeypatch.setattr(stsa_jax, 'load', lambda path: Teacher())
    return asked


def prepare(tmp_path, *options):
    data.prepare.main(
        ['videos', '--name=mine', f'--source={tmp_path / "films"}', '--teacher=weights.pth',
         f'--data_dir={tmp_path / "out"}', '--num_workers=1', '--size=32x64', *options]
    )  # fmt: skip


def test_a_folder_of_videos_is_taught(tmp_path, calls, capsys):
    film(tmp_path / 'films' / 'walk.avi', 'walk')
    frames(tmp_path / 'films' / 'Sea_2', 'Sea_2')
    (tmp_path / 'films' / 'broken.mp4').write_bytes(b'no video')
    prepare(tmp_path, '--batch_size=2')
    out, err = capsys.readouterr()
    assert 'without fixations, so NSS and AUC cannot be scored: 2 of 3 videos' in out
    assert 'broken.mp4' in err and 'no maps of it' in err
    dataset = opened(tmp_path)
    assert len(dataset) == 7
    for video in dataset.videos:
        for i in range(video.first_example, video.first_example + video.num_frames):
            density, code = dataset.density(i), code_of(video.name, dataset.frame_number(i))
            assert density.shape == (copies.HEIGHT, copies.WIDTH)
            assert copies.number_in(density) == copies.number_in(dataset.frame(i)) == code
    clips = train_clips(['mine'], data_dir=tmp_path / 'out', batch_size=2, frames=16,
                        image_size=(32, 64))  # fmt: skip
    lengths = {video: VIDEOS[video][0] for video in ('walk', 'Sea_2')}
    copies.check_batch(next(clips), code_of, lengths, dict.fromkeys(lengths, 1), 7)

    # More videos later: those alone are asked for.
    calls.clear()
    (tmp_path / 'films' / 'broken.mp4').unlink()
    film(tmp_path / 'films' / 'sea_11.avi', 'sea_11')
    prepare(tmp_path)
    assert len(calls) == 3 and len(opened(tmp_path)) == 10
    assert np.all([v.usable().all() for v in opened(tmp_path).videos])


@pytest.mark.parametrize('arguments, told', [
    (['videos', '--name=mine', '--source=.'], '--teacher: belongs to videos'),
    (['folder', '--name=mine', '--source=.', '--teacher=x'], '--teacher: belongs to videos'),
    (['dhf1k', '--source=.', '--teacher=x'], 'published dataset'),
    (['videos', '--name=dhf1k', '--source=.', '--teacher=x'], 'name of a known dataset'),
    (['videos', '--name=mine', '--source=/no/such', '--teacher=x'], 'no such folder'),
])  # fmt: skip
def test_invalid_teaching_is_refused(tmp_path, arguments, told):
    with pytest.raises(InputError, match=told):
        data.prepare.main([*arguments, f'--data_dir={tmp_path}'])
