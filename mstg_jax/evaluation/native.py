"""The `native` protocol, that of UVI-Net (Kim et al. 2024, github jungeun122333/UVI-Net).

Nothing is resampled: volumes keep the patient's own grid, cut or padded with zeros about the centre
to 32 x 128 x 128 (d h w), and every frame then has its own range as [0, 1]. UVI-Net averages over
frames; here a patient counts once, as in the other protocol. The padding flatters PSNR by several
dB, so every metric is also taken inside the field of view. A frame's range hangs on its brightest
voxel, so that scores also tell how well that one is met.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32, Shaped, UInt8

from mstg_jax.data.acdc import Patient
from mstg_jax.data.geometry import Geometry
from mstg_jax.methods.base import Sequence

NATIVE = "native"
SIZE = (32, 128, 128)


@dataclass(frozen=True, eq=False)
class NativeTruth:
    """A patient's frames from ED to ES as this protocol scores them; a protocol.Truth."""

    id: str
    frames: Float32[np.ndarray, "t d h w"]
    gammas: Float32[np.ndarray, " t"]
    labels: dict[int, UInt8[np.ndarray, "d h w"]]
    fov: Bool[np.ndarray, "d h w"]


def native_truth(patient: Patient) -> NativeTruth:
    sequence = patient.sequence
    return NativeTruth(
        id=patient.id,
        frames=own_range(centred(patient.frames[sequence])),
        gammas=np.linspace(0, 1, len(sequence), dtype=np.float32),
        labels={
            position: centred(patient.labels[frame])
            for position, frame in enumerate(sequence)
            if frame in patient.labels
        },
        fov=centred(np.ones(patient.frames.shape[1:], bool)),
    )


def native_sequence(patient: Patient, geometry: Geometry, made: Sequence) -> Sequence:
    """Frames on the model's grid as this protocol scores them, and their flow in native voxels.

    Beyond the model's crop the frames show ED and the flow is zero.
    """
    frames = geometry.inverse(made.frames, background=patient.frames[patient.ed])
    flow = None
    if made.flow is not None:
        # Zeros would look like folding at the border of the image.
        components = np.moveaxis(geometry.inverse_flow(made.flow), -1, 1)
        flow = np.moveaxis(centred(components, mode="edge"), 1, -1)
    return Sequence(own_range(centred(frames)), flow)


def centred(
    volumes: Shaped[np.ndarray, "*t d h w"], mode: str = "constant"
) -> Shaped[np.ndarray, "*t 32 128 128"]:
    """Cut or padded about the centre; an odd voxel goes to the end. `mode` is that of numpy.pad."""
    lead = volumes.ndim - 3
    cut, pad = [slice(None)] * lead, [(0, 0)] * lead
    for have, want in zip(volumes.shape[lead:], SIZE, strict=True):
        start, before = max(0, (have - want) // 2), max(0, (want - have) // 2)
        cut.append(slice(start, start + want))
        pad.append((before, max(0, want - have) - before))
    return np.pad(volumes[tuple(cut)], pad, mode=mode)  # pyright: ignore[reportCallIssue, reportArgumentType]


def own_range(frames: Float32[np.ndarray, "t d h w"]) -> Float32[np.ndarray, "t d h w"]:
    """Every frame's own minimum and maximum as 0 and 1; a constant frame is 0."""
    axes = (1, 2, 3)
    low = frames.min(axis=axes, keepdims=True)
    width = frames.max(axis=axes, keepdims=True) - low
    return (frames - low) / np.where(width > 0, width, np.float32(1))
