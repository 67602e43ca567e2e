"""New patients: frames and labels from ED to ES, made of a class, an ejection fraction, or labels.

They are written in ACDC's layout, so that `train.py` trains on them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Float32, UInt8

from mstg_jax.config import GROUPS, SettingsError
from mstg_jax.data.labels import LEFT, UNKNOWN
from mstg_jax.data.layout import write_patient
from mstg_jax.data.pipeline import Example
from mstg_jax.methods.base import Model
from mstg_jax.methods.direct import Direct
from mstg_jax.methods.platform import compiler_options
from mstg_jax.models.conditions import nothing

WHITE = 1000
"""Of the images on disk; a model's 1, the brightest of ED, is this."""


@dataclass(frozen=True, eq=False)
class Heart:
    """Images with ED's range as [0, 1], and their labels, 255 where a frame has none."""

    frames: Float32[np.ndarray, "t d h w"]
    labels: UInt8[np.ndarray, "t d h w"]

    @property
    def ejection_fraction(self) -> float:
        """Of the labels' left ventricle, first frame to last; nan without any in the first."""
        full, empty = (np.count_nonzero(self.labels[i] == LEFT) for i in (0, -1))
        return (full - empty) / full if full else float("nan")


def check(method: object) -> Direct:
    """The method, if it makes hearts. Raises SettingsError otherwise."""
    if not isinstance(method, Direct) or not method.ends:
        raise SettingsError(
            "new patients need a run of method direct whose frames include ED and ES: train.py "
            "direct --direct.ends"
        )
    labels = "labels" in (*method.direct.makes, *method.direct.given)
    if not labels:
        raise SettingsError(
            "new patients need labels, which this run neither makes (--direct.makes frames labels) "
            "nor is given (--direct.given labels)"
        )
    return method


def new_heart(
    method: Direct,
    model: Model,
    size: tuple[int, int, int],
    *,
    seed: int,
    number: int,
    group: str | None = None,
    ef: float | None = None,
    like: Example | None = None,
) -> Heart:
    """A patient of the model's grid, the same for the same seed and number.

    group: one of GROUPS; ef: from 0 to 1; like: whose labels it has, for a model that is given
    labels. Raises SettingsError for what the model was not trained to be given, and for labels that
    it needs.
    """
    wanted = {"group": group, "ef": ef, "labels": like}
    for name, value in wanted.items():
        if value is not None and name not in method.direct.given:
            raise SettingsError(
                f"{name} is asked for, but the run's model is given "
                f"{', '.join(method.direct.given) or 'nothing'}: train with --direct.given {name}"
            )
    labels = None if like is None else _labels_of(like, method.frames)
    if labels is None and "labels" not in method.direct.makes:
        raise SettingsError("the run's model makes images of labels: --patient says whose")
    known = nothing(jnp.linspace(0, 1, method.frames)[None], size, method.direct)
    yes = jnp.ones(1, jnp.bool_)
    if group is not None:
        known = known._replace(group=jnp.array([GROUPS.index(group)]))
    if ef is not None:
        known = known._replace(ef=jnp.array([ef], jnp.float32))
    if labels is not None:
        known = known._replace(labels=jnp.asarray(labels)[None, ..., None])
    given = {name: yes for name, value in wanted.items() if value is not None}
    key = jax.random.fold_in(jax.random.key(seed), number)
    made = np.asarray(_draw()(method, *model, known._replace(given=known.given | given), key))[0]
    frames = np.clip((made[..., 0] + 1) / 2, 0, None)
    if labels is None:
        structures = made[..., 1:]
        labels = np.where(structures.max(-1) > 0, structures.argmax(-1) + 1, 0).astype(np.uint8)
    return Heart(frames, labels)


@cache
def _draw() -> Callable[..., Any]:
    def draw(method: Direct, graph: nnx.GraphDef, params: Any, known: Any, key: Any) -> Any:
        return method.draw(nnx.merge(graph, params), known, key)

    return jax.jit(draw, static_argnums=(0, 1), compiler_options=compiler_options())


def _labels_of(example: Example, count: int) -> UInt8[np.ndarray, "t d h w"]:
    """Of frames evenly spread from ED to ES; 255 where a frame has none."""
    if not example.labels:
        raise SettingsError(f"{example.id} has no labels to make images of")
    unknown = np.full(example.fov.shape, UNKNOWN, np.uint8)
    places = np.rint(np.linspace(0, len(example.order) - 1, count)).astype(int)
    return np.stack([example.labels.get(int(place), unknown) for place in places])


def write_heart(
    folder: Path, heart: Heart, spacing: tuple[float, float, float], group: str | None
) -> None:
    """In ACDC's layout, without slices that are empty at either end of the stack."""
    held = np.flatnonzero(heart.frames.max(axis=(0, 2, 3)) > 0.1)
    slices = slice(held[0], held[-1] + 1) if len(held) else slice(None)
    images = np.rint(heart.frames[:, slices] * WHITE).astype(np.int16)
    info = {} if group is None else {"Group": group}
    last = len(images) - 1
    write_patient(folder, images, heart.labels[:, slices], spacing, (0, last), **info)
