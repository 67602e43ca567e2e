"""The `resampled` protocol for frames on the patient's own slices: through the same resampling
along depth as the truth. Frames that were made on resampled slices stay as they are."""

import numpy as np

from mstg_jax.data.pipeline import Example
from mstg_jax.evaluation.scoring.protocol import Reference, Truth, score_sequence
from mstg_jax.evaluation.scoring.scores import Score
from mstg_jax.methods import Method, generate_sequence
from mstg_jax.methods.base import FrameSequence, Model


def made_and_scored(method: Method, model: Model, example: Example) -> tuple[FrameSequence, Score]:
    """What a method makes of a patient's ED and ES, on its own grid, and how good that is."""
    ends = example.frames[0], example.frames[-1]
    made = generate_sequence(method, model, *ends, example.gammas, span=example.span)
    return made, score_sequence(resampled_truth(example), resampled_sequence(example, made))


def resampled_truth(example: Example) -> Truth:
    if example.geometry == example.resampled:
        return example
    grid = example.resampled
    return Reference(
        id=example.id,
        frames=grid.along_depth(np.asarray(example.frames)),
        gammas=example.gammas,
        labels={i: grid.labels_along_depth(labels) for i, labels in example.labels.items()},
        fov=grid.labels_along_depth(example.fov),
    )


def resampled_sequence(example: Example, made: FrameSequence) -> FrameSequence:
    """What was made on the example's grid, its flow in voxels of the resampled one."""
    if example.geometry == example.resampled:
        return made
    grid, flow = example.resampled, None
    if made.flow is not None:
        ratio = example.geometry.spacing[0] / grid.spacing[0]
        unit = np.array([ratio, 1, 1], np.float32)[:, None, None, None]
        components = np.moveaxis(made.flow, -1, 1) * unit
        # Repeated beyond the image: zeros would look like folding at its border.
        flow = np.moveaxis(grid.along_depth(components, beyond=True), 1, -1)
    return FrameSequence(grid.along_depth(made.frames), flow)
