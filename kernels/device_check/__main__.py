"""`python -m kernels.device_check`: all that only a device can show, within eight minutes.

The scan against float64 and the same bits twice; NVIDIA's compute-sanitizer, where it is; times
beside other ways to write the scan, and beside the device's memory; training steps of ddm and paper
in float32 and bfloat16, beside DDM in PyTorch where that is installed. Each part is a process of
its own with its own limit: one that fails leaves the others.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[2]
LIMIT = 480  # seconds of all parts
DRY = "Nothing was measured: --dry only tries the command, on whatever runs here."


class Part(NamedTuple):
    """share: of the limit, at most; what other parts leave is the last one's."""

    name: str
    command: tuple[str, ...]
    share: float


def parts(dry: bool) -> list[Part]:
    module = (sys.executable, "-m", "kernels.device_check.exact")
    drawn = ("--few", "--drawn", "3") if dry else ("--drawn", "200", "--seconds", "140")
    found = [Part("exact", (*module, *drawn), 0.45)]
    if sanitizer := shutil.which("compute-sanitizer"):
        found.append(Part("sanitizer", (sanitizer, "--error-exitcode", "9", *module, "--one"), 0.2))
    speed = (sys.executable, "-m", "kernels.device_check.speed")
    found.append(Part("speed", (*speed, *(("--dry",) if dry else ("--seconds", "120"))), 0.4))
    bench = (sys.executable, "-m", "mstg_jax.bench", "--quantities", "training step")
    more = ("--size", "16", "32", "32", "--rounds", "1") if dry else ("--rounds", "5")
    if find_spec("torch") and (ROOT / "tests" / "torch_reference").is_dir():
        more += ("--vs", "torch")
    presets = ("ddm",) if dry else ("ddm", "paper")
    for precision in ("bf16",) if dry else ("float32", "bf16"):
        command = (*bench, *more, "--precision", precision, "--presets", *presets)
        found.append(Part(f"step {precision}", command, 1.0))
    return found


def run(part: Part, seconds: float) -> dict[str, Any]:
    """What the part prints or writes as JSON, how long it took, and what went wrong."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        path, command = Path(folder, "found.json"), list(part.command)
        if part.name.startswith("step"):
            command += ["--json", str(path)]
        try:
            done = subprocess.run(
                command, cwd=ROOT, timeout=seconds, capture_output=True, encoding="utf-8"
            )
        except subprocess.TimeoutExpired:
            return {"failed": [f"not done within {seconds:.0f} s"], "seconds": seconds}
        taken = {"seconds": round(time.monotonic() - start, 1)}
        if done.returncode:
            return taken | {"failed": [(done.stderr + done.stdout)[-2000:]]}
        lines = [x for x in done.stdout.splitlines() if x.startswith("{")]
        text = path.read_text(encoding="utf-8") if path.exists() else lines[-1]
    return {"failed": []} | json.loads(text) | taken


def main(argv: Sequence[str]) -> int:
    asked = parse(argv)
    try:
        asked.json.touch()
    except OSError as error:
        print(f"device_check: --json {asked.json} cannot be written: {error.strerror}")
        return 1
    if not asked.dry and not (found := default()).startswith(("triton", "pallas")):
        print(f"device_check: the scan's default here is {found}; --dry tries the command")
        return 1
    until, found = time.monotonic() + LIMIT, {}
    for part in parts(asked.dry):
        left = until - time.monotonic()
        found[part.name] = run(part, min(left, part.share * LIMIT)) if left > 0 else None
        found[part.name] = found[part.name] or {"failed": ["no time was left"]}
        print(report(part.name, found[part.name]), flush=True)
        asked.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    if asked.dry:
        print(DRY)
    return 1 if any(x["failed"] for x in found.values()) else 0


def default() -> str:
    """What the scan would run, asked in a process of its own: this one holds no device."""
    code = "from kernels.selective_scan import explain; print(explain())"
    command = (sys.executable, "-c", code)
    return subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, encoding="utf-8"
    ).stdout.strip()


def parse(argv: Sequence[str]) -> argparse.Namespace:
    options = argparse.ArgumentParser(prog="python -m kernels.device_check", description=__doc__)
    options.add_argument("--dry", action="store_true", help="try the command where no device is")
    options.add_argument("--json", type=Path, default=Path("device_check.json"))
    return options.parse_args(argv)


def report(name: str, found: dict[str, Any]) -> str:
    lines = [f"\n{name} ({found.get('seconds', 0)} s)"]
    if "cases" in found:
        lines.append(f"{found['implementation']}: {found['cases']} of {found['asked']} cases")
        worst = (f"{dtype} {x:.1e}" for dtype, x in found["largest error"].items())
        lines.append(f"largest errors: {', '.join(worst)}; each twice, to the last bit")
    if "bandwidth" in found:
        lines.append(f"{found['device']}: copies {found['bandwidth'] / 1e9:.0f} GB/s")
        lines += ["", "| workload | method | pass | ms | share of the ideal |", "|---" * 5 + "|"]
        for row in found["rows"]:
            cells = (row["workload"], row["method"], row["what"], f"{row['ms']:.3g}")
            lines.append(f"| {' | '.join(cells)} | {row['share of the ideal']:.2f} |")
    elif "rows" in found:
        lines += ["", "| who | s | peak MB |", "|---|---|---|"]
        for row in found["rows"]:
            lines.append(f"| {row['who']} | {row['seconds']:.3g} | {row['peak']:.0f} |")
    return "\n".join((*lines, *(f"FAILED {x}" for x in found["failed"])))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
