"""Patients to training batches: cached preprocessing, split by patient, augmentation, sharding."""

import dataclasses
import json
import logging
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from mstg_jax.config import DataConfig
from mstg_jax.data.acdc import find_patients, read_patient
from mstg_jax.data.cache import cache_key, staged
from mstg_jax.data.folder import expanded
from mstg_jax.data.geometry import Geometry
from mstg_jax.data.nifti import DataError
from mstg_jax.data.patient import Patient
from mstg_jax.files import writing

if TYPE_CHECKING:
    import grain

log = logging.getLogger(__name__)
UNKNOWN = 255
"""Label of every voxel where a patient has no labels."""


@dataclass(frozen=True, eq=False)
class Example:
    """One preprocessed patient; the arrays are memory-mapped from the cache.

    frames: ED to ES in time order, the geometry's range scaled to [0, 1], 0 outside the view.
    gammas: time of each frame, 0 at ED to 1 at ES.
    labels: position in the sequence -> labels; at least the first and the last, or empty.
    fov: voxels of the model's grid that lie inside the patient's image.
    digest: hash of the native images.
    """

    id: str
    folder: Path
    frames: Float32[np.ndarray, "t D H W"]
    gammas: Float32[np.ndarray, " t"]
    labels: dict[int, UInt8[np.ndarray, "D H W"]]
    fov: Bool[np.ndarray, "D H W"]
    geometry: Geometry
    digest: str = ""


def load_examples(config: DataConfig) -> tuple[list[Example], list[Example]]:
    """Training and validation patients, preprocessed.

    Raises DataError listing every broken patient (unless config.skip_bad), and if either side
    would be empty.
    """
    root = data_root(config)
    parts: dict[str, list[Example]] = {}
    problems: list[str] = []
    found = find_patients(root)
    for part, folders in found.items():
        parts[part] = []
        for folder in folders:
            try:
                parts[part].append(_example(folder, config))
            except DataError as error:
                problems.append(str(error))
    if problems:
        listing = "\n".join(problems)
        if not config.skip_bad:
            raise DataError(
                f"broken patients in {root}: {len(problems)}\n{listing}\n"
                "repair them, or leave them out with --data.skip-bad"
            )
        log.warning(f"broken patients of {root} left out: {len(problems)}\n{listing}")
    testing = parts["testing"] if found["testing"] else None
    return _split(parts["training"], testing, config.validation, root)


def data_root(config: DataConfig) -> Path:
    """The folder of patients; without one the phantom's, which is written if need be."""
    return expanded(config.root) if config.root else _phantom(config)


def _phantom(config: DataConfig) -> Path:
    from mstg_jax.data.phantom import write_phantom  # Only the newcomer's run needs it.

    size, seed, patients = config.phantom_size, config.phantom_seed, config.phantom_patients
    name = "phantom-" + "-".join(str(n) for n in (*patients, *size, seed))
    root = expanded(config.cache) / name
    log.info(f"no data.root given: using the beating-heart phantom in {root}")
    with writing("--data.cache", config.cache):
        return write_phantom(root, patients, size, seed)


def _split(
    training: list[Example], testing: list[Example] | None, share: float, root: Path
) -> tuple[list[Example], list[Example]]:
    """Split by patient; two folders with the same images never stand on both sides.

    testing: the patients of testing/, which validate; None in a flat folder, whose last ones do.
    """
    if testing is not None:
        twins = {e.digest: e.id for e in testing}
        for e in training:
            if e.digest in twins:
                twin = twins[e.digest]
                log.warning(f"{e.id} left out of training: same images as {twin} in testing/")
        training, validation = [e for e in training if e.digest not in twins], testing
    else:
        copies = Counter(e.digest for e in training)
        single = [e for e in training if copies[e.digest] == 1]
        count = min(max(1, round(share * len(training))), len(training) - 1)
        validation = single[-count:] if count > 0 else []
        training = [e for e in training if e not in validation]
    if not training or not validation:
        raise DataError(
            f"{root}: {len(training)} patients to train on and {len(validation)} to validate on; "
            "each side needs at least one, with images of its own"
        )
    return training, validation


def _example(folder: Path, config: DataConfig) -> Example:
    entry = expanded(config.cache) / "volumes" / cache_key(folder, config)
    try:
        return _read_entry(entry, folder)
    except (OSError, EOFError, ValueError, KeyError, TypeError):
        shutil.rmtree(entry, ignore_errors=True)
    with writing("--data.cache", config.cache), staged(entry) as partial:
        _write_entry(partial, folder, config)
    return _read_entry(entry, folder)


def example_of(patient: Patient, config: DataConfig) -> Example:
    """A patient on the model's grid, in memory."""
    geometry = Geometry.fit(patient, config.spacing, config.size, config.crop, config.percentiles)
    sequence = patient.sequence
    labels = {
        position: geometry.forward_labels(patient.labels[frame])
        for position, frame in enumerate(sequence)
        if frame in patient.labels
    }
    return Example(
        id=patient.id,
        folder=patient.folder,
        frames=geometry.forward(patient.frames[sequence]),
        gammas=np.linspace(0, 1, len(sequence), dtype=np.float32),
        labels=labels,
        fov=geometry.fov(),
        geometry=geometry,
        digest=patient.digest,
    )


def _write_entry(entry: Path, folder: Path, config: DataConfig) -> None:
    example = example_of(read_patient(folder), config)
    meta = {
        "frames": len(example.frames),
        "labels": list(example.labels),
        "geometry": dataclasses.asdict(example.geometry),
        "digest": example.digest,
    }
    # One file per patient, because a memory map holds a descriptor and systems allow as few as 256.
    arrays = [example.frames, *example.labels.values(), example.fov]
    np.save(entry / "volumes.npy", np.concatenate([a.reshape(-1).view(np.uint8) for a in arrays]))
    (entry / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_entry(entry: Path, folder: Path) -> Example:
    """Raises what `_example` catches if the entry is missing or damaged."""
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    lists = meta["geometry"].items()
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in lists}
    geometry = Geometry(**fields)
    raw = np.load(entry / "volumes.npy", mmap_mode="r")
    t, size = meta["frames"], geometry.size
    voxels = int(np.prod(size))
    volumes = raw[4 * t * voxels :].reshape(len(meta["labels"]) + 1, *size)
    return Example(
        id=folder.name,
        folder=folder,
        frames=raw[: 4 * t * voxels].view(np.float32).reshape(t, *size),
        gammas=np.linspace(0, 1, t, dtype=np.float32),
        labels=dict(zip(meta["labels"], volumes[:-1], strict=True)),
        fov=volumes[-1].view(np.bool_),
        geometry=geometry,
        digest=meta["digest"],
    )


def train_iterator(
    examples: Sequence[Example],
    *,
    batch: int,
    seed: int,
    frames: int = 1,
    augment: bool,
    shard: tuple[int, int] = (0, 1),
    start: int = 0,
) -> "grain.DatasetIterator[dict[str, np.ndarray]]":
    """Endless batches, a function of the seed, from number `start` on; this shard's part of each.

    One stream of examples, with the patients shuffled anew each epoch, is cut into batches, and
    each batch evenly over the shards (index, count): all shards together see the same batches
    whatever their number. batch: examples of a shard's part.

    ed, es: float32 (b d h w); frames: float32 (b f d h w), strictly between ED and ES, sorted, at
    gammas: float32 (b f); labels_ed, labels_es: uint8 (b d h w), 255 where a patient has none;
    fov: bool (b d h w); patient: int32 (b), index into examples.
    """
    import grain  # Here because grain imports jax, and reading data should not wait for that.

    index, count = shard

    def load(i: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
        item = _sample(examples[i], frames, rng)
        item = _augmented(item, rng) if augment else item
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


def _sample(example: Example, count: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    last = len(example.frames) - 1
    between = np.arange(1, last) if last > 1 else np.array([0, last])
    chosen = np.sort(rng.choice(between, count, replace=count > len(between)))
    unknown = np.full(example.fov.shape, UNKNOWN, np.uint8)
    return {
        "ed": example.frames[0],
        "es": example.frames[last],
        "frames": example.frames[chosen],
        "gammas": example.gammas[chosen],
        "labels_ed": example.labels.get(0, unknown),
        "labels_es": example.labels.get(last, unknown),
        "fov": example.fov,
    }


def _augmented(item: dict[str, np.ndarray], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """DDM's augmentation: flips of h and w and their transpose, each with probability 0.5."""
    flip_h, flip_w, transpose = rng.random(3) < 0.5
    _, height, width = item["ed"].shape

    def apply(x: np.ndarray) -> np.ndarray:
        if np.ndim(x) < 3:
            return x
        x = x[..., ::-1, :] if flip_h else x
        x = x[..., ::-1] if flip_w else x
        return x.swapaxes(-1, -2) if transpose and height == width else x

    return {key: apply(value) for key, value in item.items()}
