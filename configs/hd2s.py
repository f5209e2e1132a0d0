"""HD2S's recipe on DHF1K, without domain adaptation (perceivelab/hd2s @ 3289dc1, `train.py`).

    python train.py --config=configs/hd2s.py --workdir=runs/hd2s

Adam at 1e-3, 5000 steps of 25 times 16 windows of 16 frames, half of them mirrored; the target is
the last frame. The loss is the sum of KL of the output and of the four conspicuity maps. It starts
from S3D's weights trained on Kinetics-400 (see configs/dhf1k.py).

The released code adds the gradients of the 25 parts where ours takes their mean: Adam's eps and the
weight decay are a 25th here, which gives the same steps. It trains on 540 of the 600 training
videos and validates on the other 60, ours on DHF1K's own splits. It resizes the frames for training
bilinearly and for testing bicubically, ours always bicubically.

The paper's model has CC 0.503, NSS 2.812, SIM 0.406, AUC-J 0.908 on DHF1K's test set.
"""

from configs import default
from stsa_jax.models.hd2s import HD2SConfig

PARTS = 25


def get_config():
    """The released script's constants."""
    config = default.of_model('hd2s', HD2SConfig())
    config.init_from = 'S3D_kinetics400.pt'
    config.data.datasets = ('dhf1k',)
    config.data.flip = 0.5
    config.batch_size = 16 * PARTS
    config.accumulate = PARTS
    config.num_steps = 5000
    config.loss = 'kl'
    config.supervise = tuple(f'conspicuity{level}' for level in (2, 3, 4, 5))
    config.optimizer.learning_rate = 1e-3
    config.optimizer.eps = 1e-8 / PARTS
    config.optimizer.weight_decay = 2e-7 / PARTS
    config.optimizer.schedule = 'constant'
    config.checkpoint_every = config.validation.every = 100
    config.validation.clips = 300
    config.validation.metric, config.validation.mode = 'kl', 'min'
    return config
