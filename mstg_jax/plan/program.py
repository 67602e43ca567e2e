"""A training step, compiled for devices that are not here, and what its program says of itself."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from mstg_jax.config import Config
from mstg_jax.methods import make_method
from mstg_jax.plan.text import Collective, collectives, scans, traffic
from mstg_jax.training.operations import operations
from mstg_jax.training.sharding import batch_shapes, make_mesh
from mstg_jax.training.state import init_state, make_optimiser
from mstg_jax.training.step import make_train_step


class Program(NamedTuple):
    """Bytes and operations of one device in one step.

    arguments: what stays, the state and the batch. temporaries: what a step needs besides. traffic:
    read and written, of its memory, as the program's text says.
    scans: calls of the scan's kernels in it; none on a CPU.
    """

    parameters: int
    arguments: int
    temporaries: int
    operations: float
    traffic: int
    collectives: tuple[Collective, ...]
    scans: int

    @property
    def peak(self) -> int:
        return self.arguments + self.temporaries


def compiled(config: Config, devices: Sequence[Any], platform: str) -> Program:
    """The step that train.py would run with these settings on these devices.

    Raises SettingsError if they cannot share the work, and JaxRuntimeError, with
    RESOURCE_EXHAUSTED, if a TPU's memory does not hold it.
    """
    mesh = make_mesh(config, devices)
    method, optimiser = make_method(config), make_optimiser(config.optim, config.train.steps)
    structure, state = init_state(method, optimiser, 0)
    step: Any = make_train_step(
        method, structure, config.optim, mesh, config.train.accumulate, config.precision
    )
    everywhere = NamedSharding(mesh, PartitionSpec())

    def shape(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere)

    traced = step.trace(
        jax.tree.map(shape, state),
        batch_shapes(config, method.frames, mesh),
        shape(jax.random.key(0)),
        shape(np.int32(0)),
    )
    counted = operations(traced.jaxpr.jaxpr, platform) / len(devices)
    program = traced.lower().compile()
    memory, text = program.memory_analysis(), program.as_text()
    return Program(
        parameters=4 * state.params.size,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes + memory.generated_code_size_in_bytes,
        operations=counted,
        traffic=traffic(text),
        collectives=tuple(collectives(text)),
        scans=scans(text),
    )


def with_batch(config: Config, batch: int) -> Config:
    return replace(config, train=replace(config.train, batch=batch))
