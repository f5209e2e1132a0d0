"""The TFDS builder that all datasets share: a subclass only finds the videos.

`download_and_prepare` (and so the `tfds` command line and `tfds.load`) prepares on all cores and
resumes an earlier run; with a Beam runner in its DownloadConfig it uses Apache Beam instead.
TensorFlow is needed neither for this nor for reading.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging

from data.copies.sources import Problem, Report, VideoSource
from data.preparation import shards
from data.preparation.features import (
    ORIGINAL_JPEG,
    ORIGINAL_PNG,
    TRAINING_JPEG,
    TRAINING_PNG,
    FrameStorage,
    frame_features,
)
from data.preparation.index import index_split
from stsa_jax.errors import InputError
from stsa_jax.files import write_atomic


class _OwnInfo(tfds.core.DatasetInfo):
    def initialize_from_bucket(self) -> None:
        """Does nothing: TFDS's bucket has none of these datasets.

        The original looks there, and leaves an empty temporary folder behind for every builder.
        """


# mypy reads nothing of TFDS, and so does not know `skip_registration`.
class SaliencyBuilder(tfds.core.GeneratorBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Common part of the builders. Subclasses define `find_videos` and their texts."""

    BUILDER_CONFIGS = [TRAINING_JPEG, TRAINING_PNG, ORIGINAL_JPEG, ORIGINAL_PNG]  # noqa: RUF012
    SUMMARY = ''
    HOMEPAGE = ''
    CITATION = ''
    # {split: (videos, frames)} of a complete copy, if published.
    KNOWN_FRAMES: dict[str, tuple[int, int]] = {}  # noqa: RUF012
    # {splits: (videos, {length: number of videos with fewer frames})}, likewise.
    KNOWN_SHORT: dict[tuple[str, ...], tuple[int, dict[int, int]]] = {}  # noqa: RUF012

    def __init__(self, *args, num_workers: int | None = None, strict: bool = False, **kwargs):
        """Like every TFDS builder; `num_workers` processes (all cores by default).

        With `strict`, any problem with the copy is an InputError; otherwise it is reported in the
        metadata and only what cannot be used is skipped.
        """
        kwargs.setdefault('file_format', 'array_record')
        self.num_workers = num_workers or shards.available_cores()
        self.strict = strict
        self.problems: list[Problem] = []
        self._by_beam = False
        super().__init__(*args, **kwargs)

    def find_videos(
        self, manual_dir: Path | None, report: Report
    ) -> Mapping[str, Sequence[VideoSource]]:
        """{split: its videos in order}. Raises InputError if the dataset is missing."""
        raise NotImplementedError

    def _info(self) -> tfds.core.DatasetInfo:
        return _OwnInfo(
            builder=self,
            description=self.SUMMARY,
            features=frame_features(self.storage.encoding),
            homepage=self.HOMEPAGE or None,
            citation=self.CITATION or None,
            # In order, one example per frame: a clip is a contiguous range of examples.
            disable_shuffling=True,
            metadata=tfds.core.MetadataDict(),
        )

    def _log_download_bytes(self) -> None:
        """Does nothing: there is no download."""

    @property
    def storage(self) -> FrameStorage:
        """How this builder stores frames."""
        return self.builder_config

    def _found(self, dl_manager) -> dict[str, Sequence[VideoSource]]:
        report = Report()
        manual_dir = Path(dl_manager._manual_dir) if self.MANUAL_DOWNLOAD_INSTRUCTIONS else None
        found = {k: v for k, v in self.find_videos(manual_dir, report).items() if v}
        if not found:
            raise InputError(f'{manual_dir}: has no video of {self.name}')
        self.problems = list(report.problems)
        self._check_strict()
        return found

    def _download_and_prepare(self, dl_manager, download_config) -> None:
        found = self._found(dl_manager)
        self._by_beam = bool(download_config.beam_runner or download_config.beam_options)
        if self._by_beam or download_config.max_examples_per_split is not None:
            self._prepare_by_tfds(dl_manager, download_config)
        else:
            self._prepare_in_parallel(found)
        self.info.metadata['problems'] = [str(problem) for problem in self.problems]
        for problem in self.problems[:20]:
            logging.warning('%s', problem)

    def download_and_prepare(self, **options) -> None:
        """Like every TFDS builder's; if interrupted, keeps finished work for the next run."""
        super().download_and_prepare(**options)
        shutil.rmtree(self._parts, ignore_errors=True)
        for empty in ('downloads/extracted', 'downloads'):  # TFDS's, which ours do not need
            with suppress(OSError):  # another dataset has files there
                Path(self.data_dir_root, empty).rmdir()
        self.check_prepared()

    def check_prepared(self) -> None:
        """With `strict`, raises InputError if it was prepared from a copy with problems."""
        problems = list(dict(self.info.metadata or {}).get('problems', []))
        if self.strict and problems:
            raise InputError(
                f'{self.data_dir}: {self.name} was prepared without --strict, from a copy with '
                f'{len(problems)} problems:{_shown(problems)}\nfix the copy, remove '
                'this folder and prepare it again'
            )

    @property
    def _parts(self) -> Path:
        return Path(self.data_dir).parent / f'.parts-{self.version}'

    def plan(self, found: Mapping[str, Sequence[VideoSource]]) -> dict[str, list[shards.ShardTask]]:
        """{split: the shards to write, in order}."""
        return {
            split: shards.plan(videos, self._parts, split, self.storage)
            for split, videos in found.items()
        }

    def note_shards(self, tasks: Sequence[shards.ShardTask], results: Sequence[dict]) -> None:
        """A hook for builders that record what was written."""

    def _prepare_in_parallel(self, found: dict[str, Sequence[VideoSource]]) -> None:
        destination = Path(self.data_dir)  # temporary, renamed by TFDS when all is done
        tasks = self.plan(found)
        everything = [task for split in found for task in tasks[split]]
        results = shards.write_shards(everything, self.num_workers, f'preparing {self.name}')
        self.note_shards(everything, results)
        self.problems += shards.problems_of(results)
        self._check_frames(everything, results)
        self._check_strict()
        written = dict(zip([task.path for task in everything], results))

        split_infos, videos = [], {}
        for split in found:
            full = [task for task in tasks[split] if written[task.path]['examples']]
            if not full:
                continue
            info = tfds.core.SplitInfo(
                name=split,
                shard_lengths=[written[task.path]['examples'] for task in full],
                num_bytes=sum(written[task.path]['bytes'] for task in full),
                filename_template=self._get_filename_template(split_name=split),
            )
            for task, path in zip(full, info.filepaths):
                _link_or_move(task.path, destination / path.name)
            split_infos.append(info)
            videos[split] = [v for task in full for v in written[task.path]['videos']]
        if not split_infos:
            raise InputError(
                f'{self.name}: none of its {sum(map(len, found.values()))} videos can be used: '
                + '; '.join(str(problem) for problem in self.problems[:5])
            )
        self.info.set_splits(tfds.core.splits.SplitDict(split_infos))
        self.info.metadata['videos'] = videos

    def _check_frames(self, tasks, results) -> None:
        for split, (videos, frames) in self.KNOWN_FRAMES.items():
            here = [r for task, r in zip(tasks, results) if task.split == split]
            found = sum(r['examples'] for r in here)
            if sum(len(r['videos']) for r in here) == videos and found != frames:
                what = f'{found} frames where {frames} are known'
                self.problems.append(Problem(f'split {split}', what))
        for splits, (videos, short) in self.KNOWN_SHORT.items():
            here = [r for task, r in zip(tasks, results) if task.split in splits]
            lengths = [video['num_frames'] for r in here for video in r['videos']]
            for limit, known in short.items() if len(lengths) == videos else ():
                if (found := sum(length < limit for length in lengths)) != known:
                    what = f'{found} videos below {limit} frames where {known} are known'
                    self.problems.append(Problem(f'split {" and ".join(splits)}', what))

    def _prepare_by_tfds(self, dl_manager, download_config) -> None:
        """TFDS's own method, with Beam or for a few examples; the index of videos is read back."""
        shutil.rmtree(self._noted, ignore_errors=True)
        super()._download_and_prepare(dl_manager, download_config)
        for path in sorted(self._noted.glob('*.json')):
            self.problems += [Problem(*problem) for problem in json.loads(path.read_text())]
        self._check_strict()
        self.info.metadata['videos'] = {
            split: index_split(self, split) for split in self.info.splits
        }

    @property
    def _noted(self) -> Path:
        """Where processes write the problems inside the videos that they read."""
        return self._parts / 'problems'

    def _split_generators(self, dl_manager):
        return {
            split: self._generate_examples(split, videos)
            for split, videos in self._found(dl_manager).items()
        }

    def _generate_examples(self, split: str, videos: Sequence[VideoSource]):
        numbered = list(enumerate(videos))
        settings = (self.storage, str(self._noted / split))
        if not self._by_beam:
            return (item for video in numbered for item in _examples(video, *settings))
        beam = tfds.core.lazy_imports.apache_beam
        return beam.Create(numbered) | beam.FlatMap(_examples, *settings)

    def _check_strict(self) -> None:
        if self.strict and self.problems:
            raise InputError(
                f'{self.name}: this copy has {len(self.problems)} problems, and --strict '
                f'allows none:{_shown(self.problems)}'
            )


def _shown(problems: Sequence) -> str:
    """The first problems, one line each."""
    lines = [str(problem) for problem in problems[:20]]
    lines += [f'and {len(problems) - 20} more'] if len(problems) > 20 else []
    return ''.join(f'\n  {line}' for line in lines)


def _link_or_move(path: Path, destination: Path) -> None:
    try:
        os.link(path, destination)
    except OSError:  # a file system without hard links
        os.replace(path, destination)


def _examples(numbered: tuple[int, VideoSource], storage: FrameStorage, noted: str):
    """Yields (key, example); keys are integers in the order of the examples, as TFDS requires.

    Writes the video's problems, if any, to a file whose name begins with `noted`.
    """
    position, source = numbered
    report = Report()
    try:
        for offset, frame in enumerate(source.frames(report)):
            key = position * 10**7 + offset
            yield key, shards.example_of(frame, source, storage.size, storage.encoding)
    finally:
        if report.problems:
            problems = [dataclasses.astuple(problem) for problem in report.problems]
            write_atomic(f'{noted}-{position:05d}.json', json.dumps(problems))
