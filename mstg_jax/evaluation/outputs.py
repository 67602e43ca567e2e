"""What sampling leaves on disk for a patient: volumes in native space, pictures, scores."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from jaxtyping import Float32

from mstg_jax.config import SettingsError
from mstg_jax.data.acdc import Patient
from mstg_jax.data.export import write_flow, write_sequence
from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.scoring.protocol import warp_labels
from mstg_jax.evaluation.showing.figures import animation, sequence_figure, slices_figure
from mstg_jax.evaluation.showing.view import heart_view, view_of
from mstg_jax.methods.base import FrameSequence

RESULTS = (
    "cine.nii.gz",
    "cycle.nii.gz",
    "sequence.nii.gz",
    "labels.nii.gz",
    "flow.nii.gz",
    "animation.gif",
    "frames.png",
    "slices.png",
    "metrics.json",
)


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """A folder to fill; at the end its files replace all earlier results of a patient in `folder`.

    So results there always belong together. An error leaves the earlier ones; files that are no
    results stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".partial-", dir=folder) as partial:
        yield Path(partial)
        for name in RESULTS:
            (folder / name).unlink(missing_ok=True)
        for path in Path(partial).iterdir():
            path.rename(folder / path.name)


def write_volumes(
    folder: Path,
    patient: Patient,
    example: Example,
    made: FrameSequence,
    *,
    labels: bool = False,
    flow: bool = False,
) -> None:
    """sequence.nii.gz, and on request labels.nii.gz and flow.nii.gz, on the patient's own grid.

    What the model's grid does not hold is blended in the sequence, see Geometry.inverse. Raises
    SettingsError if labels are wanted of a patient that has none, ValueError if these are wanted of
    a method that does not deform.
    """
    geometry, count = example.geometry, len(made.frames)
    stride = (len(patient.sequence) - 1) / (count - 1)
    gammas = np.linspace(0, 1, count, dtype=np.float32)
    native = geometry.inverse(made.frames, patient.frames[[patient.ed, patient.es]], gammas)
    write_sequence(folder / "sequence.nii.gz", native, patient, stride)
    if not (labels or flow):
        return
    if made.flow is None:
        raise ValueError("labels and flow need a method that deforms")
    if labels:
        if not example.labels:
            raise SettingsError(f"{patient.id} has no labels to warp: leave --labels out")
        warped = geometry.inverse_labels(warp_labels(example.labels[0], made.flow))
        write_sequence(folder / "labels.nii.gz", warped, patient, stride)
    if flow:
        write_flow(folder / "flow.nii.gz", geometry.inverse_flow(made.flow), patient, stride)


def draw(
    folder: Path,
    method: str,
    example: Example,
    truth: Float32[np.ndarray, "t d h w"] | None,
    gammas: Float32[np.ndarray, " t"],
    made: dict[str, FrameSequence],
) -> None:
    """animation.gif, frames.png (the paper's figure 4) and slices.png (figure 5)."""
    view = view_of(example)
    frames = {name: sequence.frames for name, sequence in made.items()}
    sequence_figure(folder / "frames.png", truth, frames, gammas, view)
    slices_figure(folder / "slices.png", truth, frames[method], gammas, view)
    shown = {method: frames[method]} | ({} if truth is None else {"truth": truth})
    cut = {name: view.cut(volumes) for name, volumes in shown.items()}
    animation(folder / "animation.gif", cut, gammas, aspect=view.aspect, error=truth is not None)


def draw_beat(
    folder: Path,
    method: str,
    frames: Float32[np.ndarray, "t d h w"],
    spacing: tuple[float, float, float],
) -> None:
    """animation.gif of frames on a patient's own grid that make a beat: its middle slice."""
    view = heart_view(np.ones(frames.shape[1:], bool), None, spacing)
    phases = np.linspace(0, 1, len(frames), endpoint=False, dtype=np.float32)
    shown = {method: view.cut(frames)}
    animation(folder / "animation.gif", shown, phases, aspect=view.aspect, whole=True)
