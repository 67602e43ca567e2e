"""Files that are written whole or not at all, and what is said where a disk refuses them."""

import os
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from mstg_jax.config import UserError


def write_text(path: Path, text: str) -> None:
    """Replace a file: readers see the old text or the new one, also after a crash."""
    with _beside(path, text) as partial:
        partial.replace(path)


def create_text(path: Path, text: str) -> bool:
    """Write a new file; False if it exists. Of processes that race, one gets True."""
    with _beside(path, text) as partial:
        try:
            _rename_new(partial, path)
        except FileExistsError:
            return False
    return True


def _rename_new(partial: Path, path: Path) -> None:
    """Rename, but never over a file."""
    try:
        os.link(partial, path)
    except FileExistsError:
        raise
    except OSError:  # some network drives have no links
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        partial.replace(path)


@contextmanager
def _beside(path: Path, text: str) -> Iterator[Path]:
    partial = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        partial.write_text(text, encoding="utf-8")
        yield partial
    finally:
        with suppress(OSError):
            partial.unlink()


@contextmanager
def writing(flag: str, path: Path | str) -> Iterator[None]:
    """Around what writes below the path that a flag names: raises UserError instead of OSError."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise UserError(
            f"{flag} {path} cannot be written: {reason(error)}; it needs a place with room that "
            "this user may write to"
        ) from error


def usable(flag: str, folder: Path) -> None:
    """Make the folder of results; raises UserError, before long work, if it takes no file."""
    with writing(flag, folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"a full disk takes names but no bytes")


def reason(error: OSError) -> str:
    """What the system says, and of which file."""
    text = error.strerror or str(error)
    return f"{text} ({os.fsdecode(error.filename)})" if error.filename is not None else text
