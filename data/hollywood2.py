"""Hollywood-2 with eye movements (Mathe and Sminchisescu, TPAMI 2015), videos split into shots.

Frame numbers count through the source video, so a shot need not start at 1.
"""

from data.preparation.shots import ShotsBuilder


class Hollywood2(ShotsBuilder):
    """TFDS builder of Hollywood-2; `manual_dir` is the folder that holds the copy."""

    VERSION = '1.0.0'
    TITLE = 'Hollywood-2'
    FOLDER_NAMES = ('hollywood2', 'hollywood-2')
    SHOT_NAME = r'actionclip(auto)?(train|test)\d+_\d+'
    EXPECTED = """\
    training/actioncliptrain00001_1/images/actioncliptrain00001_00001.png ...
    training/actioncliptrain00001_1/maps/actioncliptrain00001_00001.png ...
    training/actioncliptrain00001_1/fixation/actioncliptrain00001_00001.png ...
    testing/actioncliptest00001_1/..."""
    VIDEOS = {'train': 823, 'test': 884}  # noqa: RUF012
    SHOTS = {'test': 3558}  # noqa: RUF012
    KNOWN_SHORT = {('test',): (3558, {32: 1613, 10: 714})}  # noqa: RUF012
    SUMMARY = 'Hollywood-2: shots of 1707 film clips, with the gaze of 19 observers.'
    HOMEPAGE = 'https://github.com/wenguanwang/DHF1K'
    CITATION = (
        '@article{mathe2015actions, title={Actions in the Eye: Dynamic Gaze Datasets and Learnt '
        'Saliency Models for Visual Recognition}, author={Mathe, Stefan and Sminchisescu, '
        'Cristian}, journal={IEEE TPAMI}, year={2015}}'
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f'Download Hollywood-2 (with maps), arranged as:\n{EXPECTED}'

    def video_of(self, shot: str) -> str:
        """`actioncliptest00001` of `actioncliptest00001_3`."""
        return shot.rsplit('_', 1)[0]
