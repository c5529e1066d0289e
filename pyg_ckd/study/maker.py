"""How a run of a study is made, measured and kept, in whichever process."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.balance.discovery import build_objective
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.identity import other_ids, with_ids
from pyg_ckd.data.solved import kept_in
from pyg_ckd.devices import Device, on_gpu
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, Metrics, embed
from pyg_ckd.evaluation.effects import estimate_effects
from pyg_ckd.scoring.views import unimodal_views
from pyg_ckd.study.baselines import fit
from pyg_ckd.study.pruning import MARK, Pruner, curve_of
from pyg_ckd.study.runs import Run
from pyg_ckd.study.store import RunStore, cutoffs_of
from pyg_ckd.training import (
    History,
    Teacher,
    Teachers,
    Trainer,
    build,
    load_checkpoint,
    parse_metric,
    seeded,
    train_teachers,
)
from pyg_ckd.training.checkpoint import save_checkpoint
from pyg_ckd.training.model import about_training, load_model, save_model

EFFECTS_SPLIT = "val"
TEST_METRICS = ("recall", "precision", "ndcg", "map", "mrr", "hit", "coverage", "personalization")
LEFT_OUT, PRUNED, FAILED = "left_out", "pruned", "failed"
"""Entries of records of what was not made to its end."""


class Maker:
    """Makes the runs of a study one at a time, or reads those that are there.

    Args:
        data: The graph.
        stores: Where runs are kept, by kind.
        monitor: The metric that decides.
        cutoffs: Cut-offs of all metrics.
        say: Called with a line of text when training begins.
        test: Whether runs are measured on the test part, too. Without it, no line of code reads the test part; a record
            then lacks test metrics, views and effects, and is completed from the saved model once they are wanted.
        ids: Ids of users and items, which decide about no result: files of models hold them, keys of runs do not.
            (default: :obj:`None`, none)
    """

    def __init__(
        self,
        data: HeteroData,
        stores: Mapping[str, RunStore],
        monitor: str,
        cutoffs: Sequence[int],
        say: Callable[[str], object] = lambda line: None,
        test: bool = True,
        ids: Mapping[str, Any] | None = None,
    ) -> None:
        self.data, self.stores, self.monitor, self.say, self.test = data, stores, monitor, say, test
        self.cutoffs, self.ids = tuple(sorted(set(cutoffs))), dict(ids or {})
        self._evaluators = cache(self._build_evaluators)
        self._evaluators(self.cutoffs)

    def make(self, run: Run) -> dict[str, Any]:
        """Make a run, or read it, and return its record.

        The record of a baseline that does not fit has one entry, the reason, and so has that of a trial of a search
        that fails by its values, such as one that needs too much memory. That of a trial that was pruned has its curve
        in the place of metrics.

        Args:
            run: The run.

        Raises:
            InputError: If training fails or what is kept is damaged; the message names the run. What the code of a
                strategy or backbone raises itself is the cause.
        """
        try:
            device = "cpu" if run.backbone is None else run.trainer.get("device", "auto")
            with single_threaded(device), kept_in(self.stores[run.kind].solved):
                if run.kind == "teacher":
                    return self._teacher(run)[0]
                with self._locked(run):
                    make = self._fitted if run.backbone is None else self._trained
                    return self._kept(run) or self.stores[run.kind].read_pruned(run) or make(run)
        except InputError as error:
            raise InputError(f"{run.title}: {error}") from None
        except OSError:  # Of a disk; the message names the file.
            raise
        except Exception as error:  # A mistake in code, perhaps a strategy's from outside: which run met it, and where.
            raise InputError(f"{run.title}: {_mistake(run, error)}") from error

    @contextmanager
    def _locked(self, run: Run) -> Iterator[None]:
        def wait() -> None:
            self.say(f"seed {run.seed}: {run.name} is being made by another process, waiting for it")

        with self.stores[run.kind].locked(run, wait):
            yield

    def _kept(self, run: Run) -> dict[str, Any] | None:
        """Return the record of a finished run, measured again where cut-offs or effects are missing."""
        store = self.stores[run.kind]
        record = store.read(run)
        if record is None:
            return None
        if run.backbone is not None:
            path = store.path(run) / "model.pt"
            try:
                self._name_rows(path, load_checkpoint(path, "model"), run)
                if not self._complete(record, run):
                    record = self._measured(run, record, load_model(path, self.data, {_name(run): run.backbone}))
            except InputError as error:
                raise InputError(f"{error}; remove the folder {path.parent} to train this run anew") from None
            store.discard_checkpoint(run)  # An earlier call may have been killed before it came to this line.
        elif not self._complete(record, run):
            return None
        return record

    def _name_rows(self, path: Path, content: dict[str, Any], run: Run) -> None:
        """Add ids to the file of a model that a study of data without them, or an earlier version, has written.

        Studies of the same numbers share runs, whatever ids their data have: a file that has ids keeps them.
        """
        graph = content.get("graph")
        if not isinstance(graph, dict):  # Of a version that kept no record of the graph.
            return
        stored = graph["ids"]
        differ = other_ids(stored, self.ids)
        if differ is not None:
            warnings.warn(
                f"{run.title}: {path} was trained on the same data under other ids ({differ}); its results are used, "
                "but the file keeps the ids that it has. To serve its models under the ids of this study, give the "
                "study a folder of runs of its own",
                stacklevel=2,
            )
            return
        missing = {k: ids for k, ids in self.ids.items() if ids is not None and stored.get(k) is None}
        if missing:
            save_checkpoint(path, {**content, "graph": {**graph, "ids": {**stored, **missing}}})

    def _fitted(self, run: Run) -> dict[str, Any]:
        try:
            embeddings, settings, seconds = fit(run, self.data, self.monitor)
        except InputError as error:
            return {LEFT_OUT: str(error)}
        record = {**_facts(run, None), "settings": settings, "training_seconds": seconds}
        record |= _earlier(self.stores[run.kind].read(run))
        return self._keep(run, record, {None: embeddings})

    def _trained(self, run: Run) -> dict[str, Any]:
        self.say(f"seed {run.seed}: {run.name}")
        teachers = Teachers({str(t.modality): self._teacher(t)[1] for t in run.teachers})
        store = self.stores[run.kind]
        try:
            objective, trainer, history = self._fit(run, teachers)
        except (ValueError, ArithmeticError, MemoryError, RuntimeError) as error:
            if run.pruning is None or not _is_of_values(error):
                raise
            store.discard_checkpoint(run)
            return {FAILED: str(error) if isinstance(error, InputError) else _mistake(run, error)}
        if run.pruning is not None and history.stopped.startswith(MARK):
            curve = curve_of(history.rows, self.monitor, run.pruning)
            record = {**_facts(run, history), PRUNED: {"best": history.best_value, "curve": curve}}
            store.write_pruned(run, record)
            return record
        record = self._measured(run, _facts(run, history), objective, history, trainer.settings(objective))
        store.discard_checkpoint(run)
        return record

    def _fit(self, run: Run, teachers: Teachers) -> tuple[Objective, Trainer, History]:
        assert run.backbone is not None
        assert run.strategy is not None
        with seeded(run.seed):
            student = build(run.backbone, self.data, run.seed, **run.model)
            objective = build_objective(run.strategy, student, self.data, teachers or None, run.options)
        trainer = self._trainer(run, checkpoint_dir=self.stores[run.kind].checkpoints(run))
        if run.pruning is not None:
            given = trainer.callbacks if isinstance(trainer.callbacks, (list, tuple)) else [trainer.callbacks]
            own = [callback for callback in given if callback is not None]
            trainer.callbacks = [*own, Pruner(run.pruning, self.monitor)]
        return objective, trainer, trainer.fit(objective, self.data)

    def _teacher(self, run: Run) -> tuple[dict[str, Any], Teacher]:
        assert run.backbone is not None
        assert run.modality is not None
        store = self.stores[run.kind]
        with self._locked(run):
            record = store.read(run)
            if record is None:
                self.say(f"seed {run.seed}: {run.name}")
            options = {**run.options, **run.model}
            found = train_teachers(
                run.backbone, self.data, self._trainer(run), [run.modality], cache_dir=store.teachers, **options
            )
            tables: dict[str | None, Any] = {None: found[run.modality]}
            history = found.histories[run.modality]
            if record is None or not self._complete(record, run):
                record = self._keep(run, _facts(run, history) | _earlier(record), tables, history)
            return record, Teacher(tables[None], history, found.bases.get(run.modality))

    def _trainer(self, run: Run, **more: Any) -> Trainer:
        return Trainer(**{"checkpoint_minutes": 1.0, **run.trainer, "seed": run.seed, **more})

    def _complete(self, record: Mapping[str, Any], run: Run) -> bool:
        if not self._measured_alike(record["val"], self._val_names(self.cutoffs)):
            return False
        if not self.test:
            return True
        names = {f"{family}@{k}" for family in TEST_METRICS for k in self.cutoffs}
        effects = run.kind != "contender" or str(self._effects_cutoff) in record.get("effects", {})
        users = self.stores[run.kind].per_user(run, self.cutoffs[-1])
        if users is None or not np.array_equal(users.index, self._evaluators(self.cutoffs)["test"].users.cpu()):
            return False  # A table may have been cut at the end of a line.
        return effects and self._measured_alike(record["test"], names)

    def _measured_alike(self, metrics: Mapping[str, float], names: set[str]) -> bool:
        """Return whether all metrics are there, from lists that are as long as those of this study.

        Items of one score may stand in another order in a list of another length.
        """
        return names <= metrics.keys() and max(cutoffs_of(metrics), default=0) == self.cutoffs[-1]

    @property
    def _effects_cutoff(self) -> int:
        return parse_metric(self.monitor)[1]

    def _val_families(self) -> list[str]:
        return list(dict.fromkeys(["recall", "ndcg", parse_metric(self.monitor)[0]]))

    def _val_names(self, cutoffs: Iterable[int]) -> set[str]:
        return {f"{family}@{k}" for family in self._val_families() for k in cutoffs}

    def _measured(
        self,
        run: Run,
        record: dict[str, Any],
        model: torch.nn.Module,
        history: History | None = None,
        settings: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Measure a trained model and keep the result, and the model before it if its training's settings are given."""
        views: dict[str | None, Any] = {None: None}
        if run.kind == "contender" and self.test:
            for m, view in unimodal_views(self.data.modalities).items():
                views[m] = view
            effects = {str(self._effects_cutoff): None, **record.get("effects", {})}
            for cutoff in [k for k, rows in effects.items() if rows is None]:
                table = estimate_effects(model, self.data, EFFECTS_SPLIT, k=int(cutoff)).table.to_dict("index")
                effects[cutoff] = {str(m): {str(c): float(v) for c, v in row.items()} for m, row in table.items()}
            record = {**record, "effects": effects}
        tables = dict(zip(views, embed(model, self.data, list(views.values())), strict=True))

        def save(metrics: Mapping[str, Mapping[str, float]]) -> None:
            if history is not None and settings is not None:
                about = about_training(history, run.seed, metrics, settings)
                path = self.stores[run.kind].path(run) / "model.pt"
                save_model(path, model, with_ids(self.data, self.ids), about)  # type: ignore[arg-type]

        return self._keep(run, record, tables, history, save)

    def _keep(
        self,
        run: Run,
        record: dict[str, Any],
        tables: Mapping[str | None, Any],
        history: History | None = None,
        save: Callable[[Mapping[str, Mapping[str, float]]], None] = lambda metrics: None,
    ) -> dict[str, Any]:
        """Measure tables at the cut-offs of this study and smaller ones of earlier studies, and keep the metrics.

        ``save`` is called with them before they are written: a record says that all else is there.
        """
        earlier = cutoffs_of({**record.get("val", {}), **record.get("test", {})})
        cutoffs = tuple(sorted({*self.cutoffs, *(k for k in earlier if k < self.cutoffs[-1])}))
        store, table = self.stores[run.kind], None if history is None else history.frame
        evaluators = self._evaluators(cutoffs)
        val = evaluators["val"](tables[None])
        if not self.test:
            record = {"test": {}, "views": {}, **record, "val": dict(val)}
            save({"val": record["val"]})
            store.write(run, record, None, table)
            return {**record, "key": run.key}
        test: Metrics = evaluators["test"](tables[None], per_user=True, cold=True)
        views = {m: dict(evaluators["views"](table)) for m, table in tables.items() if m is not None}
        record = {**record, "val": dict(val), "test": dict(test), "views": views}
        assert test.per_user is not None
        save({"val": record["val"], "test": record["test"]})
        store.write(run, record, test.per_user, table)
        return {**record, "key": run.key}

    def _build_evaluators(self, cutoffs: tuple[int, ...]) -> dict[str, Evaluator]:
        val = Evaluator(self.data, "val", cutoffs, self._val_families())
        if not self.test:
            return {"val": val}
        return {
            "val": val,
            "test": Evaluator(self.data, "test", cutoffs, TEST_METRICS),
            "views": Evaluator(self.data, "test", cutoffs),
        }


@contextmanager
def single_threaded(device: Device | None) -> Iterator[None]:
    """Compute with one thread inside the block, so that results do not depend on how many runs there are at a time.

    Args:
        device: Where is trained; on a GPU nothing changes.
    """
    from threadpoolctl import threadpool_limits

    if on_gpu(device):
        yield
        return
    before = torch.get_num_threads()
    with threadpool_limits(limits=1):
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)


def _name(run: Run) -> str:
    assert run.backbone is not None
    return run.backbone.__name__


def _is_of_values(error: Exception) -> bool:
    """Return whether other values of the knobs may do without an error, such as one of too little memory."""
    if isinstance(error, RuntimeError):
        return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)
    return isinstance(error, (InputError, ArithmeticError, MemoryError))


def _mistake(run: Run, error: Exception) -> str:
    """Return an exception in one line, with the place that raised it."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f"{frames[-1].filename}, line {frames[-1].lineno}" if frames else "unknown place"
    parts = [part.__name__ for part in (run.strategy, run.backbone) if part is not None]
    text = " ".join(str(error).split()) or "no message"
    return (
        f"{' on '.join(parts) or run.kind} raised {type(error).__name__} ({text}) in {where}, expected code that runs "
        "to its end; finished runs are kept"
    )


def _facts(run: Run, history: History | None) -> dict[str, Any]:
    """Return what is known of a run apart from its metrics."""
    facts: dict[str, Any] = {
        "name": run.name,
        "kind": run.kind,
        "backbone": None if run.backbone is None else run.backbone.__name__,
        "seed": run.seed,
        "key": run.key,
        "best_epoch": None,
        "epochs": None,
        "stopped": None,
        "converged": None,
        "enough_epochs": None,
        "seconds_per_epoch": None,
        "training_seconds": 0.0,
        "settings": {},
    }
    if history is not None:
        facts |= {
            "best_epoch": history.best_epoch,
            "epochs": len(history.rows),
            "stopped": getattr(history, "stopped", None),
            "converged": getattr(history, "converged", None),
            "enough_epochs": getattr(history, "enough_epochs", None),
            "seconds_per_epoch": history.seconds_per_epoch,
            "training_seconds": float(sum(history.seconds)),
        }
    return facts


def _earlier(record: Mapping[str, Any] | None) -> dict[str, Any]:
    return {} if record is None else {"test": record["test"]}
