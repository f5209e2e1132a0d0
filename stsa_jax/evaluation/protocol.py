"""Protocols: named sets of choices that affect scores more than models differ.

Every table, JSON and report names its protocol and describes it.
"""

import dataclasses

from stsa_jax.errors import InputError

METRICS = ('cc', 'sim', 'nss', 'kl', 'auc_judd', 'auc_shuffled')
LABELS = ('CC', 'SIM', 'NSS', 'KL', 'AUC-J', 'sAUC')
LOWER_IS_BETTER = ('kl',)


@dataclasses.dataclass(frozen=True)
class Protocol:
    """The choices of an evaluation.

    about: what it reproduces, in one sentence.
    eight_bit: a model's float map is first converted to the 8-bit map that `predict.py` writes.
    resize: 'bicubic' (antialiased, MATLAB's imresize) or 'bilinear', prediction to ground truth.
    judd_ties: `ties` of `metrics.auc_judd`.
    nss_ddof, sim_minmax: of `metrics.nss` and `metrics.sim`.
    shuffled_frames: frames of other videos whose fixations are the negatives of a frame's sAUC.
    shuffled_step: spacing of sAUC's thresholds; None for the exact AUC over all negatives.
    shuffled_subsets: random subsets of the negatives over which sAUC is averaged.
    average: 'frames', or 'videos': over each video's frames first, then over videos.
    unusable: a constant or non-finite prediction is dropped ('drop'), or scored like a uniform map
        ('chance'). Frames without ground truth are dropped in every protocol.
    """

    name: str
    about: str
    eight_bit: bool
    resize: str
    judd_ties: str
    nss_ddof: int
    sim_minmax: bool
    shuffled_frames: int
    shuffled_step: float | None
    shuffled_subsets: int
    average: str
    unusable: str

    def describe(self) -> list[str]:
        """The choices in words, one line each."""
        maps = 'maps quantised to 8 bits' if self.eight_bit else 'maps in full precision'
        ties = {
            'order': 'equal values in their given order',
            'expected': "expectation over the MATLAB code's tie-breaking noise",
            'half': 'equal values count one half',
        }[self.judd_ties]
        area = (
            'exact, all negatives'
            if self.shuffled_step is None
            else f'thresholds in steps of {self.shuffled_step}, {self.shuffled_subsets} subsets'
        )
        unusable = {
            'drop': 'dropped and counted',
            'chance': 'scored as a uniform map and counted',
        }[self.unusable]
        average = 'over all frames' if self.average == 'frames' else 'per video, then over videos'
        return [
            f'{maps}, resized to the ground truth ({self.resize})',
            f'AUC-Judd exact, {ties}',
            f'NSS with the standard deviation of N{" - 1" if self.nss_ddof else ""}; '
            f'SIM {"with" if self.sim_minmax else "without"} min-max scaling',
            f'sAUC against the fixations of {self.shuffled_frames} frames of other videos, {area}',
            f'mean {average}; frames without fixations dropped and counted; '
            f'constant or non-finite predictions {unusable}',
        ]


_BENCHMARK = Protocol(
    name='dhf1k',
    about="what the DHF1K benchmark's MATLAB code computes from submitted 8-bit maps",
    eight_bit=True,
    resize='bicubic',
    judd_ties='expected',
    nss_ddof=1,
    sim_minmax=True,
    shuffled_frames=10,
    shuffled_step=0.1,
    shuffled_subsets=100,
    average='frames',
    unusable='drop',
)

PROTOCOLS = {
    'dhf1k': _BENCHMARK,
    'paper': dataclasses.replace(
        _BENCHMARK,
        name='paper',
        about="what STSA-Net's released code computes on validation sets, from float maps",
        eight_bit=False,
        resize='bilinear',
    ),
    'diem': dataclasses.replace(
        _BENCHMARK,
        name='diem',
        about='the same metrics averaged per video first, as in the literature on DIEM',
        average='videos',
        unusable='chance',
    ),
    'pysaliency': dataclasses.replace(
        _BENCHMARK,
        name='pysaliency',
        about="pysaliency's variants: exact and tie-aware AUCs, std with N, SIM without min-max",
        eight_bit=False,
        resize='bilinear',
        judd_ties='half',
        nss_ddof=0,
        sim_minmax=False,
        shuffled_frames=100,
        shuffled_step=None,
        unusable='chance',
    ),
}


def get_protocol(name: str) -> Protocol:
    """The protocol of this name; InputError lists the available names."""
    if name not in PROTOCOLS:
        raise InputError(f'no protocol {name!r}; available: {", ".join(PROTOCOLS)}')
    return PROTOCOLS[name]
