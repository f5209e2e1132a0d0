"""Deterministic stand-in weights and inputs for the zoo: functions of name, shape and seed only.

The same scheme as rule.py (same generator per name), extended to 2-D convolutions, linear layers,
transposed convolutions, attention bias tables, Gaussian priors and smoothing kernels. For entries
that rule.py knows (5-D kernels, norm statistics, biases) the numbers are rule.py's own, except for
the kernels named in GAIN.
"""

import math, zlib
import numpy as np

# kernels whose gain is not 2: {model: {entry name: gain}}. Small gains keep a final sigmoid away
# from saturation, so that the map tests something; a gain of 1 replaces 2 where no ReLU follows.
GAIN = {
    'vinet': {},
    'tased': {'convtsp4.13.weight': 0.1},
    'hd2s': {
        'decoder2.last_conv2.weight': 50.0,
        'decoder3.last_conv3.weight': 50.0,
        'decoder4.last_conv4.weight': 50.0,
        'last_conv.weight': 50.0,
    },
    'vinet_s': {},
    'vinet_a': {},
    'salema': {'salgan.60.weight': 0.5},
    'tmfi': {},
    'acl': {},
    'unisal': {},
}


def gain(model, name, shape):
    return GAIN.get(model, {}).get(name, 1.0 if len(shape) == 2 else 2.0)  # 2-D: a linear layer


def tensor(name, shape, seed, model=''):
    """float32 array for state-dict entry `name`; int64 0 for num_batches_tracked."""
    if name.endswith('num_batches_tracked'):
        return np.zeros((), np.int64)
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()) + seed * 2**32))
    if name.endswith('running_mean'):
        return rng.normal(0, 0.1, shape).astype(np.float32)
    if name.endswith('running_var'):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    if 'gaussians' in name:  # (priors, y and x, mean and log of the deviation)
        mean = rng.uniform(0.2, 0.8, shape[:-1])
        log_std = rng.uniform(-2.0, 0.0, shape[:-1])
        return np.stack([mean, log_std], -1).astype(np.float32)
    if name.startswith('smoothing'):  # a positive kernel with sum 1
        k = rng.uniform(0, 1, shape)
        return (k / k.sum()).astype(np.float32)
    if name.endswith('relative_position_bias_table'):
        return rng.normal(0, 0.5, shape).astype(np.float32)
    if len(shape) >= 2 and name.endswith(
        'weight'
    ):  # convolution or linear: fan_in = product of shape[1:]
        return rng.normal(
            0, math.sqrt(gain(model, name, shape) / math.prod(shape[1:])), shape
        ).astype(np.float32)
    if name.endswith('weight'):  # normalisation scale
        return rng.normal(1.0, 0.1, shape).astype(np.float32)
    if name.rsplit('.', 1)[-1].startswith('a_'):  # UNISAL's ConvGRU affine scales
        return rng.normal(1.0, 0.1, shape).astype(np.float32)
    return rng.normal(0, 0.1, shape).astype(np.float32)  # any bias


def clip(seed, batch=1, frames=32, height=224, width=384):
    """float32 (B, T, H, W, 3): smooth moving blobs plus noise, already normalised. rule.py's clip."""
    rng = np.random.Generator(np.random.PCG64(10_000 + seed))
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    out = np.empty((batch, frames, height, width, 3), np.float32)
    for b in range(batch):
        cy, cx = rng.uniform(40, height - 40), rng.uniform(60, width - 60)
        vy, vx = rng.uniform(-3, 3, 2)
        col = rng.uniform(-2, 2, 3)
        for t in range(frames):
            g = np.exp(-((y - cy - vy * t) ** 2 + (x - cx - vx * t) ** 2) / (2 * 25.0**2))
            out[b, t] = g[..., None] * col + rng.normal(0, 0.3, (height, width, 3))
    return out.astype(np.float32)
