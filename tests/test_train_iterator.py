import dataclasses
import itertools
from pathlib import Path

import numpy as np
import pytest
from acdc_files import SIZE, config_of, write

from mstg_jax.config import GROUPS, DataConfig
from mstg_jax.data import stream
from mstg_jax.data.pipeline import Example, load_examples


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    tmp_path = tmp_path_factory.mktemp("examples")
    write(tmp_path / "acdc", *range(6), shape=(7, 3, 14, 13), es=6, labels="all")
    training, validation = load_examples(config_of(tmp_path))
    return training + validation


def train_iterator(examples: list[Example], *, augment: bool, **wanted):
    return stream.train_iterator(examples, DataConfig(augment=augment), **wanted)


def take(iterator, count: int) -> list[dict[str, np.ndarray]]:
    return list(itertools.islice(iterator, count))


def same(a: list[dict[str, np.ndarray]], b: list[dict[str, np.ndarray]]) -> bool:
    pairs = zip(a, b, strict=True)
    return all(
        x.keys() == y.keys() and all(np.array_equal(x[k], y[k]) for k in x) for x, y in pairs
    )


def test_batches_have_the_promised_shapes_and_types(examples: list[Example]):
    batch = next(train_iterator(examples, batch=3, seed=0, frames=2, augment=True))
    got = {key: (value.shape, value.dtype) for key, value in batch.items()}
    assert got == {
        "ed": ((3, *SIZE), np.float32),
        "es": ((3, *SIZE), np.float32),
        "bend": ((3, 2, *SIZE), np.float32),
        "frames": ((3, 2, *SIZE), np.float32),
        "gammas": ((3, 2), np.float32),
        "span": ((3, 2), np.float32),
        "labels_ed": ((3, *SIZE), np.uint8),
        "labels_es": ((3, *SIZE), np.uint8),
        "labels": ((3, 2, *SIZE), np.uint8),
        "fov": ((3, *SIZE), np.bool_),
        "group": ((3,), np.int32),
        "ef": ((3,), np.float32),
        "patient": ((3,), np.int32),
    }


def test_without_augmentation_batches_hold_the_examples(examples: list[Example]):
    for batch in take(train_iterator(examples, batch=1, seed=1, frames=2, augment=False), 8):
        example = examples[batch["patient"][0]]
        last = len(example.frames) - 1
        position = np.round(batch["gammas"][0] * last).astype(int)
        assert 0 < position[0] < position[1] < last
        assert np.array_equal(batch["frames"][0], example.frames[position])
        assert np.array_equal(batch["ed"][0], example.frames[0])
        assert np.array_equal(batch["es"][0], example.frames[last])
        assert np.array_equal(batch["labels_ed"][0], example.labels[0])
        assert np.array_equal(batch["labels_es"][0], example.labels[last])
        assert np.array_equal(batch["fov"][0], example.fov)
        for number, labels in zip(position, batch["labels"][0], strict=True):
            assert np.array_equal(labels, example.labels.get(number, np.full_like(labels, 255)))
        assert GROUPS[batch["group"][0]] == example.group
        assert batch["ef"][0] == np.float32(example.ejection_fraction)


def test_ends_are_among_the_frames_if_asked_for(examples: list[Example]):
    for batch in take(
        train_iterator(examples, batch=1, seed=1, frames=3, ends=True, augment=False), 8
    ):
        example, gammas = examples[batch["patient"][0]], batch["gammas"][0]
        assert gammas[0] == 0
        assert 0 < gammas[1] < gammas[2] == 1
        assert np.array_equal(batch["frames"][0, ::2], example.frames[[0, -1]])
        assert np.array_equal(batch["labels"][0, -1], example.labels[len(example.frames) - 1])


@pytest.mark.parametrize(("es", "allowed"), [(2, {0.0, 1.0}), (3, {0.5})])
def test_few_frames_between_ed_and_es(tmp_path: Path, es: int, allowed: set[float]):
    write(tmp_path / "acdc", 1, 2, es=es, labels="none")
    training, _ = load_examples(config_of(tmp_path))
    batches = take(train_iterator(training, batch=1, seed=0, frames=3, augment=False), 10)
    assert set(np.concatenate([b["gammas"].ravel() for b in batches]).tolist()) == allowed
    assert (batches[0]["labels_ed"] == 255).all()
    assert (batches[0]["labels_es"] == 255).all()


def test_augmentation_is_the_same_for_images_and_labels(examples: list[Example]):
    """Every batch is one of the 8 flips and transposes of its example, all 8 occur."""
    seen = set()
    for batch in take(train_iterator(examples, batch=1, seed=0, frames=1, augment=True), 80):
        example = examples[batch["patient"][0]]
        last = len(example.frames) - 1
        middle = round(float(batch["gammas"][0, 0]) * last)
        pairs = [
            (batch["ed"][0], example.frames[0]),
            (batch["es"][0], example.frames[last]),
            (batch["frames"][0, 0], example.frames[middle]),
            (batch["bend"][0, 0], np.zeros_like(example.frames[0])),
            (batch["labels_ed"][0], example.labels[0]),
            (batch["labels_es"][0], example.labels[last]),
            (batch["fov"][0], example.fov),
        ]
        fitting = [
            symmetry
            for symmetry in itertools.product((False, True), repeat=3)
            if all(np.array_equal(got, transformed(x, *symmetry)) for got, x in pairs)
        ]
        assert len(fitting) == 1
        seen.add(fitting[0])
    assert len(seen) == 8


def transformed(x: np.ndarray, flip_h: bool, flip_w: bool, transpose: bool) -> np.ndarray:
    x = np.flip(x, tuple(axis for axis, flip in ((1, flip_h), (2, flip_w)) if flip))
    return x.transpose(0, 2, 1) if transpose else x


def test_no_transpose_of_a_grid_that_is_not_square(tmp_path: Path):
    write(tmp_path / "acdc", 1, 2)
    config = DataConfig(
        root=str(tmp_path / "acdc"), cache=str(tmp_path / "cache"), size=(8, 16, 32)
    )
    training, _ = load_examples(config)
    for batch in take(train_iterator(training, batch=1, seed=0, augment=True), 10):
        assert batch["ed"].shape == (1, 8, 16, 32)


def test_batches_are_a_function_of_the_seed(examples: list[Example]):
    def draw(seed: int) -> list[dict[str, np.ndarray]]:
        return take(train_iterator(examples, batch=2, seed=seed, augment=True), 7)

    assert same(draw(0), draw(0))
    assert not same(draw(0), draw(1))


def test_every_epoch_visits_every_patient_once_in_a_new_order(examples: list[Example]):
    batches = take(train_iterator(examples, batch=2, seed=0, augment=False), 9)
    epochs = np.concatenate([b["patient"] for b in batches]).reshape(3, 6)
    assert all(set(epoch) == set(range(6)) for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


@pytest.mark.parametrize("after", [0, 1, 4])
def test_an_iterator_that_starts_later_continues_exactly(examples: list[Example], after: int):
    whole = take(train_iterator(examples, batch=2, seed=5, frames=2, augment=True), after + 6)
    later = train_iterator(examples, batch=2, seed=5, frames=2, augment=True, start=after)
    assert same(take(later, 6), whole[after:])


@pytest.mark.parametrize("count", [2, 3, 6])
@pytest.mark.parametrize("start", [0, 3])
def test_any_number_of_shards_sees_the_same_batches(
    examples: list[Example], count: int, start: int
):
    """Also more than the patients have examples for in an epoch."""

    def draw(batch: int, shard: tuple[int, int]) -> list[dict[str, np.ndarray]]:
        return take(
            train_iterator(examples, batch=batch, seed=0, augment=True, shard=shard, start=start), 5
        )

    whole = draw(12, (0, 1))
    parts = zip(*(draw(12 // count, (i, count)) for i in range(count)), strict=True)
    joined = [{k: np.concatenate([p[k] for p in part]) for k in part[0]} for part in parts]
    assert same(joined, whole)


def test_a_batch_may_be_larger_than_the_patients_and_the_processes_change(
    examples: list[Example],
):
    """256 examples of 100 patients on 64 processes and then on 16: each epoch has each patient
    once, wherever batches end."""
    patients = (examples * 17)[:100]

    def drawn(processes: int, start: int, count: int) -> np.ndarray:
        found = [
            take(
                train_iterator(
                    patients, batch=256 // processes, seed=3, augment=False,
                    shard=(index, processes), start=start,
                ),
                count,
            )
            for index in range(processes)
        ]  # fmt: skip
        return np.concatenate(
            [[b["patient"] for b in shard] for shard in found], axis=1
        )  # (batches, examples)

    batches = np.concatenate([drawn(64, 0, 3), drawn(16, 3, 4)])
    whole = batches.reshape(-1)[:1700].reshape(17, 100)
    assert (np.sort(whole) == np.arange(100)[None]).all()
    assert len({tuple(epoch) for epoch in whole}) == 17


def test_pairs_are_any_two_frames_in_either_direction(examples: list[Example]):
    """Frames strictly between, at the right gammas, with labels where the ends have them."""
    config = DataConfig(augment=False, pairs=0.999)
    seen = set()
    for batch in take(stream.train_iterator(examples, config, batch=1, seed=0, frames=2), 120):
        example = examples[batch["patient"][0]]
        where = {cycle.tobytes(): i for i, cycle in enumerate(np.asarray(example.cycle))}
        first, last, *between = (
            where[x.tobytes()] for x in (batch["ed"][0], batch["es"][0], *batch["frames"][0])
        )
        share, steps = batch["span"][0]
        total = len(example.cycle)
        assert share == np.float32(steps / total)
        forwards = (last - first) % total == steps
        direction = 1 if forwards else -1
        assert (first + direction * steps) % total == last
        moments = np.round(batch["gammas"][0] * steps).astype(int)
        assert np.all((moments > 0) & (moments < steps))
        assert between == [(first + direction * int(k)) % total for k in moments]
        assert np.array_equal(batch["labels_ed"][0], example.cycle_labels[first])
        seen.add((int(steps), forwards))
    assert {steps for steps, _ in seen} == {2, 3, 4}
    assert {forwards for _, forwards in seen} == {False, True}


def test_pairs_know_how_frames_bend_at_their_ends(examples: list[Example]):
    """Over steps as long as the span, and never by a frame between the ends."""
    rng, seen = np.random.default_rng(0), set()
    config, example = DataConfig(pairs=1.0, longest=3), examples[0]
    total, cycle = len(example.cycle), np.asarray(example.cycle)
    for closed in (True, False):
        example = dataclasses.replace(example, closing_step=1.0 if closed else 3.0)
        for _ in range(60):
            pair = stream.drawn(example, 1, config, rng)
            assert 2 <= pair.steps <= 3
            one, other = cycle[pair.first], cycle[pair.last]
            step = pair.steps if (pair.last - pair.first) % total == pair.steps else -pair.steps
            bend = stream.taken(example, pair)["bend"]
            for i, (near, far) in enumerate(((one, other), (other, one))):
                found = (pair.before, pair.after)[i]
                seen.add((closed, pair.steps, found is not None))
                if found is None:
                    assert not bend[i].any()
                    continue
                assert found == (pair.first - step, pair.last + step)[i] % total
                assert found not in pair.between
                np.testing.assert_allclose(bend[i], far - 2 * near + cycle[found], atol=1e-6)
    # Of seven frames, three times three are too many.
    assert seen == {
        (True, 2, True),
        (True, 3, False),
        (False, 2, True),
        (False, 2, False),
        (False, 3, True),
        (False, 3, False),
    }


def test_a_longest_span(examples: list[Example]):
    rng = np.random.default_rng(0)
    drawn = [stream.drawn(examples[0], 1, DataConfig(pairs=1.0, longest=2), rng) for _ in range(20)]
    assert {pair.steps for pair in drawn} == {2}


def test_pairs_do_not_cross_a_gap(examples: list[Example]):
    gap = dataclasses.replace(examples[0], closing_step=3.0)
    rng = np.random.default_rng(0)
    for _ in range(50):
        pair = stream.drawn(gap, 1, DataConfig(pairs=0.999), rng)
        assert abs(pair.first - pair.last) == pair.steps


@pytest.mark.parametrize(("slices", "shown"), [(2, 2), (3, 3), (5, 3)])
def test_own_slices_are_cut_or_padded(tmp_path: Path, slices: int, shown: int):
    write(tmp_path / "acdc", 1, 2, shape=(5, 3, 16, 16), labels="all")
    config = dataclasses.replace(config_of(tmp_path), depth="native", slices=slices, augment=False)
    training, _ = load_examples(config)
    starts = set()
    for batch in take(stream.train_iterator(training, config, batch=1, seed=0), 20):
        assert batch["ed"].shape == (1, slices, *SIZE[1:])
        assert batch["labels_ed"].shape == batch["ed"].shape
        whole = training[0].frames[0]
        starts |= {
            start
            for start in range(4 - shown)
            if np.array_equal(batch["ed"][0, :shown], whole[start : start + shown])
        }
        assert not batch["fov"][0, shown:].any()
        assert not batch["ed"][0, shown:].any()
    assert starts == set(range(4 - shown))
