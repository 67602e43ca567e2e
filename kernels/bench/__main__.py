"""`python -m kernels.bench`: the selective scan beside the ways it is commonly written.

`python -m kernels.bench --static` needs no GPU: what the GPU kernels become (static.py).
"""

import json
import logging
import platform

import jax
import tyro

from kernels.bench.measure import BASELINES, Settings, measure, table
from kernels.bench.workloads import WORKLOADS
from kernels.selective_scan import NAMES, explain


def main(settings: Settings) -> None:
    if settings.static:
        from kernels.bench import static

        static.main()
        return
    if unknown := set(settings.workloads) - set(WORKLOADS):
        raise SystemExit(f"no workload {sorted(unknown)}; there are {', '.join(WORKLOADS)}")
    known = (*NAMES, *BASELINES)
    if unknown := set(settings.methods) - set(known):
        raise SystemExit(f"no method {sorted(unknown)}; there are {', '.join(known)}")
    logging.getLogger("jax").setLevel(logging.ERROR)
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}; default: {explain()}")
    rows = []
    for name in settings.workloads:
        workload = WORKLOADS[name]
        sizes = ", ".join(f"{k} {v}" for k, v in workload._asdict().items())
        print(f"\n{name} ({sizes})\n{'':14}{'forward':>10}{'+backward':>12}{'MB':>10}", flush=True)
        rows += (own := measure(name, settings))
        print(table(own), flush=True)
    if settings.json:
        figures = {
            "jax": jax.__version__,
            "device": jax.devices()[0].device_kind,
            "machine": platform.platform(),
            "plain": settings.plain,
            "rounds": settings.rounds,
            "rows": [row._asdict() for row in rows],
        }
        path = settings.json.expanduser()  # `--json=~/x`, which a shell leaves as it is
        path.write_text(json.dumps(figures, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main(tyro.cli(Settings, prog="python -m kernels.bench"))
