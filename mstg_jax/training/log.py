"""Where a run's numbers go: metrics.jsonl and TensorBoard."""

import json
import socket
import time
from pathlib import Path
from types import TracebackType

from tensorboardX.proto import event_pb2
from tensorboardX.record_writer import RecordWriter
from tensorboardX.summary import scalar

from mstg_jax import files

FLUSH = 10.0
"""Seconds between two writings to the disk of what TensorBoard shows."""


class RunLog:
    """Appends; a resumed run first drops the lines after its checkpoint, which it will redo.

    Raises OSError where the disk refuses: tensorboardX's own thread would die of it, and its full
    queue then block the run.
    """

    def __init__(self, run: Path, first_step: int, write: bool):
        self._path = run / "metrics.jsonl"
        self._write = write
        if not write:
            return
        if self._path.exists():
            lines = self._path.read_text(encoding="utf-8", errors="replace").splitlines()
            kept = [line for line in lines if _step(line) <= first_step]
            if kept != lines:
                files.write_text(self._path, "".join(line + "\n" for line in kept))
        folder = run / "tensorboard"
        folder.mkdir(exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}"
        self._board, self._flushed = RecordWriter(str(folder / name)), time.monotonic()
        self._event(file_version="brain.Event:2")
        # Hides what the earlier files have from there on.
        self._event(step=first_step + 1, session_log={"status": "START"})

    def add(self, step: int, kind: str, values: dict[str, float]) -> None:
        """One line {"step": ..., "kind": ..., ...}, of kind train, cost or validation, and one
        point per value."""
        if not self._write:
            return
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, "kind": kind} | values) + "\n")
        for name, value in values.items():
            self._event(step=step, summary=scalar(f"{kind}/{name}", value))
        if time.monotonic() - self._flushed > FLUSH:
            self._board.flush()
            self._flushed = time.monotonic()

    def _event(self, **fields: object) -> None:
        event = event_pb2.Event(wall_time=time.time(), **fields)  # pyright: ignore[reportAttributeAccessIssue]
        self._board.write(event.SerializeToString())

    def __enter__(self) -> "RunLog":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._write:
            try:
                self._board.close()
            except OSError:
                if error is None:  # else it repeats what was raised
                    raise


def _step(line: str) -> float:
    """A line cut short by a crash belongs to no step."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")
