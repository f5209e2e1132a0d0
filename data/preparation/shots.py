"""Hollywood-2 and UCF-Sports, which share a layout: one folder per shot, in two splits."""

import re
from pathlib import Path

from data.copies import tree
from data.copies.folders import FolderVideo
from data.copies.layouts import Layout, choose_layout
from data.copies.sources import Report, VideoSource
from data.preparation.building import SaliencyBuilder

SPLITS = {'train': 'training', 'test': 'testing'}


# mypy reads nothing of TFDS, and so does not know `skip_registration`.
class ShotsBuilder(SaliencyBuilder, skip_registration=True):  # type: ignore[call-arg]
    """Builder of a dataset in {training,testing}/<shot>/{images,maps,fixation}."""

    TITLE = ''
    FOLDER_NAMES: tuple[str, ...] = ()  # names of the dataset's folder inside a parent folder
    EXPECTED = ''
    SHOT_NAME = ''  # regular expression of a shot's folder
    # The number of source videos of each split, and of shots if published.
    VIDEOS: dict[str, int] = {}  # noqa: RUF012
    SHOTS: dict[str, int] = {}  # noqa: RUF012

    def video_of(self, shot: str) -> str:
        """The source video that a shot belongs to."""
        return shot

    def _shots(self, root: Path, report: Report) -> dict[tuple[str, str], Path]:
        """{(split, folder's name): folder} of the shots with frames."""
        result = {}
        for split, name in SPLITS.items():
            top = tree.find(root, name, report=report)
            tree.note_strays(top, root, report)
            for folder in tree.folders(top, root, report):
                if not re.fullmatch(self.SHOT_NAME, folder.name, re.IGNORECASE):
                    report.add(folder, f'is not named as a shot of {self.TITLE}', 'skipped')
                elif tree.find(folder, 'images', report=report) is None:
                    report.add(folder, 'has no folder images', 'skipped')
                else:
                    result[split, folder.name] = folder
        return result

    def find_videos(self, manual_dir: Path | None, report: Report) -> dict[str, list[VideoSource]]:
        """All shots, none of which is too short."""
        layouts = [Layout('shots ({training,testing}/<shot>/images)', self._shots)]
        root, self.layout, found = choose_layout(
            self.TITLE, manual_dir, layouts, self.EXPECTED, report, *self.FOLDER_NAMES
        )
        result: dict[str, list[VideoSource]] = {split: [] for split in SPLITS}
        for (split, name), folder in found.items():
            maps, fixations = (self._maps(folder, kind, report) for kind in ('maps', 'fixation'))
            frames = tree.find(folder, 'images')
            tree.note_strays(folder, root, report)
            both = (str(maps), str(fixations)) if maps and fixations else ()
            result[split].append(FolderVideo(name, str(root), str(frames), *both))
        for split, videos in result.items():
            counts = {
                'source videos': (len({self.video_of(v.name) for v in videos}), self.VIDEOS),
                'shots': (len(videos), self.SHOTS),
            }
            for what, (here, known) in counts.items():
                if split in known and here != known[split]:
                    report.add(
                        root / SPLITS[split], f'{here} {what} where {known[split]} are known'
                    )
        return result

    def _maps(self, folder: Path, kind: str, report: Report) -> Path | None:
        path = tree.find(folder, kind, report=report) or tree.find(
            folder, f'{kind}s', report=report
        )
        if path is None:
            report.add(folder, f'has no folder {kind}', 'prepared as not annotated')
        return path
