"""Which intensities become 0 and 1, and whether a few voxels decide on it."""

import numpy as np
from jaxtyping import Float32

OUTLIERS = 3.0
"""Times that a range must exceed that of all but 0.2 % of the voxels to be noted: at most 1.7 on 53
patients of ACDC."""


def limits(
    ed: Float32[np.ndarray, "d h w"], percentiles: tuple[float, float]
) -> tuple[float, float]:
    """ED's intensities at two percentiles; (0, 100) are its minimum and maximum, exactly."""
    low, high = np.percentile(ed, percentiles)
    return float(low), float(high)


def spikes(ed: Float32[np.ndarray, "d h w"]) -> tuple[str, ...]:
    """A note if a few voxels of ED, such as an artefact of metal, set its range."""
    low, lower, upper, high = (float(x) for x in np.percentile(ed, (0, 0.1, 99.9, 100)))
    if high - low <= OUTLIERS * (upper - lower):
        return ()
    return (
        f"ED reaches from {low:g} to {high:g} but 99.8 % of its voxels lie in {lower:g} to "
        f"{upper:g}: a few voxels set the range that becomes [0, 1]; "
        "--data.percentiles 0.1 99.9 leaves them out",
    )
