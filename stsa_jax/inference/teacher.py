"""A model's maps of many videos, as density maps to train another model: `data.prepare videos`."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from stsa_jax.errors import InputError
from stsa_jax.files import staged_folder, write_atomic
from stsa_jax.inference import films, sharing
from stsa_jax.inference.identity import identity_of
from stsa_jax.inference.windows import Predictor
from stsa_jax.media import video

MAPS, RECORD = 'maps', 'teacher.json'


class Lesson(NamedTuple):
    """A video to predict: its name, its file or folder, a string that changes with it."""

    name: str
    path: Path
    state: str


def write_maps(
    model: Predictor,
    lessons: Iterable[Lesson],
    folder: Path,
    *,
    batch_size: int = 1,
    fps: float = 30,
) -> list[str]:
    """Writes `folder`/<name>/maps/<frame>.png for each video, like `predict.py`.

    Existing maps of the same model and video are kept. Each video is written atomically, so that an
    interrupted run can resume. Returns lines about unreadable videos, which have no maps.
    """
    teacher, problems = identity_of(model), []
    for name, path, state in lessons:
        made_by = {'teacher': teacher, 'video': state}
        if _record(folder / name) == made_by:
            continue
        try:
            film = video.open_video(path, folder_fps=fps, allow_truncated=True)
            with staged_folder(folder / name, (MAPS, RECORD), overwrite=True) as staging:
                (staging / MAPS).mkdir()
                total = film.info.num_frames
                predictor = sharing.for_windows(model, total)
                frames = films.predict_film(predictor, film.frames, batch_size)
                for frame in tqdm(frames, f'{name}: maps', total, unit='frame', disable=None):
                    films.write_map(staging / MAPS, frame)
                write_atomic(staging / RECORD, json.dumps(made_by))
        except InputError as error:
            problems.append(str(error))
    return problems


def _record(folder: Path) -> dict | None:
    try:
        return json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return None
