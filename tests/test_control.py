"""The control of the ablations: matches need relations between times, and runs can be resumed."""

import json

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

import data
from data import synthetic
from experiments import ablations, control
from stsa_jax.errors import InputError
from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.training import run_config


class Matcher:
    """Finds in the last frame the colour that appeared in the first ones; or always red."""

    config = STSANetConfig(frames=16, image_size=(128, 192), target='last')
    params = batch_stats = ()

    def __init__(self, looks_back: bool):
        self.looks_back = looks_back

    def preprocess(self, frames):
        return frames.astype(np.float32) / 255

    def __call__(self, clips):
        maps = []
        for clip in clips:
            sample, empty, choice = clip[1], clip[6], clip[-1]
            change = abs(sample - empty).max(axis=-1)
            seen = np.median(sample[change >= 0.6 * change.max()], axis=0)
            colour = seen if self.looks_back else np.array([0.9, 0.16, 0.16])
            unlike = ((choice - colour) ** 2).sum(axis=-1)
            maps.append(gaussian_filter(np.exp(-unlike / 0.02), 3) + 1e-3 * clip[-1].mean(axis=-1))
        return np.array(maps)


@pytest.mark.long
def test_a_match_needs_the_sample_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setattr(synthetic.StsaMatching, 'COUNTS', {'validation': 4, 'test': 8})
    data.prepare_dataset('stsa_matching', tmp_path, num_workers=1)
    related, blind = (
        control.score('stsa_matching', Matcher(looks_back), str(tmp_path)) for looks_back in (1, 0)
    )
    assert related['right'] == 1 and related['cc'] > 0.5
    assert 0 < blind['right'] < 0.7 and blind['cc'] < related['cc'] - 0.2


def test_a_finished_run_is_not_trained_again_and_another_config_is_refused(tmp_path):
    config = ablations.ablations.get_config('unet,matching')
    config.seed, config.data.data_dir = 2, 'nowhere'
    run_config.write_config(tmp_path, config.to_dict())
    (tmp_path / 'scores.json').write_text(json.dumps({'cc': 0.5, 'right': 0.25}))
    # Without data, training or scoring anything would be an error.
    arguments = ('unet,matching', 2, tmp_path, 'nowhere', None)
    assert ablations.run(*arguments) == {'cc': 0.5, 'right': 0.25}
    with pytest.raises(InputError, match='num_steps'):
        ablations.run(*arguments, steps=7)


def test_the_table_has_mean_and_spread_over_the_seeds():
    runs = [{'cc': 0.5, 'right': 0.25}, {'cc': 0.7, 'right': 0.75}]
    found = {'contrast': {'full': runs, 'single_stream': []}, 'matching': {'unet': runs[:1]}}
    lines = control.table(found).splitlines()
    assert lines[2] == '| contrast | full | 2 | 0.600 ± 0.141 | 0.500 ± 0.354 | 0.25, 0.75 |'
    assert lines[3] == '| matching | unet | 1 | 0.500 ± 0.000 | 0.250 ± 0.000 | 0.25 |'
    assert len(lines) == 4
