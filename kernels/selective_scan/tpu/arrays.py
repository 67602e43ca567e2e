"""The arguments as the TPU kernels take them, in XLA: arrays, their blocks, and the way back.

Of what is of size (d n) channels are on lanes, (blocks of channels, states, 128), and of B and C
tokens are, (b g states l); layout.py has the tokens' arrays.
"""

from typing import Any, NamedTuple

from jax import Array, lax
from jax import numpy as jnp
from jax.experimental import pallas as pl

from kernels.selective_scan.form import Arguments, Entries, Options, chunks
from kernels.selective_scan.sizes import Scan
from kernels.selective_scan.tpu.plan import LANES, plan_of
from kernels.selective_scan.varying import axes_of


class Block(NamedTuple):
    """An array as a kernel sees it."""

    shape: tuple[int, ...]
    spec: pl.BlockSpec
    dtype: Any = jnp.float32


def held(x: Array) -> Any:
    """The type that a kernel holds x in: Mosaic has no loads of float16."""
    return jnp.float32 if x.dtype == jnp.float16 else x.dtype


class Arrays:
    """Both ways between the arguments and a kernel's arrays, and the blocks of these."""

    def __init__(self, args: Arguments, options: Options, backward: bool):
        scan = Scan.of(args, options)
        large = [x for x in (args.u, args.delta, args.z, args.B, args.C) if x is not None]
        itemsize = max(jnp.dtype(held(x)).itemsize for x in large if x.ndim > 2)
        self.plan = plan = plan_of(scan, backward, itemsize)
        self.blocks = scan.g * plan.blocks
        self.entries = chunks(scan.l, options)
        self.axes = axes_of(args.u)  # shard_map wants to be told
        if plan.entries > self.entries:
            raise ValueError(f"chunks of {options.chunk} tokens leave no room for the states kept")

    def inputs(self, args: Arguments) -> dict[str, tuple[Array, Block]]:
        """Of both kernels."""
        found = {k: getattr(args, k) for k in ("u", "delta", "z") if getattr(args, k) is not None}
        inputs = {k: (self.tokens(x), self.tokens_block(x)) for k, x in found.items()}
        inputs["A"] = (self.states(args.A), self.shared())
        for k, M in (("B", args.B), ("C", args.C)):
            if M.ndim == 4:
                inputs[f"{k}_in_order"] = (self.projection(M), self.projection_block(M))
            else:
                inputs[f"constant_{k}"] = (self.states(M), self.shared())
        for k, x in (("D", args.D), ("bias", args.delta_bias)):
            if x is not None:
                inputs[k] = (self.vector(x), self.vector_block())
        return inputs

    def tokens(self, x: Array) -> Array:
        """(b l d), or (b g p l)."""
        scan = self.plan.scan
        x = x.astype(held(x))
        if self.plan.by_token:
            return x
        return jnp.transpose(x.reshape(scan.b, scan.l, scan.g, scan.p), (0, 2, 3, 1))

    def natural(self, x: Array, like: Array) -> Array:
        """The inverse of `tokens`."""
        x = x if x.ndim == 3 else jnp.transpose(x, (0, 3, 1, 2))
        return x.reshape(like.shape).astype(like.dtype)

    def tokens_block(self, like: Array) -> Block:
        plan, scan = self.plan, self.plan.scan
        if plan.by_token:
            spec = pl.BlockSpec((None, plan.tokens, LANES), lambda i, k, t: (i, self.at(t), k))
            return Block((scan.b, scan.l, scan.d), spec, held(like))
        spec = pl.BlockSpec(
            (None, None, plan.channels, plan.tokens),
            lambda i, k, t: (i, lax.div(k, plan.blocks), lax.rem(k, plan.blocks), self.at(t)),
        )
        return Block((scan.b, scan.g, scan.p, scan.l), spec, held(like))

    def at(self, t: Any) -> Any:
        return self.plan.token_blocks - 1 - t if self.plan.descending else t

    def projection(self, M: Array) -> Array:
        """(b l g n) -> (b g states l)."""
        M = jnp.transpose(M.astype(held(M)), (0, 2, 3, 1))
        return jnp.pad(M, ((0, 0), (0, 0), (0, self.plan.states - self.plan.scan.n), (0, 0)))

    def projection_block(self, M: Array) -> Block:
        plan, scan = self.plan, self.plan.scan
        spec = pl.BlockSpec(
            (None, None, plan.states, plan.tokens),
            lambda i, k, t: (i, lax.div(k, plan.blocks), 0, self.at(t)),
        )
        return Block((scan.b, scan.g, plan.states, scan.l), spec, held(M))

    def gradient_block(self, M: Array) -> Block:
        """Of B or C: sums over a block's channels."""
        if M.ndim == 2:
            return self.per_batch()
        plan, scan = self.plan, self.plan.scan
        spec = pl.BlockSpec(
            (None, None, plan.states, plan.tokens), lambda i, k, t: (i, k, 0, self.at(t))
        )
        dtype = held(M) if plan.blocks == 1 else jnp.float32
        return Block((scan.b, self.blocks, plan.states, scan.l), spec, dtype)

    def natural_gradient(self, x: Array, M: Array) -> Array:
        if M.ndim == 2:
            return jnp.sum(self.natural_states(x), axis=0)
        scan = self.plan.scan
        x = x.reshape(scan.b, scan.g, self.plan.blocks, -1, scan.l)[:, :, :, : scan.n]
        x = x[:, :, 0] if self.plan.blocks == 1 else jnp.sum(x, axis=2)
        return jnp.transpose(x, (0, 3, 1, 2)).astype(M.dtype)

    def states(self, h: Array) -> Array:
        """(... d n) -> (... blocks states 128), channels on lanes."""
        plan, scan = self.plan, self.plan.scan
        before = [(0, 0)] * (h.ndim - 2)
        h = h.reshape(*h.shape[:-2], scan.g, scan.p, scan.n)
        extra = plan.blocks * plan.channels - scan.p
        h = jnp.pad(h, (*before, (0, 0), (0, extra), (0, plan.states - scan.n)))
        h = h.reshape(*h.shape[:-3], self.blocks, plan.channels, plan.states)
        h = jnp.swapaxes(h, -1, -2)
        return jnp.pad(h, (*before, (0, 0), (0, 0), (0, LANES - plan.channels)))

    def natural_states(self, h: Array) -> Array:
        """The inverse of `states`."""
        plan, scan = self.plan, self.plan.scan
        h = jnp.swapaxes(h[..., : scan.n, : plan.channels], -1, -2)
        h = h.reshape(*h.shape[:-3], scan.g, plan.blocks * plan.channels, scan.n)[..., : scan.p, :]
        return h.reshape(*h.shape[:-3], scan.d, scan.n)

    def shared(self) -> Block:
        spec = pl.BlockSpec((None, self.plan.states, LANES), lambda i, k, t: (k, 0, 0))
        return Block((self.blocks, self.plan.states, LANES), spec)

    def per_batch(self) -> Block:
        shape = (self.plan.scan.b, self.blocks, self.plan.states, LANES)
        spec = pl.BlockSpec((None, None, *shape[2:]), lambda i, k, t: (i, k, 0, 0))
        return Block(shape, spec)

    def entries_block(self) -> Block:
        plan = self.plan
        shape = (plan.scan.b, self.blocks, plan.entries, plan.states, LANES)
        spec = pl.BlockSpec(
            (None, None, plan.columns, *shape[3:]), lambda i, k, t: (i, k, self.at(t), 0, 0)
        )
        return Block(shape, spec)

    def natural_entries(self, x: Array) -> Entries:
        found = self.natural_states(jnp.moveaxis(x, 2, 1))
        return jnp.pad(found, ((0, 0), (0, self.entries - self.plan.entries), (0, 0), (0, 0)))

    def kernel_entries(self, entries: Entries) -> Array:
        return jnp.moveaxis(self.states(entries[:, : self.plan.entries]), 1, 2)

    def vector(self, x: Array) -> Array:
        """(d,) -> (1 d), or (blocks channels 1)."""
        plan, scan = self.plan, self.plan.scan
        if plan.by_token:
            return x[None]
        x = x.reshape(scan.g, scan.p)
        x = jnp.pad(x, ((0, 0), (0, plan.blocks * plan.channels - scan.p)))
        return x.reshape(self.blocks, plan.channels, 1)

    def vector_block(self) -> Block:
        plan = self.plan
        if plan.by_token:
            spec = pl.BlockSpec((1, LANES), lambda i, k, t: (0, k))
            return Block((1, plan.scan.d), spec)
        spec = pl.BlockSpec((None, plan.channels, 1), lambda i, k, t: (k, 0, 0))
        return Block((self.blocks, plan.channels, 1), spec)

    def sums_block(self) -> Block:
        """Of what is summed over tokens but for 8 rows or 128 lanes of them."""
        plan = self.plan
        rows = 8 if plan.by_token else plan.channels
        spec = pl.BlockSpec((None, None, rows, LANES), lambda i, k, t: (i, k, 0, 0))
        return Block((plan.scan.b, self.blocks, rows, LANES), spec)

    def natural_sums(self, x: Array) -> Array:
        plan, scan = self.plan, self.plan.scan
        x = jnp.sum(x, axis=(0, 2) if plan.by_token else (0, 3))
        return x.reshape(scan.g, -1)[:, : scan.p].reshape(-1)
