"""The paper's recipe on DHF1K: 600 training videos, batches of 3, 200 steps per epoch.

    python train.py --config=configs/dhf1k.py --workdir=runs/dhf1k

starts from S3D's weights trained on Kinetics-400, `S3D_kinetics400.pt` of
https://github.com/kylemin/S3D, in the working folder or at --config.init_from=PATH. Without them
(--config.init_from=) also set --config.model.batch_norm_momentum=0.1: the default is for a trained
backbone.

The paper (Table I) reports CC 0.529, NSS 3.010, SIM 0.383, AUC-J 0.913 and shuffled AUC 0.723 on
the held-out test set. On several devices increase batch_size and, in proportion, the learning rate.
"""

from configs import default


def get_config():
    """Adam at 1e-4, divided by 10 after 12 epochs and then every 9, from S3D's weights."""
    config = default.get_config()
    config.init_from = 'S3D_kinetics400.pt'
    config.data.datasets = ('dhf1k',)
    config.batch_size = 3
    config.num_epochs = 30
    config.checkpoint_every = 1000
    config.validation.every = 1000
    config.validation.clips = 300
    return config


def fine_tuned_on(dataset: str):
    """The same for another dataset, from the weights trained on DHF1K (paper, section IV-B).

    Its test split monitors the convergence, as in the paper.
    """
    config = get_config()
    config.data.datasets = (dataset,)
    config.data.eval_split = 'test'
    config.init_from = 'runs/dhf1k'
    return config
