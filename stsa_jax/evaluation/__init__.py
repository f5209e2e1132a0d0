"""Evaluation as the field does it, with the protocol said beside every number.

    dataset = data.open_split('stsa_synthetic', 'test')
    results = evaluation.evaluate(
        [dataset],
        {'STSA-Net': lambda dataset: evaluation.ModelMaps(model, dataset)},
        protocol='dhf1k',
    )
    print(evaluation.text(results))

`protocol` has the named bundles of choices, `sources` where maps come from, `scoring` one frame's
scores, `statistics` means and intervals, `tables` and `report` what is written.
"""

from stsa_jax.evaluation.evaluate import evaluate, write_results
from stsa_jax.evaluation.predictions import PredictionFolder
from stsa_jax.evaluation.protocol import METRICS, PROTOCOLS, Protocol, get_protocol
from stsa_jax.evaluation.sources import FixedMap, ModelMaps, ShuffledMaps, centre_prior
from stsa_jax.evaluation.tables import Results, means, text

__all__ = [
    'METRICS',
    'PROTOCOLS',
    'FixedMap',
    'ModelMaps',
    'PredictionFolder',
    'Protocol',
    'Results',
    'ShuffledMaps',
    'centre_prior',
    'evaluate',
    'get_protocol',
    'means',
    'text',
    'write_results',
]
