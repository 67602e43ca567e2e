"""The one form of the arguments that api.py makes and every implementation takes.

d channels stand in g groups of p = d / g neighbours; each group has its own B and C. Time runs from
token 0 to l - 1, or from l - 1 to 0 with `Options.reverse`. It is cut into c = ceil(l / chunk)
chunks; the state that enters each is all that the backward pass gets besides the arguments.
Arrays without a token axis are "real": float32, or float64 where u is; so is all arithmetic.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
from jax import Array
from jaxtyping import Float

Tokens: TypeAlias = Float[Array, "b l d"]
Projection: TypeAlias = Float[Array, "b l g n"] | Float[Array, "d n"]
State: TypeAlias = Float[Array, "b d n"]
Rates: TypeAlias = Float[Array, "d n"]
PerChannel: TypeAlias = Float[Array, "d"]
Entries: TypeAlias = Float[Array, "b c d n"]


class Arguments(NamedTuple):
    """Also the form of their gradients, each in the type of its argument; None stays None.

    B and C vary with the tokens, (b l g n), or are constant, (d n), each on its own.
    """

    u: Tokens
    delta: Tokens  # before bias and softplus
    A: Rates
    B: Projection
    C: Projection
    D: PerChannel | None
    z: Tokens | None
    delta_bias: PerChannel | None
    h0: State


class Options(NamedTuple):
    """What is fixed when the scan is traced."""

    delta_softplus: bool
    reverse: bool
    chunk: int


@runtime_checkable
class Implementation(Protocol):
    """A module with these two functions. `Entries` has this shape in all of them, so that the
    platform can be chosen when each pass is lowered; what it holds is the module's own affair."""

    @staticmethod
    def forward(args: Arguments, options: Options) -> tuple[Tokens, State, Entries]:
        """y in u's type, the last state, and what `backward` wants to know of the states."""
        ...

    @staticmethod
    def backward(
        args: Arguments, entries: Entries, dy: Tokens, dlast: State, options: Options
    ) -> Arguments:
        """The gradients of every argument that is not None."""
        ...


def tree_like(args: Arguments, by_name: Mapping[str, Any]) -> Any:
    """Something else for every argument that is not None, in the same tree, for `jax.tree.map`.

    Any: JAX's trees have no types, and these are Arguments in their structure only.
    """
    present = [by_name[name] for name, x in args._asdict().items() if x is not None]
    return jax.tree.unflatten(jax.tree.structure(args), present)


def groups(args: Arguments) -> int:
    """g: how many groups of channels have their own B and C."""
    return next((M.shape[2] for M in (args.B, args.C) if M.ndim == 4), 1)


def steps(delta: Array, delta_bias: Array | None, options: Options) -> Array:
    """delta, in the type of the arithmetic, after bias (with as many axes) and softplus."""
    if delta_bias is not None:
        delta = delta + delta_bias
    return jax.nn.softplus(delta) if options.delta_softplus else delta


def chunks(length: int, options: Options) -> int:
    """c: how many chunks cover `length` tokens; the last one in time may be short."""
    return -(-length // options.chunk)


def chunk_length(batch: int, length: int, d: int) -> int:
    """Tokens per chunk, by shape only: the same on every platform.

    Long chunks save little and move little: the states that enter them are n / chunk of u, written
    and read twice in a forward pass on a GPU. Short ones give a small scan enough parallel
    programs: (b, l, d) = (1, 1024, 64) has 16 chunks of 64 tokens times 8 blocks of channels.
    """
    return 128 if batch * length * d >= 2**19 else 64
