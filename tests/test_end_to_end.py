"""The real network through the scripts: training, scoring, prediction, conversion, fine-tuning.

The smallest of the paper's rows at a tiny size, because compiling takes most of the time.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image
from test_predict import moving_square, run_main

import data
import stsa_jax
import train
from data import synthetic
from stsa_jax.checkpoints.weights import load_weights
from stsa_jax.commands import evaluate
from stsa_jax.configuration import load_config
from stsa_jax.inference import attention_maps
from stsa_jax.weights.port_command import main as convert

CONFIG = f'{Path(__file__).parents[1]}/configs/ablations.py:single_stream,tiny'
RATE = 0.01
OVERRIDES = [
    '--config.model.image_size=32,64',
    '--config.model.width=0.125',
    '--config.num_steps=2',
    '--config.log_every=1',
    '--config.freeze_backbone=true',
    '--config.optimizer.schedule=constant',
    '--config.optimizer.warmup_steps=0',
    f'--config.optimizer.learning_rate={RATE}',
]


@pytest.mark.long
def test_from_training_to_maps_and_on(tmp_path, monkeypatch, capsys, quick_compilation):
    monkeypatch.setattr(synthetic.StsaSynthetic, 'COUNTS', {'train': 1, 'validation': 1, 'test': 1})
    data.prepare_dataset('stsa_synthetic', tmp_path / 'data', num_workers=1)
    overrides = [*OVERRIDES, f'--config.data.data_dir={tmp_path / "data"}']
    workdir, file = tmp_path / 'run', tmp_path / 'run.safetensors'
    history = train.train(load_config(CONFIG, overrides), str(workdir))
    assert [entry['step'] for entry in history] == [1, 2]
    trained = load_weights(workdir)

    arguments = [f'--config={CONFIG}', *overrides, f'--workdir={workdir}', '--every=40']
    monkeypatch.setattr(sys, 'argv', ['evaluate.py', *arguments, '--no_references'])
    evaluate.main()
    (row,) = json.loads((workdir / 'evaluation' / 'results.json').read_text())['rows']
    assert row['row'] == 'run' and 0 < row['scores']['auc_judd']['value'] < 1

    convert([str(workdir), str(file)])
    (tmp_path / 'film').mkdir()
    for number, frame in enumerate(moving_square(3)):
        Image.fromarray(frame).save(tmp_path / 'film' / f'{number}.png')
    maps = []
    for name, checkpoint in (('a', workdir), ('b', file)):
        flags = [f'--video={tmp_path / "film"}', f'--output={tmp_path / name}', '--nooverlay']
        assert run_main(f'--checkpoint={checkpoint}', *flags) == 0, capsys.readouterr().err
        maps.append([p.read_bytes() for p in sorted((tmp_path / name / 'maps').iterdir())])
    assert maps[0] == maps[1] and len(maps[0]) == 3

    model = stsa_jax.load(file)
    clip = model.preprocess(np.stack([*moving_square(16)]))
    saliency = np.asarray(model(clip[None]))
    np.testing.assert_array_equal(saliency, stsa_jax.load(workdir)(clip[None]))
    assert saliency.shape == (1, 32, 64) and np.ptp(saliency) > 0
    gradient = attention_maps.input_gradient(model, clip)
    assert gradient.shape == (16, 32, 64) and np.isfinite(gradient).all()
    assert (gradient.max(axis=(1, 2)) > 0).all()  # the map depends on every frame

    overrides += [f'--config.init_from={file}', '--config.num_steps=1']
    (first,) = train.train(load_config(CONFIG, overrides), str(tmp_path / 'on'))
    assert np.isfinite(first['loss'])
    moved = jax.tree.map(
        lambda a, b: np.abs(np.asarray(a) - b).max(),
        load_weights(tmp_path / 'on').params,
        trained.params,
    )
    assert max(jax.tree.leaves(moved.pop('backbone'))) == 0
    # From where the file left off: the first step of Adam moves a weight by the rate at most.
    assert 0 < max(jax.tree.leaves(moved)) < 1.01 * RATE
