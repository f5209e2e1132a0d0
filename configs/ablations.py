"""Every row of the paper's Tables III to VI: configs/ablations.py:NAME, NAME,tiny, ...

    python train.py --config=configs/ablations.py:without_stsa_layer_1 --workdir=runs/...
    python train.py --config=configs/ablations.py:unet,tiny --workdir=runs/...

NAME alone is the paper's recipe on DHF1K (configs/dhf1k.py), `NAME,tiny` the small model on the
synthetic dataset (configs/tiny.py). `NAME,matching` trains the small model on `stsa_matching`,
whose videos require relating distant times, `NAME,contrast` on the same trials without that
relation. Each row is the full model with the fields below changed; they are documented in
`stsa_jax.models.stsanet.STSANetConfig`, and the paper's numbers are in docs/ablations.md.
"""

from configs import dhf1k, tiny

_UNET = {'stsa_levels': (), 'amsf_weighting': False, 'amsf_multi_scale': False}

TABLE_III: dict[str, dict] = {
    'single_stream': _UNET | {'levels': (3,)},
    'unet': _UNET,
    'unet_stsa': {'amsf_weighting': False, 'amsf_multi_scale': False},
    'unet_amsf': {'stsa_levels': ()},
}
TABLE_IV: dict[str, dict] = {
    'without_temporal_relations': {'attention': 'steps'},
    'single_similarity_matrix': {'attention': 'single', 'stsa_layers': (1,)},
    'without_stsa_layer_1': {'stsa_layers': (2,)},
    'without_stsa_layer_2': {'stsa_layers': (1,)},
    'remove_stsa_1': {'stsa_levels': (1, 2, 3)},
    'remove_stsa_2': {'stsa_levels': (0, 2, 3)},
    'remove_stsa_3': {'stsa_levels': (0, 1, 3)},
    'remove_stsa_4': {'stsa_levels': (0, 1, 2)},
}
TABLE_V: dict[str, dict] = {
    'concat_amsf': {'amsf_concat': True},
    'without_weighting': {'amsf_weighting': False},
    'without_multi_scale': {'amsf_multi_scale': False},
}
TABLE_VI: dict[str, dict] = {
    'middle_supervised': {},
    'last_supervised': {'target': 'last'},
}
FULL: dict[str, dict] = {'full': {}}  # "Ours"
ROWS = FULL | TABLE_III | TABLE_IV | TABLE_V | TABLE_VI

TRIALS = {'matching': 200, 'contrast': 100}  # steps of training
RECIPES = ('', 'tiny', *TRIALS)


def get_config(name: str = ''):
    """The recipe with the row's fields; raises ValueError with the names for an unknown one."""
    row, _, recipe = name.partition(',')
    if row not in ROWS or recipe not in RECIPES:
        raise ValueError(
            f'{name!r} is not a row; after the colon give one of {", ".join(ROWS)}, optionally '
            'with ",tiny" for the small model, or ",matching" or ",contrast" for the control trials'
        )
    config = (tiny if recipe else dhf1k).get_config()
    config.model.update(ROWS[row])
    if recipe in TRIALS:
        config.data.datasets = (f'stsa_{recipe}',)
        config.model.target = 'last'  # by when all observers have seen the choice
        config.num_steps = config.checkpoint_every = TRIALS[recipe]
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = 'constant'
    return config
