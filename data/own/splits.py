"""Assigns videos to splits: by folders, by a list, or by seeded shares of the videos.

Published folds (STAViS: `fold_lists/<set>_list_{train,test}_{1,2,3}_fps.txt`) are splits that share
videos between them: `train_2` and `test_2` are the second fold's.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.copies import tree
from data.copies.sources import Report
from data.copies.text_table import read_rows
from data.own.names import Files, Named, key_of
from data.own.places import SPLITS
from stsa_jax.errors import InputError

SHARED = ('train', 'validation', 'test')
ALL = 'folds'  # the split that holds the videos of all folds
_FOLD = re.compile(r'(train|val|test)(?:_(\d+))?_fps', re.IGNORECASE)


def by_folders(
    root: Path, videos: Sequence[Files], report: Report, notes: list[str]
) -> dict[str, str]:
    """{video: split} as the folders' names say; all `train` where none does, with a note."""
    silent = [video.name for video in videos if not video.split]
    if silent and len(silent) < len(videos):
        report.add(
            str(root), f'{len(silent)} videos are in no split ({", ".join(silent[:3])})',
            'taken into train; move them into a folder train, val or test, or give --split',
        )  # fmt: skip
    elif silent:
        notes.append(
            'nothing says which videos are for testing, so all are in train; --split=0.8,0.1,0.1 '
            'or --split=FILE makes other splits'
        )
    return {video.name: video.split or 'train' for video in videos}


def by_list(path: Path, videos: Sequence[Files], report: Report) -> dict[str, str]:
    """{video: split} as a table of two columns, video and split, says.

    Videos that it does not name are left out. Raises InputError for a video that is not there, is
    named for two splits, or a split of another name.
    """
    rows = [row for row in read_rows(path, spaces_separate=True) if any(row)]
    if rows and [cell.casefold() for cell in rows[0][:2]] == ['video', 'split']:
        rows = rows[1:]
    if not rows or any(len(row) < 2 for row in rows):
        raise InputError(
            f'{path}: two columns were expected, a video and its split in each line, such as '
            "'clip_07,train'"
        )
    named = Named(videos)
    result: dict[str, str] = {}
    absent, otherwise = [], []
    for name, word, *_ in rows:
        if (split := SPLITS.get(word.casefold())) is None:
            raise InputError(f"{path}: {name}: split {word!r}; 'train', 'val' or 'test' expected")
        video, stem = named.get(name), Path(name).stem
        if video is None:
            absent.append(name)
            continue
        if video.parts[-1] not in (stem, name) and video.name not in (stem, name):
            otherwise.append(f'{stem} for {video.name}')
        if result.setdefault(video.name, split) != split:
            raise InputError(
                f'{path}: {video.name} is named for {result[video.name]} and for {split}. A video '
                'in two splits leaks test data into training: remove one of the lines'
            )
    if absent:
        raise InputError(
            f'{path}: names {len(absent)} videos that are not there: {", ".join(absent[:5])}; take '
            'these lines out, or add the videos'
        )
    if otherwise:
        report.add(str(path), f'{len(otherwise)} names differ in case or zeros ({otherwise[0]})',
                   'taken as the same videos')  # fmt: skip
    if left := [video.name for video in videos if video.name not in result]:
        report.add(str(path), f'does not name {len(left)} videos ({", ".join(left[:3])})',
                   'those are left out')  # fmt: skip
    return result


def shares(text: str) -> tuple[float, float, float]:
    """'0.8,0.1,0.1', of training, validation and test. Raises InputError for anything else."""
    try:
        train, validation, test = map(float, text.split(','))
    except ValueError:
        train = validation = test = -1.0
    if min(train, validation, test) < 0 or abs(train + validation + test - 1) > 1e-6:
        raise InputError(
            f'--split={text}: a file that exists, or the shares of training, validation and test '
            'that together are 1, such as 0.8,0.1,0.1, were expected'
        )
    return train, validation, test


def by_share(
    videos: Sequence[Files],
    parts: tuple[float, float, float],
    seed: int,
    earlier: Mapping[str, str],
) -> dict[str, str]:
    """{video: split}: the given shares of the videos, drawn by the seed.

    A video that was in a split `earlier` stays there; new ones fill the gaps.
    """
    names = [video.name for video in videos]
    result = {name: earlier[name] for name in names if earlier.get(name) in SHARED}
    wanted = _rounded(len(names), parts)
    counts = Counter(result.values())

    def drawn(name: str) -> str:
        return hashlib.sha256(f'{seed} {name}'.encode()).hexdigest()

    for name in sorted(set(names) - set(result), key=drawn):
        split = max(SHARED, key=lambda s: (wanted[s] - counts[s]) / (wanted[s] or 1))
        if wanted[split] <= counts[split]:
            split = 'train'
        result[name] = split
        counts[split] += 1
    return {name: result[name] for name in names}


def _rounded(count: int, parts: Sequence[float]) -> dict[str, int]:
    """Whole numbers that add up to `count`, nearest to the shares; none of a share is 0 if it can.

    The largest remainders are rounded up.
    """
    exact = [count * part for part in parts]
    whole = [int(e + 1e-9) for e in exact]
    order = sorted(range(len(parts)), key=lambda i: whole[i] - exact[i])
    for i in order[: count - sum(whole)]:
        whole[i] += 1
    for i, part in enumerate(parts):
        most = max(range(len(parts)), key=whole.__getitem__)
        if part and not whole[i] and whole[most] > 1:
            whole[i], whole[most] = 1, whole[most] - 1
    return dict(zip(SHARED, whole))


def folds_of(root: Path, name: str, videos: Sequence[Files], report: Report) -> dict[str, dict]:
    """{'train_1': {'split': 'all', 'videos': [...]}, ...} of the set's lists; {} without any.

    `train` and `test` are those of the first fold, or of the only list. Raises InputError for a
    fold that has a video in both of its lists.
    """
    folder = tree.find(root, 'fold_lists')
    if folder is None:
        return {}
    known = {video.key[-1:]: video.name for video in videos}
    result: dict[str, dict] = {}
    for path in tree.entries(folder, root, report):
        prefix = f'{name}_list_'.casefold()
        named = _FOLD.fullmatch(path.stem[len(prefix) :])
        if not path.stem.casefold().startswith(prefix) or not named:
            continue
        listed = [row[0] for row in read_rows(path, spaces_separate=True)]
        here = [known[key_of([v])] for v in listed if key_of([v]) in known]
        if absent := [v for v in listed if key_of([v]) not in known]:
            what = f'{len(absent)} of its {len(listed)} videos are not there'
            report.add(str(path), f'{what} ({", ".join(absent[:3])})', 'left out')
        split = SPLITS[named[1].lower()] + (f'_{int(named[2])}' if named[2] else '')
        result[split] = {'split': ALL, 'videos': here}
    for split, fold in list(result.items()):
        if split.endswith('_1'):
            result.setdefault(split[:-2], fold)
        other = result.get(split.replace('test', 'train', 1), fold)
        if other is not fold and (both := set(fold['videos']) & set(other['videos'])):
            raise InputError(
                f'{folder}: {split.replace("test", "train", 1)} and {split} of {name} both have '
                f'{", ".join(sorted(both)[:3])}. A video in both leaks test data into '
                'training: correct the lists'
            )
    return result


def note_twins(videos: Sequence[Files], splits: Mapping[str, str], report: Report) -> None:
    """Reports identical video files that are in two splits."""
    by_size: dict[int, list[Files]] = {}
    for video in videos:
        if video.name in splits and video.frames is not None and video.frames.is_file():
            by_size.setdefault(video.frames.stat().st_size, []).append(video)
    for same in by_size.values():
        if len({splits[video.name] for video in same}) < 2:
            continue
        first: dict[str, Files] = {}
        for video in same:
            assert video.frames is not None
            with open(video.frames, 'rb') as file:
                digest = hashlib.file_digest(file, 'sha256').hexdigest()
            twin = first.setdefault(digest, video)
            if splits[twin.name] != splits[video.name]:
                report.add(
                    str(video.frames), f'in split {splits[video.name]}, is identical to '
                    f'{twin.frames} in {splits[twin.name]}',
                    'used; test data leaks into training, so remove one of the two',
                )  # fmt: skip
