"""Maps in .mat files, also sparse ones."""

from pathlib import Path

import numpy as np


def read_matlab(path: Path, variable: str = '') -> np.ndarray:
    """The map `variable`, or the only one, of a .mat file: real `(h, w)`.

    Sparse matrices are made dense; several channels are reduced to their maximum. Raises ValueError
    if there is no such map.
    """
    import scipy.io
    import scipy.sparse

    try:
        content = scipy.io.loadmat(path)
    except NotImplementedError as error:  # version 7.3, which is HDF5
        raise ValueError("MATLAB's format 7.3; save it again with '-v7'") from error
    except Exception as error:  # scipy's reader raises almost anything on a damaged file
        raise ValueError(f'damaged .mat file: {type(error).__name__}: {error}') from error
    maps = {
        k: v for k, v in content.items() if getattr(v, 'ndim', 0) >= 2 and v.dtype.kind in 'biuf'
    }
    if variable not in maps and len(maps) != 1:
        raise ValueError(f'no variable {variable!r} in it, but {sorted(maps)}')
    values = maps.get(variable, next(iter(maps.values())))
    if scipy.sparse.issparse(values):
        values = values.toarray()
    return values if values.ndim == 2 else values.max(axis=tuple(range(2, values.ndim)))
