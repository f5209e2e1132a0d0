"""ViNet's recipe on DHF1K, as its released code trains it (samyak0210/ViNet @ 2a52666, `train.py`).

    python train.py --config=configs/vinet.py --workdir=runs/vinet

Adam at 1e-4 without drops, batches of 8, 40 epochs; each draws one window of 32 frames of a video,
whose last frame's density is the target; KL alone. It starts from S3D's weights trained on
Kinetics-400 (see configs/dhf1k.py), and keeps the weights of the best validation loss.

The paper's model has CC 0.511, NSS 2.872, SIM 0.381, AUC-J 0.908 on DHF1K's test set.
"""

from configs import default
from stsa_jax.models.vinet import ViNetConfig


def get_config():
    """The released code's arguments by default."""
    config = default.of_model('vinet', ViNetConfig())
    config.init_from = 'S3D_kinetics400.pt'
    config.data.datasets = ('dhf1k',)
    config.batch_size = 8
    config.num_epochs = 40
    config.loss = 'kl'
    config.optimizer.schedule = 'constant'
    config.validation.every = config.checkpoint_every = 75  # an epoch of 600 videos
    config.validation.clips = 400
    config.validation.metric, config.validation.mode = 'kl', 'min'
    return config
