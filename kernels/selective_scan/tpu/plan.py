"""What a TPU kernel is specialised for, and its block sizes by a function of the shapes."""

from dataclasses import dataclass
from math import gcd

from kernels.selective_scan.sizes import Scan, cdiv

LANES = 128
ROUNDS = 7  # of a scan over 128 lanes


@dataclass(frozen=True)
class Plan:
    """All that a kernel is specialised for."""

    scan: Scan
    backward: bool
    steps: int
    channels: int  # of a block
    columns: int  # of a block
    by_token: bool  # blocks are (tokens, channels) rather than (channels, tokens)

    @property
    def descending(self) -> bool:
        """Whether the kernel goes from the last block of tokens to the first."""
        return self.scan.reverse != self.backward

    @property
    def column(self) -> int:
        return self.steps * LANES

    @property
    def tokens(self) -> int:
        return self.columns * self.column

    @property
    def token_blocks(self) -> int:
        return cdiv(self.scan.l, self.tokens)

    @property
    def entries(self) -> int:
        """States that are kept for the backward pass: one per column."""
        return cdiv(self.scan.l, self.column)

    @property
    def blocks(self) -> int:
        """Blocks of channels in a group."""
        return cdiv(self.scan.p, self.channels)

    @property
    def states(self) -> int:
        """n, padded to whole parts."""
        return cdiv(self.scan.n, self.part) * self.part

    @property
    def part(self) -> int:
        """States that are held at a time: 2 registers for each step."""
        return 8 if self.scan.n <= 8 else 16

    @property
    def batch(self) -> int:
        """Channels whose runs are scanned over lanes together, to hide the latency of rolls."""
        return min(32, cdiv(self.channels, 4) * 4)

    @property
    def padded(self) -> int:
        """Channels that there is room for in scratch memory."""
        return cdiv(self.channels, self.batch) * self.batch

    @property
    def taken(self) -> tuple[str, ...]:
        """Buffers of what the channels need: delta, delta u and, backward, the gradient of C h."""
        return ("step", "push", "slope") if self.backward else ("step", "push")

    @property
    def varying(self) -> tuple[str, ...]:
        return tuple(k for k, x in (("B", self.scan.B_varies), ("C", self.scan.C_varies)) if x)

    @property
    def given(self) -> tuple[str, ...]:
        """Buffers of what the channels find: C h, and the gradients by delta u and delta A."""
        if not self.backward:
            return ("output",)
        return ("by_push", "by_decay", "output") if self.scan.gate else ("by_push", "by_decay")

    @property
    def free(self) -> tuple[str, ...]:
        """Buffers that are not in use while those that are taken are filled, one for each."""
        if self.backward:
            return "by_push", "by_decay", "output"
        return "output", "spare"

    @property
    def buffers(self) -> tuple[str, ...]:
        extra = self.free if self.by_token else ()
        return tuple(dict.fromkeys(self.taken + self.given + extra))

    @property
    def scratch(self) -> dict[str, int]:
        """Rows of 128 numbers by name, as the kernels use them."""
        rows = {name: self.padded * self.steps for name in self.buffers}
        rows |= {name: self.states * self.steps for name in self.varying}
        if self.backward:
            rows |= {f"by_{name}": self.states * self.steps for name in self.varying}
        slots = self.batch * self.part
        for name in ("state", "adjoint") if self.backward else ("state",):
            rows |= {name: slots, f"{name}_entry": slots, f"{name}_sums": ROUNDS * self.batch}
        return rows | {"rates": slots, "carry": self.states}

    @property
    def at_once(self) -> int:
        """Channels of a batch that are scanned over lanes at the same time: up to 32 vectors.

        Rolls of one channel wait for each other; on v5e, each keeps one of 3 units for 8 cycles.
        """
        return gcd(self.batch, 2 * LANES // self.part)


# Bytes of on-chip memory: for what `vmem` counts, and with what the compiler adds to it (2.4 MB
# were seen), of 64 MB or more on v5e, v5p and v6e.
BUDGET, LIMIT = 12 * 2**20, 20 * 2**20


def plan_of(scan: Scan, backward: bool, itemsize: int) -> Plan:
    """Block sizes by shape; figures are of v5e, n = 16.

    `steps`: the scan over lanes and the two ways of reordering tokens take 95 of 180 cycles for a
    channel's column of 8 * 128 tokens, where rolls for tokens that lie along lanes as they come
    take 300. With 32 states, such columns of 128 channels would take 16 MB. What a forward pass
    keeps depends on `steps`, and a backward pass may have other channels: it depends on n alone.
    `channels`: as many as share B and C, up to 64. 128 if these are whole blocks of (b l d), which
    XLA then has with d on lanes, and there is room: to transpose them takes half the time.
    `columns`: to start a block takes 0.35 us, 64 channels of one column 8 us.
    """
    steps = 8 if scan.n <= 16 else 4
    by_token = scan.p % LANES == 0 and scan.n <= 128
    channels = LANES if by_token else min(scan.p, 64)
    most = min(max(1, 64 // channels), 4, cdiv(scan.l, steps * LANES))
    plans = [
        Plan(scan, backward, steps, channels, columns, by_token) for columns in range(most, 0, -1)
    ]
    return next((x for x in plans if vmem(x, itemsize) <= BUDGET), plans[-1])


def vmem(plan: Plan, itemsize: int) -> int:
    """Bytes of on-chip memory: two buffers of every block, and scratch memory."""
    rows = cdiv(plan.channels, 8) * 8 * (7 if plan.backward else 4)
    rows += plan.states * len(plan.varying) * (2 if plan.backward else 1)
    states = plan.states * (plan.columns + 8) + cdiv(plan.channels, 8) * 8 * 4
    scratch = sum(plan.scratch.values())
    return 2 * itemsize * plan.tokens * rows + 4 * LANES * (2 * states + scratch)
