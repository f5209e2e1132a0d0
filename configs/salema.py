"""SalEMA's recipe on DHF1K (Linardos/SalEMA @ b491779, `src/train.py`).

    python train.py --config=configs/salema.py --workdir=runs/salema --config.init_from=SalEMA30.pt

Adam at 1e-7 with weight decay 1e-4, 7 epochs; the loss is binary cross entropy, summed over the 10
frames of a clip, and gradients are clipped to a norm of 100. Half of the channels in front of the
average are left out. Here the loss is the mean over the frames: clipping, decay and Adam's eps are
tenths of those, which is the same.

It departs in two points. There a step is the next clip of one video, whose state comes from the
clip before; here clips are drawn from all videos and start without a state, 58 of a video in an
epoch, about as many as a video of DHF1K has. And the released training starts from SalGAN's weights
for pictures (SalBCE), which are not read here: the weights are random at first, for which the rate
is far too low (`--config.optimizer.learning_rate=1e-4`), or SalEMA's own.
"""

from configs import default
from stsa_jax.models.salema import SalEMAConfig


def get_config():
    """The released arguments."""
    config = default.of_model('salema', SalEMAConfig())
    config.data.datasets = ('dhf1k',)
    config.batch_size = 1
    config.num_epochs = 7 * 58  # an epoch here is one clip a video
    config.loss = 'bce'
    config.optimizer.learning_rate = 1e-7
    config.optimizer.weight_decay = 1e-5
    config.optimizer.eps = 1e-9
    config.optimizer.clip_norm = 10.0
    config.optimizer.schedule = 'constant'
    config.checkpoint_every = config.validation.every = 5000
    config.validation.clips = 100
    config.validation.metric, config.validation.mode = 'kl', 'min'
    return config
