"""Patients on the model's grid: cached preprocessing, split by patient."""

import dataclasses
import json
import logging
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from mstg_jax.config import DataConfig
from mstg_jax.data.acdc import find_patients, read_patient
from mstg_jax.data.cache import cache_key, staged
from mstg_jax.data.cycle import closing_step
from mstg_jax.data.folder import expanded
from mstg_jax.data.geometry import Geometry
from mstg_jax.data.labels import LEFT
from mstg_jax.data.nifti import DataError
from mstg_jax.data.patient import Patient
from mstg_jax.files import writing

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Example:
    """One preprocessed patient; the arrays are memory-mapped from the cache.

    cycle: every frame, the geometry's range scaled to [0, 1], 0 outside the view.
    order: the frames from ED to ES in time order, round the end of the cycle if ES precedes ED.
    cycle_labels: frame -> labels; at least those of ED and ES, or empty.
    fov: voxels of the model's grid that lie inside the patient's image.
    resampled: the geometry with slices of the settings' spacing, on which frames are scored; the
        same as `geometry` unless the slices are the patient's own.
    digest: hash of the native images.
    closing_step: see data/cycle.py.
    group: the class in Info.cfg.
    """

    id: str
    folder: Path
    cycle: Float32[np.ndarray, "n D H W"]
    order: tuple[int, ...]
    cycle_labels: dict[int, UInt8[np.ndarray, "D H W"]]
    fov: Bool[np.ndarray, "D H W"]
    geometry: Geometry
    resampled: Geometry
    digest: str = ""
    closing_step: float = 1.0
    group: str | None = None

    @property
    def frames(self) -> Float32[np.ndarray, "t D H W"]:
        """From ED to ES."""
        first, last = self.order[0], self.order[-1]
        return self.cycle[first : last + 1] if first < last else self.cycle[list(self.order)]

    @property
    def gammas(self) -> Float32[np.ndarray, " t"]:
        """Time of each of `frames`, 0 at ED to 1 at ES."""
        return np.linspace(0, 1, len(self.order), dtype=np.float32)

    @property
    def span(self) -> tuple[float, float]:
        """From ED to ES: the share of the cycle, and the steps of time."""
        steps = len(self.order) - 1
        return steps / len(self.cycle), float(steps)

    @cached_property
    def ejection_fraction(self) -> float | None:
        """Of the left ventricle, from the labels of ED and ES; None without any in ED."""
        ends = (self.cycle_labels.get(self.order[i]) for i in (0, -1))
        full, empty = (0 if x is None else int((x == LEFT).sum()) for x in ends)
        return (full - empty) / full if full else None

    @property
    def labels(self) -> dict[int, UInt8[np.ndarray, "D H W"]]:
        """Position in `frames` -> labels; at least the first and the last, or empty."""
        known = self.cycle_labels
        return {i: known[frame] for i, frame in enumerate(self.order) if frame in known}


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


def geometry_of(patient: Patient, config: DataConfig) -> Geometry:
    return Geometry.fit(
        patient, config.spacing, config.size, config.crop, config.percentiles, config.depth
    )


def example_of(patient: Patient, config: DataConfig) -> Example:
    """A patient on the model's grid, in memory."""
    geometry = geometry_of(patient, config)
    resampled = geometry_of(patient, replace(config, depth="resampled"))
    cycle, fov = geometry.forward(patient.frames), geometry.fov()
    return Example(
        id=patient.id,
        folder=patient.folder,
        cycle=cycle,
        order=tuple(patient.sequence),
        cycle_labels={
            frame: geometry.forward_labels(labels) for frame, labels in patient.labels.items()
        },
        fov=fov,
        geometry=geometry,
        resampled=resampled,
        digest=patient.digest,
        closing_step=closing_step(cycle, fov),
        group=patient.group,
    )


def _write_entry(entry: Path, folder: Path, config: DataConfig) -> None:
    example = example_of(read_patient(folder), config)
    meta = {
        "frames": len(example.cycle),
        "order": list(example.order),
        "labels": list(example.cycle_labels),
        "geometry": dataclasses.asdict(example.geometry),
        "resampled": dataclasses.asdict(example.resampled),
        "digest": example.digest,
        "closing_step": example.closing_step,
        "group": example.group,
    }
    # One file per patient, because a memory map holds a descriptor and systems allow as few as 256.
    arrays = [example.cycle, *example.cycle_labels.values(), example.fov]
    np.save(entry / "volumes.npy", np.concatenate([a.reshape(-1).view(np.uint8) for a in arrays]))
    (entry / "meta.json").write_text(json.dumps(meta), encoding="utf-8")


def _read_entry(entry: Path, folder: Path) -> Example:
    """Raises what `_example` catches if the entry is missing or damaged."""
    meta = json.loads((entry / "meta.json").read_text(encoding="utf-8"))
    geometry, resampled = (_geometry(meta[name]) for name in ("geometry", "resampled"))
    raw = np.load(entry / "volumes.npy", mmap_mode="r")
    t, size = meta["frames"], geometry.size
    voxels = int(np.prod(size))
    volumes = raw[4 * t * voxels :].reshape(len(meta["labels"]) + 1, *size)
    return Example(
        id=folder.name,
        folder=folder,
        cycle=raw[: 4 * t * voxels].view(np.float32).reshape(t, *size),
        order=tuple(meta["order"]),
        cycle_labels=dict(zip(meta["labels"], volumes[:-1], strict=True)),
        fov=volumes[-1].view(np.bool_),
        geometry=geometry,
        resampled=resampled,
        digest=meta["digest"],
        closing_step=meta["closing_step"],
        group=meta["group"],
    )


def _geometry(stored: dict[str, Any]) -> Geometry:
    fields: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in stored.items()}
    return Geometry(**fields)
