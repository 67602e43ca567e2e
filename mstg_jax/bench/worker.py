"""The process that measures one quantity: `run` and `peak` on stdin, a number for each back."""

import ctypes
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from mstg_jax.bench.request import Request

WARM = 2  # runs that do not count
TESTS = Path(__file__).parents[2] / "tests"


def prepare(request: Request) -> Callable[[], object]:
    """What is measured; it returns when it is done."""
    if request.side == "jax":
        from mstg_jax.bench.workloads import prepared

        return prepared(request)
    if not (TESTS / "torch_reference").is_dir():
        raise FileNotFoundError(
            f"{TESTS}: no torch_reference there; --vs torch runs from a checkout of mstg_jax"
        )
    sys.path.insert(0, str(TESTS))
    prepare = import_module("torch_reference.bench").prepare
    return prepare(request.quantity, request.size, request.precision)


def forget_peak() -> None:
    """What compilation freed goes back to the system, and the peak starts anew (Linux)."""
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")


def peak(side: str) -> float:
    """MB of memory that the process has held at most since `forget_peak` (Linux); of an accelerator
    what its framework has held, compilation included."""
    if side == "jax":
        import jax

        held = (jax.local_devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    else:
        import torch

        held = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    if held:
        return held / 2**20
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = (x.split()[1] for x in status.splitlines() if x.startswith("VmHWM"))
    return int(kilobytes) / 1024


def main(text: str) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks answers Ctrl-C, and ends this process
    # Only answers go to stdout, whatever the libraries print.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(found: float | str) -> None:
        print(json.dumps(found), file=answers, flush=True)

    try:
        given = json.loads(text)
        request = Request(**given | {"size": tuple(given["size"])})
        run = prepare(request)
    except (ImportError, FileNotFoundError) as error:
        answer(str(error))
        return
    for _ in range(WARM):
        run()
    forget_peak()
    answer(0.0)
    for command in sys.stdin:
        if command.strip() == "peak":
            answer(peak(request.side))
            continue
        start = time.perf_counter()
        run()
        answer(time.perf_counter() - start)


if __name__ == "__main__":
    main(sys.argv[1])
