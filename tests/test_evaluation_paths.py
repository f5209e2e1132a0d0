"""The same maps from different sources: a model, predict.py's files, viewers."""

import json
import os
import subprocess
import sys
import types
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest
from test_evaluation import Frames, Given, make_videos

from data import gaze, synthetic
from data.copies import images
from stsa_jax import evaluation, inference
from stsa_jax.errors import InputError
from stsa_jax.evaluation import exports, observers, report, tables
from stsa_jax.evaluation.protocol import METRICS
from stsa_jax.evaluation.scoring import Scorer
from stsa_jax.evaluation.selection import select
from stsa_jax.evaluation.truth import GroundTruth
from stsa_jax.inference import films
from stsa_jax.media.visualize import to_8bit

ROOT = Path(__file__).parents[1]
FRAMES = 8


class Brightness:
    """A model that finds bright places, with the interface of `stsa_jax.load`'s."""

    config = types.SimpleNamespace(image_size=(16, 24), frames=FRAMES, target='middle')
    params, batch_stats = {}, {}

    def __init__(self):
        self.windows = 0

    def preprocess(self, frames):
        return np.stack([f[::2, ::2][:16, :24] / np.float32(255) for f in frames])

    def __call__(self, clips):
        self.windows += len(clips)
        clips = np.asarray(clips)
        # The ramp keeps the map off zero, where 8 bits would change KL and the areas at will.
        ramp = np.linspace(0.1, 0.3, 16 * 24, dtype=np.float32).reshape(16, 24)
        return clips[:, FRAMES // 2 - 1, ..., 0] ** 2 * 0.6 + 0.1 * clips.mean((1, 4)) + ramp


@pytest.fixture(scope='module')
def dataset():
    return Frames(make_videos(frames=10, size=(36, 52)))


@pytest.mark.parametrize('batch_size', [1, 8, 24])
def test_model_maps_are_those_of_prediction_for_the_selected_frames_only(dataset, batch_size):
    model = Brightness()
    source = evaluation.ModelMaps(model, dataset, batch_size)
    video = select(dataset, every=3)[1]
    frames = [dataset.frame(video.first_example + i) for i in range(10)]
    whole = list(inference.predict_frames(Brightness(), frames))
    maps = list(source.maps(video))
    assert len(maps) == 4
    np.testing.assert_array_equal(maps, [whole[i] for i in (0, 3, 6, 9)])
    assert model.windows == source.batch_size * -(-4 // source.batch_size)


def test_predicted_files_score_as_the_model_itself(dataset, tmp_path):
    """Bit for bit under 'dhf1k', which quantises as predict.py does; 'paper' shows the effect."""
    for video in dataset.videos:
        frames = [dataset.frame(video.first_example + i) for i in range(video.num_frames)]
        (tmp_path / video.name).mkdir()
        pairs = inference.predict_video(Brightness(), frames)
        for number, (frame, saliency) in enumerate(pairs, 1):
            predicted = films.Predicted(
                f'{number:04d}', Fraction(0), frame, saliency, to_8bit(saliency, frame.shape[:2])
            )
            films.write_map(tmp_path / video.name, predicted)
    rows = {
        'direct': lambda d, v: evaluation.ModelMaps(Brightness(), d, 8),
        'files': lambda d, v: evaluation.PredictionFolder(tmp_path, d, v),
    }
    exact = evaluation.evaluate([dataset], rows, references=False)
    for a, b in zip(*(row.videos for row in exact.rows)):
        np.testing.assert_array_equal(a.scores, b.scores)
    floats = evaluation.evaluate([dataset], rows, references=False, protocol='paper')
    direct, files = floats.rows
    effect = floats.quantisation(direct)
    for i, metric in enumerate(METRICS):
        (a, b) = (np.concatenate([v.scores[:, i] for v in row.videos]) for row in floats.rows)
        # Rounding to 1/255 of the maximum moves a value by at most 0.2 % of it.
        assert 0 < abs(a.mean() - b.mean()) < 0.02, metric
        # The report of the direct path says beforehand what the files will score.
        assert effect[metric].value == pytest.approx(b.mean() - a.mean(), abs=1e-12)
    # The same of either protocol's maps; files have no other precision to be compared with.
    assert exact.quantisation(exact.rows[0]) == effect
    assert floats.quantisation(files) == {}
    sign = f'{round(effect["cc"].value, 4) + 0:+.4f}'
    for written in (evaluation.text(floats), tables.markdown(floats), report.page(floats)):
        assert 'direct in 8 bits minus direct in float' in written
        assert sign in written
    entry = exports.to_json(floats)['differences'][-1]
    assert (entry['a'], entry['b']) == ('direct in 8 bits', 'direct in float')
    assert entry['scores']['cc']['value'] == effect['cc'].value


def scores_over_devices(dataset, batch_size):
    """sAUC of every frame; the model's batches and the frames spread over all local devices."""
    videos = select(dataset)
    scorer = Scorer(GroundTruth(dataset, videos, seed=0), evaluation.PROTOCOLS['dhf1k'])
    scorer._devices = jax.local_devices()  # a CPU's would not be used otherwise
    source = evaluation.ModelMaps(Brightness(), dataset, batch_size)
    return [
        float(scorer.score(example, saliency).scores[METRICS.index('auc_shuffled')])
        for video in videos
        for example, saliency in zip(video.examples.tolist(), source.maps(video))
    ]


@pytest.mark.long
def test_shuffled_auc_does_not_depend_on_batches_and_devices(dataset):
    here = evaluation.evaluate(
        [dataset],
        {
            str(size): lambda d, v, size=size: evaluation.ModelMaps(Brightness(), d, size)
            for size in (1, 24)
        },
        references=False,
    )
    first, second = (np.concatenate([v.scores[:, 5] for v in row.videos]) for row in here.rows)
    np.testing.assert_array_equal(first, second)
    script = (
        'import json, test_evaluation_paths as t; from test_evaluation import Frames, make_videos; '
        'dataset = Frames(make_videos(frames=10, size=(36, 52))); '
        'print(len(t.jax.devices())); print(json.dumps(t.scores_over_devices(dataset, 4)))'
    )
    flags = {'XLA_FLAGS': '--xla_force_host_platform_device_count=4'}
    paths = os.pathsep.join([str(ROOT), str(ROOT / 'tests')])
    done = subprocess.run(
        [sys.executable, '-c', script],
        env=os.environ | flags | {'PYTHONPATH': paths},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    devices, scores = done.stdout.splitlines()
    assert devices == '4'
    np.testing.assert_array_equal(json.loads(scores), first)


def test_the_embedded_viewers_together_made_the_fixation_maps():
    """Rendered again from the seed, they give the dataset's own maps, to the pixel."""
    video = synthetic.SyntheticVideo.at('test', 3)
    frames = list(video.frames(None))
    small = types.SimpleNamespace(
        name='stsa_synthetic',
        split='test',
        videos=[types.SimpleNamespace(name=video.name, height=128, width=192)],
    )
    (viewers,) = observers.read_viewers(small).values()
    assert len(viewers) == synthetic.OBSERVERS
    together = gaze.Fixations.together(viewers)
    for i in (0, 7, 40):
        np.testing.assert_array_equal(
            together.map(i, (128, 192)), images.decode_map(frames[i].fixations) > 0
        )


def test_viewers_who_agree_set_a_ceiling_and_those_who_do_not_set_none(dataset):
    def row(places):
        viewers = {
            v.name: [gaze.Fixations(np.arange(10), *places(v.name, k)) for k in range(8)]
            for v in dataset.videos
        }
        truth = Given(
            {
                v.name: [dataset.density(v.first_example + i) for i in range(10)]
                for v in dataset.videos
            }
        )
        results = evaluation.evaluate(
            [dataset], {'model': lambda d, v: truth}, viewers=lambda d: viewers
        )
        assert any('half of the viewers' in note for note in results.notes)
        found = results.rows[-1]
        assert found.name == observers.NAME
        pairs = results.differences((dataset.name, dataset.split))
        assert not any(observers.NAME in pair[:2] for pair in pairs)  # it has a truth of its own
        return results.estimates(found)

    def agreeing(video, viewer):
        rng = np.random.default_rng(int(video))  # all look at the same places, a pixel apart
        y, x = rng.integers(8, 28, 10), rng.integers(8, 40, 10)
        return y + viewer % 2, x + viewer // 2 % 2

    def disagreeing(video, viewer):
        rng = np.random.default_rng([int(video), viewer])
        return rng.integers(0, 36, 10), rng.integers(0, 52, 10)

    together, apart = row(agreeing), row(disagreeing)
    assert together['auc_shuffled'].value > 0.9
    assert together['cc'].value > 0.9
    assert abs(apart['auc_shuffled'].value - 0.5) < 0.15
    assert abs(apart['nss'].value) < 0.6


def test_gaze_records_that_do_not_fit(dataset, tmp_path):
    dhf1k = Frames(make_videos(), 'dhf1k')
    assert observers.read_viewers(dataset, tmp_path) == {}
    with pytest.raises(InputError, match='no such folder'):
        observers.read_viewers(dhf1k, tmp_path / 'missing')
    with pytest.raises(InputError, match=r'no gaze records of the videos of dhf1k.*P01_Trail002'):
        observers.read_viewers(dhf1k, tmp_path)


def test_gaze_records_are_found_in_the_copy_and_by_frame_number(tmp_path):
    """From the root of a copy or the folder in it; frames keep their numbers across gaps."""
    dhf1k = Frames(make_videos(names=('0001', '0002'), frames=3, size=(360, 640)), 'dhf1k')
    dhf1k._numbers = [1, 2, 4] * 2
    header = 'Time\tType\tTrial\tdX\tdY\tL POR X [px]\tL POR Y [px]\tL Event Info\n'
    for viewer in ('P01', 'P02'):
        path = tmp_path / 'copy' / 'exportdata_train' / viewer / f'{viewer}_Trail001.txt'
        path.parent.mkdir(parents=True)
        rows = (f'{40_000 * i}\tSMP\t1\t9\t9\t{90 * i}\t450\tFixation\n' for i in range(4))
        path.write_text(header + ''.join(rows))
    for root in ('copy', 'copy/exportdata_train'):
        viewers = observers.read_viewers(dhf1k, tmp_path / root)
        assert list(viewers) == ['0001'] and len(viewers['0001']) == 2
    half = observers.HalfOfViewers(dhf1k, viewers, 0, 0)
    columns = [np.nonzero(half.fixations(i))[1].tolist() for i in range(3)]
    assert columns == [[0], [40], [120]]  # 90 pixels of the screen are 40 of the frame
    diem = Frames(make_videos(names=('one_show_96x48',), frames=3, size=(48, 96)), 'diem')
    for viewer in 'ab':
        path = tmp_path / 'diem' / 'DIEM' / 'one_show_96x48' / 'event_data' / f'{viewer}.txt'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('1\t640\t480\t9\t1\t640\t480\t9\t1\n')
    for root in ('diem', 'diem/DIEM'):
        assert len(observers.read_viewers(diem, tmp_path / root)['one_show_96x48']) == 2
