"""The cells of a sweep: `--sweep model.mixer=mamba,none --sweep seed=0,1` makes four runs."""

import itertools
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from difflib import get_close_matches
from types import NoneType
from typing import Any, Literal, NamedTuple, TypeAlias, get_args, get_origin, get_type_hints

from mstg_jax.config import Config, SettingsError

Axis: TypeAlias = tuple[str, tuple[str, ...]]
"""A setting's dotted name, and its values as they are written."""
APART, JOINED, NOTHING = ",", "+", "none"
"""Between the values of an axis, and between the items of one value."""
NOT_SWEPT = ("run", "resume", "cluster")
SEED, BASE = "train.seed", "base"
Form: TypeAlias = Literal["grid", "zip", "each"]
"""Every combination; the first values together, the second ones, and so on; or one setting at a
time away from the first values, with every seed."""


class Cell(NamedTuple):
    """settings: dotted name -> value as it is written, in the order of the axes."""

    name: str
    settings: dict[str, str]
    config: Config


class Asked(NamedTuple):
    """What the flags of a sweep ask for, and the arguments without them."""

    axes: tuple[Axis, ...]
    form: Form
    only_list: bool
    cell: str | None
    argv: list[str]


def split(argv: Sequence[str]) -> Asked | None:
    """None without --sweep. Raises SettingsError on flags that are none, or lack what they need."""
    axes, argv, rest = list[Axis](), list(argv), list[str]()
    form: Form = "grid"
    only_list, cell = False, None
    while argv:
        flag, equals, value = argv.pop(0).partition("=")
        whole = flag + equals + value
        if not flag.startswith("--sweep"):
            rest.append(whole)
        elif flag in ("--sweep.zip", "--sweep.each") and form == "grid":
            form = "zip" if flag == "--sweep.zip" else "each"
        elif flag == "--sweep.list":
            only_list = True
        elif flag in ("--sweep", "--sweep.cell"):
            value = value if equals else argv.pop(0) if argv else ""
            if flag == "--sweep":
                axes.append(_axis(value))
            else:
                cell = value
        else:
            raise SettingsError(
                f"{flag} cannot stand here; there are --sweep NAME=VALUE,VALUE, one of --sweep.zip "
                "and --sweep.each, --sweep.list and --sweep.cell CELL"
            )
    if not axes:
        if form != "grid" or only_list or cell is not None:
            raise SettingsError("flags of a sweep need a --sweep NAME=VALUE,VALUE")
        return None
    return Asked(tuple(axes), form, only_list, cell, rest)


def _axis(text: str) -> Axis:
    name, equals, values = text.partition("=")
    found = tuple(values.split(APART))
    if not equals or not all(found):
        raise SettingsError(f"--sweep {text!r} must be NAME=VALUE,VALUE: model.mixer=mamba,none")
    if twice := [value for value, count in Counter(found).items() if count > 1]:
        raise SettingsError(f"--sweep {name} has {', '.join(twice)} twice")
    return name, found


def cells(base: Config, axes: Sequence[Axis], form: Form = "grid") -> list[Cell]:
    """In the order of the axes, the last one fastest; each with its settings checked.

    Raises SettingsError on a name or value that is none, with the nearest right one, and on a cell
    whose settings cannot work.
    """
    axes = [(_known(base, name), values) for name, values in axes]
    names = [name for name, _ in axes]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise SettingsError(f"--sweep names {', '.join(twice)} twice")
    lengths = {name: len(values) for name, values in axes}
    if form == "zip" and len(set(lengths.values())) > 1:
        told = ", ".join(f"{name} has {count}" for name, count in lengths.items())
        raise SettingsError(f"--sweep.zip pairs values one by one, but {told}")
    short = dict(zip(names, _short(names), strict=True))
    found = [
        _cell(base, dict(zip(names, values, strict=True)), _named(short, values, axes, form))
        for values in _combined(axes, form)
    ]
    if twice := [name for name, n in Counter(cell.name for cell in found).items() if n > 1]:
        raise SettingsError(f"--sweep: several cells would be named {', '.join(twice)}")
    return found


def _combined(axes: Sequence[Axis], form: Form) -> Iterator[tuple[str, ...]]:
    lists = [values for _, values in axes]
    if form == "grid":
        yield from itertools.product(*lists)
    elif form == "zip":
        yield from zip(*lists, strict=True)
    else:
        firsts = [values[0] for values in lists]
        seeds = next((values for name, values in axes if name == SEED), (None,))
        moved = [(i, x) for i, (n, values) in enumerate(axes) if n != SEED for x in values[1:]]
        for change in (None, *moved):
            for seed in seeds:
                own = [
                    seed or x if n == SEED else x for (n, _), x in zip(axes, firsts, strict=True)
                ]
                if change is not None:
                    own[change[0]] = change[1]
                yield tuple(own)


def _named(short: dict[str, str], values: Sequence[str], axes: Sequence[Axis], form: Form) -> str:
    """`mixer=none,seed=0`; of `each` without what is as at first."""
    shown, away = list[str](), False
    for (name, known), value in zip(axes, values, strict=True):
        if form != "each" or name == SEED or value != known[0]:
            shown.append(f"{short[name]}={value}")
            away |= name != SEED
    whole = APART.join(shown if away or form != "each" else [BASE, *shown])
    return re.sub(r"[^\w.,=+-]", "_", whole)  # it names a folder


def _cell(base: Config, settings: dict[str, str], name: str) -> Cell:
    config = base
    for setting, text in settings.items():
        config = _replaced(config, setting.split("."), _value(base, setting, text))
    try:
        config.check()
    except SettingsError as error:
        raise SettingsError(f"--sweep: cell {name} cannot work: {error}") from error
    return Cell(name, settings, config)


def all_names(config: Any, before: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for field in fields(config):
        value, name = getattr(config, field.name), before + field.name
        if name in NOT_SWEPT:
            continue
        if is_dataclass(value):
            yield from all_names(value, name + ".")
        else:
            yield name


def _known(base: Config, name: str) -> str:
    """The whole name: `model.d_state` of model.d-state, `train.seed` of seed, which is unique."""
    wanted, names = name.replace("-", "_"), list(all_names(base))
    if wanted in names:
        return wanted
    ends = [known for known in names if known.rpartition(".")[2] == wanted]
    if len(ends) == 1:
        return ends[0]
    last = {known.rpartition(".")[2]: known for known in names}
    near = ends or get_close_matches(wanted, names, 3)
    near = near or [last[n] for n in get_close_matches(wanted.rpartition(".")[2], last, 3)]
    meant = f"; did you mean {' or '.join(near)}?" if near else ""
    raise SettingsError(f"--sweep: there is no setting {name}{meant}")


def _short(names: Sequence[str]) -> list[str]:
    """Last parts, where they differ."""
    last = [name.rpartition(".")[2] for name in names]
    return [
        name if last.count(short) > 1 else short for name, short in zip(names, last, strict=True)
    ]


def _replaced(config: Any, path: Sequence[str], value: Any) -> Any:
    first, *rest = path
    return replace(
        config, **{first: _replaced(getattr(config, first), rest, value) if rest else value}
    )


def _value(base: Config, name: str, text: str) -> Any:
    holder: Any = base
    *sections, last = name.split(".")
    for section in sections:
        holder = getattr(holder, section)
    try:
        return _parsed(get_type_hints(type(holder))[last], text)
    except ValueError as error:
        raise SettingsError(f"--sweep {name}={text}: {error}") from error


def _parsed(hint: Any, text: str) -> Any:
    """Raises ValueError that says what would be right."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        if text in args:
            return text
        near = get_close_matches(text, args, 1)
        meant = f"; did you mean {near[0]}?" if near else ""
        raise ValueError(f"{text} is none of {', '.join(args)}{meant}")
    if origin is tuple:
        if text == NOTHING and args[-1] is Ellipsis:
            return ()
        items = text.split(JOINED)
        kinds = [args[0]] * len(items) if args[-1] is Ellipsis else list(args)
        if len(items) != len(kinds):
            raise ValueError(f"{len(kinds)} items joined by {JOINED} are needed")
        return tuple(_parsed(kind, item) for kind, item in zip(kinds, items, strict=True))
    if NoneType in args:
        others = [kind for kind in args if kind is not NoneType]
        return None if text == "None" else _parsed(others[0], text)
    if hint is bool:
        if text.lower() not in ("true", "false"):
            raise ValueError("it is true or false")
        return text.lower() == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "a whole number" if hint is int else "a number"
            raise ValueError(f"{text} is not {kind}") from None
    return text
