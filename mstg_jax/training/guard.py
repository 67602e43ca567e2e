"""Of several processes each runs below a guard, which says in our terms why JAX has ended it.

JAX ends a process by abort, and Python is not asked, when the others have not come, have ended or
give no sign of life.
"""

import os
import signal
import sys

from mstg_jax.children import Children
from mstg_jax.config import Config, UserError

JOINED = "MSTG_JAX_JOINED"
"""Names the descriptor on which a guarded process says that all have come."""


def guarded() -> bool:
    """Whether this process has a guard, or can have none."""
    return JOINED in os.environ or os.name != "posix"


def joined() -> None:
    """Says so to the guard."""
    if JOINED in os.environ:
        os.write(int(os.environ[JOINED]), b"1")


def guard(config: Config) -> int:
    """The exit code of this process's own command, started anew. Raises UserError if JAX has ended
    it."""
    reader, writer = os.pipe()
    with Children() as children:
        code = children.run([sys.executable, *sys.argv], {JOINED: writer})
    os.close(writer)
    with open(reader, "rb") as told:
        came = bool(told.read(1))
    if code != -signal.SIGABRT:
        return code if code >= 0 else 128 - code
    cluster = config.cluster
    if came:
        raise UserError(
            "another process of the run has ended, or has given no sign of life for "
            f"{cluster.timeout} s; continue by starting all of them with --resume --run "
            f"{config.run}"
        )
    asked = (
        "the processes that the cluster has started"
        if cluster.coordinator is None
        else f"{cluster.processes} processes at {cluster.coordinator}, this one is "
        f"{cluster.process_id}"
    )
    raise UserError(f"the others did not come within {cluster.timeout} s: {asked}")
