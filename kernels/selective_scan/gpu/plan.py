"""What a GPU kernel is specialised for, and its tiles by a function of the shapes."""

from dataclasses import dataclass
from typing import Literal

from kernels.selective_scan.sizes import Scan, cdiv

TokenKernel = Literal["chunk_states", "chunk_adjoints", "outputs", "gradients"]


def power_of_two(x: int) -> int:
    """The smallest power of two that is at least x."""
    return 1 << (x - 1).bit_length()


@dataclass(frozen=True)
class Tile:
    """How a program of the Triton kernels cuts its chunk: (T, R, D, J) elements at a time.

    The T tokens and R of the states lie within a thread, D channels times J states across threads.
    """

    T: int
    D: int
    R: int
    J: int
    warps: int
    splits: int = 1  # programs that share the channels of a group in `gradients`


@dataclass(frozen=True)
class Plan:
    """All that a kernel is specialised for: its one constant argument, with these fields."""

    scan: Scan
    tile: Tile

    @property
    def blocks(self) -> int:
        """Blocks of channels in a group."""
        return cdiv(self.scan.p, self.tile.D)

    @property
    def per_split(self) -> int:
        """Blocks of channels that one program of `gradients` goes through."""
        return cdiv(self.blocks, self.tile.splits)

    @property
    def kept(self) -> int:
        """Room for the states that enter the tiles of a chunk; registers, R for each."""
        return power_of_two(cdiv(self.scan.chunk, self.tile.T))


# Warps that keep a large GPU busy: 132 multiprocessors with the 8 warps that the registers of
# `gradients` leave room for.
BUSY = 132 * 8


def gpu_tiles(kernel: TokenKernel, scan: Scan) -> Tile:
    """The tile of a Triton kernel that goes over tokens.

    Figures are of sm_90 at n = 16, from `python -m kernels.bench --static`. A thread has 32
    elements of a tile (T = 8, R = 4): 80 to 128 registers, 16 to 24 warps on a multiprocessor, 7 to
    12 instructions per element. T = 16, R = 2 takes 2 more in `outputs`, where a sum over 8 lanes
    shuffles 3 times for 2 states and one over 4 lanes twice for 4; T = 16, R = 4 takes 220
    registers. `gradients` has 16 elements (R = 2): 193 to 241 registers, 8 warps, and 60
    instructions per element (67 to 71 with 8 warps to a program), 25 of them in sums over channels
    and states; with 32 elements it spills.
    """
    if kernel != "gradients":
        return _tile(scan, R=4, threads=64)
    # Channels shared by several programs cost HBM traffic: their partial dB and dC are written and
    # read, 4 * splits * n / p of an array (b l d), where the ideal is 7 arrays: at most 2.
    affordable = max(1, scan.p // (2 * scan.n))
    rows = scan.b * scan.chunks * scan.g
    tile = _tile(scan, R=2, threads=128)
    if rows * min(cdiv(scan.p, tile.D), affordable) * tile.warps < BUSY:
        # More channels at once: more barriers (48 per tile, not 36), but a group in fewer steps.
        tile = _tile(scan, R=2, threads=256)
    blocks = cdiv(scan.p, tile.D)
    splits = min(blocks, affordable, cdiv(2 * BUSY, rows * tile.warps))
    return Tile(tile.T, tile.D, tile.R, tile.J, tile.warps, cdiv(blocks, cdiv(blocks, splits)))


def _tile(scan: Scan, R: int, threads: int) -> Tile:
    """D * J = threads where n and p allow it, else up to 256 threads for 8 channels: 32 bytes."""
    padded = power_of_two(scan.n)
    R = min(R, padded)
    J = padded // R
    D = max(threads // J, min(8, 256 // J), 1)
    D = min(D, power_of_two(scan.p))
    return Tile(T=8, D=D, R=R, J=J, warps=max(1, D * J // 32))


def carry_tile(scan: Scan) -> Tile:
    """T chunks of D states, 16 elements per thread. One long sequence has little to share out:
    256 states of 4096 chunks are 32 programs of 16 tiles, each of 8 states (32 bytes) wide."""
    T = min(power_of_two(scan.chunks), 256)
    return Tile(T=T, D=2048 // T, R=1, J=1, warps=4)
