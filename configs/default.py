"""Every field of a training run, with the defaults that the other configs start from.

    python train.py --config=configs/dhf1k.py --workdir=runs/dhf1k --config.batch_size=8

seed: of the initial weights and of the order and choice of clips.
batch_size: clips a step, over all devices and processes.
num_steps: length of the run; 0 for num_epochs.
num_epochs: length of the run where num_steps is 0; an epoch draws one clip a video.
log_every: steps between two lines of the log.
checkpoint_every: steps between two checkpoints; the last step is always saved.
keep_checkpoints: how many of the last ones are kept, besides the best one by validation.
init_from: weights to start from: S3D's (they fill the backbone) or STSA-Net's; a .pth, .pt or
    .safetensors file or the folder of another run; '' for random ones. STSA-Net's may be of another
    image_size or frames: what depends on them is resampled, and a line says so. Of a run it is the
    best checkpoint by validation, or the latest where there was none; a line says which. Read at
    the run's first start alone.
model: the fields of stsa_jax.stsanet.STSANetConfig.
data
    datasets: names of prepared datasets to train on.
    weights: how often each is drawn from; () in proportion to their numbers of videos.
    data_dir: where datasets were prepared; '' for TFDS's own place.
    train_split, eval_split: names of the splits.
    eval_datasets: to validate and evaluate on; () for the ones trained on.
    num_workers: processes that read clips; 0 for threads of the training process.
optimizer: the fields of stsa_jax.optimizer.OptimizerConfig.
accumulate: a step works on the batch in so many parts, to save memory; BatchNorm then sees a part.
ema_decay: of averaged parameters, which are then the ones validated and loaded; 0 for none.
freeze_backbone: S3D's weights and statistics stay as they are.
freeze_batch_norm: BatchNorm's statistics, scales and biases stay as they are.
keep_for_gradient: what stays in memory for the backward pass, which computes the rest again:
    'everything', 'products' (of convolutions and attention) or 'blocks' (of the network alone).
    docs/scaling.md has what each costs.
remat: the same as keep_for_gradient='blocks'.
max_skipped: so many steps in a row with a loss that is not finite end the run.
validation
    every: steps between two validations; 0 for none.
    clips: how many clips, spread evenly over the videos; the same ones every time.
    metric, mode: which of 'cc', 'kl', 'loss' selects the best checkpoint; 'max' or 'min'.
    patience: end the run after so many validations without a better one; 0 for never.
mesh
    data, fsdp: axes of the mesh of devices; data=-1 for all. With fsdp > 1 the state is split.
"""

import dataclasses

from ml_collections import ConfigDict

from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.training.optimizer import OptimizerConfig


def get_config() -> ConfigDict:
    """The defaults: the paper's model and optimizer, no dataset."""
    config = ConfigDict()
    config.seed = 0
    config.batch_size = 3
    config.num_steps = 0
    config.num_epochs = 30
    config.log_every = 20
    config.checkpoint_every = 500
    config.keep_checkpoints = 3
    config.init_from = ''
    config.model = ConfigDict(dataclasses.asdict(STSANetConfig()))
    config.data = ConfigDict(
        {
            'datasets': (),
            'weights': (),
            'data_dir': '',
            'train_split': 'train',
            'eval_split': 'validation',
            'eval_datasets': (),
            'num_workers': 0,
        }
    )
    config.optimizer = ConfigDict(dataclasses.asdict(OptimizerConfig()))
    config.accumulate = 1
    config.ema_decay = 0.0
    config.freeze_backbone = False
    config.freeze_batch_norm = False
    config.keep_for_gradient = 'products'
    config.remat = False
    config.max_skipped = 10
    config.validation = ConfigDict(
        {'every': 0, 'clips': 64, 'metric': 'cc', 'mode': 'max', 'patience': 0}
    )
    config.mesh = ConfigDict({'data': -1, 'fsdp': 1})
    return config
