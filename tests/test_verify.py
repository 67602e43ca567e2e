"""`python -m mstg_jax.data.acdc verify`."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from acdc_files import make_patient, set_info

from mstg_jax.data import verify


def test_verify_prints_every_patient_and_problem(tmp_path: Path, capsys):
    make_patient(tmp_path / "training" / "patient001")
    make_patient(tmp_path / "training" / "patient002", labels="none", ed=4, es=1, seed=1)
    make_patient(tmp_path / "testing" / "patient003")
    make_patient(tmp_path / "testing" / "patient004")
    set_info(tmp_path / "testing" / "patient004", ES=99, ED=None)
    assert verify.main(["verify", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert re.match(
        r"patient001 training NOR .*5x3x9x8.*10x1.5x1.25 mm int16 +ED +1 ES +4$", lines[0]
    )
    assert lines[1].endswith("ED  4 ES  1  (no labels)")
    assert lines[2].endswith("(same images as patient001 in training/)")
    assert lines[3] == "patient004 testing BROKEN"
    assert "does not give ED" in lines[4]
    assert "ES: 99" in lines[5]
    assert lines[-1] == "3 of 4 patients are fine"


def test_one_name_in_both_parts_is_a_note(tmp_path: Path, capsys):
    make_patient(tmp_path / "training" / "patient001")
    make_patient(tmp_path / "training" / "patient002")
    make_patient(tmp_path / "testing" / "patient001", seed=1)
    assert verify.verify(tmp_path) == 0
    lines = capsys.readouterr().out.splitlines()
    note = "(training/ and testing/ both have a folder of this name)"
    assert [note in line for line in lines] == [True, False, True, False]
    assert "(same images as patient001)" in lines[1]


def test_verify_as_a_command(tmp_path: Path):
    make_patient(tmp_path / "patient001")
    command = [sys.executable, "-W", "error", "-m", "mstg_jax.data.acdc", "verify", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.endswith("1 of 1 patients are fine\n")
    empty = subprocess.run([*command[:-1], str(tmp_path / "no")], capture_output=True, check=False)
    assert (empty.returncode, b"no such folder" in empty.stderr) == (1, True)


@pytest.mark.skipif("MSTG_ACDC_ROOT" not in os.environ, reason="MSTG_ACDC_ROOT is not set")
def test_real_patients_are_fine_and_nothing_is_unusual(capsys):
    assert verify.verify(Path(os.environ["MSTG_ACDC_ROOT"])) == 0
    assert "(" not in capsys.readouterr().out
