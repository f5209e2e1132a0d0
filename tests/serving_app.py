"""The server with a small model, as a process: PORT FOLDER [SECONDS for a map]."""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import uvicorn
from test_predict import AttentiveModel

from stsa_jax.serving.app import make_app
from stsa_jax.serving.settings import Limits
from stsa_jax.serving.work import Models


class Config:
    image_size, frames, target = (8, 12), 8, 'middle'


class RedModel:
    """Red pixels of the target frame are salient."""

    config = Config()

    def __init__(self, seconds=0.0):
        self.seconds = seconds

    def preprocess(self, frames):
        height, width = frames.shape[1:3]
        rows, columns = np.arange(8) * height // 8, np.arange(12) * width // 12
        return frames[:, rows][:, :, columns].astype(np.float32) / 255

    def __call__(self, clips):
        time.sleep(self.seconds)
        return clips[:, 3, :, :, 0] * 0.5 + 1e-3


class Attentive(AttentiveModel):
    class config(Config):
        image_size, stsa_levels, attention = (32, 64), (0, 1, 2, 3), 'pairs'


def app(folder, seconds=0.0, limits=None):
    make = {'red': lambda: RedModel(seconds), 'attentive': Attentive}
    models = Models({name: name for name in make}, lambda name: make[name]())
    return make_app(models, folder, limits or Limits())


if __name__ == '__main__':
    port, folder, seconds = int(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3])
    uvicorn.run(app(folder, seconds), port=port, log_level='warning', timeout_graceful_shutdown=3)
