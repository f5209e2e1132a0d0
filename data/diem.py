"""DIEM (Mital et al., Cognitive Computation 2011), raw or as prepared for STAViS and ViNet.

20 of the 84 videos are for testing. The literature uses three test sets, available as splits:
`test_i`, the first 300 frames of the 20; `test_ii`, 17 of the 20; `test_iii`, all (also `test`).
"""

import dataclasses
import re
from pathlib import Path

import numpy as np

from data import gaze
from data.copies import images, tree
from data.copies.folders import Annotation, FolderVideo, Map
from data.copies.layouts import Layout, choose_layout
from data.copies.sources import Report, VideoSource
from data.preparation.building import SaliencyBuilder

TEST_II = (
    'BBC_life_in_cold_blood', 'BBC_wildlife_serpent', 'DIY_SOS', 'advert_bbc4_bees',
    'advert_bbc4_library', 'advert_iphone', 'harry_potter_6_trailer', 'music_gummybear',
    'music_trailer_nine_inch_nails', 'nightlife_in_mozambique', 'one_show', 'pingpong_angle_shot',
    'pingpong_no_bodies', 'sport_scramblers', 'sport_wimbledon_federer_final',
    'tv_uni_challenge_final', 'university_forum_construction_ionic',
)  # fmt: skip
TEST_III = (*TEST_II, 'ami_ib4010_closeup', 'ami_ib4010_left', 'news_tony_blair_resignation')
TRAINING_VIDEOS = 64
# Sigma of density maps made from raw gaze, relative to the video's width: DHF1K's, 12.74 of 640.
RELATIVE_SIGMA = gaze.DHF1K_SIGMA / gaze.DHF1K_SIZE[1]

EXPECTED = """\
    <name>_<W>x<H>/video/...  and  <name>_<W>x<H>/event_data/*.txt          (raw)
  or, prepared,
    video_frames/DIEM/<name>/img_00001.jpg ...
    annotations/DIEM/<name>/maps/eyeMap_00001.jpg ...
    annotations/DIEM/<name>/fixMap_00001.mat ..."""


def read_viewers(
    folder: Path, root: Path, size: tuple[int, int], report: Report
) -> list[gaze.Fixations]:
    """The fixations of every gaze file in `folder`, on frames of `size` (h, w).

    Other files are left out and reported.
    """
    paths = gaze_files(folder, root, report)
    tree.note_strays(folder, root, report, paths)
    return gaze.read_all(paths, lambda path: gaze.read_diem(path, size), report)


class GazeAnnotation(Annotation):
    """Maps made from DIEM's gaze files; frames count from 1."""

    expected = True

    def __init__(self, folder: Path, root: Path, size: tuple[int, int], report: Report):
        self.folder, self.size = folder, size
        viewers = read_viewers(folder, root, size, report)
        if not viewers:
            report.add(folder, 'has no gaze file', 'prepared as not annotated')
        self.fixations = gaze.Fixations.together(viewers) if viewers else None
        last = 0 if self.fixations is None else int(self.fixations.frame.max(initial=-1)) + 1
        self.numbers = frozenset(range(1, last + 1))

    def path(self, number: int) -> str:
        """The folder: each gaze file holds all frames."""
        return str(self.folder)

    def read(self, number: int) -> tuple[Map, Map]:
        """See Annotation."""
        if self.fixations is None:
            raise ValueError(f'{self.folder}: has no gaze file')
        fixated = self.fixations.map(number - 1, self.size)
        density = gaze.density_map(fixated, RELATIVE_SIGMA * self.size[1])
        return Map.of(images.rescale_to_uint8(density)), Map.of(fixated.astype(np.uint8) * 255)


@dataclasses.dataclass(frozen=True)
class RawDiemVideo(FolderVideo):
    """A video of raw DIEM; `maps` is its folder `event_data`, `size` (h, w) that in its name."""

    size: tuple[int, int] = (720, 1280)

    def annotation(self, report: Report) -> Annotation:
        """From the gaze files."""
        return GazeAnnotation(Path(self.maps), Path(self.root), self.size, report)


def gaze_files(folder: Path, root: Path, report: Report) -> list[Path]:
    """The gaze files of a folder `event_data`, one per viewer."""
    files = tree.entries(folder, root, report)
    return [p for p in files if p.suffix.lower() == '.txt' and not tree.is_litter(p)]


def _raw(root: Path, report: Report) -> dict[str, VideoSource]:
    result: dict[str, VideoSource] = {}
    for folder in tree.folders(root, root, report):
        named = re.fullmatch(r'(.+)_(\d+)x(\d+)', folder.name)
        events, videos = (tree.find(folder, n, report=report) for n in ('event_data', 'video'))
        if not named:
            report.add(folder, 'is not named <name>_<W>x<H>', 'skipped')
            continue
        if events is None:
            report.add(folder, 'has no folder event_data', 'skipped')
            continue
        files = tree.entries(videos, root, report) if videos else []
        files = [p for p in files if p.suffix.lower() in tree.VIDEOS and not tree.is_litter(p)]
        tree.note_strays(folder, root, report)
        tree.note_strays(videos, root, report, files)
        for path in files[1:]:
            report.add(path, f'is a second video beside {files[0].name}', 'skipped')
        if not files:
            report.add(folder, 'has gaze files but no video', 'skipped')
            continue
        result[named[1]] = RawDiemVideo(
            folder.name, str(root), str(files[0]), str(events), '', '',
            (int(named[3]), int(named[2])),
        )  # fmt: skip
    return result


def _prepared(root: Path, report: Report) -> dict[str, VideoSource]:
    result: dict[str, VideoSource] = {}
    frames = tree.find(root, 'video_frames', 'DIEM', report=report)
    annotations = tree.find(root, 'annotations', 'DIEM', report=report)
    for folder in (frames, annotations):
        tree.note_strays(folder, root, report)
    for folder in tree.folders(annotations, root):
        if frames is None or tree.find(frames, folder.name) is None:
            report.add(folder, 'is the annotation of a video that is not there', 'left out')
    for folder in tree.folders(frames, root, report):
        own = tree.find(root, 'annotations', 'DIEM', folder.name, report=report)
        maps = own and tree.find(own, 'maps', report=report)
        if maps is None:
            report.add(folder, 'has no annotation', 'prepared as not annotated')
        both = (str(maps), str(own)) if maps else ('', '')
        result[_plain(folder.name)] = FolderVideo(
            folder.name, str(root), str(folder), *both, 'eyeMap'
        )
    return result


def _plain(name: str) -> str:
    """A video's name without the size in its folder's name."""
    return re.sub(r'_\d+x\d+$', '', name)


class Diem(SaliencyBuilder):
    """TFDS builder of DIEM; `manual_dir` is the folder that holds the copy."""

    VERSION = '1.0.0'
    SUMMARY = 'DIEM: 84 videos of many kinds, with the free-viewing gaze of about 50 observers.'
    HOMEPAGE = 'https://thediemproject.wordpress.com'
    CITATION = (
        '@article{mital2011clustering, title={Clustering of Gaze During Dynamic Scene Viewing is '
        'Predicted by Motion}, author={Mital, Parag K and Smith, Tim J and Hill, Robin L and '
        'Henderson, John M}, journal={Cognitive Computation}, year={2011}}'
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f'Download DIEM from {HOMEPAGE}, arranged as:\n{EXPECTED}'

    def find_videos(self, manual_dir: Path | None, report: Report) -> dict[str, list[VideoSource]]:
        """The videos of this copy by split; the test sets are recorded in the metadata."""
        layouts = (
            Layout('prepared (video_frames/DIEM and annotations/DIEM)', _prepared),
            Layout('raw (<name>_<W>x<H>/{video,event_data})', _raw),
        )
        root, self.layout, found = choose_layout(
            'DIEM', manual_dir, layouts, EXPECTED, report, 'DIEM'
        )
        for_testing = {name.lower() for name in TEST_III}
        result = {
            'train': [v for name, v in found.items() if name.lower() not in for_testing],
            'test': [v for name, v in found.items() if name.lower() in for_testing],
        }
        if len(result['train']) != TRAINING_VIDEOS:
            report.add(root, f'{len(result["train"])} training videos of {TRAINING_VIDEOS}')
        here = {name.lower() for name in found}
        missing = [name for name in TEST_III if name.lower() not in here]
        if missing:
            report.add(
                root, f'{len(missing)} of 20 test videos are not there: {", ".join(missing)}'
            )
        in_ii = {name.lower() for name in TEST_II}
        self.info.metadata['subsets'] = {
            'test_i': {'split': 'test', 'first_frames': 300},
            'test_ii': {
                'split': 'test',
                'videos': [v.name for v in result['test'] if _plain(v.name).lower() in in_ii],
            },
            'test_iii': {'split': 'test'},
        }
        return result
