"""DHF1K (Wang et al., CVPR 2018; TPAMI 2021), in any of the layouts in circulation.

Videos 1-600 are for training, 601-700 for validation, 701-1000 for testing (without annotation).
"""

import re
from collections.abc import Callable
from pathlib import Path

from data.copies import tree
from data.copies.folders import FolderVideo
from data.copies.layouts import Layout, check_counts, choose_layout
from data.copies.sources import Report, VideoSource
from data.preparation.building import SaliencyBuilder

SPLITS = {'train': range(1, 601), 'validation': range(601, 701), 'test': range(701, 1001)}
ANNOTATIONS = ('annotation', 'train', 'val', 'validation', 'test', 'frames')  # where it may be

EXPECTED = """\
    video/001.AVI ... 1000.AVI              (or frames/0001/images/0001.png,
                                                annotation/0001/images/0001.png,
                                                video/0001/0001.png,
                                                train/0001/images/0001.png and val/...)
    annotation/0001/maps/0001.png ...
    annotation/0001/fixation/0001.png ...   (or annotation/0001/fixation/maps/0001.mat)"""


def _videos(root: Path, report: Report) -> dict[int, Path]:
    folder = tree.find(root, 'video')
    if folder is None:
        return {}
    result: dict[int, Path] = {}
    used = []
    for path in tree.entries(folder, root, report):
        if not path.is_file() or path.suffix.lower() not in tree.VIDEOS:
            continue
        if re.fullmatch(r'\d+', path.stem):
            used.append(path)
            _add(result, int(path.stem), path, path, report)
    if used:
        tree.note_strays(folder, root, report, used)
    return result


def _add(result: dict[int, Path], number: int, path: Path, frames: Path, report: Report) -> None:
    """Adds a video; of two with the same number the first one is used."""
    if number in result:
        report.add(path, f'has the same number as {result[number]}', 'skipped')
    else:
        result[number] = frames


def _folders(*parts: str, inner: str = '') -> Callable[[Path, Report], dict[int, Path]]:
    """Finds parts/0001/inner for every number, in any of the parts."""

    def found(root: Path, report: Report) -> dict[int, Path]:
        result: dict[int, Path] = {}
        for part in parts:
            for path in tree.folders(tree.find(root, part), root, report):
                if not re.fullmatch(r'\d+', path.name):
                    continue
                frames = tree.find(path, inner, report=report) if inner else path
                if frames and _has_images(frames):
                    _add(result, int(path.name), path, frames, report)
                else:
                    report.add(path, 'has no frames', 'skipped')
        return result

    return found


LAYOUTS = (
    Layout('videos (video/001.AVI)', _videos),
    Layout('frames (frames/0001/images)', _folders('frames', inner='images')),
    Layout('frames (annotation/0001/images)', _folders('annotation', inner='images')),
    Layout('frames (video/0001)', _folders('video')),
    Layout(
        'frames (train/0001/images and val/0001/images)',
        _folders('train', 'val', 'validation', 'test', inner='images'),
    ),
)


class Dhf1k(SaliencyBuilder):
    """TFDS builder of DHF1K; `manual_dir` is the folder that holds the copy."""

    VERSION = '1.0.0'
    KNOWN_FRAMES = {  # noqa: RUF012
        'train': (600, 346_140),
        'validation': (100, 60_273),
        'test': (300, 176_192),
    }
    KNOWN_SHORT = {('train', 'validation', 'test'): (1000, {186: 0})}  # noqa: RUF012
    SUMMARY = 'DHF1K: 1000 videos (640x360, 30 fps) with the free-viewing gaze of 17 observers.'
    HOMEPAGE = 'https://github.com/wenguanwang/DHF1K'
    CITATION = (
        '@article{wang2021revisiting, title={Revisiting Video Saliency Prediction in the Deep '
        'Learning Era}, author={Wang, Wenguan and Shen, Jianbing and Xie, Jianwen and Cheng, '
        'Ming-Ming and Ling, Haibin and Borji, Ali}, journal={IEEE TPAMI}, year={2021}}'
    )
    MANUAL_DOWNLOAD_INSTRUCTIONS = f'Download DHF1K from {HOMEPAGE}, arranged as:\n{EXPECTED}'

    def find_videos(self, manual_dir: Path | None, report: Report) -> dict[str, list[VideoSource]]:
        """The videos of this copy by split."""
        root, layout, found = choose_layout('DHF1K', manual_dir, LAYOUTS, EXPECTED, report, 'dhf1k')
        self.layout = layout
        for number in sorted(set(found) - set(range(1, 1001))):
            report.add(found.pop(number), 'is none of the videos 1 to 1000', 'skipped')
        _note_unused(root, found, report)
        result: dict[str, list[VideoSource]] = {}
        for split, numbers in SPLITS.items():
            here = [n for n in numbers if n in found]
            result[split] = [_video(root, n, found[n], split, report) for n in here]
            check_counts(report, root, f'videos of split {split}', here, numbers)
        return result


def _video(root: Path, number: int, frames: Path, split: str, report: Report) -> FolderVideo:
    name = f'{number:04d}'
    for top in ANNOTATIONS:
        folder = tree.find(root, top, name, report=report)
        maps = folder and tree.find(folder, 'maps', report=report)
        fixations = folder and _fixations(folder, report)
        if maps and fixations:
            return FolderVideo(name, str(root), str(frames), str(maps), str(fixations))
    if split != 'test':
        report.add(
            frames, f'there is no annotation/{name} with maps and fixation',
            'prepared as not annotated',
        )  # fmt: skip
    return FolderVideo(name, str(root), str(frames))


def _note_unused(root: Path, found: dict[int, Path], report: Report) -> None:
    """Reports stray files beside the videos' folders, and annotation without a video."""
    for top in ANNOTATIONS:
        folder = tree.find(root, top)
        tree.note_strays(folder, root, report)
        for path in tree.folders(folder, root):
            number = int(path.name) if re.fullmatch(r'\d+', path.name) else None
            if number is None:
                report.add(path, "is not named as a video's folder, such as 0001", 'skipped')
            elif number in found:
                tree.note_strays(path, root, report)
            elif tree.find(path, 'maps'):
                report.add(path, 'is the annotation of a video that is not there', 'left out')


def _fixations(folder: Path, report: Report) -> Path | None:
    """The folder with the fixation maps: as images in `fixation`, or .mat in `fixation/maps`."""
    images = tree.find(folder, 'fixation', report=report)
    if images is not None and not _has_images(images):
        return tree.find(images, 'maps') or images
    return images


def _has_images(folder: Path) -> bool:
    # Lists only as much as needed: copies have 600,000 files.
    return folder.is_dir() and next(tree.images_of(folder), None) is not None
