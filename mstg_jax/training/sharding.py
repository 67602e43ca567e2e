"""The mesh over all devices, and how a host's batch becomes part of the global one."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mstg_jax.config import Config, SettingsError
from mstg_jax.methods.base import Batch
from mstg_jax.training.state import TrainState

DEVICE_KEYS = ("ed", "es", "bend", "frames", "gammas", "span", "fov", "labels_ed", "labels_es")
DTYPES = {"fov": np.bool_, "labels_ed": np.uint8, "labels_es": np.uint8}
"""Of those that are not float32."""


def make_mesh(batch: int) -> Mesh:
    """One axis, `data`, over every device of every process.

    Raises SettingsError if the batch cannot be split evenly over the devices.
    """
    count = jax.device_count()
    if batch % count:
        raise SettingsError(
            f"train.batch is {batch}, which {count} devices cannot share evenly; "
            f"choose a multiple of {count}, or show JAX fewer devices"
        )
    return jax.make_mesh((count,), ("data",), axis_types=(AxisType.Auto,))


def to_device(batch: dict[str, np.ndarray], mesh: Mesh) -> Batch:
    """This process's part of a batch as global arrays, volumes with a channel axis of 1."""
    sharding = NamedSharding(mesh, PartitionSpec("data"))

    def put(x: np.ndarray) -> jax.Array:
        return jax.make_array_from_process_local_data(sharding, x[..., None] if x.ndim > 2 else x)

    return {name: put(batch[name]) for name in DEVICE_KEYS}


def batch_shapes(config: Config, frames: int, mesh: Mesh) -> dict[str, jax.ShapeDtypeStruct]:
    """What `to_device` gives, before there is any data. frames: of a patient, Method.frames."""
    volume = (*config.data.grid[0], 1)
    shapes = {
        "ed": volume,
        "es": volume,
        "bend": (2, *volume),
        "frames": (frames, *volume),
        "gammas": (frames,),
        "span": (2,),
        "fov": volume,
        "labels_ed": volume,
        "labels_es": volume,
    }
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {
        name: jax.ShapeDtypeStruct(
            (config.train.batch, *shape),
            DTYPES.get(name, np.float32),
            sharding=sharding,
        )
        for name, shape in shapes.items()
    }


def replicate(state: TrainState, mesh: Mesh) -> TrainState:
    """The same state on every device."""
    return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))
