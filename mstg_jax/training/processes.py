"""The processes of a cluster or TPU pod: how they join, and how they agree."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from mstg_jax import console
from mstg_jax.config import ClusterConfig, SettingsError, UserError
from mstg_jax.training.guard import joined

LONGEST = 400  # bytes of a message to the others
STARTED = {"SLURM": "SLURM_STEP_NUM_TASKS", "Open MPI": "OMPI_COMM_WORLD_SIZE"}
"""What says how many processes they have started."""


def join(config: ClusterConfig) -> None:
    """Before JAX's backend starts. Raises SettingsError if nothing names the processes; JAX ends
    this one if the others do not come, see guard.py."""
    try:
        jax.distributed.initialize(
            config.coordinator,
            config.processes,
            config.process_id,
            initialization_timeout=config.timeout,
            heartbeat_timeout_seconds=config.timeout,
        )
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"--cluster.auto: {error} JAX knows the processes of SLURM, Open MPI, Kubernetes and "
            "Cloud TPU; elsewhere give each --cluster.coordinator (HOST:PORT of the first one), "
            "--cluster.processes and --cluster.process-id (0 to processes - 1)"
        ) from error
    joined()
    console.name_process(jax.process_index(), jax.process_count())


def alone_among() -> str | None:
    """Who has started several processes, of which this one may be meant to be one."""
    for name, variable in STARTED.items():
        count = os.environ.get(variable, "")
        if count.isdecimal() and int(count) > 1:
            return f"{name} has started {count} processes"
    return None


@contextmanager
def depending(run: Path) -> Iterator[None]:
    """Around steps that need all processes: says so where one of them has ended."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if jax.process_count() == 1 or "RESOURCE_EXHAUSTED" in str(error):
            raise
        raise UserError(
            f"what all processes do together failed ({str(error).splitlines()[0]}), as it does "
            f"where one has ended; continue by starting all of them with --resume --run {run}"
        ) from error


@contextmanager
def together() -> Iterator[None]:
    """Around what one process may fail at: then all of them end, instead of waiting for it."""
    failed: Exception | None = None
    try:
        yield
    except (UserError, OSError) as error:
        failed = error
    if jax.process_count() > 1:
        text = str(failed or "").encode()[:LONGEST]
        messages = multihost_utils.process_allgather(
            np.frombuffer(text.ljust(LONGEST, b"\0"), np.uint8)
        )
        if failed is None:
            for index, message in enumerate(messages):
                if said := bytes(message).rstrip(b"\0").decode(errors="replace"):
                    raise UserError(f"process {index} stopped: {said}")
    if failed is not None:
        raise failed
