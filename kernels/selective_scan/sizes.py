"""What a scan computes, as the kernels are specialised for it."""

from dataclasses import dataclass

from kernels.selective_scan.form import Arguments, Options, groups


def cdiv(a: int, b: int) -> int:
    return -(-a // b)


@dataclass(frozen=True)
class Scan:
    """What a scan computes: its sizes as in form.py, and which arguments there are."""

    b: int
    l: int  # noqa: E741  the axis is called l everywhere
    d: int
    n: int
    g: int
    chunk: int
    bias: bool
    softplus: bool
    skip: bool
    gate: bool
    B_varies: bool
    C_varies: bool
    reverse: bool

    @classmethod
    def of(cls, args: Arguments, options: Options) -> "Scan":
        (b, l, d), n = args.u.shape, args.A.shape[1]  # noqa: E741
        return cls(
            b=b,
            l=l,
            d=d,
            n=n,
            g=groups(args),
            chunk=options.chunk,
            bias=args.delta_bias is not None,
            softplus=options.delta_softplus,
            skip=args.D is not None,
            gate=args.z is not None,
            B_varies=args.B.ndim == 4,
            C_varies=args.C.ndim == 4,
            reverse=options.reverse,
        )

    @property
    def p(self) -> int:
        """Channels per group."""
        return self.d // self.g

    @property
    def chunks(self) -> int:
        return cdiv(self.l, self.chunk)
