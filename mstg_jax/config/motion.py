"""Settings of the motion between two frames beyond the paper."""

from dataclasses import dataclass

from mstg_jax.config.checks import SettingsError, positive


@dataclass(frozen=True)
class MotionConfig:
    """Method between; each item is an ablation."""

    channels: tuple[int, ...] = (32, 48, 64)
    """Of the ends' features and of the flows' networks, from half the size in plane down."""
    denoiser: bool = True
    """The MSTG denoiser's features (`model`, whose stages begin at half the size, too) tell the
    flows; without it they see the two ends alone."""
    radius: int = 3
    """Reach in voxels of the correlation between the moved ends at each stage; one less at the
    finest, and 0 for none."""
    bilateral: bool = True
    """The two flows may leave the straight line between the ends, each for itself."""
    in_plane: bool = True
    """Flows lie in plane."""
    time_course: bool = True
    """How far the motion is at gamma is estimated for each patient."""
    synthesis: bool = True
    """A network blends the moved ends and adds what they leave out; without it they are blended
    linearly."""
    synthesis_channels: int = 48
    bend: bool = False
    """The frames beyond both ends, where they are known, tell the synthesis how intensities bend in
    time, as they tell a cubic spline."""
    blend_weight: float = 0.3
    """Weight of the linear blend of the moved ends beside the frame, both as mean squared errors in
    units of that of the blend of the ends themselves."""
    ends_weight: float = 0.05
    """The same for each of the moved ends."""
    noise_weight: float = 0.1
    """Weight of the denoiser's own objective."""
    agree_weight: float = 0.0
    """Weight of the local correlation of the two moved ends, which needs no truth."""
    label_weight: float = 0.0
    """Weight of the overlap (Dice) of the moved labels of both ends, where both have labels."""
    smooth_weight: float = 0.0
    """Weight of the flows' mean squared gradient."""

    symmetries: bool = False
    """Frames are means over the flips and transposes in plane: eight times the work, in sampling
    alone."""
    refine: int = 0
    """Steps by which the moved ends are brought together on the patient in hand, in sampling alone;
    how is said by `register`."""

    def check(self) -> None:
        positive("motion", self, "channels", "synthesis_channels")
        if len(self.channels) < 2:
            raise SettingsError(
                f"motion.channels is {self.channels}, but the flows need at least 2 stages"
            )
        for name in ("radius", "refine"):
            value = getattr(self, name)
            if value < 0:
                raise SettingsError(f"motion.{name} is {value}, but it must be 0 or more")
