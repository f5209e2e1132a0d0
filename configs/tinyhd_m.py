"""tinyHD-M's recipe on DHF1K: that of tinyHD-S with a map and a density of each frame.

    python train.py --config=configs/tinyhd_m.py --workdir=runs/tinyhd_m

The loss is the mean of the frames' KL. See configs/tinyhd_s.py, also for what the published
distillation has besides.
"""

from configs import tinyhd_s


def get_config():
    """See above."""
    return tinyhd_s.get_config('all')
