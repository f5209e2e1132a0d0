"""The maps of a video so far, in files from which an interrupted prediction goes on.

A finished prediction has them as PNG files, or in one file, maps.npz:

    maps          float32 (n, H, W), the model's output, at the model's size, in [0, 1]
    names         of the n frames, as those of PNG files
    numbers       of the frames, int64
    times         seconds, float64, as in the overlay
    interpolated  bool: the map lies between two predicted ones in time
"""

import os
import shutil
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from stsa_jax.files import atomic_path
from stsa_jax.inference import films
from stsa_jax.inference.windows import Predictor
from stsa_jax.media.folder import natural_key


class KeptPictures:
    """8-bit maps as PNG files in a folder, in the order of the frames."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        self._folder = folder
        written = sorted(folder.glob('[!.]*.png'), key=lambda path: natural_key(path.name))
        # After a power failure the latest files may be empty.
        whole = [path.stat().st_size > 0 for path in written]
        self.count = whole.index(False) if False in whole else len(whole)
        for path in written[self.count :]:
            path.unlink()

    def write(self, frame: films.Predicted) -> None:
        """Adds a map."""
        films.write_map(self._folder, frame)

    def read(self, model: Predictor, mapped: films.Mapped) -> films.Predicted:
        """The frame with its map, which was written earlier."""
        frame = mapped.frame
        with Image.open(self._folder / f'{frame.name}.png') as image:
            levels = np.asarray(image)
        return films.Predicted(frame.name, frame.time, frame.pixels, None, levels, frame.number)


class KeptArrays:
    """Maps as the model's output, one after the other in a file."""

    def __init__(self, path: Path, size: tuple[int, int]) -> None:
        self._path, self._size = path, size
        self._bytes = 4 * size[0] * size[1]
        self._columns: list[tuple[str, int, float, bool]] = []
        path.touch()
        self.count = path.stat().st_size // self._bytes
        os.truncate(path, self.count * self._bytes)  # a process may have been killed within a map

    def write(self, frame: films.Predicted) -> None:
        """Adds a map."""
        with open(self._path, 'ab') as file:
            file.write(np.ascontiguousarray(frame.saliency, np.float32).tobytes())

    def read(self, model: Predictor, mapped: films.Mapped) -> films.Predicted:
        """The next frame with its map, which was written earlier."""
        offset = len(self._columns) * self._bytes
        shape = self._size
        saliency = np.fromfile(self._path, np.float32, shape[0] * shape[1], offset=offset)
        return films.finished(model, mapped._replace(saliency=saliency.reshape(shape)))

    def describe(self, frame: films.Predicted) -> None:
        """Notes what the file says about a frame; for each frame, in order."""
        self._columns.append((frame.name, frame.number, float(frame.time), frame.interpolated))

    def save(self, path: Path) -> None:
        """Writes the file of all maps; in constant memory."""
        names, numbers, times, between = zip(*self._columns)
        header = np.lib.format.header_data_from_array_1_0(np.empty((0, *self._size), np.float32))
        header['shape'] = (len(names), *self._size)
        arrays = {
            'names': np.array(names),
            'numbers': np.array(numbers, np.int64),
            'times': np.array(times, np.float64),
            'interpolated': np.array(between, bool),
        }
        with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as file:
            with file.open('maps.npy', 'w', force_zip64=True) as entry:
                np.lib.format.write_array_header_2_0(entry, header)
                with open(self._path, 'rb') as raw:
                    shutil.copyfileobj(raw, entry, 1 << 20)
            for name, array in arrays.items():
                with file.open(f'{name}.npy', 'w') as entry:
                    np.lib.format.write_array(entry, array, allow_pickle=False)
