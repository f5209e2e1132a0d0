"""The paper's recipe on Hollywood-2: fine-tuned from the weights trained on DHF1K.

    python train.py --config=configs/hollywood2.py --workdir=runs/hollywood2 \\
        --config.init_from=runs/dhf1k

`init_from` is the run of configs/dhf1k.py, or the released weights. The paper reports on the test
set CC 0.721, NSS 3.927, SIM 0.579, AUC-J 0.938 (Table VI).
"""

from configs import dhf1k


def get_config():
    """See `configs.dhf1k.fine_tuned_on`."""
    return dhf1k.fine_tuned_on('hollywood2')
