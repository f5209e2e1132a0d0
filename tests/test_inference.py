"""The frames that the model sees for each map, recorded by a model that returns its input."""

import tracemalloc
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stsa_jax.inference.windows import (
    needed,
    predict_frames,
    predict_some,
    predict_video,
    target_index,
    windows,
    windows_of,
)


class Recorder:
    """Maps a clip of frames that hold their own number to those numbers, shape (1, T)."""

    def __init__(self, frames, target='middle', **fields):
        self.config = SimpleNamespace(frames=frames, image_size=(1, 1), target=target, **fields)
        self.shapes, self.prepared = [], []

    def preprocess(self, frames):
        self.prepared += [int(f[0, 0, 0]) for f in frames]
        return frames[:, :1, :1].astype(np.float32)

    def __call__(self, clips):
        self.shapes.append(clips.shape)
        return clips[..., 0, 0, 0][:, None, :]


def numbered(count):
    for number in range(count):
        yield np.full((4, 6, 3), number, np.uint8)


def expected(count, length, in_front, behind):
    """By definition: slices of the padded video."""
    padded = [0] * in_front + list(range(count)) + [count - 1] * behind
    return [padded[i : i + length] for i in range(count)]


@pytest.mark.parametrize('count', [1, 2, 15, 16, 17, 33])
@pytest.mark.parametrize('batch_size', [1, 4])
def test_windows_of_the_paper(count, batch_size):
    """First frame 15 times in front, last frame 16 times behind, one window a frame."""
    model = Recorder(32)
    seen = [list(m[0]) for m in predict_frames(model, numbered(count), batch_size)]
    assert seen == expected(count, 32, in_front=15, behind=16)
    assert all(window[15] == frame for frame, window in enumerate(seen))
    assert model.prepared == list(range(count))  # each frame once
    assert set(model.shapes) == {(batch_size, 32, 1, 1, 3)}  # one shape: compiled once
    assert len(model.shapes) == -(-count // batch_size)


@pytest.mark.parametrize('count', [1, 20, 40])
def test_last_supervised_model_sees_no_later_frame(count):
    seen = [list(m[0]) for m in predict_frames(Recorder(32, 'last'), numbered(count), 3)]
    assert seen == expected(count, 32, in_front=31, behind=0)


@settings(deadline=None, max_examples=60)
@given(
    count=st.integers(0, 60),
    eighths=st.integers(1, 6),
    batch_size=st.integers(1, 9),
    target=st.sampled_from(['middle', 'last']),
)
def test_windows_are_the_padded_video_cut(count, eighths, batch_size, target):
    model = Recorder(8 * eighths, target)
    index = target_index(model.config)
    pairs = list(predict_video(model, numbered(count), batch_size))
    assert [int(f[0, 0, 0]) for f, _ in pairs] == list(range(count))  # each map with its frame
    assert [list(m[0]) for _, m in pairs] == expected(
        count, 8 * eighths, index, 8 * eighths - 1 - index
    )


@settings(deadline=None, max_examples=200)
@given(
    count=st.integers(1, 60),
    data=st.data(),
    config=st.sampled_from(
        [
            {'target': 'middle'},
            {'target': 'last'},
            {'target': 'last', 'beginning': 'reversed'},
            {'target': 'all'},
        ]
    ),
)
def test_frames_that_are_needed_give_the_windows_of_the_whole_video(count, data, config):
    first = data.draw(st.integers(0, count - 1))
    last = data.draw(st.integers(first, count - 1))
    config = SimpleNamespace(frames=8, **config)

    def windows_by_frame(begin, end):
        """The windows over frames begin to end, by the frame whose map they give."""
        found = {}
        for window in windows_of(range(begin, end + 1), config):
            for place in window.places:
                found[begin + len(found)] = window.frames, place
        return found

    begin, end = needed(config, first, last, count)
    whole, part = windows_by_frame(0, count - 1), windows_by_frame(begin, end)
    assert [part[i] for i in range(first, last + 1)] == [whole[i] for i in range(first, last + 1)]
    assert begin <= first and last <= end < count and end - begin < last - first + 3 * 8


@pytest.mark.parametrize('batch_size', [1, 3])
@pytest.mark.parametrize('chosen', [{3, 4, 11}, {0, 19}, set()])
def test_only_wanted_frames_are_predicted(batch_size, chosen):
    model = Recorder(8)
    found = list(predict_some(model, numbered(20), chosen.__contains__, batch_size))
    assert [int(frame[0, 0, 0]) for frame, _ in found] == list(range(20))
    assert {i for i, (_, saliency) in enumerate(found) if saliency is not None} == chosen
    assert all(found[i][1][0, 3] == i for i in chosen)  # each with the window around it
    assert len(model.shapes) == -(-len(chosen) // batch_size)


def test_reads_no_further_ahead_than_the_window():
    read = []
    frames = (read.append(i) or i for i in range(100))
    first = next(windows(frames, 32, 15))
    assert read == list(range(17)) and first == (0,) * 15 + tuple(range(17))


def test_memory_does_not_grow_with_the_video():
    def peak(count):
        tracemalloc.start()
        frames = (np.zeros((64, 64, 3), np.uint8) for _ in range(count))
        for _ in predict_frames(Recorder(8), frames, 2):
            pass
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    # 200 more frames are 2.4 MB; what a window and two batches hold is below 0.4 MB.
    assert peak(250) < peak(50) + 64 * 64 * 3 * 10


def test_a_failing_reader_is_not_swallowed():
    def broken():
        yield from numbered(20)
        raise OSError('cable')

    with pytest.raises(OSError, match='cable'):
        list(predict_frames(Recorder(8), broken()))


def test_wrong_arguments():
    with pytest.raises(ValueError, match='batch_size is 0'):
        list(predict_frames(Recorder(8), numbered(1), 0))
    with pytest.raises(ValueError, match="'middle' or 'last'"):
        target_index(SimpleNamespace(frames=8, target='first'))
