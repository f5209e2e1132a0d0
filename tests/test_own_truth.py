"""Maps scored against an unprepared folder of recordings, and datasets of only density maps."""

import dataclasses
import json
import shutil
import sys

import numpy as np
import pytest
from test_own_folder import (
    VIDEOS,
    a_folder_each,
    beside_each_other,
    code_of,
    film,
    frames,
    gaze_table,
    maps,
    opened,
    prepare,
    stavis,
)

import data
from data import gaze
from data.copies import images
from data.own import viewers
from data.own.recordings import How
from data.own.truth import FolderTruth
from data.own.video import Sigma
from data.pipeline import train_clips
from stsa_jax import evaluation
from stsa_jax.commands import evaluate
from stsa_jax.errors import InputError
from tests import data_copies as copies


@pytest.fixture
def folder(tmp_path):
    """Recordings, and maps for them in 16 bits."""
    rng = np.random.default_rng(0)
    for video, (count, _) in VIDEOS.items():
        beside_each_other(tmp_path / 'copy', video)
        for n in range(1, count + 1):
            saliency = rng.integers(0, 65536, (24, 48)).astype(np.uint16)
            copies.save(tmp_path / 'predicted' / video / f'{n:04d}.png', saliency)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    def call(*arguments):
        monkeypatch.setattr(sys, 'argv', ['evaluate.py', *map(str, arguments)])
        evaluate.main()
        return capsys.readouterr().out

    return call


def scores(dataset, predicted):
    results = evaluation.evaluate(
        [dataset], {'maps': lambda d, v: evaluation.PredictionFolder(predicted, d, v)},
        references=False,
    )  # fmt: skip
    return results, {video.video: video.scores for video in results.rows[0].videos}


def test_the_folder_scores_as_the_dataset_prepared_from_it(folder, run):
    prepare(folder)
    _, expected = scores(opened(folder), folder / 'predicted')
    written = run(f'--truth={folder / "copy"}', f'--predictions={folder / "predicted"}',
                  f'--output={folder / "results"}')  # fmt: skip
    assert 'copy, all: 3 videos, 10 frames' in written
    assert 'values of more than 8 bits' in written and 'used as they are' in written
    record = json.loads((folder / 'results' / 'results.json').read_text())
    rows = {row['row']: row for row in record['rows']}
    assert set(rows) == {'predicted', 'centre prior', 'shuffled maps'}
    listed = np.concatenate(list(expected.values()))
    for i, metric in enumerate(evaluation.METRICS):
        if metric != 'auc_shuffled':  # its draws are seeded by the dataset's name
            mean = rows['predicted']['scores'][metric]['value']
            assert mean == pytest.approx(listed[:, i].mean(), abs=1e-9)
    assert (folder / 'results' / 'report.html').stat().st_size > 10_000


def test_a_truth_has_the_frames_and_maps_of_its_folder(tmp_path):
    root = tmp_path / 'copy'
    film(root / 'test' / 'walk.avi', 'walk')
    frames(root / 'train' / 'Sea_2', 'Sea_2')
    gaze_table(root / 'gaze.csv')
    truth = FolderTruth(root, How())
    assert copies.check_numbers(truth, code_of, copies.number_in_points) == 7
    assert copies.number_in(truth.frame(5)) == copies.number_in(truth.frame(5))  # and again
    assert [v.name for v in FolderTruth(root, How(), 'test').videos] == ['walk']
    with pytest.raises(InputError, match=r"split 'validation'; there are test, train"):
        FolderTruth(root, How(), 'validation')


def test_a_truth_without_frames_and_one_without_annotation(tmp_path):
    maps(tmp_path / 'maps' / 'walk', 'walk')
    maps(tmp_path / 'fixations' / 'walk', 'walk', copies.fixations_of)
    copies.save(tmp_path / 'maps' / 'walk' / 'm9.png', copies.density_of(9))  # no fixation map
    truth = FolderTruth(tmp_path, How())
    assert [truth.frame_number(i) for i in range(len(truth))] == [1, 2, 3, 4]
    assert truth.frame(0).shape == (copies.HEIGHT, copies.WIDTH, 3)
    for kind in ('maps', 'fixations'):
        shutil.rmtree(tmp_path / kind)
    frames(tmp_path / 'frames' / 'walk', 'walk')
    with pytest.raises(InputError, match='nothing to score against'):
        FolderTruth(tmp_path, How())


def test_the_viewers_of_a_folder_are_its_ceiling(tmp_path):
    root = tmp_path / 'copy'
    for video in ('walk', 'Sea_2'):
        film(root / 'videos' / f'{video}.avi', video)
    gaze_table(root / 'gaze.csv', ['walk', 'Sea_2'])
    truth = FolderTruth(root, How())
    looks = viewers.read_viewers(root, How(), truth.videos)
    assert set(looks) == {'walk', 'Sea_2'}
    for video in truth.videos:
        together = gaze.Fixations.together(looks[video.name])
        for i in range(video.first_example, video.first_example + video.num_frames):
            fixated = together.map(truth.frame_number(i) - 1, (video.height, video.width))
            assert np.array_equal(fixated, truth.fixations(i))
    # The annotation has half of the video's pixels: each look goes to where its centre lies.
    half = [dataclasses.replace(v, height=24, width=48) for v in truth.videos]
    small = gaze.Fixations.together(viewers.read_viewers(root, How(), half)['walk'])
    expected = images.move_points(truth.fixations(truth.videos[1].first_example), (24, 48))
    assert np.array_equal(small.map(0, (24, 48)), expected)
    results = evaluation.evaluate(
        [truth], {}, viewers=lambda _: looks, sigma=viewers.sigma_of(How(sigma=Sigma(3)))
    )
    assert [row.name for row in results.rows][-1] == 'inter-observer'
    (root / 'gaze.csv').unlink()
    with pytest.raises(InputError, match='no tables of gaze with several viewers'):
        viewers.read_viewers(root, How(), truth.videos)


@pytest.mark.parametrize('arguments, told', [
    (['--dataset=dhf1k', '--predictions=x'], 'goes without --dataset'),
    (['--predictions=x', '--checkpoint=y'], 'python -m data.prepare folder'),
    (['--predictions=x'], 'no such folder'),
    (['--predictions=x', '--observers=s3://gaze'], 's3://gaze: this is read from a folder'),
])  # fmt: skip
def test_options_that_do_not_go_with_a_truth(tmp_path, arguments, told, run, monkeypatch):
    monkeypatch.setattr(evaluate.stsa_jax, 'load', lambda *_, **__: None, raising=False)
    with pytest.raises(InputError, match=told):
        run(f'--truth={tmp_path / "none"}', *arguments, f'--output={tmp_path / "o"}')


def test_density_maps_alone_are_learnt_from_and_scored_without_fixations(tmp_path, capsys):
    for video in VIDEOS:
        a_folder_each(tmp_path / 'copy', video)
        shutil.rmtree(tmp_path / 'copy' / video / 'fixation')
    prepare(tmp_path, '--strict')  # nothing is wrong with that
    assert (
        'density maps without fixations, so NSS and AUC cannot be scored' in capsys.readouterr().out
    )
    dataset = opened(tmp_path)
    assert not any(v.has_fixations for v in dataset.videos)
    clips = train_clips(['mine'], data_dir=tmp_path / 'out', batch_size=3, frames=16,
                        image_size=(32, 64))  # fmt: skip
    lengths = {video: count for video, (count, _) in VIDEOS.items()}
    copies.check_batch(next(clips), code_of, lengths, dict.fromkeys(lengths, 1), 7)
    for video, (count, base) in VIDEOS.items():
        for n in range(1, count + 1):
            copies.save(tmp_path / 'p' / video / f'{n}.png', copies.density_of(base + n))
    results, found = scores(dataset, tmp_path / 'p')
    cc, sim, nss, kl, judd, shuffled = np.concatenate(list(found.values())).T
    np.testing.assert_allclose(cc, 1, atol=1e-6)
    np.testing.assert_allclose(sim, 1, atol=1e-6)
    np.testing.assert_allclose(kl, 0, atol=1e-6)
    assert np.isnan([nss, judd, shuffled]).all()
    assert 'no known fixations' in evaluation.text(results)


def test_the_centre_prior_of_a_fold_is_of_its_own_training_videos(tmp_path):
    stavis(tmp_path / 'copy')
    prepare(tmp_path, '--set=AVAD')
    for k in '123':
        train = evaluate.training_split(opened(tmp_path, f'test_{k}'), None, tmp_path / 'out')
        assert train.split == f'train_{k}'
        held_out = {v.name for v in opened(tmp_path, f'test_{k}').videos}
        assert not held_out & {v.name for v in train.videos}


def test_maps_of_ones_own_dataset_are_exported(folder, run):
    prepare(folder)
    run('--dataset=mine', '--split=train', f'--data_dir={folder / "out"}',
        f'--predictions={folder / "predicted"}', f'--submission={folder / "maps"}')  # fmt: skip
    assert {p.name for p in (folder / 'maps').iterdir()} == set(VIDEOS)
    assert data.open_split('mine', 'train', folder / 'out').videos
