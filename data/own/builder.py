"""A folder of a user's own recordings as a dataset, which may grow.

A second preparation reuses the records of every video whose files are unchanged, and prepares only
the others. The old dataset is kept until the new one is complete.
"""

import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import tensorflow_datasets as tfds

from data.copies.sources import Report, VideoSource
from data.own.recordings import How, Recordings, find_recordings
from data.preparation import shards
from data.preparation.building import SaliencyBuilder
from data.preparation.features import FrameStorage
from data.preparation.registry import check_name, config_of, default_data_dir
from stsa_jax.errors import InputError


# mypy reads nothing of TFDS, and so does not know `skip_registration`.
class OwnRecordings(SaliencyBuilder, skip_registration=True):  # type: ignore[call-arg]
    """TFDS builder of a dataset with a name chosen by the user."""

    VERSION = '1.0.0'
    SUMMARY = "A user's own recordings."
    MANUAL_DOWNLOAD_INSTRUCTIONS = 'See docs/your_data.md.'

    def __init__(
        self,
        name: str,
        how: How,
        *args,
        earlier: 'Earlier | None' = None,
        maps_in: Path | None = None,
        **kwargs,
    ):
        """As `SaliencyBuilder`; `how` the folder is to be understood, `earlier` what was stored.

        `maps_in`: holds a teacher's maps, see `recordings.find_recordings`.
        """
        self.name, self.maps_in = name, maps_in
        self.how, self.earlier = how, earlier or Earlier()
        self.recordings: Recordings | None = None
        self._problems_found: list = []
        super().__init__(*args, **kwargs)

    def find_videos(
        self, manual_dir: Path | None, report: Report
    ) -> Mapping[str, Sequence[VideoSource]]:
        """The videos by split; see `recordings.find_recordings`."""
        if manual_dir is None:
            raise InputError('--source: the folder of your recordings was expected')
        if self.recordings is None:  # gaze tables are read once
            own, same = Report(), self.earlier.settings == self._settings
            kept = self.earlier.splits if same else {}
            self.recordings = find_recordings(
                manual_dir, self.how, own, earlier=kept, maps_in=self.maps_in
            )
            self._problems_found = own.problems
        report.problems += self._problems_found
        self.info.metadata['subsets'] = self.recordings.subsets
        self.info.metadata['settings'] = self._settings
        return self.recordings.by_split()

    @property
    def _settings(self) -> str:
        """The settings that the split by shares depends on."""
        return f'{self.how.split} {self.how.seed}'

    def plan(self, found: Mapping[str, Sequence[VideoSource]]) -> dict[str, list[shards.ShardTask]]:
        """Like `SaliencyBuilder`'s, with the videos divided into files as before."""
        cuts = self.earlier.groups
        return {
            split: _plan(videos, self._parts, split, self.storage, cuts.get(split, []))
            for split, videos in found.items()
        }

    def note_shards(self, tasks: Sequence[shards.ShardTask], results: Sequence[dict]) -> None:
        """For the next preparation."""
        noted: dict[str, list] = {}
        for task, result in zip(tasks, results):
            names = [source.name for source in task.sources]
            entry = {'file': task.path.name, 'videos': names, 'problems': result['problems']}
            noted.setdefault(task.split, []).append(entry)
        self.info.metadata['shards'] = noted


class Earlier:
    """The result of an earlier preparation, for reuse.

    Attributes:
        splits: {video: split}. settings: what shares depended on.
        groups: {split: [names of the videos of each file of records]}.
    """

    def __init__(self, folder: Path | None = None):
        """`folder` of the prepared dataset; without one, or of a damaged one, it is empty."""
        self._clear()
        if folder is None:
            return
        try:
            builder = tfds.builder_from_directory(folder)
            self._read(builder, dict(builder.info.metadata or {}))
        except (OSError, ValueError, KeyError, AssertionError, TypeError):
            self._clear()  # everything is prepared again

    def _clear(self) -> None:
        self.splits: dict[str, str] = {}
        self.groups: dict[str, list[list[str]]] = {}
        self.settings = ''
        self.subsets: dict = {}
        self._files: dict[str, list[str]] = {}
        self._stored: dict[str, tuple[Path, dict]] = {}

    def _read(self, builder, metadata: dict) -> None:
        self.settings, self.subsets = metadata['settings'], metadata['subsets']
        for split, files in metadata['shards'].items():
            self.groups[split] = [list(entry['videos']) for entry in files]
            self.splits |= {name: split for entry in files for name in entry['videos']}
            self._files |= {entry['file']: entry['videos'] for entry in files}
            if split not in builder.info.splits:
                continue
            info = builder.info.splits[split]
            described = {video['name']: video for video in metadata['videos'][split]}
            # Files without any record are not stored, so they are not among the shards.
            full = [e for e in files if any(name in described for name in e['videos'])]
            for entry, path, count in zip(full, info.filepaths, info.shard_lengths, strict=True):
                result = {
                    'videos': [described[n] for n in entry['videos'] if n in described],
                    'problems': entry['problems'],
                    'bytes': Path(path).stat().st_size,
                    'examples': count,
                }
                self._stored[entry['file']] = Path(path), result

    def news(self, builder: OwnRecordings, found: Mapping[str, Sequence[VideoSource]]) -> str:
        """The changes that a preparation would make, in words; '' for none."""
        splits = {video.name: split for split, videos in found.items() for video in videos}
        tasks = {task.path.name: task for own in builder.plan(found).values() for task in own}
        done = {video for entry, names in self._files.items() if entry in tasks for video in names}
        told = {
            'new': set(splits) - set(self.splits),
            'changed': {v for v in splits if v in self.splits} - done,
            'no longer there': set(self.splits) - set(splits),
        }
        words = [
            f'{len(names)} {what} ({", ".join(sorted(names)[:3])}{" ..." * (len(names) > 3)})'
            for what, names in told.items()
            if names
        ]
        if not words and builder.recordings and builder.recordings.subsets != self.subsets:
            words = ['other folds']
        return ', '.join(words)

    def hand_over(self, task: shards.ShardTask) -> None:
        """Puts the stored records of a task where a finished task writes them."""
        if task.path.name not in self._stored or task.path.exists():
            return
        path, result = self._stored[task.path.name]
        task.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, task.path)
        except OSError:
            shutil.copyfile(path, task.path)
        task.path.with_suffix('.json').write_text(json.dumps(result))


def _plan(
    videos: Sequence[VideoSource],
    folder: Path,
    split: str,
    storage: FrameStorage,
    groups: Sequence[Sequence[str]],
) -> list[shards.ShardTask]:
    """Files with the same videos as the earlier ones first, then files for the new videos."""
    by_name = {video.name: video for video in videos}
    kept = [
        tuple(by_name.pop(name) for name in group)
        for group in groups
        if all(name in by_name for name in group)
    ]
    new = shards.groups_of(list(by_name.values()), max(1, shards.MAX_SHARDS - len(kept)))
    return [
        shards.ShardTask(group, str(folder), split, 0, storage.size, storage.encoding)
        for group in (*kept, *new)
    ]


def prepare_recordings(
    name: str,
    how: How,
    source: Path,
    data_dir: str | os.PathLike | None = None,
    *,
    size: tuple[int, int] | Literal['default'] | None = 'default',
    encoding: str = 'jpeg',
    tell: Callable[[OwnRecordings, Mapping, list, str], None] = lambda *_: None,
    **options,
) -> OwnRecordings:
    """Prepares the dataset `name` from the folder `source`, or brings it up to date.

    `tell(builder, videos by split, problems, what is new)` is called before the work; the rest is
    as of `registry.load_builder` and OwnRecordings.

    Raises InputError for a folder that cannot be used.
    """
    check_name(name)
    root = Path(data_dir).expanduser() if data_dir else default_data_dir()
    config = config_of(OwnRecordings, size, encoding)

    def built(folder: Path, earlier: Earlier | None = None) -> OwnRecordings:
        settings = {'data_dir': str(folder), 'config': config, **options}
        return OwnRecordings(name, how, earlier=earlier, **settings)

    builder = built(root)
    folder, growing = Path(builder.data_dir), root / name / '.growing'
    replaced, earlier = folder.with_name(f'.replaced-{folder.name}'), None
    if replaced.exists() and not folder.exists():  # interrupted between the two, see below
        replaced.rename(folder)
        builder = built(root)
    if builder.is_prepared():
        earlier = Earlier(folder)
        builder = built(growing, earlier)
    report = Report()
    found = {split: videos for split, videos in builder.find_videos(source, report).items()}
    news = earlier.news(builder, found) if earlier is not None else ''
    tell(builder, found, report.problems, news)
    if earlier is not None and not news:
        builder = built(root)
        builder.check_prepared()
        return builder
    if earlier is not None:
        for task in (task for own in builder.plan(found).values() for task in own):
            earlier.hand_over(task)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=source))
    if earlier is not None:
        shutil.rmtree(replaced, ignore_errors=True)
        folder.rename(replaced)
        Path(builder.data_dir).rename(folder)
        shutil.rmtree(replaced)
        shutil.rmtree(growing)
    problems, builder = builder.problems, built(root)
    builder.problems = problems
    return builder
