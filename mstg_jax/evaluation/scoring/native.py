"""The `native` protocol, that of UVI-Net (Kim et al. 2024, github jungeun122333/UVI-Net).

Nothing is resampled: volumes keep the patient's own grid, cut or padded with zeros about the centre
to 32 x 128 x 128 (d h w), and every true frame then has its own range as [0, 1]. UVI-Net generates
between ED and ES that are scaled so, and scores what comes out as it is. Here frames come in native
intensities: what is [0, 1] for them goes from ED's range to ES's with gamma, and no voxel of theirs
sets it. UVI-Net averages over frames; here a patient counts once, as in the other protocol. The
padding flatters PSNR by several dB, so every metric is also taken inside the field of view.
"""

from typing import TypeAlias

import numpy as np
from jaxtyping import Float32, Shaped

from mstg_jax.data.acdc import Patient
from mstg_jax.data.geometry import Geometry
from mstg_jax.evaluation.scoring.protocol import Reference
from mstg_jax.methods.base import FrameSequence

NATIVE = "native"
SIZE = (32, 128, 128)
Limits: TypeAlias = Float32[np.ndarray, "t 1 1 1"]


def native_truth(patient: Patient) -> Reference:
    sequence = patient.sequence
    frames = centred(patient.frames[sequence])
    return Reference(
        id=patient.id,
        frames=scaled(frames, *limits(frames)),
        gammas=np.linspace(0, 1, len(sequence), dtype=np.float32),
        labels={
            position: centred(patient.labels[frame])
            for position, frame in enumerate(sequence)
            if frame in patient.labels
        },
        fov=centred(np.ones(patient.frames.shape[1:], bool)),
    )


def native_sequence(patient: Patient, geometry: Geometry, made: FrameSequence) -> FrameSequence:
    """Frames on the model's grid as this protocol scores them, and their flow in native voxels.

    What the model's grid does not hold is blended, see Geometry.inverse; beyond its crop the flow
    is zero.
    """
    ends = patient.frames[[patient.ed, patient.es]]
    gammas = np.linspace(0, 1, len(made.frames), dtype=np.float32)
    frames = geometry.inverse(made.frames, ends, gammas)
    flow = None
    if made.flow is not None:
        # Zeros would look like folding at the border of the image.
        components = np.moveaxis(geometry.inverse_flow(made.flow), -1, 1)
        flow = np.moveaxis(centred(components, mode="edge"), 1, -1)
    low, high = limits(centred(ends))
    share = gammas[:, None, None, None]
    ranges = (low[:1] + share * (low[1:] - low[:1]), high[:1] + share * (high[1:] - high[:1]))
    return FrameSequence(scaled(centred(frames), *ranges), flow)


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


def limits(frames: Float32[np.ndarray, "t d h w"]) -> tuple[Limits, Limits]:
    """Every frame's own minimum and maximum."""
    axes = (1, 2, 3)
    return frames.min(axis=axes, keepdims=True), frames.max(axis=axes, keepdims=True)


def scaled(
    frames: Float32[np.ndarray, "t d h w"], low: Limits, high: Limits
) -> Float32[np.ndarray, "t d h w"]:
    """[low, high] of every frame becomes [0, 1]; 0 where both are the same."""
    return (frames - low) / np.where(high > low, high - low, np.float32(1))
