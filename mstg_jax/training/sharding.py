"""The mesh over all devices, and how a host's batch becomes part of the global one."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mstg_jax.config import Config, SettingsError
from mstg_jax.methods.base import Batch
from mstg_jax.training.state import TrainState

EXAMPLES, VOLUMES = PartitionSpec("data"), PartitionSpec("data", "space")
STACKS = PartitionSpec("data", None, "space")
BATCH = {
    "ed": VOLUMES,
    "es": VOLUMES,
    "bend": STACKS,
    "frames": STACKS,
    "gammas": EXAMPLES,
    "span": EXAMPLES,
    "fov": VOLUMES,
    "labels_ed": VOLUMES,
    "labels_es": VOLUMES,
    "labels": STACKS,
    "group": EXAMPLES,
    "ef": EXAMPLES,
}
"""What a step takes of a batch, and how it is split over the mesh."""
DTYPES = {"fov": np.bool_, "group": np.int32} | dict.fromkeys(
    ("labels_ed", "labels_es", "labels"), np.uint8
)
"""Of those that are not float32."""


def make_mesh(config: Config, devices: Sequence[Any] | None = None) -> Mesh:
    """Axes `data` and `space` over every device of every process, or over those given.

    Raises SettingsError if they are not as many as the settings say, or cannot share the batch or
    the slices evenly.
    """
    mesh, train, depth = config.mesh, config.train, config.data.grid[0][0]
    found = sorted(devices or jax.devices(), key=lambda device: (device.process_index, device.id))
    count, space = len(found), mesh.space
    data = count // space if mesh.data == -1 else mesh.data
    if data * space != count:
        raise SettingsError(
            f"mesh.data and mesh.space are {mesh.data} and {space}, but there are {count} devices, "
            "and their product must be that; or show JAX fewer devices"
        )
    own = len([d for d in found if d.process_index == found[0].process_index])
    if own % space:
        raise SettingsError(
            f"mesh.space is {space}, but a process has {own} devices, and those that share a "
            f"volume must be of one process: choose a divisor of {own}"
        )
    if depth % space:
        raise SettingsError(
            f"mesh.space is {space}, but volumes have {depth} slices, which {space} devices cannot "
            f"share evenly: choose a divisor of {depth}"
        )
    if train.batch % (data * train.accumulate):
        pieces = "" if train.accumulate == 1 else f" in {train.accumulate} pieces"
        raise SettingsError(
            f"train.batch is {train.batch}, which {data} devices cannot share evenly{pieces}; "
            f"choose a multiple of {data * train.accumulate}, or show JAX fewer devices"
        )
    axes = (AxisType.Auto,) * 2
    return Mesh(np.array(found).reshape(data, space), ("data", "space"), axis_types=axes)


def batch_shardings(mesh: Mesh) -> dict[str, NamedSharding]:
    return {name: NamedSharding(mesh, spec) for name, spec in BATCH.items()}


def to_device(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This process's part of a batch as global arrays, volumes with a channel axis of 1."""

    def put(x: np.ndarray, sharding: NamedSharding) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, x[..., None] if x.ndim > 2 else x)

    return {name: put(batch[name], spec) for name, spec in batch_shardings(mesh).items()}


def batch_shapes(config: Config, frames: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What `to_device` gives, before there is any data. frames: of a patient, Method.frames."""
    volume = (*config.data.grid[0], 1)
    stack = (frames, *volume)
    shapes = {"bend": (2, *volume), "frames": stack, "labels": stack}
    shapes |= {"gammas": (frames,), "span": (2,), "group": (), "ef": ()}
    return {
        name: jax.ShapeDtypeStruct(
            (config.train.batch, *shapes.get(name, volume)),
            DTYPES.get(name, np.float32),
            sharding=sharding,
        )
        for name, sharding in batch_shardings(mesh).items()
    }


def replicate(state: TrainState, mesh: Mesh) -> TrainState:
    """The same state on every device."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
