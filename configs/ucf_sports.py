"""The paper's recipe on UCF-Sports: fine-tuned from the weights trained on DHF1K.

    python train.py --config=configs/ucf_sports.py --workdir=runs/ucf_sports \\
        --config.init_from=runs/dhf1k

`init_from` is the run of configs/dhf1k.py, or the released weights. The paper reports on the test
set CC 0.705, NSS 3.908, SIM 0.560, AUC-J 0.936 (Table VI).
"""

from configs import dhf1k


def get_config():
    """See `configs.dhf1k.fine_tuned_on`."""
    return dhf1k.fine_tuned_on('ucf_sports')
