"""Interprets a folder of a user's own recordings: its videos, and notes about it."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

from av.error import FFmpegError

from data.copies import tree
from data.copies.sources import Report
from data.own import splits
from data.own.gaze_tables import Samples, Tables
from data.own.looking import View, guess_second, guess_units
from data.own.names import Files, tables_of, videos_of
from data.own.places import FIXATIONS, FRAMES, MAPS, find_places, sets_of
from data.own.video import BY_WIDTH, OwnVideo, Sigma
from stsa_jax.errors import InputError

EXPECTED = """\
    videos/<video>.mp4                 (or frames/<video>/0001.jpg ...)
  with any of
    maps/<video>/0001.png ...          density maps
    fixations/<video>/0001.png ...     fixation maps, or .mat files
    gaze.csv                           a table with video, viewer, time or frame, x, y
    gaze/<video>/<viewer>.csv          (or many)
  or the arrangement of any known dataset, such as
    train/<video>/{images,maps,fixation}, test/...
    video_frames/<set>/<video>, annotations/<set>/<video>/maps, fold_lists/..."""


@dataclasses.dataclass(frozen=True)
class How:
    """What a user may say of a folder; `None` and '' where the folder is to show it.

    split: a path, or shares such as '0.8,0.1,0.1'. chosen_set: of several in one folder.
    """

    split: str = ''
    seed: int = 0
    chosen_set: str = ''
    sigma: Sigma = BY_WIDTH
    fps: float = 30
    columns: tuple[tuple[str, str], ...] = ()
    units: str = ''
    second: float = 0
    screen: tuple[int, int] | None = None
    fitted: bool = True
    clock: str = ''
    first_frame: int | None = None


@dataclasses.dataclass
class Recordings:
    """The videos of a folder; `splits` by video, `subsets` as in data.videos, `notes` for users."""

    videos: list[OwnVideo]
    splits: dict[str, str]
    subsets: dict[str, dict]
    notes: list[str]

    def by_split(self) -> dict[str, list[OwnVideo]]:
        """{split: its videos}, in the order train, validation, test."""
        order = (*splits.SHARED, splits.ALL)
        found = {s: [v for v in self.videos if self.splits.get(v.name) == s] for s in order}
        return {split: videos for split, videos in found.items() if videos}


def find_recordings(
    root: Path,
    how: How,
    report: Report,
    *,
    earlier: Mapping[str, str] | None = None,
    framed: bool = True,
    maps_in: Path | None = None,
) -> Recordings:
    """Understands the folder `root`. Tables of gaze are read; no frame is.

    Args:
        maps_in: holds <video>/maps, which are then used as the density maps.
        earlier: {video: split} of an earlier preparation, which shares keep.
        framed: whether a video must have frames.

    Raises InputError if the folder has no videos, or is contradictory.
    """
    if not root.is_dir():
        raise InputError(
            f'{root}: no such folder; name the folder of your recordings, with\n{EXPECTED}'
        )
    own_list = Path(how.split).expanduser() if how.split else None
    listed = own_list is not None and own_list.is_file()
    places = find_places(root, report, without=(own_list,) if listed and own_list else ())
    places, chosen = _of_one_set(root, places, how.chosen_set)
    if maps_in is not None:
        places = [place for place in places if place.role == FRAMES]
    files = videos_of(root, places, report, framed=framed)
    if not files:
        what = 'video or folder of frames' if framed else 'video, frames or maps'
        raise InputError(
            f'{root}: no {what} was recognised. Expected:\n{EXPECTED}\nFound:\n{tree.outline(root)}'
        )
    tables = Tables(dict(how.columns))
    tables.read(tables_of(places), files, report)
    samples = tables.samples
    view, notes = _view(how, files, samples, tables)
    videos = [
        OwnVideo(
            video.name, str(root), str(video.frames or ''), str(video.maps or ''),
            str(video.fixations or ''), '', samples.get(video.name), view, how.sigma, how.fps,
        )
        for video in files
    ]  # fmt: skip
    if maps_in is not None:
        made = {video.name: maps_in / video.name / 'maps' for video in videos}
        videos = [
            dataclasses.replace(video, maps=str(made[video.name]))
            if made[video.name].is_dir()
            else video
            for video in videos
        ]
    _note_annotation(root, videos, samples, report, notes)
    subsets: dict[str, dict] = {}
    if listed and own_list is not None:
        found = splits.by_list(own_list, files, report)
    elif how.split:
        found = splits.by_share(files, splits.shares(how.split), how.seed, earlier or {})
    else:
        subsets = splits.folds_of(root, chosen, files, report) if chosen else {}
        found = splits.by_folders(root, files, report, notes) if not subsets else {}
        if subsets:
            notes.append(f'splits as in fold_lists: {", ".join(sorted(subsets))}')
            found = {video.name: splits.ALL for video in files}
    splits.note_twins(files, found, report)
    return Recordings(videos, found, subsets, notes)


def _of_one_set(root: Path, places: list, chosen: str) -> tuple[list, str]:
    """The places of one of several sets in the arrangement of STAViS, and the set's name."""
    there = sets_of(root)
    if chosen and chosen.casefold() not in [name.casefold() for name in there]:
        raise InputError(
            f'--set={chosen}: is not in {root}/video_frames; there '
            f'{"are " + ", ".join(there) if there else "is no such folder with sets in it"}'
        )
    if len(there) > 1 and not chosen:
        raise InputError(
            f'{root}: has {len(there)} sets, {", ".join(there)}; prepare each as a dataset: '
            f'--set={there[0]}'
        )
    if not there:
        return places, ''
    name = next((n for n in there if n.casefold() == chosen.casefold()), there[0])
    if len(there) > 1:
        same = [p for p in places if p.parts[:1] and p.parts[0].casefold() == name.casefold()]
        places = [p._replace(parts=p.parts[1:] or p.parts) for p in same]
    return places, name


def _view(
    how: How, files: Sequence[Files], samples: Mapping[str, Samples], tables: Tables
) -> tuple[View, list[str]]:
    """How gaze goes with frames, as the user says or the samples show, with lines on that."""
    notes = [*tables.notes, *tables.left_out()]
    if not samples:
        return View(), notes
    units, second, first = how.units, how.second, how.first_frame
    if not units:
        units = guess_units(list(samples.values()))
        where = 'screen' if how.screen else 'video'
        notes.append(
            f'gaze: x and y are interpreted as {units} of the {where} (--gaze_units, --gaze_screen)'
        )
    in_frames = [each for each in samples.values() if each.in_frames]
    if in_frames and first is None:
        lowest = min((each.when.min(initial=1) for each in in_frames), default=1)
        if lowest == 0:
            first = 0
            notes.append('gaze: frames are counted from 0 (--gaze_first_frame)')
    if len(in_frames) < len(samples) and not second:
        second = tables.unit or _second(how, files, samples)
        unit = {1.0: 'seconds', 1e-3: 'milliseconds', 1e-6: 'microseconds'}[second]
        notes.append(f'gaze: times are interpreted as {unit} (--gaze_time)')
    return View(units, how.screen, how.fitted, second or 1.0, how.clock, first), notes


def _second(how: How, files: Sequence[Files], samples: Mapping[str, Samples]) -> float:
    """The unit of time by which a record is as long as its video, of the first that can be read."""
    for video in files:
        each = samples.get(video.name)
        if each is None or each.in_frames or video.frames is None or not len(each.when):
            continue
        root = str(video.frames.parent)
        try:
            times = OwnVideo(video.name, root, str(video.frames), fps=how.fps).timing()[1]
        except (FFmpegError, OSError):
            continue
        if len(times) > 1:
            return guess_second(each, float(times[-1] - times[0]))
    return 1.0


def _note_annotation(
    root: Path,
    videos: Sequence[OwnVideo],
    samples: Mapping[str, Samples],
    report: Report,
    notes: list[str],
) -> None:
    """Notes the existing and generated maps; reports videos without gaze, or with one viewer's."""

    def few(some: Sequence[OwnVideo]) -> str:
        return ', '.join(video.name for video in some[:3]) + (' ...' if len(some) > 3 else '')

    def count(some: Sequence[OwnVideo]) -> str:
        return (
            'all videos'
            if len(some) == len(videos)
            else f'{len(some)} of {len(videos)} videos ({few(some)})'
        )

    made = [v for v in videos if v.samples is not None and not v.fixations]
    blurred = [v for v in videos if not v.maps and (v.fixations or v.samples is not None)]
    alone = [v for v in videos if v.maps and not v.fixations and v.samples is None]
    bare = [v for v in videos if not v.maps and not v.fixations and v.samples is None]
    spare = [v for v in videos if v.samples is not None and v.fixations]
    if made:
        notes.append(f'fixation maps are made from gaze: {count(made)}')
    if blurred:
        sigma = blurred[0].sigma
        said = (
            f'{sigma.pixels:g} pixels of the video'
            if sigma.pixels
            else (
                f'{sigma.degrees:g} degree{"s" * (sigma.degrees != 1)}'
                if sigma.degrees
                else "2 % of the video's width (--sigma)"
            )
        )
        notes.append(f'density maps are made from fixations, sigma {said}: {count(blurred)}')
    if alone:
        notes.append(
            f'density maps without fixations, so NSS and AUC cannot be scored: {count(alone)}'
        )
    if spare:
        report.add(str(root), f'{count(spare)} have gaze and fixation maps', 'the maps are used')
    if bare:
        what = f'{count(bare)} without gaze, {FIXATIONS} or density {MAPS}'
        report.add(str(root), what, 'prepared as not annotated')
    one = [v for v in made if len(v.samples.viewers if v.samples else ()) == 1]
    if one:
        notes.append(
            f'the gaze of one viewer only: {count(one)}; if there were more, which column has them '
            '(--gaze_columns=viewer=...)?'
        )
