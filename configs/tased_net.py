"""TASED-Net's recipe on DHF1K (MichiganCOG/TASED-Net @ 0cf47b7, `run_train.py`, `loss.py`).

    python train.py --config=configs/tased_net.py --workdir=runs/tased_net

SGD with momentum 0.9, 1000 steps of five times 8 windows of 32 frames, half of them mirrored; the
target is the last frame. The loss is KL of the eight maps taken as one distribution. The decoder's
rate, 0.1, drops tenfold after 750 and 950 steps; the backbone, S3D trained on Kinetics-400 (see
configs/dhf1k.py), keeps 0.001.

The released code adds the gradients of the five parts where ours takes their mean, so that the
rates here are five times as large, and the weight decay a fifth. Its BatchNorms see the 4 clips of
one of two GPUs, ours the 8. It has no validation.

The paper's model has CC 0.470, NSS 2.667, SIM 0.361, AUC-J 0.895 on DHF1K's test set.
"""

from configs import default
from stsa_jax.models.tased import TASEDConfig

PARTS = 5


def get_config():
    """The released script's constants."""
    config = default.of_model('tased', TASEDConfig())
    config.init_from = 'S3D_kinetics400.pt'
    config.data.datasets = ('dhf1k',)
    config.data.flip = 0.5
    config.batch_size = 8 * PARTS
    config.accumulate = PARTS
    config.num_steps = 1000
    config.loss = 'kl_of_batch'
    config.optimizer.algorithm = 'sgd'
    config.optimizer.learning_rate = 0.1 * PARTS
    config.optimizer.backbone_factor = 0.01
    config.optimizer.backbone_drops = False
    config.optimizer.weight_decay = 2e-7 / PARTS
    config.optimizer.schedule = 'milestones'
    config.optimizer.milestones = (0.75, 0.95)
    config.checkpoint_every = config.validation.every = 50
    config.validation.clips = 200
    return config
