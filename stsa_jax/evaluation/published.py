"""Published scores, for comparison.

Sources: the STSA-Net paper (Wang et al., IEEE Transactions on Multimedia 2021), Tables I to III;
TMFI-Net and SalFoM from the DHF1K benchmark. DHF1K's test scores come from the benchmark's server;
the others from each paper's own evaluation, so their protocols may differ.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Published:
    """Scores of a model; metrics that were not published are absent."""

    model: str
    scores: dict[str, float]


# Columns: CC, NSS, SIM, AUC-Judd, and the optional fifth, sAUC.
_DHF1K_TEST = """
DeepVS  0.344 1.911 0.256 0.856 0.583
ACLNet  0.434 2.354 0.315 0.890 0.601
STRA-Net  0.458 2.558 0.355 0.895 0.663
SalEMA  0.449 2.574 0.466 0.890 0.667
TASED-Net  0.470 2.667 0.361 0.895 0.712
Chen et al.  0.476 2.685 0.353 0.900 0.680
SalSAC  0.479 2.673 0.357 0.896 0.697
UNISAL  0.490 2.776 0.390 0.901 0.691
HD2S  0.503 2.812 0.406 0.908 0.700
ViNet  0.511 2.872 0.381 0.908 0.729
TSFP-Net  0.517 2.966 0.392 0.912 0.723
STSA-Net  0.529 3.010 0.383 0.913 0.723
TMFI-Net  0.546 3.146 0.407 0.915
SalFoM  0.569 3.354 0.421 0.922
"""
_HOLLYWOOD2_TEST = """
DeepVS  0.446 2.313 0.356 0.887
ACLNet  0.623 3.086 0.542 0.886
STRA-Net  0.662 3.478 0.536 0.923
SalEMA  0.613 3.186 0.487 0.919
TASED-Net  0.646 3.302 0.507 0.918
Chen et al.  0.661 3.804 0.537 0.928
SalSAC  0.670 3.356 0.529 0.931
UNISAL  0.673 3.901 0.542 0.934
HD2S  0.670 3.352 0.551 0.936
ViNet  0.693 3.730 0.550 0.930
TSFP-Net  0.711 3.910 0.571 0.936
STSA-Net  0.721 3.927 0.579 0.938
"""
_UCF_TEST = """
DeepVS  0.405 2.089 0.321 0.870
ACLNet  0.510 2.567 0.406 0.897
STRA-Net  0.593 3.018 0.479 0.910
SalEMA  0.544 2.638 0.431 0.906
TASED-Net  0.582 2.920 0.469 0.899
Chen et al.  0.599 3.406 0.494 0.917
SalSAC  0.671 3.523 0.534 0.926
UNISAL  0.644 3.381 0.523 0.918
HD2S  0.604 3.114 0.507 0.904
ViNet  0.673 3.620 0.522 0.924
TSFP-Net  0.685 3.698 0.561 0.923
STSA-Net  0.705 3.908 0.560 0.936
"""
_DIEM = {
    'test_i': """
DeepVS  0.371 2.235 0.238 0.857
ACLNet  0.396 2.368 0.277 0.881
STRA-Net  0.408 2.452 0.306 0.870
Chen et al.  0.490 2.346 0.396 0.889
STSA-Net  0.625 2.618 0.505 0.901
""",
    'test_ii': """
ViNet  0.626 2.470 0.483 0.898
TSFP-Net  0.649 2.630 0.529 0.905
STSA-Net  0.677 2.721 0.541 0.906
""",
    'test_iii': """
STSA-Net  0.690 2.787 0.548 0.905
""",
}
_COLUMNS = ('cc', 'nss', 'sim', 'auc_judd', 'auc_shuffled')
_TABLES = {
    ('dhf1k', 'test'): _DHF1K_TEST,
    ('hollywood2', 'test'): _HOLLYWOOD2_TEST,
    ('ucf_sports', 'test'): _UCF_TEST,
}
_DHF1K_VALIDATION = {
    'cc': 0.539,
    'nss': 3.082,
    'sim': 0.411,
    'auc_judd': 0.920,
    'kl': 1.344,
}


def entries(dataset: str, split: str) -> list[Published]:
    """The published scores on a split of a dataset, oldest first; empty if there are none."""
    if (dataset, split) == ('dhf1k', 'validation'):
        return [Published('STSA-Net', _DHF1K_VALIDATION)]
    if dataset == 'diem':
        return _parse(_DIEM.get('test_iii' if split == 'test' else split, ''))
    return _parse(_TABLES.get((dataset, split), ''))


def _parse(table: str) -> list[Published]:
    listed = []
    for line in table.strip().splitlines():
        model, numbers = line.split('  ')
        scores = [float(x) for x in numbers.split()]
        listed.append(Published(model, dict(zip(_COLUMNS, scores))))
    return listed
