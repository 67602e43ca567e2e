"""Check every patient below a folder: what `python -m mstg_jax.data.acdc verify` prints."""

import argparse
import sys
from pathlib import Path

from mstg_jax.data.acdc import LAYOUT, find_patients, read_patient
from mstg_jax.data.nifti import DataError
from mstg_jax.data.patient import Patient


def verify(root: Path) -> int:
    """Print one line per patient and every problem; returns the number of broken patients."""
    bad = 0
    seen: dict[str, str] = {}
    patients = [(part, folder) for part, paths in find_patients(root).items() for folder in paths]
    for part, folder in patients:
        try:
            patient = read_patient(folder)
        except DataError as error:
            bad += 1
            print(f"{folder.name} {part} BROKEN", *str(error).splitlines(), sep="\n  ")
            continue
        twin = seen.setdefault(patient.digest, patient.id)
        same = (f"same images as {twin}",) if twin != patient.id else ()
        print(_summary(part, patient), *(f" ({note})" for note in patient.notes + same))
    print(f"{len(patients) - bad} of {len(patients)} patients are fine")
    return bad


def _summary(part: str, patient: Patient) -> str:
    shape = "x".join(str(n) for n in patient.frames.shape)
    spacing = "x".join(f"{x:.4g}" for x in patient.spacing)
    dtype = str(patient.header.get_data_dtype())
    return (
        f"{patient.id} {part:8} {patient.group or '-':5} {shape:>14} tdhw {spacing:>16} mm "
        f"{dtype:8} ED {patient.ed + 1:2} ES {patient.es + 1:2}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m mstg_jax.data.acdc")
    command = parser.add_subparsers(required=True).add_parser("verify", help="check every patient")
    command.add_argument("root", type=Path, help=f"folder with {LAYOUT}")
    try:
        bad = verify(parser.parse_args().root)
    except DataError as error:
        sys.exit(str(error))
    sys.exit(1 if bad else 0)
