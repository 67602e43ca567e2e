"""The processes of a cluster or TPU pod: how they join, and how they agree."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from mstg_jax import console
from mstg_jax.config import SettingsError, UserError

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
WAIT = 120  # seconds for the others to come
LONGEST = 400  # bytes of a message to the others


def join() -> None:
    """Before JAX's backend starts. Raises SettingsError with what would name the processes."""
    given = {name: os.environ.get(name) for name in (COUNT, INDEX)}
    if wrong := [f"{n} is {x!r}" for n, x in given.items() if x is not None and not x.isdecimal()]:
        raise SettingsError(f"train.distributed: {', '.join(wrong)}, which is no number")
    count, index = (None if x is None else int(x) for x in given.values())
    try:
        jax.distributed.initialize(
            num_processes=count, process_id=index, initialization_timeout=WAIT
        )
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"train.distributed: {error} JAX knows the processes of SLURM, Open MPI, Kubernetes "
            f"and Cloud TPU; elsewhere set {ADDRESS} (host:port of the first process), {COUNT} "
            f"and {INDEX} (0 to count - 1) for each process"
        ) from error
    except RuntimeError as error:
        first = str(error).splitlines()[0]
        raise SettingsError(
            f"train.distributed: the processes did not join within {WAIT} s: {first}; "
            f"{ADDRESS} is {os.environ.get(ADDRESS)}, {COUNT} {count}, {INDEX} {index}"
        ) from error
    console.name_process(jax.process_index(), jax.process_count())


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
