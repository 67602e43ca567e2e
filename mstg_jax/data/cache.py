"""Where a preprocessed patient is kept, and how an entry comes to be there whole."""

import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mstg_jax.config import DataConfig
from mstg_jax.data.folder import patient_files
from mstg_jax.data.nifti import DataError

CACHE_VERSION = 4
"""To be raised when the same files give other volumes."""


@contextmanager
def staged(final: Path) -> Iterator[Path]:
    """A folder to fill that appears as `final` only once it is complete."""
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}-{uuid.uuid4().hex}")
    partial.mkdir()
    try:
        yield partial
        try:
            partial.rename(final)
        except OSError:
            # Another process was faster, which is as good.
            if not final.is_dir():
                raise
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def cache_key(folder: Path, config: DataConfig) -> str:
    """Hash of the bytes on disk and of the settings, so that cached patients are not decoded.

    Raises DataError if a file cannot be read.
    """
    grid = (config.spacing, config.size, config.depth)
    settings = (CACHE_VERSION, *grid, config.crop, config.percentiles)
    total = hashlib.sha256(json.dumps(settings).encode())
    for path in patient_files(folder):
        try:
            with path.open("rb") as file:
                content = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise DataError(f"{folder.name}: {path.name} cannot be read ({error})") from error
        total.update(os.fsencode(path.name) + f" {content}\n".encode())
    return total.hexdigest()[:32]
