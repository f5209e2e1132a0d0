"""UNISAL's recipe on one dataset (rdroste/unisal @ 0440df7, `unisal/train.py`, its DHF1K part).

    python train.py --config=configs/unisal.py --workdir=runs/unisal

SGD at 0.04 with momentum 0.9 and weight decay 1e-4, times 0.8 after each epoch; batches of 4 clips
of 12 frames, every fifth of the video; 16 epochs of one clip a video. Gradients are clipped to a
norm of 2. The backbone learns at a tenth of the rate, with a tenth of the decay, from the third
epoch on, and its BatchNorms keep their statistics. The loss is KL - 0.1 NSS - 0.1 CC of each frame.

**The published training is on four datasets at once**, in batches of one each: DHF1K, Hollywood-2,
UCF Sports, and pictures of SALICON (in batches of 32, with half the learning). Each has its own
BatchNorms, priors and readout. Batches here mix the datasets of a run, so that one run trains one
domain: `--config.model.domains=hollywood --config.model.domain=hollywood --config.model.step=4` is
that of Hollywood-2. Fine-tuning from the released weights keeps the parts of the other domains with
`--config.model.domains=dhf1k,hollywood,ucfsports,salicon --config.init_from=weights_best.pth`, but
for their weight decay.

The maps are compared at 224x384, not at the dataset's 360x640. The released backbone starts from
ImageNet's MobileNetV2, which is not read here: the weights are random at first, or UNISAL's own.
"""

from configs import default
from stsa_jax.models.unisal import UNISALConfig


def get_config():
    """The released arguments."""
    config = default.of_model('unisal', UNISALConfig(domains=('dhf1k',)))
    config.data.datasets = ('dhf1k',)
    config.batch_size = 4
    config.num_epochs = 16
    config.loss = 'kl_nss_cc'
    config.optimizer.algorithm = 'sgd'
    config.optimizer.learning_rate = 0.04
    config.optimizer.weight_decay = 1e-4
    config.optimizer.clip_norm = 2.0
    config.optimizer.backbone_factor = 0.1
    config.optimizer.backbone_decay_factor = 0.1
    config.optimizer.backbone_frozen_epochs = 2
    config.optimizer.drop_factor = 0.8
    config.optimizer.first_drop_epochs = config.optimizer.drop_every_epochs = 1
    config.checkpoint_every = config.validation.every = 150  # an epoch of DHF1K
    config.validation.clips = 100
    config.validation.metric, config.validation.mode = 'kl', 'min'
    return config
