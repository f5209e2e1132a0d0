"""The released PyTorch code, from checkouts of its repositories. Does not import JAX.

    python -m benchmarks.released --reference=CHECKOUT [--repeats=3] [--batch_size=1]

Prints the best time of its training step and this process's peak memory, as JSON.
"""

import argparse
import contextlib
import importlib.util
import io
import json
import sys
import types
from pathlib import Path

import numpy as np

from benchmarks.processes import peak_memory, timed

FRAMES, IMAGE_SIZE = 32, (224, 384)  # the only ones it supports


def released_model(checkout: str):
    """The released STSA-Net from its checkout, in eval mode."""
    return module_of(Path(checkout) / 'STSA_model.py').STSANet().eval()


def released_network(checkout: str, kind: str, target: str):
    """The released network of a kind (`stsa_jax.weights.known`) from its checkout, in eval mode.

    `target` is the config's. What the code prints while it is built goes nowhere.
    """
    if kind == 'stsanet':
        return released_model(checkout)
    with contextlib.redirect_stdout(io.StringIO()):
        if kind == 'vinet':
            # A module that only the audio-visual model uses.
            unused = types.ModuleType('block')
            setattr(unused, 'fusions', None)  # noqa: B010 - no attribute of every module
            sys.modules.setdefault('block', unused)
            network = module_of(Path(checkout) / 'model.py').VideoSaliencyModel()
        elif kind == 'tased':
            network = module_of(Path(checkout) / 'model.py').TASED_v2()
        elif kind == 'hd2s':
            network = module_of(Path(checkout) / 'models' / 'HD2S.py', checkout).HD2S()
        elif kind == 'unisal':
            network = _unisal(Path(checkout) / 'unisal')
        elif kind == 'salema':
            network = module_of(Path(checkout) / 'src' / 'model' / 'SalEMA.py').SalEMA(
                alpha=0.1, ema_loc=30, residual=False, dropout=False, use_gpu=False
            )
        else:
            network = _tinyhd(Path(checkout) / 'src', target)
    return network.eval()


def _tinyhd(source: Path, target: str):
    """tinyHD with a quarter of the channels; ImageNet's weights are not downloaded."""
    import torchvision
    from torchvision.models import mobilenetv2
    from torchvision.ops.misc import Conv2dNormActivation

    build = torchvision.models.mobilenet_v2
    torchvision.models.mobilenet_v2 = lambda pretrained=False: build()
    # Their names in the torchvision of the released code.
    mobilenetv2.ConvBNReLU = mobilenetv2.ConvNormActivation = Conv2dNormActivation
    sys.path.insert(0, str(source))
    from models.fastsal3D.model import FastSalA

    last = target == 'last'
    return FastSalA(4, ['d1', 'd2', 'd3'], [True, last, last], n_output=1 if last else 16)


def _unisal(package: Path):
    """UNISAL; ImageNet's weights are not read."""
    # The package's own __init__ imports its training, which needs OpenCV and tensorboardX.
    alone = types.ModuleType('unisal')
    alone.__path__ = [str(package)]
    sys.modules['unisal'] = alone
    model = importlib.import_module('unisal.model')
    return model.UNISAL(cnn_cfg={'pretrained': False})


def released_map(network, kind: str, clip):
    """The released network's output for a clip, a tensor `(B, 3, T, H, W)`."""
    if kind == 'unisal':
        return network(clip.transpose(1, 2), static=False)
    if kind == 'salema':  # takes a frame and the state before
        state, maps = None, []
        for frame in clip.unbind(2):
            state, saliency = network(frame, state)
            maps.append(saliency)
        return maps
    return network(clip)


def module_of(path: Path, root: str | Path = ''):
    """The module in `path`, which imports others from `root`, by default its folder."""
    sys.path.insert(0, str(root or path.parent))
    spec = importlib.util.spec_from_file_location(f'released_{path.stem}', path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def example(batch_size: int, frames: int = FRAMES, image_size=IMAGE_SIZE):
    """A uint8 clip and a density map, as in the training loop."""
    rng = np.random.default_rng(0)
    clip = rng.integers(0, 256, (batch_size, frames, *image_size, 3), np.uint8)
    return clip, rng.uniform(size=(batch_size, *image_size)).astype(np.float32)


def saliency_loss(s, g):
    """The training loss of the released train.py, KL - CC of each example, of `(B, H, W)`."""
    p, q = s / s.sum((1, 2), keepdim=True), g / g.sum((1, 2), keepdim=True)
    kl = (q * (2.2204e-16 + q / (p + 2.2204e-16)).log()).sum((1, 2))
    a, b = s - s.mean((1, 2), keepdim=True), g - g.mean((1, 2), keepdim=True)
    return kl - (a * b).sum((1, 2)) / ((a * a).sum((1, 2)) * (b * b).sum((1, 2))).sqrt()


def train_step(checkout: str, batch_size: int):
    """A function that runs a training step of the released network: forward, backward, Adam."""
    import torch

    network = released_model(checkout).train()
    adam = torch.optim.Adam(network.parameters(), lr=1e-4)
    clip, density = example(batch_size)
    clip = torch.from_numpy(clip.astype(np.float32) / 64 - 2).permute(0, 4, 1, 2, 3).contiguous()
    density = torch.from_numpy(density)

    def run():
        loss = saliency_loss(network(clip), density).mean()
        adam.zero_grad()
        loss.backward()
        adam.step()

    return run


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', required=True, help='a checkout of WZq975/STSANet')
    parser.add_argument('--repeats', type=int, default=3)
    parser.add_argument('--batch_size', type=int, default=1)
    options = parser.parse_args()
    run = train_step(options.reference, options.batch_size)
    best = min([timed(run) for _ in range(options.repeats + 1)][1:])
    print(json.dumps({'time': best, 'peak': peak_memory()}))
    return 0


if __name__ == '__main__':
    main()
