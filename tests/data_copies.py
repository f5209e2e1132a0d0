"""Miniature copies of datasets whose every frame carries its own number, for the tests of data/.

The number is written as twelve bars (frames, density maps) or twelve points (fixation maps), which
survive compression and resizing, so that it can be read at the end of the pipeline.
"""

from pathlib import Path

import av
import numpy as np
from array_record.python import array_record_data_source, array_record_module
from PIL import Image

from data.preparation import features

HEIGHT, WIDTH, BITS = 48, 96, 12
BAR = WIDTH // BITS


def bits_of(number: int) -> np.ndarray:
    return np.array([number >> k & 1 for k in range(BITS)], bool)


def frame_of(number: int) -> np.ndarray:
    """uint8 RGB (48, 96, 3) with the number as white and black bars."""
    row = np.repeat(bits_of(number), BAR) * np.uint8(255)
    return np.broadcast_to(row[None, :, None], (HEIGHT, WIDTH, 3)).copy()


def density_of(number: int) -> np.ndarray:
    """uint8 (48, 96): the bars in its lower part, and a full upper part so that it is never 0."""
    values = frame_of(number)[..., 0]
    values[: HEIGHT // 4] = 255
    return values


def fixations_of(number: int) -> np.ndarray:
    """uint8 (48, 96): a point in row 20 for each bar, and one in row 5."""
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[20, np.flatnonzero(bits_of(number)) * BAR + BAR // 2] = 255
    values[5, 7] = 255
    return values


def damage_records(path: Path, **places) -> None:
    """Truncates these images in a file of records: frame=[3, 4], density=[9]."""

    def damage(examples: list[dict]) -> None:
        for name, damaged in places.items():
            for place in damaged:
                examples[place][name] = examples[place][name][: len(examples[place][name]) // 2]

    change_records(path, damage)


def change_records(path: Path, change) -> None:
    """Rewrites a file of records after `change` has modified the list of its examples."""
    records = array_record_data_source.ArrayRecordDataSource([str(path)])
    examples = [features.parse(records[i]) for i in range(len(records))]
    change(examples)
    path.unlink()
    writer = array_record_module.ArrayRecordWriter(str(path), 'group_size:1')
    for example in examples:
        writer.write(features.serialise(example))
    writer.close()


def number_in(image: np.ndarray) -> int:
    """The number in a frame or density map of any size; in a frame of any affine range."""
    grey = image.mean(axis=-1) if image.ndim == 3 else image
    height, width = grey.shape
    columns = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    values = grey[height // 2 :, columns].mean(axis=0)
    # A frame of one colour has all bits equal; the numbers used have both values.
    middle = (grey[height // 2 :].max() + grey[height // 2 :].min()) / 2
    return int(sum(1 << k for k in range(BITS) if values[k] > middle))


def number_in_points(density: np.ndarray) -> int:
    """The number in a density map that was made from the points of `fixations_of`, of any size."""
    height, width = density.shape
    row = int(20.5 * height / HEIGHT)
    columns = ((np.arange(BITS) * BAR + BAR // 2 + 0.5) * width / WIDTH).astype(int)
    return int(sum(1 << k for k in range(BITS) if density[row, columns[k]] > density.max() / 4))


def number_in_fixations(fixations: np.ndarray) -> int:
    assert fixations.shape == (HEIGHT, WIDTH) and fixations[5, 7]
    return int(sum(1 << k for k in range(BITS) if fixations[20, k * BAR + BAR // 2]))


def save(path: Path, values: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def write_video(path: Path, frames, codec: str = 'mpeg4') -> None:
    """An AVI (whatever the extension's case) at quality good enough for the bars."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), 'w', format='avi') as container:
        stream = container.add_stream(codec, rate=30)
        stream.width, stream.height, stream.pix_fmt = (
            WIDTH,
            HEIGHT,
            'yuvj420p' if codec == 'mjpeg' else 'yuv420p',
        )
        stream.bit_rate = 8_000_000
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format='rgb24')))
        container.mux(stream.encode())


def dhf1k(
    root: Path, lengths: dict[int, int], layout: str = 'videos', matlab: bool | str = False
) -> Path:
    """A copy of DHF1K with videos of the given lengths; those above 700 have no annotation.

    matlab: fixations as .mat instead of images, or with 'both' beside them, as published.
    layout: 'videos', or where the frames are: 'frames', 'annotation', 'video', 'train_val'.
    """
    import scipy.io

    for video, length in lengths.items():
        name = f'{video:04d}'
        top = root / 'annotation'
        if layout == 'train_val':
            top = root / ('train' if video <= 600 else 'val')
        numbers = range(1, length + 1)
        frames = {n: frame_of(video * 64 % 1024 + n) for n in numbers}
        if layout == 'videos':
            write_video(root / 'video' / f'{video:03d}.AVI', frames.values())
        else:
            folder = {
                'frames': root / 'frames' / name / 'images',
                'annotation': root / 'annotation' / name / 'images',
                'video': root / 'video' / name,
                'train_val': top / name / 'images',
            }[layout]
            for n, frame in frames.items():
                save(folder / f'{n:04d}.png', frame)
        if video > 700:
            continue
        for n in numbers:
            code = video * 64 % 1024 + n
            save(top / name / 'maps' / f'{n:04d}.png', density_of(code))
            if matlab:
                path = top / name / 'fixation' / 'maps' / f'{n:04d}.mat'
                path.parent.mkdir(parents=True, exist_ok=True)
                scipy.io.savemat(path, {'I': (fixations_of(code) > 0).astype(np.uint8)})
            if matlab in (False, 'both'):
                save(top / name / 'fixation' / f'{n:04d}.png', fixations_of(code))
    return root


def shots(root: Path, given: dict[tuple[str, str], tuple[int, int, int]], file_name) -> Path:
    """A copy in {training,testing}/<shot>/{images,maps,fixation}.

    given: {(training or testing, shot): (first frame's number, how many, code of number 0)}.
    file_name: (shot, number) -> the name of its files, without extension.
    """
    for (split, shot), (first, count, base) in given.items():
        for n in range(first, first + count):
            name = f'{file_name(shot, n)}.png'
            save(root / split / shot / 'images' / name, frame_of(base + n))
            save(root / split / shot / 'maps' / name, density_of(base + n))
            save(root / split / shot / 'fixation' / name, fixations_of(base + n))
    return root


def hollywood2_file(shot: str, number: int) -> str:
    return f'{shot.rsplit("_", 1)[0]}_{number:05d}'


def ucf_file(video: str, number: int) -> str:
    return f'{"_".join(video.rsplit("-", 1))}_{number:03d}'


def diem_prepared(root: Path, given: dict[str, tuple[int, int]]) -> Path:
    """given: {video: (how many frames, code of number 0)}. Maps are JPEGs, fixations .mat."""
    import scipy.io

    for video, (count, base) in given.items():
        for n in range(1, count + 1):
            own = root / 'annotations' / 'DIEM' / video
            save(root / 'video_frames' / 'DIEM' / video / f'img_{n:05d}.jpg', frame_of(base + n))
            save(own / 'maps' / f'eyeMap_{n:05d}.jpg', density_of(base + n))
            scipy.io.savemat(
                own / f'fixMap_{n:05d}.mat', {'eyeMap': fixations_of(base + n).astype(float) / 255}
            )
    return root


def diem_raw(root: Path, given: dict[str, tuple[int, int]]) -> Path:
    """given: {video: (how many frames, code of number 0)}; each point is one viewer's gaze."""
    for video, (count, base) in given.items():
        folder = root / f'{video}_{WIDTH}x{HEIGHT}'
        numbers = range(base + 1, base + count + 1)
        write_video(folder / 'video' / f'{video}.MP4', [frame_of(n) for n in numbers])
        viewers = [[] for _ in range(BITS + 1)]
        for i, number in enumerate(numbers):
            points = np.argwhere(fixations_of(number))
            for viewer, lines in enumerate(viewers):
                seen = viewer < len(points)
                y, x = points[viewer] if seen else (0, 0)
                x, y = x + (1280 - WIDTH) / 2, y + (960 - HEIGHT) / 2
                eye = f'{x:.1f}\t{y:.1f}\t900.0\t{int(seen)}'
                lines.append(f'{i + 1}\t{eye}\t{eye}\n')
        (folder / 'event_data').mkdir()
        for viewer, lines in enumerate(viewers):
            (folder / 'event_data' / f'diem{viewer}_{video}.txt').write_text(''.join(lines))
    return root


def check_numbers(dataset, code_of, number_in_density=number_in) -> int:
    """Asserts that every frame, density and fixation map of a VideoDataset carries its number.

    `code_of(video name, frame number)` is what was written, `number_in_density` reads it off a
    density map. Returns how many frames were checked.
    """
    for video in dataset.videos:
        for i in range(video.first_example, video.first_example + video.num_frames):
            code = code_of(video.name, dataset.frame_number(i))
            assert number_in(dataset.frame(i)) == code
            if dataset.density(i) is not None:
                assert number_in_density(dataset.density(i)) == code
                assert number_in_fixations(dataset.fixations(i)) == code
    return len(dataset)


def check_batch(
    batch: dict,
    code_of,
    lengths: dict[str, int],
    first: dict[str, int],
    offset: int,
    number_in_density=number_in,
) -> None:
    """Asserts that clips hold the right frames around their targets, with the target's density.

    lengths, first: of every video by name, how many frames it has and the first one's number.
    """
    for clip, density, video, number in zip(
        *(batch[k] for k in ('clip', 'density', 'video', 'frame'))
    ):
        video, number = str(video), int(number)
        assert number_in_density(density) == code_of(video, number)
        for t, frame in enumerate(clip):
            low = first[video]
            wanted = min(max(number - offset + t, low), low + lengths[video] - 1)
            assert number_in(frame) == code_of(video, wanted), (video, number, t)
