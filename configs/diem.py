"""The paper's recipe on DIEM: fine-tuned from the weights trained on DHF1K.

    python train.py --config=configs/diem.py --workdir=runs/diem --config.init_from=runs/dhf1k

`init_from` is the run of configs/dhf1k.py, or the released weights. The paper reports on test set
ii CC 0.677 and NSS 2.721 (Table II).
"""

from configs import dhf1k


def get_config():
    """See `configs.dhf1k.fine_tuned_on`."""
    return dhf1k.fine_tuned_on('diem')
