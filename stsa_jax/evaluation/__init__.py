"""Evaluation by the field's protocols; every result states its protocol.

    dataset = data.open_split('stsa_synthetic', 'test')
    results = evaluation.evaluate(
        [dataset],
        {'STSA-Net': lambda dataset, videos: evaluation.ModelMaps(model, dataset)},
        protocol='dhf1k',
    )
    print(evaluation.text(results))

`protocol` defines the named protocols, `sources` the origin of maps, `scoring` one frame's scores,
`statistics` means and intervals, `tables` and `report` the output.
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
