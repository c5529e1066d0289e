"""The whole study on one data set: baselines, plain student, teachers and distilled student, run by run, resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch_geometric.data import HeteroData

from pyg_ckd.balance import DistillationWrapper, Objective, estimate_effects
from pyg_ckd.data import Embeddings, fingerprint, item_masks, unimodal_views
from pyg_ckd.data.summary import describe
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, Metrics, embed, popularity
from pyg_ckd.evaluation.metrics import USER_METRICS
from pyg_ckd.evaluation.statistics import paired_test
from pyg_ckd.files import atomic_path, read_json, write_json
from pyg_ckd.nn import Backbone, LightGCN
from pyg_ckd.study.run import check_distillable, monitored
from pyg_ckd.training import History, Teachers, Trainer, build, train_teachers
from pyg_ckd.training.folder import claim_folder, free_options
from pyg_ckd.training.model import load_model, save_model
from pyg_ckd.training.trainer import CHECKPOINT_NAME
from pyg_ckd.versions import versions

if TYPE_CHECKING:
    import pandas as pd

TEST_METRICS = ("recall", "precision", "ndcg", "map", "mrr", "hit", "coverage", "personalization")
COMPARED = ("recall", "ndcg")
"""Compared at the cut-off of the monitored metric, beside that metric itself."""
LIGHTGCN_TRAINER = ("max_epochs", "monitor", "device", "precision", "checkpoint_minutes", "progress")
"""What the baseline's training takes over from the student's; the rest are its own recommended settings."""


@dataclass
class StudySettings:
    """What a study is made of, beside the data.

    Args:
        model: Options of the backbone.
        plain: Options of :class:`~pyg_ckd.Objective` for the plain student.
        teacher: Options of :class:`~pyg_ckd.Objective` for the teachers.
        distillation: Options of :class:`~pyg_ckd.DistillationWrapper`.
        lightgcn: Options of the LightGCN baseline; ``l2`` and ``lr`` among them are those of its training.
        trainer: Options of :class:`~pyg_ckd.Trainer`; the baseline takes over only what does not touch its quality, and
            ``monitor``, by which all runs are chosen and compared.
        k: Cut-offs of the test metrics; that of the monitored metric is always added.
    """

    model: dict[str, Any] = field(default_factory=dict)
    plain: dict[str, Any] = field(default_factory=dict)
    teacher: dict[str, Any] = field(default_factory=dict)
    distillation: dict[str, Any] = field(default_factory=dict)
    lightgcn: dict[str, Any] = field(default_factory=dict)
    trainer: dict[str, Any] = field(default_factory=dict)
    k: tuple[int, ...] = (10, 20)


class Study:
    """Runs popularity, LightGCN, the plain student, the teachers and the distilled student over several seeds.

    Every finished run is kept in its own folder, and a run that was broken off goes on from its last checkpoint, as
    does a teacher: the same call on the same folder continues the study. ``device``, ``progress`` and
    ``checkpoint_minutes`` of the trainer may differ from call to call. ``max_epochs`` may not: finished runs are kept,
    and would be compared with new ones that were trained for longer or shorter.

    Best epochs are chosen, effects measured and students compared by the metric that the trainer monitors.

    Args:
        data: The graph.
        backbone: Class of the student and the teachers; it must use the features.
        folder: Where to write; it must be empty, missing, or hold an unfinished study of the same settings.
        settings: Options of all parts.
        say: Called with a line of text at every step.
        baselines: Folder of the LightGCN runs, which studies of the same data can share; by default they stand in
            ``folder``.

    Raises:
        InputError: If the graph has fewer than two modalities, the backbone ignores them, a cut-off (or that of the
            monitored metric) is larger than the number of items, or the folder cannot be used.
    """

    def __init__(
        self,
        data: HeteroData,
        backbone: type[Backbone],
        folder: str | os.PathLike[str],
        settings: StudySettings | None = None,
        say: Callable[[str], object] = lambda line: None,
        baselines: str | os.PathLike[str] | None = None,
    ) -> None:
        check_distillable(data, backbone)
        self.data, self.backbone, self.say = data, backbone, say
        self.settings = settings or StudySettings()
        self.folder = Path(folder)
        Evaluator(data, "test", self.settings.k, [])  # Fails early with cut-offs of the user's that cannot be.
        self.monitor, family, self.cutoff = monitored(data, self.settings.trainer)
        cutoffs = sorted({*self.settings.k, self.cutoff})
        self.evaluators = {
            "val": Evaluator(data, "val", cutoffs, list(dict.fromkeys(["recall", "ndcg", family]))),
            "test": Evaluator(data, "test", cutoffs, TEST_METRICS),
            "views": Evaluator(data, "test", cutoffs),
        }
        compared = [f for f in dict.fromkeys([family, *COMPARED]) if f in USER_METRICS]
        self.compared = [f"{f}@{self.cutoff}" for f in compared]
        self._earlier = 0.0
        free = free_options("max_epochs")
        claim_folder(self.folder, self._manifest(), free)
        self.baselines = None if baselines is None else Path(baselines)
        if self.baselines is not None:
            model, trainer, l2 = self._lightgcn()
            manifest = {"data": fingerprint(data), "backbone": "LightGCN", "model": model, "plain": {"l2": l2}}
            claim_folder(self.baselines, {**manifest, "trainer": trainer, "k": list(self.settings.k)}, free)

    def _manifest(self) -> dict[str, Any]:
        return {"data": fingerprint(self.data), "backbone": self.backbone.__name__, **vars(self.settings)}

    def run(self, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
        """Run everything that is not there yet, write ``results.json`` and return its content.

        Args:
            seeds: The seeds.
        """
        start, self._earlier = time.monotonic(), 0.0
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
            "monitor": self.monitor,
            "versions": versions(),
            "started": started,
            "duration_seconds": time.monotonic() - start + self._earlier,
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
        if name == "lightgcn" and self.baselines is not None:
            return self.baselines / f"{name}-seed{seed}"
        return self.folder / "runs" / f"{name.replace(':', '-')}-seed{seed}"

    def _trainer(self, name: str, seed: int, **options: Any) -> Trainer:
        folder = self._run_folder(name, seed)
        return Trainer(**{"checkpoint_minutes": 1.0, **options, "seed": seed, "checkpoint_dir": folder})

    def _popularity(self) -> dict[str, Any]:
        return self._record("popularity", None, 0, None, {None: popularity(self.data)}, save=False)

    def _seed(self, seed: int, effects: dict[str, list[pd.DataFrame]]) -> list[dict[str, Any]]:
        lightgcn, trainer, l2 = self._lightgcn()
        runs = [
            self._train(
                "lightgcn",
                seed,
                lambda: Objective(build(LightGCN, self.data, seed, **lightgcn), l2=l2),
                trainer,
            ),
            self._train("plain", seed, lambda: Objective(self._student(seed), **self.settings.plain)),
        ]
        teachers = self._teachers(seed)
        runs += [self._teacher_record(m, seed, teachers) for m in self.data.modalities]
        runs.append(
            self._train(
                "ckd",
                seed,
                lambda: DistillationWrapper(
                    self._student(seed), teachers, has=item_masks(self.data), **self.settings.distillation
                ),
            )
        )
        for name in effects:
            effects[name].append(estimate_effects(self._load(name, seed), self.data, "val", k=self.cutoff).table)
        return runs

    def _lightgcn(self) -> tuple[dict[str, Any], dict[str, Any], float]:
        """Return the baseline's options of the model and of the trainer, and its L2 weight."""
        best, options = LightGCN.recommended, {**self.settings.lightgcn}
        l2 = options.pop("l2", best["plain"]["l2"])
        trainer = {k: v for k, v in self.settings.trainer.items() if k in LIGHTGCN_TRAINER}
        trainer |= {**best["trainer"], "track_views": False}
        trainer["lr"] = options.pop("lr", trainer["lr"])
        return {**best["model"], **options}, trainer, l2

    def _load(self, name: str, seed: int) -> Backbone | Objective:
        folder = self._run_folder(name, seed)
        try:
            return load_model(folder / "model.pt", self.data, {self.backbone.__name__: self.backbone})
        except InputError as error:
            raise InputError(f"{error}; remove the folder {folder} to train this run anew") from None

    def _finished(self, name: str, seed: int) -> dict[str, Any] | None:
        """Return the record of a run of an earlier call, whose training counts towards the study's duration."""
        record: dict[str, Any] | None = read_json(self._run_folder(name, seed) / "run.json")
        if record is None or self.monitor not in record["test"]:  # Older versions did not add the monitored cut-off.
            return None
        self._earlier += record.get("training_seconds", 0.0)
        return record

    def _student(self, seed: int) -> Backbone:
        return build(self.backbone, self.data, seed, **self.settings.model)

    def _teachers(self, seed: int) -> Teachers:
        options = {"checkpoint_minutes": 1.0, **self.settings.trainer, "track_views": False, "seed": seed}
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
        record = self._finished(name, seed)
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
        # The finished run is kept in model.pt. An earlier call may have been killed before it came to this line.
        (folder / CHECKPOINT_NAME).unlink(missing_ok=True)
        self._report(record)
        return record

    def _teacher_record(self, modality: str, seed: int, teachers: Teachers) -> dict[str, Any]:
        name = f"teacher:{modality}"
        record = self._finished(name, seed)
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
            "training_seconds": sum(history.seconds) if history else 0.0,
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
        value = record["test"][self.monitor]
        self.say(f"  {record['name']:<18} test {self.monitor} {value:.4f} (seed {record['seed']}{epoch})")

    def _comparisons(self, runs: Sequence[Mapping[str, Any]], seeds: Sequence[int]) -> list[dict[str, Any]]:
        """Compare distilled and plain student: over users (each averaged over seeds) and over seeds."""
        import pandas as pd

        found = []
        for metric in self.compared:
            over_users = []
            for name in ("ckd", "plain"):
                tables = [pd.read_csv(self._run_folder(name, s) / "per_user.csv", index_col="user") for s in seeds]
                over_users.append(pd.concat([table[metric] for table in tables], axis=1).mean(axis=1).to_numpy())
            if over_users[0].size > 1:  # A single user says nothing about chance.
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
