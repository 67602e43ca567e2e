"""Training batches: two ends and frames between them, drawn from the patients' cycles."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from jaxtyping import Float32, Int

from mstg_jax.config import GROUPS, DataConfig
from mstg_jax.data.augment import augmented, power_of, raised
from mstg_jax.data.cycle import CLOSED_BELOW, second_differences
from mstg_jax.data.labels import UNKNOWN
from mstg_jax.data.pipeline import Example

if TYPE_CHECKING:
    import grain

LONGEST = 0.7
"""Largest share of a cycle between two ends; from ED to ES are about 0.35, from ES to ED 0.65."""


class Drawn(NamedTuple):
    """Frames of a cycle: the ends, those between in the order of `gammas`, and the span in steps.

    gammas: time between the ends, 0 at the first to 1 at the last. before, after: the frames as far
    beyond the ends, None where they are not known.
    """

    first: int
    last: int
    between: Int[np.ndarray, " f"]
    gammas: Float32[np.ndarray, " f"]
    steps: int
    before: int | None = None
    after: int | None = None


def train_iterator(
    examples: Sequence[Example],
    config: DataConfig,
    *,
    batch: int,
    seed: int,
    frames: int = 1,
    ends: bool = False,
    shard: tuple[int, int] = (0, 1),
    start: int = 0,
) -> "grain.DatasetIterator[dict[str, np.ndarray]]":
    """Endless batches, a function of the seed, from number `start` on; this shard's part of each.

    One stream of examples, with the patients shuffled anew each epoch, is cut into batches, and
    each batch evenly over the shards (index, count): all shards together see the same batches
    whatever their number. batch: examples of a shard's part.

    ed, es: the ends, float32 (b d h w), ED and ES or, in a share of config.pairs, any two frames of
    the cycle; bend: float32 (b 2 d h w), the second difference in time at either end over steps as
    long as the span, 0 where a frame that it needs is not known; frames: float32 (b f d h w),
    strictly between them, sorted, at gammas: float32 (b f), or with `ends` the first and the last
    are the ends; span: float32 (b 2), the share of the cycle between the ends and the steps of
    time; labels_ed, labels_es: uint8 (b d h w), and labels: uint8 (b f d h w), 255 where a frame
    has none; fov: bool (b d h w); group: int32 (b), place in GROUPS, and ef: float32 (b), from ED
    to ES, both -1 where unknown; patient: int32 (b), index into examples.
    """
    import grain  # Here because grain imports jax, and reading data should not wait for that.

    index, count = shard

    def load(i: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        pair = drawn(examples[i], frames, config, rng, ends=ends)
        item = augmented(taken(examples[i], pair, power_of(config, rng)), config, rng)
        if config.depth == "native":
            item = _of_depth(item, config.slices, rng)
        return item | {"patient": np.array(i, np.int32)}

    dataset = (
        grain.MapDataset.range(len(examples))
        .seed(int(np.random.SeedSequence((seed, 0)).generate_state(1)[0]))
        .shuffle()
        .repeat()
        .random_map(load)
        .batch(batch, drop_remainder=True)  # else grain overflows on the length of an endless set
        .slice(slice(start * count + index, None, count))
    )
    # The default of 500 volumes read ahead would fill the memory.
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=4)))


def drawn(
    example: Example,
    count: int,
    config: DataConfig,
    rng: np.random.Generator,
    *,
    ends: bool = False,
) -> Drawn:
    """ED and ES with `count` frames between or, in a share of config.pairs, two frames of the cycle
    at least two steps apart, in either direction of time; each octave of steps as often.

    ends: the first of the `count` is the first end, and the last of two or more the other one.
    """
    order, beyond = example.order, (None, None)
    if config.pairs > 0 and len(example.cycle) > 2 and rng.random() < config.pairs:
        order, beyond = _piece(example, config.longest, rng)
    last = len(order) - 1
    inside = np.arange(1, last) if last > 1 else np.array([0, last])
    outer = [0, last][:count] if ends else []
    rest = count - len(outer)
    chosen = np.sort([*outer, *rng.choice(inside, rest, replace=rest > len(inside))])
    gammas = np.linspace(0, 1, last + 1, dtype=np.float32)[chosen]
    return Drawn(order[0], order[last], np.array(order)[chosen], gammas, last, *beyond)


def _piece(
    example: Example, longest: int, rng: np.random.Generator
) -> tuple[tuple[int, ...], tuple[int | None, int | None]]:
    """Frames in time order or against it, across the end of the cycle where the cine covers it; and
    the frames as far before and after them, of which none lies among them."""
    total = len(example.cycle)
    most = min(longest or max(2, int(LONGEST * total)), total - 1)
    steps = int(2 * ((most + 1) / 2) ** rng.random())  # as often from 2 to 3 as from 8 to 15
    closed = example.closing_step < CLOSED_BELOW
    start = int(rng.integers(total if closed else total - steps))
    piece = tuple((start + k) % total for k in range(steps + 1))

    def known(place: int) -> int | None:
        if closed:
            return place % total if 3 * steps <= total else None
        return place if 0 <= place < total else None

    before, after = known(start - steps), known(start + 2 * steps)
    return (piece, (before, after)) if rng.random() < 0.5 else (piece[::-1], (after, before))


def taken(example: Example, pair: Drawn, power: float = 1.0) -> dict[str, np.ndarray]:
    """What was drawn, as an item of a batch, see `train_iterator`; intensities to a power."""
    unknown = np.full(example.fov.shape, UNKNOWN, np.uint8)
    known, total = example.cycle_labels, len(example.cycle)
    group, fraction = example.group, example.ejection_fraction
    beyond = [frame for frame in (pair.before, pair.after) if frame is not None]
    frames = raised(example.cycle[[pair.first, pair.last, *pair.between, *beyond]], power)
    count = 2 + len(pair.between)
    before = None if pair.before is None else count
    after = None if pair.after is None else len(frames) - 1
    return {
        "ed": frames[0],
        "es": frames[1],
        "bend": second_differences(frames, before, 0, 1, after),
        "frames": frames[2:count],
        "gammas": pair.gammas,
        "span": np.array([pair.steps / total, pair.steps], np.float32),
        "labels_ed": known.get(pair.first, unknown),
        "labels_es": known.get(pair.last, unknown),
        "labels": np.stack([known.get(frame, unknown) for frame in pair.between]),
        "fov": example.fov,
        "group": np.array(GROUPS.index(group) if group in GROUPS else -1, np.int32),
        "ef": np.array(-1 if fraction is None else fraction, np.float32),
    }


def _of_depth(
    item: dict[str, np.ndarray], slices: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """As many slices in a row, or all of them and slices of zeros after them, out of view."""
    spare = item["fov"].shape[0] - slices
    start = int(rng.integers(spare + 1)) if spare > 0 else 0

    def apply(x: np.ndarray) -> np.ndarray:
        if np.ndim(x) < 3:
            return x
        missing = [(0, 0)] * (x.ndim - 3) + [(0, max(0, -spare)), (0, 0), (0, 0)]
        return np.pad(x[..., start : start + slices, :, :], missing)

    return {key: apply(value) for key, value in item.items()}
