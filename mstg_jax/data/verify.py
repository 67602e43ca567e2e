"""Check every patient below a folder: what `python -m mstg_jax.data.acdc verify` prints."""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from mstg_jax.command import command
from mstg_jax.data.acdc import LAYOUT, find_patients, read_patient
from mstg_jax.data.nifti import DataError
from mstg_jax.data.patient import Patient


def verify(root: Path) -> int:
    """Print one line per patient and every problem; returns the number of broken patients."""
    bad = 0
    seen: dict[str, tuple[str, Path]] = {}
    patients = [(part, folder) for part, paths in find_patients(root).items() for folder in paths]
    names = Counter(folder.name for _, folder in patients)
    for part, folder in patients:
        try:
            patient = read_patient(folder)
        except DataError as error:
            bad += 1
            print(f"{folder.name} {part} BROKEN", *str(error).splitlines(), sep="\n  ")
            continue
        notes = list(patient.notes)
        twin_part, twin = seen.setdefault(patient.digest, (part, folder))
        if twin != folder:
            notes.append(f"same images as {twin.name}{f' in {twin_part}/' * (twin_part != part)}")
        if names[folder.name] > 1:
            notes.append("training/ and testing/ both have a folder of this name")
        print(_summary(part, patient), *(f" ({note})" for note in notes))
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


@command("verify")
def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m mstg_jax.data.acdc")
    checks = parser.add_subparsers(required=True).add_parser("verify", help="check every patient")
    checks.add_argument("root", type=Path, help=f"folder with {LAYOUT}")
    return 1 if verify(parser.parse_args(argv).root) else 0
