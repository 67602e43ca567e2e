"""What the text of a compiled program says: what its devices exchange, read and write."""

import math
import re
from collections.abc import Iterator
from typing import NamedTuple

BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s64": 8, "u64": 8, "f64": 8}
"""Of those element types that do not have 4."""
FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all", "iota"}
"""Instructions that neither read nor write; `-done` belongs to its `-start`."""

_ARRAY = re.compile(
    r"\b(pred|bf16|[fsu]\d+)\[([\d,]*)\](?:\{([\d,]*)(?::T\(([\d,]+)\))?)?"
)  # type, shape, axes from the minor one up, tile of the minor ones
_COLLECTIVE = re.compile(r"= (.*?) (all-\w+|reduce-scatter|collective-[a-z]+)(?:-start)?\(")
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) .*\{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.+?) ([\w\-]+)\((.*?)\)(.*)$")
_TURNS = re.compile(r'known_trip_count":\{"n":"(\d+)"')


class Collective(NamedTuple):
    kind: str
    bytes: int  # of its result


class Instruction(NamedTuple):
    bytes: int  # read and written
    inside: tuple[str, ...]  # computations that it runs
    turns: int


def collectives(text: str) -> Iterator[Collective]:
    for types, kind in _COLLECTIVE.findall(text):
        yield Collective(kind, size(types))


def scans(text: str) -> int:
    """Calls of the selective scan's kernels; of a GPU several make one scan."""
    calls = (line for line in text.splitlines() if " custom-call(" in line)
    return sum("selective_scan_" in line for line in calls)


def size(types: str, padded: bool = False) -> int:
    """Bytes of the arrays in an instruction's type: f32[4,8]{1,0:T(8,128)}. padded: as they lie in
    a TPU's memory, in whole tiles."""
    return sum(
        BYTES.get(kind, 4) * math.prod(_laid_out(shape, axes, tile if padded else ""))
        for kind, shape, axes, tile in _ARRAY.findall(types)
    )


def _laid_out(shape: str, axes: str, tile: str) -> list[int]:
    sizes, order, tiles = ([int(n) for n in x.split(",") if n] for x in (shape, axes, tile))
    for axis, unit in zip(order, reversed(tiles), strict=False):
        sizes[axis] = -(-sizes[axis] // unit) * unit
    return sizes


def traffic(text: str) -> int:
    """Bytes that all instructions of a program read and write, at most: fused loops, products and
    kernels read each operand once, padded as it lies in memory; a loop whose turns are not known
    has one."""
    computations, entry = _parsed(text)

    def of(name: str) -> int:
        return sum(
            x.bytes + x.turns * sum(of(inner) for inner in x.inside) for x in computations[name]
        )

    return of(entry)


def _parsed(text: str) -> tuple[dict[str, list[Instruction]], str]:
    found: dict[str, list[Instruction]] = {}
    entry, sizes, current = "", {}, []
    for line in text.splitlines():
        if start := _COMPUTATION.match(line):
            sizes, current = {}, found.setdefault(start[2], [])
            entry = start[2] if start[1] else entry
        elif match := _INSTRUCTION.match(line):
            name, types, kind, operands, rest = match.groups()
            sizes[name] = size(types, padded=True)
            if kind in FREE or kind.endswith("-done"):
                continue
            if inside := _runs(kind, rest):
                turns = _TURNS.search(rest)
                current.append(Instruction(0, inside, int(turns[1]) if turns else 1))
                continue
            read = sum(sizes.get(x, 0) for x in re.findall(r"[\w.\-]+", operands))
            current.append(Instruction(sizes[name] + read, (), 1))
    return found, entry


def _runs(kind: str, rest: str) -> tuple[str, ...]:
    """The computations of a call or a loop; a fusion's are no instructions of their own."""
    key = {"call": "to_apply", "while": "body"}.get(kind)
    return tuple(re.findall(rf"{key}=%?([\w.\-]+)", rest)) if key else ()
