"""The demo's verdict on its own model. The steps before it have their own tests."""

import numpy as np
import pytest

import demo
from stsa_jax import evaluation
from stsa_jax.evaluation.records import Row, VideoScores

PRIOR = {'cc': 0.2, 'nss': 1.0, 'sim': 0.25, 'kl': 2.0, 'auc_judd': 0.8, 'auc_shuffled': 0.5}
GOOD = {'cc': 0.6, 'nss': 3.0, 'sim': 0.5, 'kl': 1.0, 'auc_judd': 0.9, 'auc_shuffled': 0.7}


def results(model, videos=12):
    """Results of `model` and PRIOR; they differ from video to video, and alike in both rows."""

    def row(name, scores):
        means = np.array([scores[metric] for metric in evaluation.METRICS])
        spread = np.random.default_rng(0).normal(scale=0.05, size=(videos, 4, 1))
        listed = [
            VideoScores(f'{v:04d}', np.arange(4), means + spread[v], [()] * 4)
            for v in range(videos)
        ]
        return Row(name, 'stsa_synthetic', 'test', listed)

    rows = [row('STSA-Net (small)', model), row('centre prior', PRIOR)]
    return evaluation.Results(evaluation.get_protocol('dhf1k'), 0, rows, ['STSA-Net (small)'])


def test_a_model_far_ahead_passes(capsys):
    assert demo.verdict(results(GOOD)) == 0
    told = capsys.readouterr().out
    assert 'better in CC, NSS, SIM, KL: as expected' in told
    assert 'significantly better in CC, NSS, SIM, KL' in told


@pytest.mark.parametrize(
    ('metric', 'below', 'above'),
    [('cc', 1.4, 1.6), ('nss', 0.99, 1.01), ('sim', 0.99, 1.01), ('kl', 1.01, 0.99)],
)
def test_each_criterion_counts(metric, below, above, capsys):
    """If one criterion is just missed, the demo fails; if it is just met, it passes."""
    mean = PRIOR[metric] + np.random.default_rng(0).normal(scale=0.05, size=(12, 4, 1)).mean()
    for factor, code in ((below, 1), (above, 0)):
        shifted = GOOD | {metric: PRIOR[metric] + (factor - 1) * mean}
        assert demo.verdict(results(shifted)) == code
        assert ('NOT as expected' in capsys.readouterr().out) == bool(code)


def test_a_difference_on_few_videos_is_not_significant(capsys):
    assert demo.verdict(results(GOOD, videos=5)) == 0
    assert 'significantly better in nothing' in capsys.readouterr().out
