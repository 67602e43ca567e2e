"""Every implementation of the scan, as test_scan_conformance.py tries it.

A new one is added to ALL; what is its own (tiles, memory, machine code) it tests in its own file.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from typing import Any

import jax
import pytest
from hypothesis import settings
from jax import numpy as jnp
from scan_oracle import Arrays, formed, results

from kernels.selective_scan import choose, reference, sizes
from kernels.selective_scan.form import Arguments, Implementation, Options
from kernels.selective_scan.tpu import arrays
from kernels.selective_scan.tpu import launch as tpu
from kernels.selective_scan.tpu.plan import Plan, plan_of

# Interpreters' programs are long: to optimise them takes minutes.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


@dataclass(frozen=True)
class Scan:
    """An implementation, the sizes at which it has several of everything, and what it may do."""

    name: str
    passes: Callable[..., Any]  # (args, dy, dlast, options) -> y, last state, gradients of args
    border: int = 64  # tokens after which a state is handed on
    chunk: int = 64
    lengths: Sequence[int] = (1, 2, 63, 64, 65, 127, 130)  # that are drawn, with:
    sizes: Mapping[str, Sequence[int]] = field(default_factory=dict)
    few: int = 8  # examples that are drawn, where nobody asks for more
    slow: bool = False  # interpreted: a pass forward and one backward have both directions in them
    double: bool = True
    # What rounding to half precision may take of a result, in units of its last digit.
    rounding: float = 0.5
    needs: str | None = None

    def run(
        self,
        given: Arrays,
        dy: Any,
        dlast: Any,
        *,
        dtype: Any = jnp.float32,
        chunk: int | None = None,
        softplus: bool = True,
        reverse: bool = False,
    ) -> dict[str, Any]:
        """y and the last state, and the gradients of `given`; tokens are of type `dtype`."""
        args, options = formed(given, dtype), Options(softplus, reverse, chunk or self.chunk)
        found = self.passes(args, jnp.asarray(dy, dtype), jnp.asarray(dlast), options)
        return results(given, args, *found)

    @property
    def usual(self) -> int:
        """Tokens with one border; tests share the programs of this length."""
        return self.border * 5 // 4

    @property
    def several(self) -> int:
        """Tokens with four borders: small blocks hold up to four of what lies between them."""
        return 4 * self.border + 2

    @property
    def examples(self) -> int:
        asked = settings().max_examples
        return asked if asked > 8 else self.few

    @property
    def marks(self) -> list[pytest.MarkDecorator]:
        missing = self.needs is not None and find_spec(self.needs) is None
        return [pytest.mark.skip(reason=f"{self.needs} is not installed")] if missing else []


def both(
    implementation: Implementation, args: Arguments, dy: Any, dlast: Any, options: Options
) -> Any:
    y, last, entries = implementation.forward(args, options)
    return y, last, implementation.backward(args, entries, dy, dlast, options)


def compiled(name: str) -> Callable[..., Any]:
    """Both passes of what runs everywhere."""
    return jax.jit(partial(both, choose.load(name)), static_argnums=3, compiler_options=QUICK)


@partial(jax.jit, static_argnums=3, compiler_options=QUICK)
def of_reference(args: Arguments, dy: Any, dlast: Any, options: Options) -> Any:
    """The definition has JAX's own gradients."""
    (y, last), pull = jax.vjp(lambda args: reference.scan(args, options), args)
    return y, last, pull((dy, dlast))[0]


@contextmanager
def small_tiles() -> Iterator[None]:
    """Triton's interpreter (conftest.py chooses it); states are carried over 4 chunks at a time."""
    import triton_interpreter

    from kernels.selective_scan.gpu import launch
    from kernels.selective_scan.gpu.plan import Tile

    with pytest.MonkeyPatch.context() as patch:
        triton_interpreter.install(patch)
        patch.setattr(launch, "_launch", triton_interpreter.launch)
        patch.setattr(launch, "carry_tile", lambda scan: Tile(4, 8, 1, 1, warps=4))
        yield


def of_triton(*given: Any) -> Any:
    from kernels.selective_scan.gpu import launch

    with small_tiles():
        return both(launch, *given)


def small_plan(scan: sizes.Scan, backward: bool, itemsize: int) -> Plan:
    """Columns of 256 tokens and blocks of 4 channels."""
    whole = plan_of(scan, backward, itemsize)
    channels = whole.channels if whole.by_token else min(scan.p, 4)
    columns = 1 if whole.by_token else min(4, sizes.cdiv(scan.l, 256))
    return replace(whole, steps=2, channels=channels, columns=columns)


@contextmanager
def small_blocks(how: Any = True) -> Iterator[None]:
    """One of Pallas' interpreters, with `small_plan`."""
    with pytest.MonkeyPatch.context() as patch, tpu.interpreting(how):
        patch.setattr(arrays, "plan_of", small_plan)
        yield


small_tpu = jax.jit(partial(both, tpu), static_argnums=3, compiler_options=QUICK)


def of_pallas_tpu(*given: Any) -> Any:
    with small_blocks():
        return small_tpu(*given)


ALL = (
    Scan("reference", of_reference),
    Scan("sequential", compiled("sequential")),
    Scan("associative", compiled("associative")),
    Scan(
        "triton",
        of_triton,
        border=16,  # two tiles of tokens
        chunk=16,
        lengths=(1, 2, 31, 32, 33, 70),
        slow=True,
        double=False,
        rounding=1,  # the interpreter's to bfloat16 is towards 0
        needs="triton",
    ),
    Scan(
        "pallas_tpu",
        of_pallas_tpu,
        border=256,
        lengths=(1, 2, 127, 128, 255, 257, 600, 1100),
        sizes={"per_group": (1, 2, 5, 9), "n": (1, 3, 16, 17)},
        few=2,  # each a program to compile
        slow=True,
        double=False,
    ),
)
