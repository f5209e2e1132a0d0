"""The known models, each with the information needed to use its released weights.

A model provides:

    clips           its config: `frames`, `image_size`, `target`, `beginning` (`models.clips`)
    frames -> clip  here: how frames are resized, and their normalisation
    network         its module, used as a pure function (`models.functional`)
    map -> 8 bits   here: the post-processing of its released code (`media.finishing`)
    names           `names` and `zoo_names`: its arrays in the released state dict
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from flax import nnx
from PIL import Image

from stsa_jax.errors import InputError
from stsa_jax.media import finishing
from stsa_jax.media.preprocess import (
    CAFFE,
    IMAGENET,
    KINETICS_KYLEMIN,
    KINETICS_TORCHVISION,
    Normalisation,
    resample,
    resample_area,
    resize_frame,
)
from stsa_jax.models.hd2s import HD2S, HD2SConfig
from stsa_jax.models.s3d import S3D, S3DConfig
from stsa_jax.models.salema import SalEMA, SalEMAConfig
from stsa_jax.models.stsa import STEPS
from stsa_jax.models.stsanet import STSANet, STSANetConfig
from stsa_jax.models.tased import TASED, TASEDConfig
from stsa_jax.models.tinyhd import TinyHD, TinyHDConfig
from stsa_jax.models.unisal import DOMAINS, UNISAL, UNISALConfig
from stsa_jax.models.vinet import ViNet, ViNetConfig

Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Known:
    """A model and the use of its released weights.

    Attributes:
        kind: its name in our checkpoints and in the metadata of safetensors files.
        title: its name in messages.
        module, config: the classes of the network and of its config.
        part: a top-level name of its parameters that no other model has.
        normalisations: normalisation of the frames, by the naming of the state dict.
        infer: infers the config from the shapes of a state dict and its naming.
        on_s3d: whether its backbone is S3D, which S3D's weights fill.
        resize: resizes a frame uint8 `(h, w, 3)` to (H, W), values 0 to 255.
        finish: post-processes its maps to 8 bits, see `media.finishing`.
        finished: a description of `finish`.
    """

    kind: str
    title: str
    module: Callable[..., nnx.Module]
    config: type
    part: str
    normalisations: Mapping[str, Normalisation]
    infer: Callable[[Shapes, str], Any]
    on_s3d: bool = True
    resize: Callable[[np.ndarray, tuple[int, int]], np.ndarray] = resize_frame
    finish: finishing.Finish = finishing.stsanet
    finished: str = 'resized to the size of the video (bilinear), each scaled to a maximum of 255'

    @property
    def naming(self) -> str:
        """The naming of its released state dict."""
        return next(iter(self.normalisations))

    @property
    def normalisation(self) -> Normalisation:
        """Of the frames, for its released weights and in training."""
        return self.normalisations[self.naming]


def _stsanet(shapes: Shapes, naming: str) -> STSANetConfig:
    width = shapes.get('base1.0.conv_s.weight', (64,))[0] / 64
    norm = shapes.get('ln_0_0.weight', (192, STEPS, 56, 96))
    sizes: dict[str, Any] = (
        {'norm': 'size_free'} if len(norm) == 1 else {'image_size': [4 * n for n in norm[2:]]}
    )
    compression = shapes.get('branch0_pre.0.weight', (192, 192, 4, 1, 1))[2]
    return STSANetConfig(frames=2 * STEPS * compression, width=width, **sizes)


def _s3d(shapes: Shapes, naming: str) -> S3DConfig:
    kinetics = naming == 's3d_kinetics'
    stem = 'base.0.conv_s.weight' if kinetics else 'features.0.0.0.weight'
    head = 'fc.0.weight' if kinetics else 'classifier.1.weight'
    width = shapes.get(stem, (64,))[0] / 64
    return S3DConfig(num_classes=shapes.get(head, (400,))[0], width=width)


def _tinyhd(shapes: Shapes, naming: str) -> TinyHDConfig:
    channels = shapes.get('encoder.encoder.0.0.weight', (8,))[0]
    last_only = len(shapes.get('decoder.decoder.0.weight', (1, 6, 1, 1))) == 4
    if channels == 32 and not last_only:
        raise InputError(
            'tinyHD-M of all channels: its two released files, d1d2d3_M_lt.pth and ucf_d123m.pth, '
            "have the same names but mix the decoders' maps in different orders, so that the "
            'weights do not say how to use them. Give tinyHD-S, or tinyHD-M with fewer '
            'channels (d123m_rc2_rc1T.pth, d123m_rc4_rc1T.pth)'
        )
    return TinyHDConfig(
        target='last' if last_only else 'all', reduction=32 // channels if 32 % channels == 0 else 0
    )


def _unisal(shapes: Shapes, naming: str) -> UNISALConfig:
    domains = tuple(d for d in DOMAINS if f'coarse_gaussians_{d}' in shapes)
    width = shapes.get('cnn.features.0.0.weight', (32,))[0] / 32
    domains = domains or DOMAINS
    return UNISALConfig(domains=domains, domain=domains[0], width=width)


def _salema(shapes: Shapes, naming: str) -> SalEMAConfig:
    width = shapes.get('salgan.0.weight', (64,))[0] / 64
    return SalEMAConfig(width=width, alpha=None if 'alpha' in shapes else 0.1)


def _width(shapes: Shapes, stem: str) -> float:
    return shapes.get(f'{stem}.conv_s.weight', (64,))[0] / 64


def _in_8_bits(frame: np.ndarray, size: tuple[int, int], kernel: str) -> np.ndarray:
    """`resample` to whole levels, as OpenCV resizes 8-bit frames."""
    return np.clip(np.rint(resample(frame, size, kernel)), 0, 255)


_SMOOTHED = (
    "at the model's size filtered by a Gaussian of 7 pixels, each scaled to a maximum of 255, then "
    'resized to the size of the video (bilinear)'
)

KNOWN = (
    Known(
        kind='stsanet',
        title='STSA-Net',
        module=STSANet,
        config=STSANetConfig,
        part='readout',
        normalisations={'stsanet': IMAGENET},
        infer=_stsanet,
    ),
    Known(
        kind='s3d',
        title='S3D',
        module=S3D,
        config=S3DConfig,
        part='classifier',
        normalisations={
            's3d_kinetics': KINETICS_KYLEMIN,
            's3d_torchvision': KINETICS_TORCHVISION,
        },
        infer=_s3d,
        on_s3d=False,
    ),
    Known(
        kind='tinyhd',
        title='tinyHD',
        module=TinyHD,
        config=TinyHDConfig,
        part='mix',
        normalisations={'tinyhd': IMAGENET},
        infer=_tinyhd,
        on_s3d=False,
        resize=resample,
        finish=finishing.tinyhd,
        finished='each min-max scaled to 8 bits, resized to the size of the video (bicubic), and '
        'filtered with a 5x5 Gaussian',
    ),
    Known(
        kind='vinet',
        title='ViNet',
        module=ViNet,
        config=ViNetConfig,
        part='vinet_map',
        normalisations={'vinet': IMAGENET},
        infer=lambda shapes, naming: ViNetConfig(width=_width(shapes, 'backbone.base1.0')),
        finish=finishing.vinet,
        finished='resized to the size of the video (bilinear), filtered by an 11x11 Gaussian, each '
        'from its least value to its greatest in 8 bits',
    ),
    Known(
        kind='tased',
        title='TASED-Net',
        module=TASED,
        config=TASEDConfig,
        part='tased_map',
        normalisations={'tased': KINETICS_KYLEMIN},
        infer=lambda shapes, naming: TASEDConfig(width=_width(shapes, 'base1.0')),
        resize=functools.partial(_in_8_bits, kernel='linear'),
        finish=finishing.smoothed,
        finished=_SMOOTHED,
    ),
    Known(
        kind='hd2s',
        title='HD2S',
        module=HD2S,
        config=HD2SConfig,
        part='hd2s_map',
        normalisations={'hd2s': KINETICS_KYLEMIN},
        infer=lambda shapes, naming: HD2SConfig(width=_width(shapes, 'featureExtractor.block1.0')),
        resize=functools.partial(_in_8_bits, kernel='cubic'),
        finish=finishing.smoothed,
        finished=_SMOOTHED,
    ),
    Known(
        kind='unisal',
        title='UNISAL',
        module=UNISAL,
        config=UNISALConfig,
        part='unisal_input',
        normalisations={'unisal': IMAGENET},
        infer=_unisal,
        on_s3d=False,
        resize=functools.partial(resize_frame, kernel=Image.Resampling.LANCZOS),
        finish=finishing.unisal,
        finished='resized to the size of the video (its logarithm, bilinear), each scaled to a '
        'maximum of 255',
    ),
    Known(
        kind='salema',
        title='SalEMA',
        module=SalEMA,
        config=SalEMAConfig,
        part='salema_map',
        normalisations={'salema': CAFFE},
        infer=_salema,
        on_s3d=False,
        resize=resample_area,
        finish=finishing.min_max,
        finished="at the model's size, each from its least value to its greatest in 8 bits",
    ),
)


def of_config(config: Any) -> Known:
    """The model of a config."""
    return next(known for known in KNOWN if type(config) is known.config)


def of_naming(naming: str) -> Known:
    """The model of a naming."""
    return next(known for known in KNOWN if naming in known.normalisations)


def of_params(params: Mapping[str, Any]) -> Known:
    """The model of a tree of parameters or gradients; STSA-Net if no `part` matches.

    A backbone on its own has STSA-Net's names.
    """
    return next((known for known in KNOWN if known.part in params), KNOWN[0])


def of_kind(kind: str, source: Any) -> Known:
    """The model of a kind; InputError if there is none."""
    for known in KNOWN:
        if known.kind == kind:
            return known
    raise InputError(
        f'{source}: holds a model of kind {kind!r}, which is none of '
        f'{", ".join(known.kind for known in KNOWN)}; if a newer version wrote it, update stsa_jax'
    )
