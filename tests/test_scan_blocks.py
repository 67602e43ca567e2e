"""The scan cut into blocks of examples and channels: which, and that they add up."""

import jax
import numpy as np
import pytest
from jax import numpy as jnp
from scan_oracle import arguments, cotangents, formed

from kernels.selective_scan.form import Options
from kernels.selective_scan.xla import blocks
from kernels.selective_scan.xla.blocks import Block, Blocked, block_of
from kernels.selective_scan.xla.chunked import Chunked, Sequential

INNER = Chunked(Sequential)
OPTIONS = Options(delta_softplus=True, reverse=False, chunk=64)


@pytest.mark.parametrize(
    ("sizes", "small", "block"),
    [
        ({"batch": 2, "d": 4}, 24, Block(2, 4, 2)),  # whole
        ({"batch": 6, "d": 4}, 47, Block(3, 4, 2)),  # some examples
        ({"batch": 2, "d": 12, "groups": 6}, 24, Block(1, 6, 3)),  # some groups
        ({"batch": 2, "d": 12, "groups": 2}, 9, Block(1, 3, 1)),  # a part of a group
        ({"batch": 2, "d": 34, "groups": 2}, 48, Block(1, 17, 1)),  # 17 has no divisor
    ],
)
def test_blocks_have_small_states_and_add_up(sizes, small, block, monkeypatch):
    monkeypatch.setattr(blocks, "SMALL", small)
    given = arguments(70, "grouped", "grouped", **{"groups": 2, "n": 3} | sizes)
    args, (dy, dlast) = formed(given), map(jnp.asarray, cotangents(given))
    assert block_of(args) == block

    def both(implementation):
        y, last, entries = implementation.forward(args, OPTIONS)
        return y, last, entries, implementation.backward(args, entries, dy, dlast, OPTIONS)

    cut, whole = both(Blocked(INNER)), both(INNER)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=2e-5), cut, whole)


def test_parts_of_gradients_are_added_in_float32(monkeypatch):
    """bfloat16 B and C of one group cut in four: rounded once, as without cuts."""
    monkeypatch.setattr(blocks, "SMALL", 12)
    given = arguments(70, d=16, n=3)
    args, (dy, dlast) = formed(given), map(jnp.asarray, cotangents(given))
    args = args._replace(B=args.B.astype(jnp.bfloat16), C=args.C.astype(jnp.bfloat16))
    entries = INNER.forward(args, OPTIONS)[2]
    cut, whole = (i.backward(args, entries, dy, dlast, OPTIONS) for i in (Blocked(INNER), INNER))
    for got, wanted in ((cut.B, whole.B), (cut.C, whole.C)):
        assert got.dtype == jnp.bfloat16
        np.testing.assert_allclose(
            got.astype(jnp.float32), wanted.astype(jnp.float32), rtol=2**-7, atol=1e-5
        )
