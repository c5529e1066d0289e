"""The whole study on one data set: baselines, teachers and contenders under several seeds, run by run, resumable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_seeds
from pyg_ckd.balance.discovery import reports_of
from pyg_ckd.balance.ranking import check_ranking
from pyg_ckd.data import fingerprint, held_out
from pyg_ckd.data.content import warn_without_content
from pyg_ckd.data.summary import describe
from pyg_ckd.display import html_table
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.content import validated_ranking
from pyg_ckd.evaluation.metrics import USER_METRICS
from pyg_ckd.evaluation.scaling import compare_scaling, is_standardized
from pyg_ckd.files import as_path, read_json, write_json
from pyg_ckd.nn import Backbone
from pyg_ckd.study.baselines import DEFAULT, TRAINED, as_baselines, baseline_run, check_lightgcn, known_baselines
from pyg_ckd.study.claim import claimed
from pyg_ckd.study.comparisons import compare, mean_effects, winner
from pyg_ckd.study.contenders import (
    Contenders,
    as_contenders,
    check_options,
    check_teacher,
    check_warmup,
)
from pyg_ckd.study.described import described, described_options, described_settings
from pyg_ckd.study.executor import Pair, alone, check_executor, one_device_each
from pyg_ckd.study.maker import EFFECTS_SPLIT, LEFT_OUT, single_threaded
from pyg_ckd.study.plan import contender_run, teacher_run
from pyg_ckd.study.results import StudyResults
from pyg_ckd.study.run import check_cutoffs, check_distillable, monitored
from pyg_ckd.study.runs import Run
from pyg_ckd.study.settings import EXTEND, PARTS, StudySettings, as_settings
from pyg_ckd.study.store import RunStore
from pyg_ckd.study.tables import write_csv, write_tex
from pyg_ckd.study.workshop import Workshop
from pyg_ckd.training import Trainer
from pyg_ckd.training.begin import check_validation
from pyg_ckd.training.folder import MANIFEST, free_options
from pyg_ckd.training.trainer import BUDGET
from pyg_ckd.versions import versions

if TYPE_CHECKING:
    import pandas as pd

FORMAT = 2
COMPARED = ("recall", "ndcg")
"""Compared at the cut-off of the monitored metric, beside that metric itself."""
ONLY_KEPT = ("effects", "made_of")
"""What ``run.json`` holds and the list of runs in ``results.json`` does not."""


class Study:
    """Compares contenders with plain training, with baselines and with uni-modal teachers, over several seeds.

    Every run has a key, computed from everything that influences its result: data, backbone, strategy and their own
    files, options, seed, teachers. A run is made once and kept in its own folder. An interrupted run resumes from its
    last checkpoint: the same call on the same folder continues the study. Studies that share the folder ``runs`` share
    all runs with the same key, and may run at the same time. Cut-offs are not part of the key: metrics are computed
    again from the saved models.

    In the same folder, ``device``, ``progress`` and ``checkpoint_minutes`` of the trainer and the cut-offs may differ
    between calls, and contenders and baselines may be added or removed. Settings that influence the results may not
    change.

    Runs are made one after the other in this process, or by several processes or a cluster. On the CPU, each uses one
    thread, and results are bitwise the same in all cases.

    A run whose metric still rises after ``max_epochs`` is extended, up to ``extend`` times as many epochs; so are
    teachers and the LightGCN baseline. Tables and reports mark the runs that have not converged by then.

    The metric that the trainer monitors decides about best epochs, effects and the comparison of contenders.

    Args:
        data: The graph.
        backbone: Class of the student and the teachers; it must use the features.
        folder: Where to write; it must be empty, missing, or hold an unfinished study of the same settings.
        settings: Options of all parts.
        say: Called with a line of text at every step.
        contenders: From name to a :class:`Contender`, the class of a strategy, or its name or import path; a list of
            strategies goes by their own names. Without options of their own, plain training and distillation have
            those of ``settings``, and others what they have in common with plain training. Plain training is
            always among them. (default: :obj:`None`, plain training and distillation)
        baselines: Names of the baselines, or a mapping from name to options, which LightGCN alone has. Closed forms
            have one run; one that does not fit the graph is left out with its reason. A path is a folder of the
            baselines' runs alone.
        runs: Folder of the runs, which several studies can share. (default: :obj:`None`, ``<folder>/runs``)
        workers: Processes that make runs at the same time. One is this process. The trainer's option ``devices`` is
            another word for it: every run has one device.
        backend: Where the workers are: ``"loky"`` (this machine; one thread each on the CPU; where the trainer uses
            GPUs, one each, and several share one where there are more workers), ``"dask"`` (the cluster of the current
            client, or of ``DASK_SCHEDULER_ADDRESS``), or ``"ray"``. Workers of a cluster must see the same folders.

    Raises:
        InputError: If the graph has fewer than two modalities, the backbone ignores them, a contender, baseline, option
            or backend is unknown or given twice, a cut-off (or that of the monitored metric) is larger than the number
            of items, or the folder cannot be used.
    """

    def __init__(
        self,
        data: HeteroData,
        backbone: type[Backbone],
        folder: str | os.PathLike[str],
        settings: StudySettings | None = None,
        say: Callable[[str], object] = lambda line: None,
        contenders: Contenders | None = None,
        baselines: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | os.PathLike[str] = DEFAULT,
        runs: str | os.PathLike[str] | None = None,
        workers: int = 1,
        backend: str = "loky",
    ) -> None:
        self.data, self.backbone, self.say = data, backbone, say
        settings = as_settings(settings)
        trainer, workers = one_device_each({"extend": EXTEND, **settings.trainer}, workers)
        self.settings = replace(settings, trainer=trainer)
        shared = as_path(baselines) if isinstance(baselines, os.PathLike) else None
        self.baselines = as_baselines(DEFAULT if isinstance(baselines, os.PathLike) else baselines)
        self.contenders = as_contenders(contenders, self.settings, taken=known_baselines())
        strategies = [contender.strategy for contender in self.contenders.values()]
        check_distillable(data, backbone, strategies, study=True)
        self.folder = as_path(folder)
        self.backend = backend
        self._device = str(self.settings.trainer.get("device", "auto"))
        self.workers = check_executor(workers, backend)
        check_cutoffs(data, self.settings.k)
        self.monitor, family, self.cutoff = monitored(data, self.settings.trainer)
        self.cutoffs = tuple(sorted({*self.settings.k, self.cutoff}))
        for contender in self.contenders.values():
            built = check_options(backbone, data, self.settings.model, contender)
            own = {**self.settings.trainer, **contender.trainer}
            if built is not None:
                check_validation(built, data, Trainer(**own).track_views)
            if contender.strategy.trains:
                check_ranking(backbone, Trainer(**own).options.ranking)
                check_warmup(data, own)
        compared = [f for f in dict.fromkeys([family, *COMPARED]) if f in USER_METRICS]
        self.compared = [f"{f}@{self.cutoff}" for f in compared]
        self._fingerprint = fingerprint(data)
        check_teacher(backbone, data, self.settings.teacher, self.settings.model, self.settings.trainer)
        if TRAINED in self.baselines:
            check_lightgcn(data, self.settings, self.baselines[TRAINED])
        runs = self.folder / "runs" if runs is None else as_path(runs)
        with claimed(self.folder, *self._claim(), runs):
            store = RunStore(runs)
            self.stores = {"baseline": RunStore(shared) if shared else store, "teacher": store, "contender": store}

    def _manifest(self) -> dict[str, Any]:
        return {
            "data": self._fingerprint,
            "backbone": self.backbone.__name__,
            **described_settings(self.settings),
            "contenders": {n: described(one, self.settings.trainer) for n, one in self.contenders.items()},
            "baselines": {name: described_options(options) for name, options in self.baselines.items()},
        }

    def _claim(self) -> tuple[dict[str, Any], set[str]]:
        """Return what the folder is claimed for, and what may differ from that of an earlier call.

        Contenders and baselines that only one of the calls has may come and go.
        """
        manifest, found = self._manifest(), read_json(self.folder / MANIFEST)
        free = free_options(*BUDGET) | {"k"}
        for part in ("contenders", "baselines"):
            earlier = found.get(part) if isinstance(found, dict) else None
            if isinstance(earlier, dict):
                free |= {f"{part}.{name}" for name in earlier.keys() ^ manifest[part].keys()}
            else:  # An older version wrote the folder.
                free.add(part)
        used = {contender.strategy.name for contender in self.contenders.values()}
        free |= {part for strategy, part in PARTS.items() if strategy not in used}
        return manifest, free

    def plan(self, seeds: Sequence[int]) -> list[Run]:
        """Return the runs of the study: closed forms, and for every seed LightGCN, contenders and teachers.

        Args:
            seeds: The seeds.

        Raises:
            InputError: If they are none or a single number.
        """
        seeds = as_seeds(seeds)
        once = [name for name in self.baselines if name != TRAINED]
        runs = [self._baseline(name, 0) for name in once]
        for seed in seeds:
            runs += [self._baseline(name, seed) for name in self.baselines if name == TRAINED]
            teachers = tuple(self._teacher(m, seed) for m in self.data.modalities)
            made = [self._contender(name, seed, teachers) for name in self.contenders]
            runs += [run for run in made if not run.teachers]
            runs += [*teachers, *(run for run in made if run.teachers)]
        return runs

    def run(self, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
        """Run everything that is not there yet, write the results and return what ``results.json`` holds.

        ``results.csv`` has a row for every number, ``table.tex`` two tables for a paper.

        Args:
            seeds: The seeds.

        Raises:
            InputError: If the seeds are none or a single number, a run fails, its process dies, or another process runs
                the same study; what is finished is kept.

        Warns:
            UserWarning: If features tell no items apart.
        """
        seeds = as_seeds(seeds)
        with alone(self.folder):
            return self._run(seeds)

    def _run(self, seeds: list[int]) -> dict[str, Any]:
        start, started = time.monotonic(), time.strftime("%Y-%m-%dT%H:%M:%S%z")
        without_content = warn_without_content(self.data, stacklevel=3)
        planned = self.plan(seeds)
        unique = list({run.key: run for run in planned}.values())
        earlier = {run.key: record for run in unique if (record := self.stores[run.kind].read(run)) is not None}
        made: dict[str, dict[str, Any]] = {}
        for run, record in self._make(unique):
            made[run.key] = record
            self._report(run, record)
        left_out = {run.name: made[run.key][LEFT_OUT] for run in planned if LEFT_OUT in made[run.key]}
        done = {run.name: run for run in planned if run.name not in left_out}
        records = [self._record(run, made[run.key]) for run in planned if run.name in done]
        baselines = [name for name in self.baselines if name not in left_out]
        by_name = {(run.name, run.seed): run for run in planned}
        teachers = list(dict.fromkeys(run.name for run in planned if run.kind == "teacher"))
        tests = compare(
            records,
            list(self.contenders),
            baselines,
            self.compared,
            lambda name, seed: self._per_user(by_name[name, seed]),
            teachers,
        )
        results = {
            "format": FORMAT,
            "data": describe(self.data),
            "settings": {**self._manifest(), "seeds": seeds},
            "monitor": self.monitor,
            "versions": versions(),
            "started": started,
            "duration_seconds": time.monotonic() - start + sum(r["training_seconds"] for r in earlier.values()),
            "contenders": self._contenders(),
            "baselines": baselines,
            "left_out": left_out,
            "winner": winner(records, list(self.contenders), self.monitor),
            "runs": [{k: v for k, v in record.items() if k not in ONLY_KEPT} for record in records],
            "content": self._content(),
            "without_content": without_content,
            "held_out_users": {part: int(held_out(self.data, part)[0].unique().numel()) for part in ("val", "test")},
            "effects_split": EFFECTS_SPLIT,
            "effects": {
                name: mean_effects([record for record in records if record["name"] == name], self.cutoff)
                for name in self.contenders
            },
            "comparisons": [test for test in tests if test["b"] not in teachers],
            "teacher_comparisons": [test for test in tests if test["b"] in teachers],
        }
        shown = [self.monitor, *(f"{family}@{k}" for family in COMPARED for k in self.cutoffs)]
        write_csv(self.folder / "results.csv", results)
        write_tex(self.folder / "table.tex", results, list(dict.fromkeys(shown)))
        write_json(self.folder / "results.json", results)
        return StudyResults(results)

    def _repr_html_(self) -> str:
        found = read_json(self.folder / "results.json")
        if isinstance(found, dict) and found.get("runs"):
            return StudyResults(found)._repr_html_()
        rows = [(name, contender.strategy.__name__) for name, contender in self.contenders.items()]
        title = f"Study of {self.backbone.__name__} in {self.folder}: nothing has been run to the end"
        return html_table(title, ("contender", "strategy"), rows)

    def histories(self, seeds: Sequence[int]) -> dict[tuple[str, int], pd.DataFrame]:
        """Return the history of every run that was trained, from (name, seed) to a table indexed by epoch.

        Args:
            seeds: The seeds.

        Raises:
            InputError: If they are none or a single number.
        """
        found = {(run.name, run.seed): self.stores[run.kind].history(run) for run in self.plan(seeds)}
        return {key: table for key, table in found.items() if table is not None}

    def _baseline(self, name: str, seed: int) -> Run:
        return baseline_run(name, self.baselines[name], self._fingerprint, self.monitor, self.settings, seed)

    def _teacher(self, modality: str, seed: int) -> Run:
        return teacher_run(modality, self._fingerprint, self.backbone, self.settings, seed)

    def _contender(self, name: str, seed: int, teachers: tuple[Run, ...]) -> Run:
        place = (self._fingerprint, self.backbone, self.settings)
        return contender_run(name, self.contenders[name], *place, seed, teachers)

    def _make(self, runs: Sequence[Run]) -> Iterator[Pair]:
        place = (self.data, self._fingerprint, self.folder, self.stores, self.monitor, self.cutoffs)
        return Workshop(*place, self._device, self.workers, self.backend, self.say).make(runs)

    def _per_user(self, run: Run) -> pd.DataFrame:
        found = self.stores[run.kind].per_user(run, self.cutoffs[-1])
        if found is None:
            raise InputError(
                f"{run.title}: the metrics of users were removed from {self.stores[run.kind].path(run)} meanwhile; run "
                "the study again, which measures the saved model anew"
            )
        return found

    def _record(self, run: Run, record: Mapping[str, Any]) -> dict[str, Any]:
        """Return a record under the name that the run has in this study, with the cut-offs of this study alone."""

        def chosen(metrics: Mapping[str, float]) -> dict[str, float]:
            return {name: value for name, value in metrics.items() if int(name.partition("@")[2]) in self.cutoffs}

        own = {"name": run.name, "kind": run.kind, "seed": run.seed}
        views = {m: chosen(metrics) for m, metrics in record["views"].items()}
        return {**record, **own, "val": chosen(record["val"]), "test": chosen(record["test"]), "views": views}

    def _content(self) -> dict[str, Any] | None:
        """Return how modalities rank by their features alone; of an earlier call, as the folder is of the same data."""
        earlier = read_json(self.folder / "results.json")
        kept = earlier.get("content") if isinstance(earlier, dict) else None
        if isinstance(kept, dict) and kept.get("metric") == f"recall@{self.cutoff}":
            return kept
        with single_threaded("cpu"):
            found = validated_ranking(self.data, self.cutoff)
            if found is None:
                return None
            standardized = [m for m in found.index if is_standardized(self.data, m)]
            scaling = compare_scaling(self.data, standardized, min(self.cutoff, self.data["item"].num_nodes))
        tables = {"modalities": found.to_dict("index"), "scaling": scaling.to_dict("index")}
        return {"metric": found.attrs["metric"], "split": "val", **tables}

    def _contenders(self) -> list[dict[str, Any]]:
        return [
            {
                "name": name,
                **described(contender, self.settings.trainer),
                "needs_teachers": contender.needs_teachers,
                "reports": reports_of(contender.strategy, contender.options),
            }
            for name, contender in self.contenders.items()
        ]

    def _report(self, run: Run, record: Mapping[str, Any]) -> None:
        if LEFT_OUT in record:
            self.say(f"  {run.name:<18} left out: {record[LEFT_OUT]}")
            return
        epoch = f", epoch {record['best_epoch']}" if record["best_epoch"] else ""
        epoch += ", not converged" if record["converged"] is False else ""
        value = record["test"][self.monitor]
        self.say(f"  {run.name:<18} test {self.monitor} {value:.4f} (seed {run.seed}{epoch})")
