"""The whole study on one data set: baselines, plain student, teachers and distilled student, run by run, resumable."""

from __future__ import annotations

import json
import math
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, Objective, estimate_effects
from pyg_ckd.balance.effect import ModalityEffectEstimator
from pyg_ckd.data import Embeddings, fingerprint, unimodal_views
from pyg_ckd.data.inputs import RATES, held_out
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, Metrics, embed, popularity
from pyg_ckd.evaluation.statistics import paired_test
from pyg_ckd.files import atomic_path
from pyg_ckd.nn import Backbone, LightGCN
from pyg_ckd.training import History, Teachers, Trainer, build, train_teachers
from pyg_ckd.training.checkpoint import check_settings
from pyg_ckd.training.model import save_model
from pyg_ckd.training.trainer import parse_metric

if TYPE_CHECKING:
    import pandas as pd

TEST_METRICS = ("recall", "precision", "ndcg", "map", "mrr", "hit", "coverage", "personalization")
COMPARED = ("recall@20", "ndcg@20")
MANIFEST = "study.json"


@dataclass
class StudySettings:
    """What a study is made of, beside the data.

    Args:
        model: Options of the backbone.
        plain: Options of :class:`~pyg_ckd.Objective` for the plain student.
        teacher: Options of :class:`~pyg_ckd.Objective` for the teachers.
        distillation: Options of :class:`~pyg_ckd.DistillationWrapper`.
        lightgcn: Options of the LightGCN baseline; ``l2`` among them is the weight of its penalty.
        trainer: Options of :class:`~pyg_ckd.Trainer`, for all runs but the baseline.
        k: Cut-offs of the test metrics.
    """

    model: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    lightgcn: dict[str, Any] = field(default_factory=lambda: {"l2": 1e-4})
    trainer: dict[str, Any] = field(default_factory=dict)
    k: tuple[int, ...] = (10, 20)


class Study:
    """Runs popularity, LightGCN, the plain student, the teachers and the distilled student over several seeds.

    Every finished run is kept in its own folder, and a run that was broken off goes on from its last checkpoint: the
    same call on the same folder continues the study.

    Args:
        data: The graph.
        backbone: Class of the student and the teachers.
        folder: Where to write; it must be empty, missing, or hold an unfinished study of the same settings.
        settings: Options of all parts.
        say: Called with a line of text at every step.

    Raises:
        InputError: If the graph has fewer than two modalities, or the folder cannot be used.
    """

    def __init__(
        self,
        data: HeteroData,
        backbone: type[Backbone],
        folder: str | os.PathLike[str],
        settings: StudySettings | None = None,
        say: Callable[[str], None] = lambda line: None,
    ) -> None:
        ModalityEffectEstimator(data.modalities)  # Fails early with one modality.
        self.data, self.backbone, self.say = data, backbone, say
        self.settings = settings or StudySettings()
        self.folder = Path(folder)
        for k in self.settings.k:
            Evaluator(data, "test", [k], [])
        self.evaluators = {
            "val": Evaluator(data, "val", self.settings.k, ["recall", "ndcg"]),
            "test": Evaluator(data, "test", self.settings.k, TEST_METRICS),
            "views": Evaluator(data, "test", self.settings.k),
        }
        self._per_user: dict[tuple[str, int], pd.DataFrame] = {}
        claim_folder(self.folder, self._manifest())

    def _manifest(self) -> dict[str, Any]:
        manifest = {"data": fingerprint(self.data), "backbone": self.backbone.__name__, **vars(self.settings)}
        return json.loads(json.dumps(manifest))  # As it will be read back: tuples become lists.

    def run(self, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
        """Run everything that is not there yet, write ``results.json`` and return its content.

        Args:
            seeds: The seeds.
        """
        start = time.monotonic()
        started = time.strftime("%Y-%m-%dT%H:%M:%S%z")
        runs = [self._popularity()]
        effects: dict[str, list[pd.DataFrame]] = {"plain": [], "ckd": []}
        self._report(runs[0])
        for seed in seeds:
            runs += self._seed(seed, effects)
        results = {
            "format": 1,
            "data": describe(self.data),
            "settings": {**self._manifest(), "seeds": list(seeds)},
            "versions": versions(),
            "started": started,
            "duration_seconds": time.monotonic() - start,
            "runs": runs,
            "effects": _mean_effects(effects["plain"]),
            "effects_ckd": _mean_effects(effects["ckd"]),
            "comparisons": self._comparisons(runs, seeds),
        }
        write_json(self.folder / "results.json", results)
        return results

    def histories(self, seeds: Sequence[int]) -> dict[tuple[str, int], pd.DataFrame]:
        """Return the history of every run, from (name, seed) to a table indexed by epoch.

        Args:
            seeds: The seeds.
        """
        import pandas as pd

        found = {}
        for name in ("lightgcn", "plain", "ckd", *(f"teacher:{m}" for m in self.data.modalities)):
            for seed in seeds:
                path = self._run_folder(name, seed) / "history.csv"
                if path.exists():
                    found[name, seed] = pd.read_csv(path, index_col="epoch")
        return found

    def _run_folder(self, name: str, seed: int) -> Path:
        return self.folder / "runs" / f"{name.replace(':', '-')}-seed{seed}"

    def _trainer(self, name: str, seed: int, **options: Any) -> Trainer:
        folder = self._run_folder(name, seed)
        return Trainer(**{"checkpoint_minutes": 1.0, **options, "seed": seed, "checkpoint_dir": folder})

    def _popularity(self) -> dict[str, Any]:
        return self._record("popularity", None, 0, None, {None: popularity(self.data)}, save=False)

    def _seed(self, seed: int, effects: dict[str, list[pd.DataFrame]]) -> list[dict[str, Any]]:
        lightgcn = {**self.settings.lightgcn}
        l2 = lightgcn.pop("l2", 1e-4)
        trainer = {k: v for k, v in self.settings.trainer.items() if k in ("max_epochs", "device", "precision")}
        runs = [
            self._train(
                "lightgcn",
                seed,
                lambda: Objective(build(LightGCN, self.data, seed, **lightgcn), l2=l2),
                {**trainer, "track_views": False},
            ),
            self._train("plain", seed, lambda: Objective(self._student(seed), **self.settings.plain)),
        ]
        teachers = self._teachers(seed)
        runs += [self._teacher_record(m, seed, teachers) for m in self.data.modalities]
        runs.append(
            self._train(
                "ckd",
                seed,
                lambda: DistillationWrapper(self._student(seed), teachers, **self.settings.distillation),
            )
        )
        for name in effects:
            model = self._student(seed)
            model.load_state_dict(torch.load(self._run_folder(name, seed) / "model.pt", weights_only=True)["state"])
            effects[name].append(estimate_effects(model, self.data, "val", k=parse_metric("recall@20")[1]).table)
        return runs

    def _student(self, seed: int) -> Backbone:
        return build(self.backbone, self.data, seed, **self.settings.model)

    def _teachers(self, seed: int) -> Teachers:
        options = {**self.settings.trainer, "track_views": False, "seed": seed}
        self.say(f"seed {seed}: teachers for {', '.join(self.data.modalities)}")
        return train_teachers(
            self.backbone,
            self.data,
            Trainer(**options),
            cache_dir=self.folder / "runs" / "teachers",
            **self.settings.teacher,
            **self.settings.model,
        )

    def _train(
        self, name: str, seed: int, make: Callable[[], Objective], trainer: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        folder = self._run_folder(name, seed)
        record = _read_json(folder / "run.json")
        if record is None:
            self.say(f"seed {seed}: {name}")
            objective = make()
            fit = self._trainer(name, seed, **(self.settings.trainer if trainer is None else trainer))
            history = fit.fit(objective, self.data)
            views: dict[str | None, Any] = {None: None} | (
                {} if name == "lightgcn" else unimodal_views(self.data.modalities)
            )
            tables = dict(zip(views, embed(objective, self.data, list(views.values())), strict=True))
            save_model(folder / "model.pt", objective, self.data)
            record = self._record(name, type(objective.student).__name__, seed, history, tables)
            (folder / "last.pt").unlink(missing_ok=True)  # The finished run is kept in model.pt.
        self._report(record)
        return record

    def _teacher_record(self, modality: str, seed: int, teachers: Teachers) -> dict[str, Any]:
        name = f"teacher:{modality}"
        record = _read_json(self._run_folder(name, seed) / "run.json")
        if record is None:
            tables: dict[str | None, Embeddings] = {None: teachers[modality]}
            record = self._record(name, self.backbone.__name__, seed, teachers.histories[modality], tables)
        self._report(record)
        return record

    def _record(
        self,
        name: str,
        backbone: str | None,
        seed: int,
        history: History | None,
        tables: dict[str | None, Embeddings],
        save: bool = True,
    ) -> dict[str, Any]:
        test = self.evaluators["test"](tables[None], per_user=True, cold=True)
        record = {
            "name": name,
            "backbone": backbone,
            "seed": seed,
            "best_epoch": history.best_epoch if history else None,
            "seconds_per_epoch": history.seconds_per_epoch if history else None,
            "val": dict(self.evaluators["val"](tables[None])),
            "test": dict(test),
            "views": {m: dict(self.evaluators["views"](table)) for m, table in tables.items() if m is not None},
        }
        if save:
            self._save(name, seed, record, history, test)
        return record

    def _save(self, name: str, seed: int, record: dict[str, Any], history: History | None, test: Metrics) -> None:
        folder = self._run_folder(name, seed)
        with atomic_path(folder / "per_user.csv") as path:
            assert test.per_user is not None
            test.per_user.to_csv(path)
        if history is not None:
            with atomic_path(folder / "history.csv") as path:
                history.frame.to_csv(path)
        write_json(folder / "run.json", record)  # Last: a run counts as finished once it is there.

    def _report(self, record: Mapping[str, Any]) -> None:
        epoch = f", epoch {record['best_epoch']}" if record["best_epoch"] else ""
        k = max(self.settings.k)
        value = record["test"][f"recall@{k}"]
        self.say(f"  {record['name']:<18} test recall@{k} {value:.4f} (seed {record['seed']}{epoch})")

    def _comparisons(self, runs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Compare distilled and plain student: over users (each averaged over seeds) and over seeds."""
        import pandas as pd

        found = []
        for metric in COMPARED:
            if parse_metric(metric)[1] not in self.settings.k:
                continue
            over_users = []
            for name in ("ckd", "plain"):
                tables = [pd.read_csv(self._run_folder(name, s) / "per_user.csv", index_col="user") for s in seeds]
                over_users.append(pd.concat([table[metric] for table in tables], axis=1).mean(axis=1).to_numpy())
            found.append(_comparison(metric, "users", *over_users))
            if len(seeds) > 1:
                values = {n: [run["test"][metric] for run in runs if run["name"] == n] for n in ("ckd", "plain")}
                found.append(_comparison(metric, "seeds", values["ckd"], values["plain"]))
        return found


def _comparison(metric: str, over: str, a: Any, b: Any) -> dict[str, Any]:
    return {"a": "ckd", "b": "plain", "metric": metric, "over": over, **vars(paired_test(a, b))}


def _mean_effects(tables: Sequence[pd.DataFrame]) -> dict[str, dict[str, float]]:
    """Average the effect tables of several seeds; ``mean`` is the causal effect on the margin."""
    mean = sum(table.sort_index() for table in tables) / len(tables)
    mean = mean.rename(columns={"effect": "mean"}).sort_values("mean", kind="stable")
    return {str(m): {str(k): float(v) for k, v in row.items()} for m, row in mean.to_dict("index").items()}


def describe(data: HeteroData) -> dict[str, Any]:
    """Return the facts of a graph that belong into a report.

    Args:
        data: The graph.
    """
    users, items, train = data["user"].num_nodes, data["item"].num_nodes, held_out(data, "train")
    modalities = {}
    for m in data.modalities:
        has = data["item"].get(f"has_{m}")
        coverage = 1.0 if has is None else float(has.float().mean())
        modalities[m] = {"dim": data["item"][m].size(1), "coverage": coverage}
    facts = {
        "source": str(data.source) if "source" in data else "",
        "num_users": users,
        "num_items": items,
        "num_train": train.size(1),
        "num_val": data[RATES].val_edge_index.size(1),
        "num_test": data[RATES].test_edge_index.size(1),
        "density": train.size(1) / (users * items),
        "cold_users": users - int(train[0].unique().numel()),
        "cold_items": items - int(train[1].unique().numel()),
        "fingerprint": fingerprint(data),
        "modalities": modalities,
    }
    return facts | ({"planted": dict(data.planted)} if "planted" in data else {})


def versions() -> dict[str, str]:
    """Return the versions of everything that a result depends on, and the machine."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version(), "machine": f"{platform.machine()}, {os.cpu_count()} cores"}
    for name in ("pyg-ckd", "torch", "torch-geometric", "lightning-fabric", "numpy", "torch-sparse"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    found["device"] = torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"
    return found


def claim_folder(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Make sure that a folder can be written to and is empty or holds work of the same settings.

    Args:
        folder: The folder; created if need be.
        manifest: Settings of the present work, compared with those in the folder.

    Raises:
        InputError: If it is a file, not writable, holds something else or work of other settings.
    """
    if folder.exists() and not folder.is_dir():
        raise InputError(f"output folder {folder}: found a file of that name, expected a folder")
    path = folder / MANIFEST
    if path.exists():
        found = _read_json(path)
        if not isinstance(found, dict):
            raise InputError(f"output folder {folder}: {MANIFEST} is damaged; choose another folder")
        check_settings(path, found, manifest)
    elif folder.exists() and any(folder.iterdir()):
        raise InputError(
            f"output folder {folder}: found it not empty and without {MANIFEST}, expected an empty folder or one of an "
            "unfinished run with the same settings; choose another folder"
        )
    try:
        write_json(path, manifest)
    except OSError as error:
        raise InputError(f"output folder {folder}: cannot be written to ({error.strerror}); choose another") from None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write plain values to a temporary name and rename it.

    Args:
        path: The file.
        content: The values.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(_without_nan(content), indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _without_nan(value: Any) -> Any:
    """Return plain values with :obj:`None` in the place of every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): _without_nan(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, OSError):
        return {} if path.name == MANIFEST else None


def train_run(
    data: HeteroData,
    backbone: type[Backbone],
    folder: str | os.PathLike[str],
    objective: str = "plain",
    options: Mapping[str, Mapping[str, Any]] | None = None,
    k: Sequence[int] = (10, 20),
    seed: int = 0,
) -> Metrics:
    """Train one model into a folder: ``model.pt``, ``history.csv`` and ``metrics.json``.

    A run that was killed goes on from its last checkpoint when it is started again, with the same bits.

    Args:
        data: The graph.
        backbone: Class of the model.
        folder: Where to write.
        objective: ``"plain"`` or ``"ckd"``; the latter trains or reads its teachers first.
        options: Options under ``model``, ``plain``, ``teacher``, ``distillation`` and ``trainer``.
        k: Cut-offs of the test metrics.
        seed: Seed of everything.

    Returns:
        Metrics on the test part, or on the validation part of a graph without one.

    Raises:
        InputError: If the folder cannot be used or training fails.
    """
    chosen: dict[str, dict[str, Any]] = {name: dict(value) for name, value in (options or {}).items()}
    folder = Path(folder)
    if objective == "ckd":
        ModalityEffectEstimator(data.modalities)
    manifest = {"data": fingerprint(data), "backbone": backbone.__name__, "objective": objective, "seed": seed}
    claim_folder(folder, _without_nan({**manifest, **chosen}))
    split = "test" if held_out(data, "test").size(1) else "val"
    evaluator = Evaluator(data, split, k)

    trainer = chosen.get("trainer", {})
    student = build(backbone, data, seed, **chosen.get("model", {}))
    if objective == "ckd":
        teacher_trainer = Trainer(**{**trainer, "track_views": False, "seed": seed})
        more = chosen.get("teacher", {}) | chosen.get("model", {})
        teachers = train_teachers(backbone, data, teacher_trainer, cache_dir=folder / "teachers", **more)
        model: Objective = DistillationWrapper(student, teachers, **chosen.get("distillation", {}))
    else:
        model = Objective(student, **chosen.get("plain", {}))
    history = Trainer(**{**trainer, "seed": seed, "checkpoint_dir": folder}).fit(model, data)

    metrics = evaluator(embed(model, data)[0])
    save_model(folder / "model.pt", model, data)
    with atomic_path(folder / "history.csv") as path:
        history.frame.to_csv(path)
    write_json(folder / "metrics.json", {"best_epoch": history.best_epoch, split: dict(metrics)})
    return metrics
