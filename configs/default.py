"""All fields of a training run, with the defaults of the other configs.

    python train.py --config=configs/dhf1k.py --workdir=runs/dhf1k --config.batch_size=8

seed: of the initial weights and of the order and choice of clips.
batch_size: clips per step, over all devices and processes.
num_steps: length of the run; 0 for num_epochs.
num_epochs: length of the run if num_steps is 0; an epoch draws one clip per video.
log_every: steps between two lines of the log.
checkpoint_every: steps between two checkpoints; the last step is always saved.
keep_checkpoints: number of latest checkpoints to keep, besides the best one by validation.
init_from: weights to start from: S3D's (they fill the backbone) or the model's own; a .pth, .pt or
    .safetensors file or the folder of another run; '' for random ones. STSA-Net's weights of
    another image_size or frames are resampled, and a line reports it. From a run's folder it loads
    the best checkpoint by validation, or the latest if there was none; a line reports which. Read
    only when the run first starts.
kind: the model, 'stsanet' or another of stsa_jax.weights.known; each has a config in configs/.
model: the fields of its config, of stsa_jax.models.stsanet.STSANetConfig for 'stsanet'.
loss: 'kl_cc' (KL - CC), 'kl', 'kl_of_batch' (of the batch as one distribution), 'kl_nss_cc'
    (KL - 0.1 NSS - 0.1 CC, which needs fixation maps), or 'bce' (binary cross entropy).
supervise: names of intermediate maps of the network whose losses are added to that of its output.
data
    datasets: names of prepared datasets to train on.
    weights: relative frequency of each dataset; () for proportional to their numbers of videos.
    data_dir: where datasets were prepared; '' for TFDS's default.
    train_split, eval_split: names of the splits.
    eval_datasets: to validate and evaluate on; () for the ones trained on.
    flip: share of the training clips whose left and right are exchanged.
    num_workers: worker processes that read clips; 0 for threads of the training process.
optimizer: the fields of stsa_jax.training.optimizer.OptimizerConfig.
accumulate: number of micro-batches per step, to save memory; BatchNorm then sees one at a time.
ema_decay: of averaged parameters, which are then used for validation and loading; 0 for none.
freeze_backbone: do not update S3D's weights and statistics.
freeze_batch_norm: do not update BatchNorm's statistics, scales and biases.
keep_for_gradient: what is saved for the backward pass, which recomputes the rest: 'everything',
    'products' (of convolutions and attention) or 'blocks' (only the inputs of blocks).
    docs/scaling.md lists the costs.
remat: the same as keep_for_gradient='blocks'.
max_skipped: number of steps in a row with a non-finite loss that ends the run.
validation
    every: steps between two validations; 0 for none.
    clips: number of clips, spread evenly over the videos; always the same ones.
    metric, mode: the metric that selects the best checkpoint, 'cc', 'kl' or 'loss'; 'max' or 'min'.
    patience: end the run after this many validations without improvement; 0 for never.
mesh
    data, fsdp: axes of the device mesh; data=-1 for all devices. fsdp > 1 shards the state.
"""

import dataclasses
from typing import Any

from ml_collections import ConfigDict

from stsa_jax.models.stsanet import STSANetConfig
from stsa_jax.training.optimizer import OptimizerConfig


def of_model(kind: str, model: Any) -> ConfigDict:
    """The defaults for another model: its kind and its config, such as ViNetConfig()."""
    config = get_config()
    config.kind, config.model = kind, ConfigDict(dataclasses.asdict(model))
    return config


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
    config.kind = 'stsanet'
    config.model = ConfigDict(dataclasses.asdict(STSANetConfig()))
    config.data = ConfigDict(
        {
            'datasets': (),
            'weights': (),
            'data_dir': '',
            'train_split': 'train',
            'eval_split': 'validation',
            'eval_datasets': (),
            'flip': 0.0,
            'num_workers': 0,
        }
    )
    config.loss = 'kl_cc'
    config.supervise = ()
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
