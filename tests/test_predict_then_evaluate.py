"""evaluate.py matches predict.py's maps of a copy's own videos to the right frames."""

import dataclasses
import shutil

import numpy as np
import pytest
from PIL import Image
from test_data_video_file import write
from test_predict import run_main

import data
import stsa_jax
from stsa_jax import evaluation
from stsa_jax.evaluation.selection import select
from tests import data_copies as copies


class Echo:
    """A model whose map is the target frame itself, in grey."""

    config = dataclasses.make_dataclass('Config', ['image_size', 'frames', 'target'])(
        (copies.HEIGHT, copies.WIDTH), 4, 'middle'
    )

    def preprocess(self, frames):
        return frames[..., 0].astype(np.float32) / 255

    def __call__(self, clips):
        return clips[:, 1]


@pytest.fixture(autouse=True)
def echo(monkeypatch):
    monkeypatch.setattr(stsa_jax, 'load', lambda path: Echo())


def assert_each_map_is_of_its_frame(folder, dataset, **options):
    """Every map must show the dataset's frame of that number."""
    source = evaluation.PredictionFolder(folder, dataset, select(dataset), **options)
    count = 0
    for video in source.videos:
        for example, saliency in zip(video.examples.tolist(), source.maps(video), strict=True):
            picture = Image.fromarray(dataset.frame(example)).resize(saliency.shape[::-1])
            truth = np.asarray(picture)[..., 0].astype(float)
            assert np.corrcoef(truth.ravel(), saliency.ravel().astype(float))[0, 1] > 0.95
            count += 1
    return count, source


def predicted(output, *videos):
    given = [f'--video={video}' for video in videos]
    arguments = ['--checkpoint=x', f'--output={output}', '--overlay=false']
    assert run_main(*arguments, *given) == 0


def test_an_avi_that_repeats_a_picture(tmp_path):
    copy = copies.dhf1k(tmp_path / 'copy', {601: 12, 602: 9})
    write(copy / 'video' / '601.AVI', count=12, without=(5, 6))
    write(copy / 'video' / '602.AVI', count=9)
    data.prepare_dataset('dhf1k', tmp_path / 'out', copy, num_workers=1, size=(48, 96))
    dataset = data.open_split('dhf1k', 'validation', tmp_path / 'out')
    films = [copy / 'video' / f'{n}.AVI' for n in (601, 602)]
    predicted(tmp_path / 'both', *films)
    count, source = assert_each_map_is_of_its_frame(tmp_path / 'both', dataset)
    assert count == len(dataset) == 19 and not source.missing
    predicted(tmp_path / 'one', films[0])
    count, source = assert_each_map_is_of_its_frame(tmp_path / 'one', dataset, allow_missing=True)
    assert count == 10 and source.missing == 9
    # Another program shows the picture again in its place, and gives a map for each.
    places = tmp_path / 'places'
    shutil.copytree(tmp_path / 'both', places)
    for number in (5, 6):
        maps = places / '601' / 'maps'
        shutil.copy(maps / '0004.png', maps / f'{number:04d}.png')
    assert assert_each_map_is_of_its_frame(places, dataset)[0] == 19


def test_a_shot_whose_files_run_from_21(tmp_path):
    shots = {('testing', 'actioncliptest00007_2'): (21, 8, 0)}
    copy = copies.shots(tmp_path / 'copy', shots, copies.hollywood2_file)
    data.prepare_dataset('hollywood2', tmp_path / 'out', copy, num_workers=1, size=(48, 96))
    dataset = data.open_split('hollywood2', 'test', tmp_path / 'out')
    shot = copy / 'testing' / 'actioncliptest00007_2'
    for output, video in (('a', shot), ('b', shot / 'images')):
        predicted(tmp_path / output, video)
        assert assert_each_map_is_of_its_frame(tmp_path / output, dataset)[0] == 8
