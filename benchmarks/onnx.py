"""A model's ONNX file in onnxruntime against the model itself, on this machine's CPU.

    python -m benchmarks.onnx [--model=WEIGHTS] [--repeats=5] [--batch_size=1]
        [--config=configs/vinet.py] [--config.field=value]

The two alternate on the same uint8 frames, ours with the memory settings of predict.py; the ratio
of their best times is printed, and how far their maps differ. Both use all cores. Without --model
the weights are random, which does not affect the time.
"""

import argparse
import tempfile
from pathlib import Path

import jax
import numpy as np

import stsa_jax
from benchmarks.processes import alternating, timed
from stsa_jax.configuration import load_config
from stsa_jax.errors import exit_cleanly
from stsa_jax.inference import onnx_file
from stsa_jax.inference.export import frames_of, from_frames
from stsa_jax.ops import cpu
from stsa_jax.training import run_config
from stsa_jax.weights import known
from stsa_jax.weights.initial import initial_weights
from stsa_jax.weights.pretrained import SaliencyModel


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--model', help='weights that stsa_jax.load reads')
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--batch_size', type=int, default=1)
    parser.add_argument('--config', default='configs/dhf1k.py', help='of a model with new weights')
    options, overrides = parser.parse_known_args()
    if options.model:
        model = stsa_jax.load(options.model)
    else:
        config = run_config.model_of(load_config(options.config, overrides))
        _, params, batch_stats = initial_weights(config)
        model = SaliencyModel(config, params, batch_stats, known.of_config(config).normalisation)
    shape = frames_of(model, options.batch_size).shape
    frames = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    with tempfile.TemporaryDirectory(prefix='stsa-jax-') as folder:
        path = Path(folder) / 'model.onnx'
        seconds = timed(lambda: onnx_file.save(model, path, check=False))
        size = path.stat().st_size
        session = onnx_file.session(path)
    ours = jax.jit(from_frames(model))

    def theirs(frames):
        return session.run(None, {'frames': frames})[0]

    worst = onnx_file.difference(ours, theirs, shape)
    runs = {'ours': lambda: np.asarray(ours(frames)), 'onnxruntime': lambda: theirs(frames)}
    best = alternating(runs, options.repeats)
    print(f'device: {jax.devices()[0].device_kind}, {model.kind}, frames {shape}')
    print(f'file: {size / 1e6:.1f} MB, written in {seconds:.1f} s')
    for name, (taken, _) in best.items():
        print(f'{name}: {taken:.3f} s a batch, {options.batch_size / taken:.3f} clips/s')
    print(f'largest difference of the maps: {worst:.1e} (limit {onnx_file.TOLERANCE:g})')
    print(f'ratio of onnxruntime to ours: {best["onnxruntime"].time / best["ours"].time:.2f}')
    return int(not worst <= onnx_file.TOLERANCE)


if __name__ == '__main__':
    cpu.set_up()
    exit_cleanly(main)
