"""Makes pysaliency, an independent implementation, importable with current packages.

Its last release (0.2.22) needs two names that NumPy 2.4 and setuptools 82 removed. Both are
provided here before it is imported: `trapz` under its new name, and `pkg_resources`, which only its
MATLAB models use, as an empty module.
"""

import sys
import types

import numpy as np

if not hasattr(np, 'trapz'):
    setattr(np, 'trapz', np.trapezoid)  # noqa: B010
try:
    import pkg_resources  # noqa: F401
except ModuleNotFoundError:
    stand_in = types.ModuleType('pkg_resources')
    stand_in.resource_string = stand_in.resource_listdir = stand_in.resource_filename = None
    sys.modules['pkg_resources'] = stand_in

import pysaliency
from pysaliency import metrics, roc

__all__ = ['metrics', 'pysaliency', 'roc']
