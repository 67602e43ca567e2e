"""`python -m mstg_jax.bench [--vs torch]`: training step, both networks, and a sequence.

Everything that is compared stands in a process of its own, warmed up, and waits for its turn: the
rounds alternate, the medians count. Memory is the process's peak while it works, once compiled.
"""

import json
import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from mstg_jax import files
from mstg_jax.bench.request import QUANTITIES, Quantity, Request
from mstg_jax.command import command, leave
from mstg_jax.config import PRESETS, Precision, SettingsError, UserError


@dataclass(frozen=True)
class Settings:
    """Measure presets on this machine, and DDM in PyTorch beside them."""

    presets: tuple[str, ...] = ("ddm", "paper")
    vs: Literal["torch"] | None = None
    """The first column, which the others are a share of: DDM's networks in plain PyTorch, from
    tests/torch_reference (needs a checkout and PyTorch); by default the first preset."""
    quantities: tuple[Quantity, ...] = QUANTITIES
    size: tuple[int, int, int] = (32, 128, 128)
    """Voxels (d, h, w) of the one volume that is worked on."""
    precision: Precision = "float32"
    """Of products of weights in the training step; PyTorch's by autocast."""
    rounds: int = 5
    """Times that everything is run, in turn."""
    json: Path | None = None
    """Where to write the figures, too."""


class Row(NamedTuple):
    quantity: Quantity
    who: str
    seconds: float  # the median
    seconds_all: list[float]
    peak: float  # MB


class BenchError(UserError):
    """A worker could not do its part; the message has its last words."""


class Worker:
    """A process that has prepared one quantity, and measures it when it is told to."""

    def __init__(self, who: str, request: Request):
        self.who = who
        command = [sys.executable, "-m", "mstg_jax.bench.worker", json.dumps(request._asdict())]
        # XLA's logs of compilation would stand between the lines of the table.
        # Several share a GPU, none of which may take its memory beforehand.
        env = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "2", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, encoding="utf-8", env=env
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise BenchError(f"{self.who}: stopped with code {self.process.wait()} (see above)")
        found = json.loads(line)
        if isinstance(found, str):
            raise BenchError(f"{self.who}: {found}")
        return found

    def ask(self, what: Literal["run", "peak"]) -> float:
        assert self.process.stdin is not None
        print(what, file=self.process.stdin, flush=True)
        return self.answer()


def measure(quantity: Quantity, settings: Settings) -> list[Row]:
    """One row for each preset, after PyTorch's if it is asked for."""
    more = quantity, settings.size, settings.precision
    wanted = {name: Request("jax", name, *more) for name in settings.presets}
    if settings.vs:
        wanted = {"torch": Request("torch", "ddm", *more)} | wanted
    workers: list[Worker] = []
    try:
        for who, request in wanted.items():
            workers.append(Worker(who, request))
            workers[-1].answer()  # ready: the next one's preparation is not in its way
        times: list[list[float]] = [[] for _ in workers]
        for _ in range(settings.rounds):
            for worker, own in zip(workers, times, strict=True):
                own.append(worker.ask("run"))
        return [
            Row(quantity, worker.who, statistics.median(own), own, worker.ask("peak"))
            for worker, own in zip(workers, times, strict=True)
        ]
    finally:
        for worker in workers:
            worker.__exit__()


def line(rows: list[Row]) -> str:
    """A quantity's row of the table: seconds and MB; the others' as shares of the first's, too."""
    base, cells = rows[0], []
    for row in rows:
        shares = (f" ({x:.2f})" for x in (row.seconds / base.seconds, row.peak / base.peak))
        time, memory = ("", "") if row is base else shares
        cells.append(f"{row.seconds:.3g} s{time}, {row.peak:.0f} MB{memory}")
    return f"| {base.quantity} | {' | '.join(cells)} |"


@command("bench")
def main(argv: Sequence[str]) -> int:
    import tyro  # Not above: from `command` on Ctrl-C shows no traceback.

    settings = tyro.cli(Settings, args=argv, prog="python -m mstg_jax.bench")
    if settings.json:
        files.usable("--json", settings.json.parent)
    if unknown := set(settings.presets) - set(PRESETS):
        raise SettingsError(f"no preset {sorted(unknown)}; there are {', '.join(PRESETS)}")
    from mstg_jax.methods import make_method  # Not above: it imports JAX.

    for name in (*settings.presets, *(["ddm"] if settings.vs else [])):
        config = PRESETS[name][1]
        config = replace(config, data=replace(config.data, size=settings.size))
        try:
            config.check()
            make_method(config)
        except SettingsError as error:
            raise SettingsError(f"{name}: {error}") from None
    names = (["PyTorch, DDM"] if settings.vs else []) + list(settings.presets)
    print(f"| 1 x {' x '.join(map(str, settings.size))} | {' | '.join(names)} |")
    print("|---" * (1 + len(names)) + "|", flush=True)
    rows: list[Row] = []
    for quantity in settings.quantities:
        rows += (own := measure(quantity, settings))
        print(line(own), flush=True)
        if settings.json:
            figures = {
                "machine": platform.platform(),
                "cores": os.cpu_count(),
                "size": settings.size,
                "rows": [row._asdict() for row in rows],
            }
            with files.writing("--json", settings.json):
                files.write_text(settings.json, json.dumps(figures, indent=1))
    return 0


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
