"""Which strategies lift a starving modality, on data whose truth is planted.

``python -m examples.planted --out DIR`` makes ten catalogues of two modalities, in which the weak one carries a third
of the signal and starves in plain training; trains teachers, plain training and every strategy with the same settings
of the trainer; and prints a table: how much of the gap between the weak modality's view and its teacher each strategy
closes, and what the joint ranking gains, with paired tests over the catalogues. Runs in DIR are not made again.

Other knobs are contenders as well: ``--contenders mla mmpareto:weight=0.5`` (plain is always there). With ``--seeds``
of one's own and ``--split val`` nothing is seen of the catalogues and parts that the table is about.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd import Trainer, evaluate, train_teachers
from pyg_ckd.balance.discovery import build_objective, find_strategy, needs_teachers, strategies
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.evaluation.statistics import holm, mean_std, paired_test
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import VBPR
from pyg_ckd.study.contenders import default_options
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.training import Teachers, build

METRIC = "recall@20"
STRONG, WEAK = "visual", "textual"
CATALOGUE: dict[str, Any] = {
    "num_users": 300,
    "num_items": 300,
    "num_interactions": 15000,
    "modalities": {STRONG: 2, WEAK: 1},
    "noise": {STRONG: 0.5, WEAK: 1.0},
    "id_share": 0.0,
    "temperature": 0.1,
}
TRAINER: dict[str, Any] = {
    "max_epochs": 100,
    "extend": 2,
    "lr": 0.01,
    "batch_size": 3000,
    "patience": 80,
    "eval_every": 2,
    "num_negatives": 1,
}
SETTINGS = StudySettings(
    model={"embedding_dim": 32},
    plain=dict(VBPR.recommended["plain"]),
    teacher=dict(VBPR.recommended["teacher"]),
    distillation=dict(VBPR.recommended["distillation"]),
    trainer=TRAINER,
)
TEACHER = f"teacher:{WEAK}"


def options_of(contender: str, settings: StudySettings = SETTINGS) -> tuple[str, dict[str, Any]]:
    """Return the strategy of a contender and its options: those of a study, and those that the name holds.

    Args:
        contender: Name of a strategy, perhaps with options, as in ``mmpareto:weight=0.5,shared=project``.
        settings: What the study is made of. (default: those of the catalogues)
    """
    name, _, rest = contender.partition(":")
    given = dict(pair.split("=", 1) for pair in rest.split(",") if pair)
    return name, default_options(find_strategy(name), settings, {key: _value(text) for key, text in given.items()})


def _value(text: str) -> Any:
    known = {"True": True, "False": False}
    for read in (known.__getitem__, int, float):
        try:
            return read(text)
        except (KeyError, ValueError):
            continue
    return text


def teachers_of(data: HeteroData, seed: int, out: Path) -> Teachers:
    """Return the teachers of a catalogue, which are kept below a folder.

    Args:
        data: The catalogue.
        seed: The seed.
        out: The folder.
    """
    options = {**SETTINGS.teacher, **SETTINGS.model}
    return train_teachers(VBPR, data, _trainer(seed), cache_dir=out / "teachers", **options)


def make(data: HeteroData, contender: str, seed: int, split: str, out: Path) -> dict[str, Any]:
    """Train a contender and return its record.

    Args:
        data: The catalogue.
        contender: The contender, or the teacher of the weak modality.
        seed: Seed of the weights and of what is drawn.
        split: The part that is measured, besides the joint validation by which the epoch is chosen.
        out: The folder of the teachers.
    """
    start = time.process_time()
    if contender == TEACHER:
        found = teachers_of(data, seed, out)
        history, joint = found.histories[WEAK], {m: _recall(table, data, split) for m, table in found.items()}
        views = joint
    else:
        name, options = options_of(contender)
        cls = find_strategy(name)
        teachers = teachers_of(data, seed, out) if needs_teachers(cls, options) else None
        start = time.process_time()
        model = build_objective(cls, build(VBPR, data, seed, **SETTINGS.model), data, teachers, options)
        history = _trainer(seed).fit(model, data)
        views = {m: _recall(model, data, split, m) for m in data.modalities}
        joint = {"joint": _recall(model, data, split)}
    return {
        "contender": contender,
        "settings": {"catalogue": CATALOGUE, "trainer": TRAINER, "options": _asked(contender)},
        "split": split,
        "joint": joint.get("joint"),
        "views": views,
        "val": history.best_value,
        "best_epoch": history.best_epoch,
        "epochs": len(history.rows),
        "stopped": history.stopped,
        "seconds": time.process_time() - start,
    }


def _asked(contender: str) -> dict[str, Any]:
    return dict(SETTINGS.teacher) if contender == TEACHER else options_of(contender)[1]


def _trainer(seed: int) -> Trainer:
    return Trainer(**TRAINER, seed=seed, device="cpu", progress=False)


def _recall(model: Any, data: HeteroData, split: str, view: str | None = None) -> float:
    return evaluate(model, data, split=split, k=20, metrics=["recall"], view=view)[METRIC]


def catalogue(seed: int) -> HeteroData:
    """Return a catalogue with two modalities, the weak one a third of the signal.

    Args:
        seed: The seed.
    """
    return synthetic_multimodal(**CATALOGUE, seed=seed)


def table(records: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[str]:
    """Yield the lines of the table.

    Args:
        records: From contender to its records, one for every seed, in the same order.
    """
    teacher = [record["views"][WEAK] for record in records[TEACHER]]
    plain = records["plain"]
    others = [name for name in records if name not in (TEACHER, "plain")]
    pairs = {name: ([r["joint"] for r in records[name]], [r["joint"] for r in plain]) for name in others}
    several = len(plain) > 1
    p_values = holm([float(paired_test(*pair).p_value) for pair in pairs.values()]) if several else [1.0] * len(others)
    closed = {name: _closed(records[name], plain, teacher) for name in others}
    head = [f"{WEAK} view", "of its gap closed", "seeds with half", f"{STRONG} view", "joint", "against plain"]
    yield f"| strategy | {' | '.join([*head, 'p, Holm', 'CPU s'])} |"
    yield "|" + " --- |" * 9
    yield f"| {TEACHER} | {_text(teacher)} |" + "  |" * 7
    yield _row("plain", plain, ["", ""], ["", ""])
    for name, p in sorted(zip(others, p_values, strict=True), key=lambda pair: -closed[pair[0]][0]):
        share, seeds = closed[name]
        title = f"**{name}**" if share >= 0.5 else name
        gain = fmean(pairs[name][0]) / fmean(pairs[name][1]) - 1
        yield _row(title, records[name], [f"{share:.0%}", f"{seeds}/{len(plain)}"], [f"{gain:+.1%}", f"{p:.2g}"])


def _closed(
    records: Sequence[Mapping[str, Any]], plain: Sequence[Mapping[str, Any]], teacher: Sequence[float]
) -> tuple[float, int]:
    """Return which share of the mean gap is closed, and in how many catalogues at least half of theirs."""
    before = [record["views"][WEAK] for record in plain]
    after = [record["views"][WEAK] for record in records]
    half = sum(a - b >= (t - b) / 2 for a, b, t in zip(after, before, teacher, strict=True))
    gap = fmean(teacher) - fmean(before)
    return (fmean(after) - fmean(before)) / gap if gap > 0 else 0.0, half  # Nothing is closed where there is no gap.


def _row(title: str, records: Sequence[Mapping[str, Any]], closed: list[str], gain: list[str]) -> str:
    weak, strong = ([record["views"][m] for record in records] for m in (WEAK, STRONG))
    joint, seconds = ([record[key] for record in records] for key in ("joint", "seconds"))
    return (
        f"| {' | '.join([title, _text(weak), *closed, _text(strong), _text(joint), *gain, f'{fmean(seconds):.1f}'])} |"
    )


def _text(values: Sequence[float]) -> str:
    return "{:.4f} ± {:.4f}".format(*mean_std(values))


def main() -> None:
    """Make the runs that are missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--contenders", nargs="+", default=list(strategies()))
    parser.add_argument("--seeds", nargs="+", type=int, default=list(range(10)))
    parser.add_argument("--split", choices=("val", "test"), default="test")
    parser.add_argument("--out", type=Path, default=Path("runs/planted"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    contenders = list(dict.fromkeys([TEACHER, "plain", *args.contenders]))
    records: dict[str, list[dict[str, Any]]] = {name: [] for name in contenders}
    for seed in args.seeds:
        data = catalogue(seed)
        for name in contenders:
            file = args.out / f"{name.replace(':', '-')}-{args.split}-{seed}.json"
            if not file.exists():
                file.parent.mkdir(parents=True, exist_ok=True)
                write_json(file, make(data, name, seed, args.split, args.out))
            record = read_json(file)
            if record["settings"] != {"catalogue": CATALOGUE, "trainer": TRAINER, "options": _asked(name)}:
                parser.error(f"{file}: a run of other settings; choose another --out")
            records[name].append(record)
            joint = "" if record["joint"] is None else f", joint {record['joint']:.4f}"
            print(f"{file.stem}: {WEAK} {record['views'][WEAK]:.4f}{joint}, {record['seconds']:.1f} s", flush=True)
    print("\n".join(["", *table(records)]))


if __name__ == "__main__":
    main()
