"""The benchmark suite: ``python -m benchmarks`` measures everything at a quick size, ``--full`` at full size.

Every benchmark prints Markdown tables and adds them to ``benchmarks.md``, ``benchmarks.json`` and a PNG of its own in
the folder ``--out``. ``docs/performance.md`` explains how to read them. ``OMP_NUM_THREADS`` sets the number of threads.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import Missing, Suite, Table, load_average, machine
from benchmarks.plots import draw
from benchmarks.problems import real_or_synthetic
from pyg_ckd.files import atomic_path, write_json
from pyg_ckd.memory import kept_memory

ROOT = Path(__file__).parent.parent
BENCHMARKS = (
    "propagation",
    "sampling",
    "step",
    "strategies",
    "launches",
    "processes_per_card",
    "evaluation",
    "shares",
    "epoch",
    "scaling",
    "neighborhoods",
    "memory",
    "bounded",
    "inference",
    "closed_form",
    "dropout",
    "import_time",
    "study",
    "scale",
)
ON_A_GPU = (
    "propagation",
    "step",
    "launches",
    "processes_per_card",
    "sampling",
    "evaluation",
    "epoch",
    "scaling",
    "inference",
    "memory",
    "strategies",
    "neighborhoods",
)
"""What runs by default on a GPU, what matters most first; the rest measures the CPU there too."""
SCRIPTS = {  # Programs of their own, on the CPU: options at quick size, at full size.
    "neighbors": (["--items", "5000"], ["--items", "100000"]),
    "serving": (
        ["--requests", "100", "--per_request", "1", "100"],
        ["--users", "1000000", "--items", "100000", "--served", "20000", "--requests", "1000"],
    ),
}


@dataclass
class Report:
    """What a run has found so far, on the screen and in files.

    Attributes:
        out: Folder of the files, or :obj:`None` for none.
        about: Machine, data, limits and load.
        found: From benchmark to its tables, its text, its failure and its seconds.
        lines: The Markdown that has been printed.
    """

    out: Path | None
    about: dict[str, Any] = field(default_factory=dict)
    found: dict[str, dict[str, Any]] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)

    def say(self, text: str) -> None:
        """Print Markdown and keep it."""
        print(f"{text}\n", flush=True)
        self.lines.append(f"{text}\n")

    def add(self, name: str, tables: Sequence[Table] = (), **more: Any) -> None:
        """Take the result of a benchmark and write all files, so that a run that is killed keeps what it has."""
        shown = [{"title": table.title, "rows": table.rows, "notes": table.notes} for table in tables]
        self.found[name] = {"tables": shown, **more}
        for table in tables:
            self.say(table.markdown())
        if self.out is not None:
            draw(tables, self.out / f"{name}.png")
        self.write()

    def write(self) -> None:
        """Write everything but the charts."""
        if self.out is not None:
            write_json(self.out / "benchmarks.json", {"about": self.about, "benchmarks": self.found})
            with atomic_path(self.out / "benchmarks.md") as temporary:
                temporary.write_text("\n".join(["# Benchmarks\n", *self.lines]), encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run benchmarks and return 0, or 1 if one of them failed.

    Args:
        argv: Arguments; by default those of the process.
    """
    args = _parser().parse_args(argv)
    warnings.filterwarnings("ignore", "Sparse (CSR tensor support|invariant checks)")
    report = Report(args.out)
    suite = _set_up(args, report)
    failed = []
    for name in args.names or (ON_A_GPU if suite.device.type == "cuda" else [*BENCHMARKS, *SCRIPTS]):
        start = time.perf_counter()
        print(f"{name} ...", file=sys.stderr, flush=True)
        try:
            result = {"text": _script(name, args.full)} if name in SCRIPTS else {"tables": _tables(name, suite)}
        except Missing as error:
            report.say(f"{name}: left out, {error}.")
            result = {"missing": str(error)}
        except Exception as error:  # The other benchmarks are still worth running.
            report.say(f"{name}: failed, {type(error).__name__}: {error}")
            result = {"failed": str(error)}
            failed.append(name)
        if "text" in result:
            report.say(f"## {name}\n\n{result['text']}")
        report.add(name, **result, seconds=time.perf_counter() - start)
        print(f"{name}: {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    report.about["load average at the end"] = load_average()
    report.say(f"Load average at the end: {load_average()}.")
    report.write()
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = ", ".join((*BENCHMARKS, *SCRIPTS))
    parser.add_argument(
        "names", nargs="*", type=_known, metavar="NAME", help=f"{names}; all that fit the device by default"
    )
    parser.add_argument("--full", action="store_true", help="full sizes and all backbones")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to measure; the CPU")
    parser.add_argument("--data", default=None, help="data file; tiktok.npz where $PYG_CKD_DATA points to")
    parser.add_argument("--out", type=Path, default=Path("benchmark-results"), help="folder of the files")
    return parser


def _known(name: str) -> str:
    if name not in (*BENCHMARKS, *SCRIPTS):
        raise argparse.ArgumentTypeError(f"found {name!r}, expected one of {', '.join((*BENCHMARKS, *SCRIPTS))}")
    return name


def _set_up(args: argparse.Namespace, report: Report) -> Suite:
    """Return what to measure on and report machine, data and limits."""
    report.about["load average at the start"] = load_average()
    device = torch.device(args.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        report.say("cuda: this machine or this torch has none, going on with the CPU.")
        device = torch.device("cpu")
    data, source = real_or_synthetic(args.data)
    suite = Suite(data, device, args.full)
    if device.type == "cuda":  # Steps are short there.
        suite.min_run_time = 0.03 if args.full else 0.02
    found = {
        "copy bandwidth (GB/s)": suite.limits.copy_bandwidth / 1e9,
        "matrix product (GFLOP/s)": suite.limits.matmul_rate / 1e9,
    }
    if suite.limits.half_rate is not None:
        found["matrix product, bfloat16 (GFLOP/s)"] = suite.limits.half_rate / 1e9
    size = "full" if args.full else "quick"
    report.about |= machine(device) | {"data": source, "size": size} | found
    report.say(Table("machine", [{"what": k, "value": v} for k, v in report.about.items()]).markdown())
    return suite


def _tables(name: str, suite: Suite) -> list[Table]:
    with kept_memory():  # As in training; alternatives have it too.
        return importlib.import_module(f"benchmarks.{name}").run(suite)


def _script(name: str, full: bool) -> str:
    command = [sys.executable, "-m", f"benchmarks.{name}", *SCRIPTS[name][full]]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
