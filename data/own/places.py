"""Finds the role of each video, image folder and table in a user's folder.

The words in a path determine the role: in `train/clip_7/maps` the split is `train`, the role
`maps`, and the rest, `clip_7`, names the video. This covers all layouts of the known datasets:
`video/001.AVI` beside `annotation/0001/{maps,fixation}`, `training/<video>/{images,maps,fixation}`,
`video_frames/<set>/<video>` beside `annotations/<set>/<video>`, `<video>/{video,event_data}`, or
`videos/`, `maps/`, `fixations/` and `gaze/` beside each other.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from data.copies import tree
from data.copies.sources import Report

FRAMES, MAPS, FIXATIONS, GAZE = 'frames', 'maps', 'fixations', 'gaze'
# Later ones take precedence over earlier ones: `fixation/maps` holds fixations.
WORDS = {
    FRAMES: (
        'frames', 'frame', 'images', 'image', 'imgs', 'img', 'video', 'videos', 'video_frames',
        'clips', 'films', 'rgb',
    ),
    MAPS: (
        'maps', 'map', 'density', 'densities', 'density_maps', 'saliency', 'saliency_maps',
        'salmaps', 'heatmaps', 'continuous',
    ),
    FIXATIONS: (
        'fixation', 'fixations', 'fixation_maps', 'fixation_map', 'fixmaps', 'fix', 'binary',
    ),
    GAZE: (
        'gaze', 'gazes', 'gaze_data', 'event_data', 'eye_tracking', 'eyetracking', 'eye_data',
        'exportdata', 'exportdata_train', 'records', 'tracks',
    ),
}  # fmt: skip
SPLITS = {
    'train': 'train', 'training': 'train', 'val': 'validation', 'valid': 'validation',
    'validation': 'validation', 'dev': 'validation', 'test': 'test', 'testing': 'test',
}  # fmt: skip
ANNOTATION = ('annotation', 'annotations', 'ground_truth', 'groundtruth', 'gt', 'labels')
IGNORED = ('audio', 'video_audio', 'fold_lists', 'predictions', 'scored')
TABLES = ('.csv', '.tsv')
RECORDS = ('.txt', '.dat', '.asc')  # tables too, where the folder says that they are gaze
_ROLES = {word: role for role, words in WORDS.items() for word in words}
_RANK = ['', FRAMES, MAPS, FIXATIONS, GAZE]


class Place(NamedTuple):
    """A video file, a folder of images or .mat files, or a table."""

    role: str
    path: Path
    parts: tuple[str, ...]  # of its path, without the words; they name the video
    split: str  # '' where the path does not say


class _Way(NamedTuple):
    """The information from the path down to a folder."""

    role: str = ''
    parts: tuple[str, ...] = ()
    split: str = ''
    annotated: bool = False

    def down(self, name: str) -> '_Way':
        word = name.lower().replace('-', '_').replace(' ', '_')
        if word in SPLITS and not self.split:
            return self._replace(split=SPLITS[word])
        if word in _ROLES:
            return self._replace(role=max(self.role, _ROLES[word], key=_RANK.index))
        if word in ANNOTATION:
            return self._replace(annotated=True)
        return self._replace(parts=(*self.parts, name))


def find_places(root: Path, report: Report, *, without: tuple[Path, ...] = ()) -> list[Place]:
    """All places in `root` except `without`; entries without a role are reported."""
    places = list(_walk(root, root, _Way(), report, {path.resolve() for path in without}))
    return _without_wrapping(places)


def _walk(
    folder: Path, root: Path, way: _Way, report: Report, without: set[Path]
) -> Iterator[Place]:
    pictures, matrices, strays = False, '', []
    for path in tree.entries(folder, root, report):
        if tree.is_litter(path):
            continue
        suffix = path.suffix.lower()
        if path.is_dir():
            loop = path.is_symlink() and folder.resolve().is_relative_to(path.resolve())
            if path.name.lower() not in IGNORED and not loop:
                yield from _walk(path, root, way.down(path.name), report, without)
        elif suffix in tree.IMAGES:
            pictures = True
        elif suffix in tree.MATLAB:
            matrices = matrices or path.name
        elif suffix in tree.VIDEOS and way.role in ('', FRAMES) and not way.annotated:
            yield Place(FRAMES, path, (*way.parts, path.stem), way.split)
        elif path.resolve() in without:
            continue
        elif suffix in TABLES or (suffix in RECORDS and way.role == GAZE):
            yield Place(GAZE, path, (*way.parts, path.stem), way.split)
        else:
            strays.append(path.name)
    if pictures:
        yield Place(way.role or (MAPS if way.annotated else FRAMES), folder, way.parts, way.split)
    elif matrices:
        role = way.role or (FIXATIONS if 'fix' in matrices.lower() else MAPS)
        yield Place(role, folder, way.parts, way.split)
    if strays:
        shown = ', '.join(strays[:3]) + (' ...' if len(strays) > 3 else '')
        report.add(str(folder), f'{len(strays)} files of no known kind ({shown})', 'skipped')


def _without_wrapping(places: list[Place]) -> list[Place]:
    """Strips folders that contain everything: `wrapper/videos/a.mp4` is of the video `a`."""
    named = [place for place in places if place.role != GAZE]  # tables may lie elsewhere
    while named and all(len(place.parts) > 1 for place in named):
        around = {place.parts[0] for place in named}
        if len(around) > 1:
            break
        places = [
            place._replace(parts=place.parts[1:])
            if len(place.parts) > 1 and place.parts[0] in around
            else place
            for place in places
        ]
        named = [place for place in places if place.role != GAZE]
    return places


def sets_of(root: Path) -> list[str]:
    """The names of the sets in `video_frames/<set>/<video>`, the arrangement of STAViS; or []."""
    frames = tree.find(root, 'video_frames')
    annotations = tree.find(root, 'annotations')
    if frames is None or annotations is None:
        return []
    return [
        folder.name
        for folder in tree.folders(frames, root)
        if any(entry.is_dir() for entry in os.scandir(folder))
    ]
