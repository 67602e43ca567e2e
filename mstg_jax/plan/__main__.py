"""`python -m mstg_jax.plan [PRESET] --topology v5e:16x16 [--flags]`: before a machine is paid for.

Compiles the real training step by the devices' own compiler, which runs on any machine, and prints
what a step takes of each device.
"""

import json
import logging
import os
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mstg_jax import files
from mstg_jax.cli import parse_preset
from mstg_jax.command import command, leave
from mstg_jax.config import Config
from mstg_jax.plan import topology as topologies

log = logging.getLogger("mstg_jax.plan")

DESCRIPTION = "What a training step takes of devices that are not here; flags as of train.py, and:"
FLAGS = {
    "--topology": "v5e:16x16, v6e:4x4, v5p:2x2x1, a100:8, h100:16, h200:1",
    "--asked-only": "not the largest batch that fits, for which more is compiled",
    "--thorough": "compile as for a run: five times as long, for up to a quarter less memory",
    "--json PATH": "where to write the figures, too",
}
HEAD = ("", "batch", "per device", "peak GB", "of", "operations", "traffic GB", "exchanged")
HEAD += ("estimate of a step", "examples/s")
QUIET = {"TF_CPP_MIN_LOG_LEVEL": "2", "TPU_MIN_LOG_LEVEL": "3", "TPU_STDERR_LOG_LEVEL": "3"}


@command("plan")
def main(argv: Sequence[str]) -> int:
    given, config = parse(argv)
    topology = topologies.parsed(given.topology)
    topologies.prepare(topology)
    os.environ.update(QUIET)
    if given.json is not None:
        files.usable("--json", given.json.parent)

    import jax

    jax.config.update("jax_enable_x64", False)
    if not given.thorough:
        jax.config.update("jax_exec_time_optimization_effort", -1.0)
    found = figures(config, topology, not given.asked_only)
    print(table(topology, config, found))
    if given.json is not None:
        with files.writing("--json", given.json):
            files.write_text(given.json, json.dumps(found, indent=1))
    return 0


def parse(argv: Sequence[str]) -> tuple[Namespace, Config]:
    """Its own flags, and the settings of the run. Raises SettingsError."""
    own = ArgumentParser(add_help=False, allow_abbrev=False)
    own.add_argument("--topology", default="")
    own.add_argument("--asked-only", action="store_true")
    own.add_argument("--thorough", action="store_true")
    own.add_argument("--json", type=Path)
    given, rest = own.parse_known_args(argv)
    more = "; ".join(f"{name}: {text}" for name, text in FLAGS.items())
    config = parse_preset(rest, "python -m mstg_jax.plan", DESCRIPTION, more)
    config.check()
    return given, config


def figures(config: Config, topology: topologies.Topology, largest: bool) -> dict[str, Any]:
    """Of the batch that is asked for, and of the largest."""
    from mstg_jax.devices import DEVICES
    from mstg_jax.plan.fit import Planner, estimate

    devices = topologies.devices(topology)
    kind = devices[0].device_kind
    device = DEVICES[kind]
    planner = Planner(config, devices, topology.platform, device)
    found: dict[str, Any] = {"devices": len(devices), "kind": kind, "memory": planner.limit}
    with topologies.tracing_for(topology):
        batch = planner.asked
        program = planner.program(batch)
        columns = [("asked", batch, program)]
        if largest and program is not None:
            columns.append(("largest", *planner.largest(batch, program)))
    for name, batch, program in columns:
        found[name] = {"batch": batch, "fits": program is not None}
        if program is not None:
            time = estimate(program, device, config.precision)
            found[name] |= program._asdict() | {"peak": program.peak} | time._asdict()
            found[name] |= {"seconds": time.seconds, "bound": time.bound}
            found[name]["collectives"] = [x._asdict() for x in program.collectives]
    return found


def table(topology: topologies.Topology, config: Config, found: dict[str, Any]) -> str:
    """In Markdown."""
    columns = [found[name] for name in ("asked", "largest") if name in found]
    count, limit = found["devices"], found["memory"]
    title = f"{config.method} on {topology}: {count} x {found['kind']}, {config.precision}"
    rows: list[tuple[str, ...]] = [HEAD]
    for name, x in zip(("asked", "largest"), columns, strict=False):
        cells = (name, f"{x['batch']:,}", f"{x['batch'] / count:g}")
        if not x["fits"]:
            rows.append((*cells, "does not fit", f"{limit / 1e9:.0f}", *[""] * 5))
            continue
        rows.append(
            (
                *cells,
                f"{x['peak'] / 1e9:.2f}",
                f"{limit / 1e9:.0f}",
                f"{x['operations'] / 1e12:.3f} T",
                f"{x['traffic'] / 1e9:.1f}",
                exchanged(x),
                f"{1e3 * x['seconds']:.1f} ms ({x['bound']})",
                f"{x['batch'] / x['seconds']:,.0f}",
            )
        )
    lines = [f"| {' | '.join(row)} |" for row in rows]
    lines.insert(1, "|" + " --- |" * len(rows[0]))
    return "\n".join((title, "", *lines))


def exchanged(x: dict[str, Any]) -> str:
    kinds = sorted({c["kind"] for c in x["collectives"]})
    total = sum(c["bytes"] for c in x["collectives"])
    share = f" ({total / x['parameters']:.2f} of the weights)" if total else ""
    return f"{', '.join(kinds) or 'nothing'} {total / 1e6:.1f} MB{share}"


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
