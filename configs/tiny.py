"""A small model on the synthetic dataset: minutes on two CPU cores.

python train.py --config=configs/tiny.py --workdir=runs/tiny
"""

from configs import default


def get_config():
    """A quarter of the channels, 16 frames of 64x96."""
    config = default.get_config()
    config.model.image_size = (64, 96)
    config.model.frames = 16
    config.model.width = 0.25
    config.model.batch_norm_momentum = 0.1
    config.data.datasets = ('stsa_synthetic',)
    config.batch_size = 8
    config.num_steps = 90
    config.log_every = 10
    config.checkpoint_every = 90
    config.optimizer.learning_rate = 1e-3
    config.optimizer.schedule = 'cosine'
    config.optimizer.warmup_steps = 20
    return config
