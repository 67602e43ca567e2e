"""Where a run's numbers go: metrics.jsonl and TensorBoard."""

import json
import time
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import scalar

from mstg_jax import files

FLUSH = 10.0
"""Seconds between two writings to the disk of what TensorBoard shows."""


class RunLog:
    """Appends; a resumed run first drops the lines after its checkpoint, which it will redo.

    Raises OSError where the disk refuses: SummaryWriter's thread would die of it, and its full
    queue then block the run.
    """

    def __init__(self, run: Path, first_step: int, write: bool):
        self._path = run / "metrics.jsonl"
        self._write = write
        if not write:
            return
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if _step(line) <= first_step]
            if kept != lines:
                files.write_text(self._path, "".join(line + "\n" for line in kept))
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        self._board = EventsWriter(str(folder / "events"))
        start = SessionLog(status=SessionLog.START)  # hides what the earlier files have from there
        self._board.write_event(Event(step=first_step + 1, session_log=start))
        self._flushed = time.monotonic()

    def add(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line {"step": ..., "kind": "train" or "validation", ...} and one point per value."""
        if not self._write:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind} | values) + "\n")
        for name, value in values.items():
            point = scalar(f"{kind}/{name}", value)
            self._board.write_event(Event(wall_time=time.time(), step=step, summary=point))
        if time.monotonic() - self._flushed > FLUSH:
            self._board.flush()
            self._flushed = time.monotonic()

    def close(self) -> None:
        if self._write:
            self._board.close()


def _step(line: str) -> float:
    """A line cut short by a crash belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
