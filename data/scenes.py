"""Scenes with known attention: scripts of events, and their rendering.

A scene is a set of objects over a textured background. A script defines the position and appearance
of each object, and the attended one, in every frame. In *plain* scenes the attended object stands
out in the frames around it: it moves, flickers, is vivid or has just appeared brightly. In
*relational* ones it looks like all others at the time and stands out only by what happened a few
frames earlier: it changed its colour, jumped, appeared among similar objects, or has just stopped.

Lengths are in pixels, positions (y, x), time in frames.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

HEIGHT, WIDTH, FRAMES = 128, 192, 56
MARGIN = 12  # of object centres from the frame's edges
LATEST = 4  # frames until the slowest observer follows
SAMPLE, CHOICE, TRIAL = 4, 8, 16  # frames of a trial: end of the sample, start of the choice, end
VIVID = np.array(
    [
        [230, 40, 40],
        [40, 210, 60],
        [60, 80, 240],
        [240, 220, 40],
        [220, 60, 220],
        [40, 220, 220],
    ]
)
SHAPES = ('disc', 'square', 'diamond', 'triangle', 'ring', 'cross')


class Scene(NamedTuple):
    """N objects over T frames, and the attended one."""

    background: np.ndarray  # (H', W', 3) float32 in 0..255, at least the frame's size
    pan: np.ndarray  # (T, 2) the frame's corner in the background
    shape: np.ndarray  # (N,) index of SHAPES
    centre: np.ndarray  # (N, T, 2)
    radius: np.ndarray  # (N, T)
    colour: np.ndarray  # (N, T, 3) in 0..255
    visible: np.ndarray  # (N, T) bool
    attended: np.ndarray  # (T,) index of an object, -1: none


# --- scripts ----------------------------------------------------------------------------------


def mover(rng: np.random.Generator) -> Scene:
    """One object moves, the others stand still; halfway another one starts."""
    scene = _still(rng, count=5)
    first, second = rng.permutation(5)[:2]
    half = FRAMES // 2 + int(rng.integers(-4, 5))
    _travel(rng, scene, first, 0, half)
    _travel(rng, scene, second, half, FRAMES)
    scene.attended[:half], scene.attended[half:] = first, second
    return scene


def onset(rng: np.random.Generator) -> Scene:
    """Objects appear one after another, bright and growing, and vanish when the next appears."""
    starts = _event_times(rng, 12, 16)
    scene = _still(rng, count=3 + len(starts), muted=True)
    for k, (start, stop) in enumerate(zip(starts, [*starts[1:], FRAMES])):
        k += 3
        scene.visible[k] = False
        scene.visible[k, start:stop] = True
        age = np.arange(stop - start)
        scene.radius[k, start:stop] = scene.radius[k, 0] * np.minimum(1, 0.4 + 0.2 * age)
        scene.colour[k, start:stop] = _vivid(rng)
        scene.attended[start:stop] = k
    return scene


def popout(rng: np.random.Generator) -> Scene:
    """All objects have one dull colour except a vivid one, which changes from time to time."""
    scene = _still(rng, count=6, alike=True, muted=True)
    vivid = _vivid(rng)
    for start, stop, k in _shifts(rng, 6, 14, 20):
        scene.colour[k, start:stop] = vivid
        scene.attended[start:stop] = k
    return scene


def flicker(rng: np.random.Generator) -> Scene:
    """One object after another flickers between dark and bright."""
    scene = _still(rng, count=5)
    for start, stop, k in _shifts(rng, 5, 16, 24):
        phase = (np.arange(start, stop) // 2) % 2
        scene.colour[k, start:stop] = np.where(phase[:, None], 250.0, 10.0)
        scene.attended[start:stop] = k
    return scene


def changed(rng: np.random.Generator) -> Scene:
    """Objects of many colours; the one that changed its colour last is attended."""
    scene = _still(rng, count=6, alike=True)
    for k in range(6):
        scene.colour[k] = _vivid(rng)
    for start, _, k in (shifts := _shifts(rng, 6, 8, 11)):
        scene.colour[k, start:] = _vivid(rng, unlike=scene.colour[k, start])
    return _attend_shifts(scene, shifts)


def moved(rng: np.random.Generator) -> Scene:
    """Identical objects; the one that jumped last is attended."""
    scene = _still(rng, count=6, alike=True)
    for start, _, k in (shifts := _shifts(rng, 6, 8, 11)):
        scene.centre[k, start:] = _free_place(rng, scene, k, start)
    return _attend_shifts(scene, shifts)


def joined(rng: np.random.Generator) -> Scene:
    """Identical objects; one vanishes and another appears elsewhere, which is attended."""
    shifts = [(a, b, 6 + i) for i, (a, b, _) in enumerate(_shifts(rng, 6, 8, 11))]
    scene = _still(rng, count=6 + len(shifts), alike=True)
    for start, _, k in shifts:
        scene.visible[k, :start] = False
    present = list(rng.permutation(6))
    for start, _, k in shifts:
        scene.visible[present.pop(0), start:] = False
        scene.centre[k, start:] = _free_place(rng, scene, k, start)
        present.append(k)
    return _attend_shifts(scene, shifts)


def stopped(rng: np.random.Generator) -> Scene:
    """Identical objects; one moves for a few frames and stays attended after it has stopped."""
    scene = _still(rng, count=6, alike=True)
    for start, stop, k in (shifts := _shifts(rng, 6, 9, 12)):
        _travel(rng, scene, k, start, min(start + 4, stop))
    return _attend_shifts(scene, shifts)


def matched(rng: np.random.Generator) -> Scene:
    """One object is shown alone, later three elsewhere; the one with its colour is attended.

    A delayed match-to-sample of TRIAL frames: nothing visible, moving or changing at the time
    distinguishes the match from the others, only its relation to an earlier object elsewhere. In
    between nothing is shown.
    """
    scene, match = _trial(rng)
    colours = rng.permutation(VIVID[:3])[[0, 1, 2, match]]
    scene.colour[:] = (colours + rng.uniform(-15, 15, size=(4, 3)))[:, None]
    return scene


def contrasted(rng: np.random.Generator) -> Scene:
    """The same trial without a relation: of the three, one is vivid, and the sample unlike it."""
    scene, vivid = _trial(rng)
    colours = np.tile(_muted(rng), (4, 1))
    colours[[vivid, 3]] = rng.permutation(VIVID[:3])[:2]
    scene.colour[:] = (colours + rng.uniform(-15, 15, size=(4, 3)))[:, None]
    return scene


PLAIN: tuple[Callable[[np.random.Generator], Scene], ...] = (mover, onset, popout, flicker)
RELATIONAL: tuple[Callable[[np.random.Generator], Scene], ...] = (changed, joined, stopped, moved)
# Two plain scripts, then a relational one, so that every range of videos has all of them.
CYCLE = tuple(
    script
    for i in range(4)
    for script in (PLAIN[(2 * i) % 4], PLAIN[(2 * i + 1) % 4], RELATIONAL[i])
)
# Each has its own dataset.
MATCHING, CONTRAST = (matched,), (contrasted,)


def singled_out(saliency: np.ndarray, scene: Scene, t: int) -> bool | None:
    """Whether a map of frame t is higher at the attended object than at all other visible ones.

    `saliency` is `(h, w)` of any size. None for a frame in which nothing is attended, or in which
    attention has shifted so recently that not all observers have followed.
    """
    recent = scene.attended[max(t - LATEST, 0) : t + 1]
    k = int(scene.attended[t])
    if t < LATEST or k < 0 or (recent != k).any():
        return None
    size = np.array(saliency.shape)
    at = (scene.centre[:, t] * size / (HEIGHT, WIDTH)).astype(int).clip(0, size - 1)
    values = np.where(scene.visible[:, t], saliency[at[:, 0], at[:, 1]], -np.inf)
    others = np.delete(values, k)
    return bool(values[k] > others.max(initial=-np.inf))


# --- parts of scripts -------------------------------------------------------------------------


def _still(
    rng, count: int, alike: bool = False, muted: bool = False, frames: int = FRAMES
) -> Scene:
    """`count` separate, static objects."""
    places = _apart(rng, count, least=24)
    same = _muted(rng) if muted else _vivid(rng)
    colours = [same if alike else _muted(rng) if muted else _vivid(rng) for _ in places]
    shape = rng.integers(len(SHAPES), size=count)
    radius = rng.uniform(7, 11, size=count)
    if alike:
        shape[:], radius[:] = shape[0], radius[0]

    def still(values, *axes):
        return np.broadcast_to(np.asarray(values, float)[:, None], (count, frames, *axes)).copy()

    background, pan = _background(rng, frames)
    return Scene(
        background, pan, shape, still(places, 2), still(radius), still(colours, 3),
        np.ones((count, frames), bool), np.full(frames, -1),
    )  # fmt: skip


def _trial(rng) -> tuple[Scene, int]:
    """A sample alone (object 3), nothing, then three objects, and the index of the attended one.

    Each has its own cell of a 2x3 grid, so that the coarsest features can separate them.
    """
    scene = _still(rng, count=4, alike=True, frames=TRIAL)
    sample, attended = 3, int(rng.integers(3))
    scene.shape[:], scene.radius[:] = rng.integers(3), rng.uniform(14.5, 17.5)
    cells = np.stack(np.divmod(rng.permutation(6)[:4], 3), axis=1)
    size = np.array([HEIGHT / 2, WIDTH / 3])
    scene.centre[:] = ((cells + 0.5) * size + rng.uniform(-6, 6, size=(4, 2)))[:, None]
    scene.visible[:sample, :CHOICE], scene.visible[sample, SAMPLE:] = False, False
    scene.attended[:SAMPLE], scene.attended[CHOICE:] = sample, attended
    return scene, attended


def _apart(rng, count: int, least: float) -> list[np.ndarray]:
    """Random positions at least `least` apart, if a few tries find them."""
    places = [_place(rng)]
    while len(places) < count:
        tries = np.array([_place(rng) for _ in range(24)])
        gap = np.linalg.norm(tries[:, None] - np.array(places)[None], axis=-1).min(axis=1)
        places.append(tries[gap.argmax() if rng.random() < 0.5 else (gap > least).argmax()])
    return places


def _attend_shifts(scene: Scene, shifts) -> Scene:
    for start, stop, k in shifts:
        scene.attended[start:stop] = k
    return scene


def _travel(rng, scene: Scene, k: int, start: int, stop: int) -> None:
    """Object k moves from `start` to `stop`, turning back at the edges, then stays."""
    angle, speed = rng.uniform(0, 2 * np.pi), rng.uniform(2.0, 3.5)
    velocity = speed * np.array([np.sin(angle), np.cos(angle)])
    place = scene.centre[k, start].copy()
    low, high = np.full(2, MARGIN), np.array([HEIGHT, WIDTH]) - MARGIN
    for t in range(start, stop):
        scene.centre[k, t] = place
        velocity = np.where(
            (place + velocity < low) | (place + velocity > high), -velocity, velocity
        )
        place += velocity
    scene.centre[k, stop:] = place


def _event_times(rng, shortest: int, longest: int) -> list[int]:
    """Starts of successive events, the first within a few frames."""
    times = [int(rng.integers(1, 5))]
    while times[-1] + longest < FRAMES:
        times.append(times[-1] + int(rng.integers(shortest, longest + 1)))
    return times


def _shifts(rng, count: int, shortest: int, longest: int) -> list[tuple[int, int, int]]:
    """Successive (start, stop, object), never the same object twice in a row."""
    starts, last, result = _event_times(rng, shortest, longest), -1, []
    for start, stop in zip(starts, [*starts[1:], FRAMES]):
        last = int(rng.choice([k for k in range(count) if k != last]))
        result.append((start, stop, last))
    return result


def _place(rng) -> np.ndarray:
    """A random position, somewhat more often near the centre, as in real videos."""
    low, high = np.full(2, MARGIN), np.array([HEIGHT, WIDTH]) - MARGIN
    return (
        rng.uniform(low, high)
        if rng.random() < 0.5
        else rng.triangular(low, (low + high) / 2, high)
    )


def _free_place(rng, scene: Scene, k: int, t: int) -> np.ndarray:
    """A position away from all visible objects and from object k."""
    tries = np.array([_place(rng) for _ in range(24)])
    others = scene.centre[scene.visible[:, t] | (np.arange(len(scene.shape)) == k), t]
    gap = np.linalg.norm(tries[:, None] - others[None], axis=-1).min(axis=1)
    return tries[(gap > 24).argmax() if (gap > 24).any() else gap.argmax()]


def _vivid(rng, unlike: np.ndarray | None = None) -> np.ndarray:
    """A saturated colour; far from `unlike` if given."""
    palette = VIVID
    if unlike is not None:
        palette = palette[np.abs(palette - unlike).sum(axis=1) > 150]
    return palette[rng.integers(len(palette))] + rng.uniform(-15, 15, size=3)


def _muted(rng) -> np.ndarray:
    return rng.uniform(70, 180) + rng.uniform(-18, 18, size=3)


def _background(rng, frames: int) -> tuple[np.ndarray, np.ndarray]:
    """Coloured noise of several scales and a faint grating; in some videos it drifts slowly."""
    height, width = HEIGHT + frames, WIDTH + frames
    total = np.zeros((height, width, 3), np.float32)
    for cells, contrast in ((4, 28), (12, 16), (40, 10)):
        noise = rng.normal(size=(cells, cells * 3 // 2, 3)).astype(np.float32)
        grey = noise.mean(axis=-1, keepdims=True)
        for c in range(3):
            layer = Image.fromarray(0.3 * noise[..., c] + grey[..., 0])
            total[..., c] += contrast * np.asarray(layer.resize((width, height), Image.BICUBIC))
    angle, period = rng.uniform(0, np.pi), rng.uniform(8, 30)
    y, x = np.mgrid[:height, :width]
    total += 6 * np.sin(2 * np.pi / period * (y * np.sin(angle) + x * np.cos(angle)))[..., None]
    total += rng.uniform(80, 150) + rng.uniform(-15, 15, size=3)
    speed = rng.uniform(0.2, 1.0, size=2) if rng.random() < 0.25 else np.zeros(2)
    return total.clip(0, 255).astype(np.float32), np.arange(frames)[:, None] * speed


# --- rendering --------------------------------------------------------------------------------


def render(scene: Scene, t: int) -> np.ndarray:
    """Frame t of a scene as uint8 RGB (HEIGHT, WIDTH, 3)."""
    top, left = np.rint(scene.pan[t]).astype(int)
    frame = scene.background[top : top + HEIGHT, left : left + WIDTH].copy()
    for k in np.flatnonzero(scene.visible[:, t]):
        _draw(frame, SHAPES[scene.shape[k]], scene.centre[k, t], scene.radius[k, t],
              scene.colour[k, t])  # fmt: skip
    return np.rint(frame.clip(0, 255)).astype(np.uint8)


def _draw(frame, shape: str, centre, radius: float, colour) -> None:
    """Blends an antialiased shape into the frame, in place."""
    low = np.maximum(np.floor(centre - radius - 2), 0).astype(int)
    high = np.minimum(np.ceil(centre + radius + 3), frame.shape[:2]).astype(int)
    y = np.arange(low[0], high[0])[:, None] - centre[0]
    x = np.arange(low[1], high[1])[None, :] - centre[1]
    distance = {
        'disc': lambda: np.hypot(y, x) - radius,
        'square': lambda: np.maximum(abs(y), abs(x)) - 0.85 * radius,
        'diamond': lambda: (abs(y) + abs(x) - 1.2 * radius) / np.sqrt(2),
        'triangle': lambda: np.maximum(y - 0.6 * radius, 0.87 * abs(x) - 0.5 * y - 0.6 * radius),
        'ring': lambda: abs(np.hypot(y, x) - 0.72 * radius) - 0.28 * radius,
        'cross': lambda: np.minimum(
            np.maximum(abs(y) - radius, abs(x) - 0.35 * radius),
            np.maximum(abs(x) - radius, abs(y) - 0.35 * radius),
        ),
    }[shape]()
    alpha = np.clip(0.5 - distance, 0, 1)[..., None]
    patch = frame[low[0] : high[0], low[1] : high[1]]
    patch += alpha * (colour - patch)
