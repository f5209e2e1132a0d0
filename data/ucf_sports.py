"""UCF-Sports with eye movements (Mathe and Sminchisescu, TPAMI 2015)."""

from data.preparation.shots import ShotsBuilder


class UcfSports(ShotsBuilder):
    """TFDS builder of UCF-Sports; `manual_dir` is the folder that holds the copy."""

    VERSION = '1.0.0'
    TITLE = 'UCF-Sports'
    FOLDER_NAMES = ('ucf_sports', 'ucf', 'ucf-sports', 'ucfsports')
    SHOT_NAME = r'[a-z]+(-[a-z]+)*-\d+'
    EXPECTED = """\
    training/Diving-Side-001/images/Diving-Side_001_001.png ...
    training/Diving-Side-001/maps/Diving-Side_001_001.png ...
    training/Diving-Side-001/fixation/Diving-Side_001_001.png ...
    testing/..."""
    VIDEOS = {'train': 103, 'test': 47}  # noqa: RUF012
    KNOWN_SHORT = {('train', 'test'): (150, {32: 20})}  # noqa: RUF012
    SUMMARY = 'UCF-Sports: 150 videos of nine sports, with the gaze of 19 observers.'
    HOMEPAGE = 'https://github.com/wenguanwang/DHF1K'
    CITATION = (
        '@article{mathe2015actions, title={Actions in the Eye: Dynamic Gaze Datasets and Learnt '
        'Saliency Models for Visual Recognition}, author={Mathe, Stefan and Sminchisescu, '
        'Cristian}, journal={IEEE TPAMI}, year={2015}}'
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f'Download UCF-Sports (with maps), arranged as:\n{EXPECTED}'
