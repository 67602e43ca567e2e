"""What a cine says of time: whether its last frame is followed by its first, and how it bends."""

import numpy as np
from jaxtyping import Bool, Float32

REACH = 5
"""Frames to either side in which an equal difference is looked for."""
CLOSED_BELOW = 1.5
"""Steps from the last frame to the first up to which a cine covers the cycle: of 52 patients of
ACDC 42 have at most 1.3, the other ten 1.65 to 4.4."""


def closing_step(
    cycle: Float32[np.ndarray, "t d h w"], fov: Bool[np.ndarray, "d h w"] | None = None
) -> float:
    """How many usual steps of time lie between the last frame and the first, as the images say.

    Prospectively triggered cines leave the end of the cycle out. The difference between the last
    and the first frame is looked up among those of the first to the frames after it, and of the
    last to the frames before it: the smaller number of both, at most REACH + 1. 1 where fewer than
    4 frames leave nothing to compare.
    """
    reach = min(REACH, len(cycle) - 2)
    if reach < 2:
        return 1.0
    inside = slice(None) if fov is None else fov
    first, last = cycle[0][inside], cycle[-1][inside]

    def apart(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.sqrt(np.mean(np.square(a - b), dtype=np.float64)))

    gap = apart(first, last)
    later = [apart(first, cycle[k][inside]) for k in range(1, reach + 1)]
    earlier = [apart(last, cycle[-1 - k][inside]) for k in range(1, reach + 1)]
    return min(_steps(gap, later), _steps(gap, earlier))


def second_differences(
    frames: Float32[np.ndarray, "t d h w"],
    before: int | None,
    first: int,
    last: int,
    after: int | None,
) -> Float32[np.ndarray, "2 d h w"]:
    """In time, at two frames as far apart as each is from the frame beyond it; 0 where that is
    None, unknown."""
    a, b = frames[first], frames[last]
    found = np.zeros((2, *a.shape), np.float32)
    if before is not None:
        found[0] = frames[before] - 2 * a + b
    if after is not None:
        found[1] = a - 2 * b + frames[after]
    return found


def _steps(gap: float, apart: list[float]) -> float:
    """After how many steps the images are `gap` apart; one more than known where none are."""
    rising = np.maximum.accumulate([0.0, *apart])
    if gap > rising[-1]:
        return float(len(rising))
    return float(np.interp(gap, rising, np.arange(len(rising))))
