"""Speed of the data pipeline: preparing DHF1K, and loading clips on the host.

    python -m benchmarks.data [--source=COPY_OF_DHF1K] [--repeats=20] [--rounds=5] [--frames=240]

Preparation in frames/s per core, clips in clips/s per core with the time of each stage, against the
released PyTorch loader's method (PNG frames, PIL, torchvision's transforms, one process), and the
disk space of DHF1K's training split. Without a copy, a video of the same size is generated, of
`frames` frames, 40 or more. `--rounds=0` skips the comparison of one core with two.

Rates per core are per second of processor time, which other processes on the machine disturb least;
the comparison of one core with two uses wall time.
"""

import argparse
import multiprocessing
import os
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

import data
from benchmarks.limits import Limits
from data.copies import images
from data.copies.sources import Report
from data.copies.video_file import frames_of_video
from data.dhf1k import Dhf1k
from data.preparation import shards
from data.preparation.features import serialise
from data.windows import ClipReader, Window
from stsa_jax.errors import exit_cleanly
from stsa_jax.media.preprocess import IMAGENET, normalise, resize_density, resize_frame

TRAINING_FRAMES = 346_140  # of DHF1K
SIZE, FRAMES = (224, 384), 32


def rate(work: Callable[[int], object], count: int) -> float:
    """Times `work(i)` for i < count: calls per second of processor time."""
    work(0)
    start = time.process_time()
    for i in range(count):
        work(i)
    return count / (time.process_time() - start)


def made_up_copy(folder: Path, frames: int) -> Path:
    """A copy of DHF1K with one video of textured motion and its maps."""
    import av

    from data.gaze import density_map

    rng = np.random.default_rng(0)
    texture = np.asarray(
        Image.fromarray(rng.integers(0, 255, (80, 140, 3), np.uint8)).resize((1120, 640), 2)
    )
    (folder / 'video').mkdir(parents=True)
    with av.open(str(folder / 'video' / '001.AVI'), 'w') as container:
        stream = container.add_stream('mpeg4', rate=30)
        stream.width, stream.height, stream.pix_fmt, stream.bit_rate = 640, 360, 'yuv420p', 10**6
        for t in range(frames):
            view = np.ascontiguousarray(texture[t : t + 360, 2 * t : 2 * t + 640])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(view, format='rgb24')))
            fixations = np.zeros((360, 640), bool)
            fixations[rng.integers(0, 360, 60), rng.integers(0, 640, 60)] = True
            for kind, found in (
                ('maps', images.rescale_to_uint8(density_map(fixations, 12.74))),
                ('fixation', fixations),
            ):
                path = folder / 'annotation' / '0001' / kind / f'{t + 1:04d}.png'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(images.encode_map(found))
        container.mux(stream.encode())
    return folder


def preparation(source: Path, folder: Path, limits: Limits) -> None:
    """Frames/s per core from video to records, and the peak memory."""
    video = Dhf1k(data_dir=str(folder)).find_videos(source, Report())['train'][0]
    stages = dict.fromkeys(['decode, read maps', 'resize, encode', 'serialise'], 0.0)
    count, frames = 0, video.frames(Report())
    while count < 300:
        start = time.process_time()
        frame = next(frames, None)
        if frame is None:
            break
        read = time.process_time()
        example = shards.example_of(frame, video, SIZE, 'jpeg')
        made = time.process_time()
        serialise(example)
        for name, spent in zip(stages, (read - start, made - read, time.process_time() - made)):
            stages[name] += spent
        count += 1
    peaks = []
    for repeats in (1, 3):
        task = shards.ShardTask((video,) * repeats, str(folder), 'train', repeats, SIZE, 'jpeg')
        start = time.process_time()
        written = shards.write_shard(task)['examples']
        spent_on_all = time.process_time() - start
        peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    print('Preparation, DHF1K from its videos')
    for name, spent in stages.items():
        print(f'  {name:22} {1e3 * spent / count:6.2f} ms per frame')
    speed = written / spent_on_all
    verdict = limits.check('wanted 150', speed >= 150)
    print(f'  {speed:.0f} frames/s per core with writing ({verdict})')
    print(f'  peak memory {peaks[0]:.0f} MB, at three times the length {peaks[1]:.0f} MB')


def clips(out: Path, repeats: int, limits: Limits) -> float:
    """Clips/s per core, with the time of each stage; returns the float32 rate."""
    dataset = data.open_split('dhf1k', 'train', out)
    last = dataset.videos[0].num_frames - FRAMES + 15
    targets = np.random.default_rng(0).integers(15, last + 1, 3 * repeats + 4).tolist()
    start = min(40, dataset.videos[0].num_frames - FRAMES)
    first = range(start, start + FRAMES)
    examples = dataset.examples(first)
    decoded = [images.decode_frame(e['frame']) for e in examples]
    buffer = np.empty((FRAMES, *SIZE, 3), np.float32)
    stages = {
        'read': lambda i: dataset.examples(first),
        'decode': lambda i: [images.decode_frame(e['frame']) for e in examples],
        'normalise': lambda i: [normalise(f, IMAGENET, out=b) for f, b in zip(decoded, buffer)],
        'density': lambda i: resize_density(images.decode_map(examples[15]['density']) / 255, SIZE),
    }
    print(f'Clips, {FRAMES}x{SIZE[0]}x{SIZE[1]}')
    for name, work in stages.items():
        print(f'  {name:10} {1e3 / rate(work, repeats):6.2f} ms per clip')
    rates = {}
    for name, normalisation in (('float32', IMAGENET), ('uint8', None)):
        reader = ClipReader((dataset,), SIZE, FRAMES, 15, normalisation)

        def one(i: int, reader: ClipReader = reader):
            return reader([Window(0, 0, targets[i])])

        rates[name] = rate(one, len(targets))
        verdict = limits.check('wanted 25', rates[name] >= 25)
        print(f'  {name:10} {rates[name]:6.1f} clips/s a core ({verdict})')
    return rates['float32']


def by_the_clock(out: Path, on: list[int], start=None, results=None) -> float:
    """uint8 clips/s of one iterator on these cores; `start` is a barrier of several processes."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    iterator = data.train_clips(['dhf1k'], data_dir=out, batch_size=2, normalise=False)
    for _ in range(4):
        next(iterator)
    if start is not None:
        start.wait()
    began = time.perf_counter()
    for _ in range(40):
        next(iterator)
    found = 80 / (time.perf_counter() - began)
    iterator.close()
    os.sched_setaffinity(0, allowed)
    if results is not None:
        results.put(found)
    return found


def cores(out: Path, rounds: int, limits: Limits) -> None:
    """Batches in wall time on one core and on two, and of two independent processes."""
    if not rounds:
        return
    if not hasattr(os, 'sched_setaffinity') or shards.available_cores() < 2:
        print('One core against two: not measured, needs Linux and two cores')
        return
    context = multiprocessing.get_context('spawn')
    first, second = sorted(os.sched_getaffinity(0))[:2]
    one, two, apart = [], [], []
    for _ in range(rounds):  # alternating, so that other load affects all
        one.append(by_the_clock(out, [first]))
        two.append(by_the_clock(out, [first, second]))
        start, results = context.Barrier(2), context.Queue()
        both = [
            context.Process(target=by_the_clock, args=(out, [core], start, results))
            for core in (first, second)
        ]
        for process in both:
            process.start()
        apart.append(results.get() + results.get())
        for process in both:
            process.join()
    medians = [float(np.median(rates)) for rates in (one, two, apart)]
    ratio = medians[1] / medians[0]
    print(f'uint8 batches, wall time, medians of {rounds}:')
    print(f'  one core {medians[0]:.1f} clips/s, two {medians[1]:.1f}')
    print(f'  {ratio:.2f} times ({limits.check("wanted 1.8", ratio >= 1.8)})')
    print(f'  two processes on one core each, the upper bound: {medians[2] / medians[0]:.2f} times')


def against_pytorch(source: Path, folder: Path, ours: float, repeats: int, limits: Limits) -> None:
    """The released loader's method: PNG frames and maps, PIL, tensors, one process."""
    try:
        import torch
    except ImportError:
        print("Against the PyTorch loader's method: not measured, torch is not installed")
        return
    film = sorted((source / 'video').iterdir())[0]
    maps = sorted((source / 'annotation').iterdir())[0] / 'maps'
    for number, frame in frames_of_video(film, Report()):
        Image.fromarray(frame).save(folder / f'{number:04d}.png')
        if number == 96:
            break
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in IMAGENET)

    def clip(i: int) -> torch.Tensor:
        start = 1 + 7 * i % (number - FRAMES - 2)
        frames = []
        for n in range(start, start + FRAMES):
            image = Image.open(folder / f'{n:04d}.png').convert('RGB')
            image = image.resize((SIZE[1], SIZE[0]), Image.Resampling.BILINEAR)
            tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous().float()
            frames.append((tensor / 255 - mean) / std)
        density = np.array(Image.open(maps / f'{start + 15:04d}.png').convert('L'), np.float32)
        resize_frame(density.astype(np.uint8), SIZE)
        return torch.stack(frames)

    torch.set_num_threads(1)
    theirs = rate(clip, repeats)
    print(f"The PyTorch loader's method: {theirs:.2f} clips/s per core; ours: {ours / theirs:.1f}x")
    print(f'  ({limits.check("wanted 5", ours / theirs >= 5)})')


def disk(out: Path, limits: Limits, real: bool) -> None:
    """The size of DHF1K's training split, extrapolated from this video if it is a real one."""
    dataset = data.open_split('dhf1k', 'train', out)
    size = sum(p.stat().st_size for p in Path(dataset.folder).iterdir()) / len(dataset)
    whole = size * TRAINING_FRAMES / 1e9
    print(f'Disk: {size / 1e3:.1f} kB per frame, {whole:.1f} GB for the training')
    verdict = limits.check('wanted under 8', whole < 8) if real else 'from a generated video'
    print(f'  split of {TRAINING_FRAMES} frames ({verdict})')


def main() -> int:
    """Runs all benchmarks."""
    parser = argparse.ArgumentParser(prog='python -m benchmarks.data', description=__doc__)
    parser.add_argument('--source', type=Path, help='folder of a copy of DHF1K with its videos')
    parser.add_argument('--frames', type=int, default=240, help='of the generated video')
    parser.add_argument('--repeats', type=int, default=20)
    parser.add_argument('--rounds', type=int, default=5, help='of one core against two; 0 for none')
    options = parser.parse_args()
    limits = Limits()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = options.source or made_up_copy(folder / 'copy', options.frames)
        preparation(source, folder, limits)
        data.prepare_dataset('dhf1k', folder / 'out', source, num_workers=1)
        ours = clips(folder / 'out', options.repeats, limits)
        (folder / 'png').mkdir()
        against_pytorch(source, folder / 'png', ours, options.repeats, limits)
        cores(folder / 'out', options.rounds, limits)
        disk(folder / 'out', limits, real=options.source is not None)
    return limits.exit_code


if __name__ == '__main__':
    exit_cleanly(main)
