"""All six metrics on 360x640 frames: ours against pysaliency and the released STSA-Net code.

    python -m benchmarks.metrics [--reference=CHECKOUT] [--frames=8] [--png_frames=480]

CHECKOUT is a checkout of WZq975/STSANet, whose metrics.py needs PyTorch and OpenCV (if OpenCV,
which is not used here, is missing, an empty module replaces it). The implementations alternate on
the same frames in this process. The best time per frame counts, in processor time over all threads,
which is the time of one core regardless of other load. Then frames are scored from PNG files as by
`evaluate.py --predictions`, on all cores, and the time for DHF1K's validation set (60,273 frames)
is extrapolated, with the peak memory after increasing numbers of frames.
"""

import argparse
import os
import resource
import sys
import tempfile
import time
import types
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from benchmarks.limits import Limits
from benchmarks.released import module_of
from stsa_jax.errors import exit_cleanly
from stsa_jax.evaluation import PredictionFolder, get_protocol
from stsa_jax.evaluation.runner import score_source
from stsa_jax.evaluation.scoring import score
from stsa_jax.evaluation.selection import select
from stsa_jax.evaluation.truth import GroundTruth
from stsa_jax.metrics.maps import pad_positions

SIZE = (360, 640)
APART_LIMIT = 1e-4  # of float32 scores up to about 10
DHF1K_VALIDATION = 60_273


class Frames:
    """Annotation as PNG files, as in a prepared dataset; see data.VideoDataset."""

    name, split, folder = 'benchmark', 'validation', ''

    def __init__(self, root: Path, videos: int, frames: int):
        rng = np.random.default_rng(0)
        self.root, self.videos = root, []
        rows, columns = np.mgrid[: SIZE[0], : SIZE[1]]
        for v in range(videos):
            name = f'{v + 1:04d}'
            for kind in ('maps', 'fixation', 'prediction'):
                (root / kind / name).mkdir(parents=True)
            self.videos.append(
                types.SimpleNamespace(
                    name=name,
                    first_example=v * frames,
                    num_frames=frames,
                    height=SIZE[0],
                    width=SIZE[1],
                )
            )
            for i in range(frames):
                y, x = rng.uniform(60, 300), rng.uniform(60, 580)
                blob = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * 40.0**2))
                fixated = np.zeros(SIZE, np.uint8)
                for _ in range(20):  # as many as DHF1K's viewers
                    place = rng.normal((y, x), 35).astype(int)
                    fixated[tuple(np.clip(place, 0, np.subtract(SIZE, 1)))] = 255
                noise = np.asarray(
                    Image.fromarray(rng.random((9, 16), np.float32)).resize(SIZE[::-1], 3)
                )
                prediction = np.clip(0.6 * np.roll(blob, 30, 1) + 0.4 * noise, 0, 1)
                for kind, picture in (
                    ('maps', blob * 255),
                    ('fixation', fixated),
                    ('prediction', prediction * 255),
                ):
                    Image.fromarray(picture.astype(np.uint8)).save(
                        root / kind / name / f'{i + 1:04d}.png'
                    )
        self.count = frames

    def _read(self, kind: str, i: int) -> np.ndarray:
        video, frame = divmod(i, self.count)
        with Image.open(self.root / kind / f'{video + 1:04d}' / f'{frame + 1:04d}.png') as image:
            return np.asarray(image)

    def density(self, i: int) -> np.ndarray:
        return self._read('maps', i).astype(np.float32) / 255

    def fixations(self, i: int) -> np.ndarray:
        return self._read('fixation', i) > 0

    def prediction(self, i: int) -> np.ndarray:
        return self._read('prediction', i)

    def frame_number(self, i: int) -> int:
        return i % self.count + 1


class Given(NamedTuple):
    """The input of every implementation: float32 maps, bool maps and their positions."""

    prediction: np.ndarray
    density: np.ndarray
    fixated: np.ndarray
    other: np.ndarray


def read(frames: Frames, truth: GroundTruth, i: int) -> Given:
    """The frame, with the same number of negatives in every protocol."""
    other = np.zeros(SIZE, bool)
    other.flat[truth.other_positions(i, 10)] = True
    prediction = frames.prediction(i).astype(np.float32)
    return Given(prediction, frames.density(i), frames.fixations(i), other)


def ours(given: list[Given], protocol: str):
    """A function of a frame's number that returns its six scores."""
    found = [[np.flatnonzero(getattr(one, kind)) for one in given] for kind in ('fixated', 'other')]
    # Padded as in the evaluation.
    lists = [pad_positions(one, -(-max(map(len, one)) // 8) * 8) for one in found]

    def run(i):
        seed, chosen = np.uint32(i), get_protocol(protocol)
        fixations, other = (x[i : i + 1] for x in lists)
        return np.asarray(score(*given[i][:2], fixations, other, seed, protocol=chosen))

    return run


def released(checkout: str, given: list[Given]):
    """The released functions, called as in its validation, and its shuffled AUC."""
    import torch

    torch.set_num_threads(1)
    try:
        import cv2  # noqa: F401
    except ModuleNotFoundError:
        sys.modules['cv2'] = types.ModuleType('cv2')
    if not hasattr(np, 'trapz'):
        setattr(np, 'trapz', np.trapezoid)  # noqa: B010 - NumPy renamed it
    module = module_of(Path(checkout) / 'metrics.py')

    def run(i):
        p, g, f, o = (torch.from_numpy(np.asarray(x, np.float32))[None] for x in given[i])
        return [
            float(module.cc(p, g)),
            float(module.similarity(p, g)),
            float(module.nss(p, f)),
            float(module.kldiv(p, g)),
            float(module.auc_judd(p, f)),
            float(module.auc_shuff(p, f, o)),
        ]

    return run


def pysaliency_scores(given: list[Given]):
    """pysaliency's functions for the same metrics, from positions too."""
    sys.path.append(str(Path(__file__).parents[1] / 'tests'))
    from pysaliency_reference import metrics, roc

    doubles = [(one.prediction.astype(float), one.density.astype(float)) for one in given]
    places = [(np.nonzero(one.fixated), np.nonzero(one.other)) for one in given]

    def run(i):
        (prediction, density), ((ys, xs), other) = doubles[i], places[i]
        positives = prediction[ys, xs]
        return [
            metrics.CC(prediction, density),
            metrics.SIM(prediction, density),
            metrics.NSS(prediction, xs, ys).mean(),
            metrics.MIT_KLDiv(prediction, density),
            roc.general_roc(positives, prediction[~given[i].fixated])[0],
            roc.general_roc(positives, prediction[other])[0],
        ]

    return run


def best_times(scorers: dict, frames: int, repeats: int) -> dict[str, float]:
    """Seconds per frame of each, the best of `repeats` alternating rounds."""
    for run in scorers.values():
        run(0)
    times: dict[str, list[float]] = {name: [] for name in scorers}
    for _ in range(repeats):
        for name, run in scorers.items():
            start = time.process_time()
            for i in range(frames):
                run(i)
            times[name].append((time.process_time() - start) / frames)
    return {name: min(listed) for name, listed in times.items()}


def from_files(frames: Any, root: Path) -> None:
    """Scores the predictions from PNG files and extrapolates; the first video compiles."""
    videos, cores = select(frames), os.cpu_count() or 1
    source = PredictionFolder(root / 'prediction', frames, videos)
    for number in dict.fromkeys((1, *(max(len(videos) // n, 1) for n in (4, 2, 1)))):
        start, used = time.perf_counter(), time.process_time()
        truth = GroundTruth(frames, videos[:number], seed=0, workers=cores)
        row = score_source('files', source, truth, videos[:number], get_protocol('dhf1k'))
        seconds, busy = time.perf_counter() - start, time.process_time() - used
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(
            f'{row.frames} frames from PNG on {cores} cores: {1000 * seconds / row.frames:.1f} ms '
            f'per frame ({1000 * busy / row.frames:.1f} ms of processor time), peak memory '
            f'{peak:.0f} MiB; DHF1K validation ({DHF1K_VALIDATION:,} frames): '
            f'{seconds / row.frames * DHF1K_VALIDATION / 60:.1f} min'
        )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--reference', help='a checkout of WZq975/STSANet')
    parser.add_argument('--frames', type=int, default=8)
    parser.add_argument('--repeats', type=int, default=5)
    parser.add_argument('--videos', type=int, default=12)
    parser.add_argument('--png_frames', type=int, default=480)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        frames: Any = Frames(Path(folder), options.videos, options.png_frames // options.videos)
        truth = GroundTruth(frames, select(frames), seed=0)
        given = [read(frames, truth, i) for i in range(options.frames)]
        scorers = {f'ours, protocol {name}': ours(given, name) for name in ('dhf1k', 'pysaliency')}
        scorers['pysaliency'] = pysaliency_scores(given)
        if options.reference:
            scorers['released code'] = released(options.reference, given)
        apart = np.abs(scorers['pysaliency'](0) - scorers['ours, protocol pysaliency'](0)).max()
        limits = Limits()
        verdict = limits.check(f'limit {APART_LIMIT:g}', apart <= APART_LIMIT)
        print(f'largest difference to pysaliency: {apart:.1e} ({verdict})')
        times = best_times(scorers, options.frames, options.repeats)
        for name, seconds in times.items():
            print(f'{name:28s} {1000 * seconds:8.2f} ms per frame, six metrics, one core')
        ratio = times['pysaliency'] / times['ours, protocol pysaliency']
        verdict = limits.check('limit 1', ratio >= 1)
        print(f'pysaliency / ours (same variants): {ratio:.1f} ({verdict})')
        if options.reference:
            ratio = times['released code'] / times['ours, protocol dhf1k']
            print(f'released / ours: {ratio:.1f} ({limits.check("limit 1", ratio >= 1)})')
        from_files(frames, Path(folder))
    return limits.exit_code


if __name__ == '__main__':
    exit_cleanly(main)
