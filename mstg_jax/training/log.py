"""Where a run's numbers go: metrics.jsonl and TensorBoard."""

import json
from pathlib import Path

from tensorboardX import SummaryWriter


class RunLog:
    """Appends; a resumed run first drops the lines after its checkpoint, which it will redo."""

    def __init__(self, run: Path, first_step: int, write: bool):
        self._path = run / "metrics.jsonl"
        self._write = write
        if not write:
            return
        lines = self._path.read_text().splitlines() if self._path.exists() else []
        kept = [line for line in lines if _step(line) <= first_step]
        self._path.write_text("".join(line + "\n" for line in kept))
        self._board = SummaryWriter(str(run / "tensorboard"), purge_step=first_step + 1)

    def add(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line {"step": ..., "kind": "train" or "validation", ...} and one point per value."""
        if not self._write:
            return
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, "kind": kind} | values) + "\n")
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        if self._write:
            self._board.close()


def _step(line: str) -> float:
    """A line cut short by a crash belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError):
        return float("inf")
