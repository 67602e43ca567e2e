"""Settings of the motion between ED and ES beyond the paper."""

from dataclasses import dataclass


@dataclass(frozen=True)
class MotionConfig:
    """Method between; each item is an ablation."""

    between: bool = True
    """The frames between ED and ES supervise; without them each end is only moved to the other."""
    frame_weight: float = 1e4
    """Weight of the mean squared error of a frame."""
    coarse: bool = True
    """Flows at half the size first, which the deformation network then completes."""
    time_course: bool = True
    """How far the motion is at gamma is learned."""
    residual: bool = True
    """Add a residual to the blended frame."""
