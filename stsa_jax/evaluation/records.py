"""Per-frame scores, and storing them on disk so that an interrupted evaluation can resume."""

import dataclasses
import hashlib
import json
import re
from pathlib import Path

import numpy as np

from stsa_jax.evaluation.protocol import METRICS
from stsa_jax.files import write_atomic


@dataclasses.dataclass
class VideoScores:
    """Scores of the selected frames of one video.

    positions (n,): indices in the video, from 0. scores (n, 6): in the order of METRICS, NaN where
    undefined. problems: for each frame, () if none. quantisation (n, 6): scores of the maps in 8
    bits minus those of the float maps; None if not computed.
    """

    video: str
    positions: np.ndarray
    scores: np.ndarray
    problems: list[tuple[str, ...]]
    quantisation: np.ndarray | None = None

    def to_json(self) -> dict:
        """As JSON values; NaN becomes null."""
        troubled = {str(i): list(p) for i, p in enumerate(self.problems) if p}
        return {
            'video': self.video,
            'positions': self.positions.tolist(),
            'scores': _listed(self.scores),
            'problems': troubled,
            'quantisation': None if self.quantisation is None else _listed(self.quantisation),
        }

    @classmethod
    def from_json(cls, record: dict) -> 'VideoScores':
        """The inverse of `to_json`."""
        scores, effect = _array(record['scores']), record['quantisation']
        problems = [tuple(record['problems'].get(str(i), ())) for i in range(len(scores))]
        positions = np.array(record['positions'], int)
        effect = None if effect is None else _array(effect)
        return cls(record['video'], positions, scores, problems, effect)


@dataclasses.dataclass
class Row:
    """One row of the table on one dataset: a name and the scores of every video."""

    name: str
    dataset: str
    split: str
    videos: list[VideoScores]

    @property
    def frames(self) -> int:
        """The number of selected frames."""
        return sum(len(v.positions) for v in self.videos)

    def problems(self) -> dict[str, int]:
        """The number of frames with each problem."""
        counts: dict[str, int] = {}
        for video in self.videos:
            for problem in (p for frame in video.problems for p in frame):
                counts[problem] = counts.get(problem, 0) + 1
        return counts


def _listed(scores: np.ndarray) -> list[list[float | None]]:
    return [[None if np.isnan(x) else float(x) for x in row] for row in scores]


def _array(listed) -> np.ndarray:
    values = [[np.nan if x is None else x for x in row] for row in listed]
    return np.array(values, np.float64).reshape(-1, len(METRICS))


class Store:
    """Finished videos, one file each, below `folder`; reused only if computed in the same way."""

    def __init__(self, folder: Path, fingerprint: str):
        """`fingerprint`: a string of everything that the scores depend on."""
        self.folder = Path(folder)
        self.fingerprint = hashlib.sha256(fingerprint.encode()).hexdigest()

    def _path(self, video: str) -> Path:
        plain = re.sub(r'[^A-Za-z0-9._-]', '_', video)[:80]
        return self.folder / f'{plain}-{hashlib.sha256(video.encode()).hexdigest()[:8]}.json'

    def load(self, video: str) -> VideoScores | None:
        """The video's scores if they exist and were computed in the same way."""
        try:
            record = json.loads(self._path(video).read_text())
            if record['fingerprint'] != self.fingerprint or record['video'] != video:
                return None
            return VideoScores.from_json(record)
        except FileNotFoundError:
            return None
        except (ValueError, KeyError, TypeError, AttributeError):
            return None  # damaged: scored again

    def save(self, scores: VideoScores) -> None:
        """Writes the video's scores atomically."""
        record = {'fingerprint': self.fingerprint, **scores.to_json()}
        write_atomic(self._path(scores.video), json.dumps(record))
