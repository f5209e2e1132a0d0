"""The classifier's clips, labels and averages; its logits are checked against the reference's."""

import functools

import golden_rule as rule
import jax
import numpy as np
import pytest
import torch
from test_predict import moving_square, run_main

from stsa_jax import S3D
from stsa_jax.inference import classify
from stsa_jax.inference.kinetics400 import LABELS
from stsa_jax.media import video
from stsa_jax.media.preprocess import KINETICS_KYLEMIN, KINETICS_TORCHVISION
from stsa_jax.models import functional
from stsa_jax.models.s3d import S3DConfig
from stsa_jax.weights import initial, port


class Brightness:
    """Two classes: dark and bright, by the clip's mean; remembers its clips."""

    labels = ('dark', 'bright')

    def __init__(self):
        self.clips = []

    def preprocess(self, frame):
        return frame[:1, :1].astype(np.float32)

    def __call__(self, clips):
        self.clips += [[int(f) for f in clip[:, 0, 0, 0]] for clip in clips]
        return np.stack([(1 - p, p) for p in clips.mean((1, 2, 3, 4)) / 255])


def numbered(count):
    return (np.full((4, 4, 3), min(number, 255), np.uint8) for number in range(count))


def test_labels_are_the_400_of_kinetics_in_order():
    assert len(LABELS) == len(set(LABELS)) == 400
    assert list(LABELS) == sorted(LABELS)
    # Places of some, from torchvision's and kylemin/S3D's lists.
    places = {0: 'abseiling', 5: 'archery', 42: 'canoeing or kayaking', 399: 'zumba'}
    assert {i: LABELS[i] for i in places} == places
    assert 'passing American football (not in game)' in LABELS


@pytest.mark.parametrize(
    ('count', 'starts'),
    [(1, [0]), (64, [0]), (65, [0, 1]), (128, [0, 64]), (200, [0, 45, 91, 136])],
)
def test_clips_spread_from_start_to_end(count, starts):
    model = Brightness()
    classify.classify_video(model, numbered(count), count)
    wanted = [[min(s + i, count - 1) for i in range(64)] for s in starts]
    assert model.clips == wanted


def test_a_long_video_is_sampled():
    starts = classify.clip_starts(10_000, 10)
    assert len(starts) == 10 and starts[0] == 0 and starts[-1] == 10_000 - 64
    assert np.ptp(np.diff(starts)) <= 1


def test_a_video_shorter_than_announced_still_counts():
    model = Brightness()
    classify.classify_video(model, numbered(70), 128)
    assert model.clips == [list(range(64)), [*range(64, 70), *[69] * 58]]


def test_probabilities_are_averaged_and_ranked():
    model = Brightness()
    dark, bright = np.zeros((4, 4, 3), np.uint8), np.full((4, 4, 3), 255, np.uint8)
    found = classify.classify_video(model, [dark] * 128 + [bright] * 64, 192)
    np.testing.assert_allclose(found, [2 / 3, 1 / 3])
    assert classify.top(model, found, 1) == [('dark', pytest.approx(2 / 3))]


@pytest.mark.parametrize('size', [(360, 640), (640, 360), (100, 100)])
def test_preprocess_keeps_the_middle(size):
    model = classify.Classifier.__new__(classify.Classifier)
    model.normalisation = KINETICS_KYLEMIN
    frame = np.zeros((*size, 3), np.uint8)
    frame[size[0] // 2 - 4 : size[0] // 2 + 4, size[1] // 2 - 4 : size[1] // 2 + 4] = 255
    prepared = model.preprocess(frame)
    assert prepared.shape == (224, 224, 3) and prepared.dtype == np.float32
    assert prepared.min() == -1 and prepared.max() == pytest.approx(1, abs=1e-6)
    rows, columns = np.nonzero(prepared[..., 0] > 0)
    assert abs(rows.mean() - 111.5) < 1 and abs(columns.mean() - 111.5) < 1


@pytest.mark.slow
def test_a_classifier_from_a_file(tmp_path):
    """Read with its config and range; probabilities are the softmax of S3D's logits."""
    import dataclasses

    import stsa_jax
    from stsa_jax import checkpoints
    from stsa_jax.errors import InputError
    from stsa_jax.models import functional
    from stsa_jax.weights import initial, pretrained

    config = S3DConfig(num_classes=7, width=0.125)
    params, stats = initial.random_weights(*functional.abstract(stsa_jax.S3D, config)[1:])
    weights = checkpoints.Weights(
        's3d', dataclasses.asdict(config), params, stats, KINETICS_KYLEMIN
    )
    pretrained.save(tmp_path / 's3d.safetensors', weights)
    classifier = classify.load_classifier(tmp_path / 's3d.safetensors')
    assert classifier.labels[6] == 'class 6' and classifier.normalisation == KINETICS_KYLEMIN
    clip = np.random.default_rng(0).standard_normal((1, 16, 32, 32, 3)).astype(np.float32)
    logits = np.asarray(classifier._logits(*classifier._variables, clip))[0]
    wanted = np.exp(logits) / np.exp(logits).sum()
    np.testing.assert_allclose(classifier(clip)[0], wanted, rtol=1e-5)
    assert wanted.sum() == pytest.approx(1, rel=1e-5)

    with pytest.raises(InputError, match=r'w\.safetensors: not the weights'):
        from safetensors.numpy import save_file

        save_file({'x': np.zeros(1, np.float32)}, tmp_path / 'w.safetensors')
        classify.load_classifier(tmp_path / 'w.safetensors')


@pytest.mark.long
def test_a_torchvision_file_through_the_command(tmp_path, capsys):
    """The five lines are those of the classes with the largest logits of a narrow S3D."""
    shapes = functional.abstract(S3D, S3DConfig(width=0.25))[1:]
    zeros = port.to_torch(*initial.random_weights(*shapes), naming='s3d_torchvision')
    state_dict = {name: rule.tensor(name, a.shape, 0) for name, a in zeros.items()}
    torch.save({name: torch.tensor(a) for name, a in state_dict.items()}, tmp_path / 's3d.pt')
    film = tmp_path / 'film.mp4'
    video.write_video(film, moving_square(20, (48, 80)), 25)
    flags = ['--classify', f'--checkpoint={tmp_path / "s3d.pt"}', f'--video={film}']
    assert run_main(*flags) == 0
    told = capsys.readouterr().out.splitlines()

    classifier = classify.load_classifier(tmp_path / 's3d.pt')
    assert classifier.normalisation == KINETICS_TORCHVISION
    frames = [classifier.preprocess(frame) for frame in video.read_frames(film)[1]]
    clip = np.stack(frames + frames[-1:] * 44)
    params, batch_stats = port.from_torch(state_dict)
    graphdef, *_ = functional.abstract(S3D, S3DConfig(width=0.25))
    (logits,) = jax.jit(functools.partial(functional.apply, graphdef))(
        params, batch_stats, clip[None]
    )
    probabilities = np.asarray(jax.nn.softmax(logits))
    best = np.argsort(-probabilities)[:5]
    assert told == [str(film), *(f'  {probabilities[i]:6.1%}  {LABELS[i]}' for i in best)]
