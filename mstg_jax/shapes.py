"""The axis legend, used in every signature.

b  batch                     l  tokens of a sequence
t  frames of a sequence      n  state size of the scan
f  frames denoised together  k  kernel taps
d  depth (slices)            c  channels (ci in, co out)
h  height (rows)             3  displacement components (d, h, w), in voxels
w  width (columns)           e, i, v  d, h, w after a change of size

On the host volumes are (d h w) and sequences (t d h w); on the device volumes are (b d h w c) and
features (b f d h w c).
"""

from typing import TypeAlias

from jaxtyping import Array, Float, Num

Volume: TypeAlias = Float[Array, "b d h w c"]
Image: TypeAlias = Float[Array, "b d h w 1"]
Flow: TypeAlias = Float[Array, "b d h w 3"]
Stage: TypeAlias = Float[Array, "b _ _ _ _"]  # (b d h w c) of one of a network's stages
Features: TypeAlias = Float[Array, "b f d h w c"]
Tokens: TypeAlias = Float[Array, "b l c"]
Steps: TypeAlias = Num[Array, " b"]  # of the diffusion; between them where time is continuous
