"""Display of decoded frames: a video's display matrix, and pixels as uint8 RGB.

A camera stores the picture in its sensor's orientation, with a matrix that rotates or mirrors it
for display. The matrix maps a position (x, y) of the stored picture to (a x + c y, b x + d y) of
the displayed one (ISO 14496-12, 8.3.2; FFmpeg's libavutil/display.h). Eight matrices move whole
pixels: the quarter turns, mirrored or not.
"""

import math
from typing import Any, NamedTuple, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter


class Turn(NamedTuple):
    """Transposes or not, then mirrors left to right and top to bottom."""

    transposed: bool = False
    left_right: bool = False
    top_bottom: bool = False

    def apply(self, picture: np.ndarray) -> np.ndarray:
        """`(h, w, ...)` as stored -> as displayed, contiguous."""
        if self == AS_STORED:
            return picture
        turned = picture.swapaxes(0, 1) if self.transposed else picture
        return np.ascontiguousarray(
            turned[:: -1 if self.top_bottom else 1, :: -1 if self.left_right else 1]
        )


AS_STORED = Turn()
_NEARLY = 0.02  # of a matrix's largest entry: rounding error; one degree is 0.017


def turn_of(frame: av.VideoFrame) -> Turn | float:
    """The rotation of `frame`; in degrees if it is not a quarter turn."""
    try:
        # PyAV's annotations list fewer kinds of side data than it provides.
        matrix = np.frombuffer(cast(Any, frame.side_data)['DISPLAYMATRIX'], np.int32)
    except KeyError:
        return AS_STORED
    return turn_of_matrix(*matrix[[0, 1, 3, 4]].tolist())


def turn_of_matrix(a: float, b: float, c: float, d: float) -> Turn | float:
    """The rotation of a display matrix with first two rows (a, b) and (c, d); scale is ignored.

    If it is not a quarter turn, mirrored or not: its angle in degrees, clockwise.
    """
    nearly_zero = _NEARLY * max(abs(a), abs(b), abs(c), abs(d))
    if not nearly_zero:
        return AS_STORED  # some programs write a zero matrix, which has no meaning
    if max(abs(b), abs(c)) <= nearly_zero < min(abs(a), abs(d)):
        return Turn(False, a < 0, d < 0)
    if max(abs(a), abs(d)) <= nearly_zero < min(abs(b), abs(c)):
        return Turn(True, c < 0, b < 0)
    return math.degrees(math.atan2(b, a))


class Pixels:
    """Turns decoded frames into uint8 RGB `(h, w, 3)`, as stored; one object for a file."""

    def __init__(self) -> None:
        self._reformat = VideoReformatter().reformat

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        """The pixels, without the copy that PyAV's `to_ndarray` makes."""
        plane = self._reformat(frame, format='rgb24').planes[0]
        rows = np.frombuffer(cast(Any, plane), np.uint8).reshape(-1, plane.line_size)
        used = rows[: frame.height, : 3 * frame.width]  # rows may be padded
        return used.reshape(frame.height, frame.width, 3)
