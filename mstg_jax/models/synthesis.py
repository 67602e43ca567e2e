"""The frame from both ends as they were moved: how they are blended, and what that leaves out."""

from collections.abc import Sequence

import numpy as np
from flax import nnx
from jax import numpy as jnp
from jaxtyping import Array, Float

from mstg_jax.models.init import he, zeros
from mstg_jax.models.layers import Conv3d, Linear
from mstg_jax.models.plan import Plan
from mstg_jax.models.pyramid import FLOW_UNIT, Block, Context, Entry, activate
from mstg_jax.models.rescale import enlarged, gathered, scattered
from mstg_jax.models.warping import moved
from mstg_jax.shapes import Image, Stage


class Synthesis(nnx.Module):
    """A small U-Net over two stages: log-odds of the last end's weight, a residual and, with
    `bend`, the shares of the second differences in it; a cubic's are -1/16 at the middle."""

    def __init__(
        self,
        width: int,
        ends: tuple[int, ...],
        context: int,
        plan: Plan,
        *,
        axes: int,
        bend: bool,
        rng: np.random.Generator,
    ):
        self.fine, self.coarse = plan.factors[:2]
        block, c = int(np.prod(self.fine)), ends[1]
        self.entry = Entry(
            (4 + 2 * bend) * block + 3 * ends[0] + 2 * axes,
            width,
            context,
            flat=plan.flat[0],
            rng=rng,
        )
        self.before = Block(width, flat=plan.flat[0], rng=rng)
        self.down = Linear(int(np.prod(self.coarse)) * width, c, init=he, rng=rng)
        self.join = Entry(3 * c, c, context, flat=plan.flat[1], rng=rng)
        self.inner = nnx.List([Block(c, flat=plan.flat[1], rng=rng) for _ in range(2)])
        self.rejoin = Entry(width + c, width, context, flat=plan.flat[0], rng=rng)
        self.after = Block(width, flat=plan.flat[0], rng=rng)
        self.out = Conv3d(width, (2 + 2 * bend) * block, flat=True, init=zeros, rng=rng)

    def __call__(
        self,
        images: Sequence[Image],
        ends: tuple[list[Stage], list[Stage]],
        flows: Sequence[tuple[Stage, Stage]],
        features: Stage,
        context: Context,
        bend: Float[Array, "b d h w 2"] | None,
    ) -> Float[Array, "b d h w outputs"]:
        """images: both ends as they were moved, and as they are."""

        def at(stage: int) -> list[Stage]:
            return [moved(x[stage], f) for x, f in zip(ends, flows[stage], strict=True)]

        seen = 2 * jnp.concatenate(images, axis=-1) - 1
        if bend is not None:
            seen = jnp.concatenate([seen, bend], axis=-1)
        seen = gathered(seen, self.fine)
        parts = [seen, *at(0), features, *(flow / FLOW_UNIT for flow in flows[0])]
        x = self.before(self.entry(parts, context))
        y = activate(self.down(gathered(x, self.coarse)))
        y = self.join([y, *at(1)], context)
        for block in self.inner:
            y = block(y)
        x = self.rejoin([x, enlarged(y, self.coarse)], context)
        return scattered(self.out(self.after(x)), self.fine)
