"""A network of five convolutions that replaces STSA-Net in training tests.

It has the same layers and a `backbone` with BatchNorm, so that all of training is exercised, but
compiles in a second instead of minutes. Run as a script it is train.py with this network.
"""

import dataclasses
import sys
from pathlib import Path

import jax
from flax import nnx

sys.path.insert(0, str(Path(__file__).parents[1]))

from stsa_jax import checkpoints
from stsa_jax.models import functional
from stsa_jax.models.layers import Conv, ConvBNReLU
from stsa_jax.weights.initial import random_weights


class Backbone(nnx.Module):
    def __init__(self, *, rngs):
        self.spatial = ConvBNReLU(3, 8, (1, 3, 3), stride=(1, 2, 2), rngs=rngs)
        self.temporal = ConvBNReLU(8, 8, (3, 1, 1), stride=(2, 1, 1), rngs=rngs)

    def __call__(self, x, *, train):
        return self.temporal(self.spatial(x, train=train), train=train)


class SmallNetwork(nnx.Module):
    """`(B, T, H, W, 3)` -> `(B, H, W)` in [0, 1]."""

    def __init__(self, config=None, *, rngs):
        self.backbone = Backbone(rngs=rngs)
        self.mix = Conv(8, 16, (1, 3, 3), rngs=rngs)
        self.map = Conv(16, 1, (1, 3, 3), rngs=rngs)

    def __call__(self, clip, *, train=False):
        x = self.backbone(clip, train=train)
        x = jax.nn.relu(self.mix(x))
        x = self.map(x.mean(axis=1, keepdims=True))[:, 0, :, :, 0]
        return jax.nn.sigmoid(x.repeat(2, axis=1).repeat(2, axis=2))


def initial_weights(config=None, seed=0, init_from=''):
    graphdef, params, batch_stats = functional.abstract(SmallNetwork, config)
    return graphdef, *random_weights(params, batch_stats, seed)


def initialise(path, config=None, seed=0):
    weights = checkpoints.load_weights(checkpoints.step_folder(Path(path), 'best if any'))
    return weights.params, weights.batch_stats


def watch_batches(put, functions):
    """Calls each of `functions` with the step and the batch when a loop asks for the batch."""
    import data

    make = data.train_clips

    def train_clips(*args, **kwargs):
        clips = make(*args, **kwargs)
        read = type(clips).__next__

        class Watched(type(clips)):
            def __next__(self):
                batch = read(self)
                for function in functions:
                    function(self._next, batch)
                return batch

        clips.__class__ = Watched
        return clips

    put(data, 'train_clips', train_clips)


def train_it(put=setattr):
    """Makes train.py use this network; `put` sets an attribute of a module."""
    from stsa_jax.weights import known, pretrained

    put(pretrained, 'initialise', initialise)
    small = dataclasses.replace(known.KNOWN[0], module=SmallNetwork)
    put(known, 'KNOWN', (small, *known.KNOWN[1:]))


if __name__ == '__main__':
    import train
    from stsa_jax.errors import exit_cleanly

    train_it()
    exit_cleanly(train.main)
