"""Recognises the layout of a copy, and reports what was expected and found."""

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from data.copies import tree
from data.copies.sources import Report
from stsa_jax.errors import InputError


@dataclasses.dataclass(frozen=True)
class Layout:
    """One layout: its name, and a function (root, report) -> its videos by key."""

    name: str
    find: Callable[[Path, Report], dict]


def choose_layout(
    title: str,
    manual_dir: Path | None,
    layouts: Sequence[Layout],
    expected: str,
    report: Report,
    *folder_names: str,
) -> tuple[Path, str, dict]:
    """The folder with the dataset, its layout's name, and the result of the layout's `find`.

    The dataset is searched in `manual_dir` and in the folders of `folder_names` inside it. If
    several layouts match, the one with most videos is used, the first of equals.

    Raises InputError, with the expected and the actual tree, if none matches.
    """
    if manual_dir is None or not manual_dir.is_dir():
        raise InputError(
            f'{manual_dir}: {title} was expected here, but there is no such folder; give the '
            f'folder that holds:\n{expected}{_around(manual_dir)}'
        )
    roots = [manual_dir, *(tree.find(manual_dir, name) for name in folder_names)]
    best, noticed = None, []
    for root in filter(None, roots):
        for layout in layouts:
            own = Report()
            found = layout.find(root, own)
            noticed += [f'\n    {problem}' for problem in own.problems]
            if found and (best is None or len(found) > len(best[2])):
                best = (root, layout.name, found, own)
    if best is None:
        raise InputError(
            f'{manual_dir}: {title} was expected here, but nothing of it was recognised. '
            f'Expected:\n{expected}\nFound:\n{tree.outline(manual_dir)}'
            + (f'\nNoticed:{"".join(noticed[:5])}' if noticed else '')
        )
    for folder in dict.fromkeys((manual_dir, best[0])):
        tree.note_strays(folder, manual_dir, report)
    report.problems += best[3].problems
    return best[:3]


def _around(missing: Path | None) -> str:
    """The outline of the closest existing folder to a missing one."""
    if missing is None:
        return ''
    there = next((parent for parent in missing.parents if parent.is_dir()), None)
    return f'\nFound, in {there}:\n{tree.outline(there, depth=1)}' if there else ''


def check_counts(
    report: Report, root: Path, what: str, here: Iterable[int], expected: Iterable[int]
) -> None:
    """Reports the expected numbers that are missing."""
    missing = set(expected) - set(here)
    if missing:
        report.add(
            root,
            f'{len(missing)} of {len(set(expected))} {what} are not there: {tree.ranges(missing)}',
        )
