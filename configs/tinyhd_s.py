"""tinyHD-S's recipe on DHF1K (feiyanhu/tinyHD @ 2657310, `train.py`), as far as it goes alone.

    python train.py --config=configs/tinyhd_s.py --workdir=runs/tinyhd_s

SGD at 0.01 with momentum 0.9, batches of 2 windows of 16 frames, half of them mirrored; 200 epochs
of two windows a video, after 100, 150 and 180 of which the rate drops tenfold. The encoder's rate
is half of it, and biases have twice the rate and no weight decay. The target is the last frame, the
loss KL.

**The published training is a distillation**, and this is its part that needs no teacher. There the
loss is KL of the output to the viewers' density, plus KL to HD2S's map, plus KL of D1's four maps
to HD2S's four, on as many clips of Kinetics-400 (without viewers) as of DHF1K. Half of that can be
had: `data.prepare videos --teacher=HD2S.pt --name=taught` makes HD2S's maps of any videos the
density of a dataset, and

    --config.data.datasets=dhf1k,taught --config.data.weights=1,1

trains on both alike. The maps of the teacher's four decoders are not kept in datasets. The released
encoder starts from ImageNet's MobileNetV2, inflated, and goes back to the best weights before each
drop; here the weights are random at first, or `--config.init_from=d123s_rc4_rc1T.pth`, released or
trained.

    --config.model.reduction=1     # all of MobileNetV2's channels, as d1d2d3_S_lt.pth has them
"""

from configs import default
from stsa_jax.models.tinyhd import TinyHDConfig


def get_config(target: str = 'last'):
    """The released arguments; with 'all', tinyHD-M."""
    config = default.of_model('tinyhd', TinyHDConfig(target=target))
    config.data.datasets = ('dhf1k',)
    config.data.flip = 0.5
    config.batch_size = 2
    config.num_epochs = 400  # an epoch here is one window a video
    config.loss = 'kl'
    config.optimizer.algorithm = 'sgd'
    config.optimizer.learning_rate = 0.01
    config.optimizer.weight_decay = 5e-4
    config.optimizer.bias_factor = 2.0
    config.optimizer.backbone_factor = 0.5
    config.optimizer.schedule = 'milestones'
    config.optimizer.milestones = (0.5, 0.75, 0.9)
    config.checkpoint_every = config.validation.every = 600
    config.validation.clips = 500
    config.validation.metric, config.validation.mode = 'kl', 'min'
    return config
