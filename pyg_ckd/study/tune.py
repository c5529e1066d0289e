"""Tuning: contenders and their knobs get equal budgets, the winner is named by validation, and then it is tested."""

from __future__ import annotations

import hashlib
import os
import shlex
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_flag, as_integer, as_seed, as_seeds
from pyg_ckd.data import fingerprint
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator
from pyg_ckd.evaluation.statistics import mean_std
from pyg_ckd.files import as_path, plain_values, read_json, write_json
from pyg_ckd.nn import Backbone
from pyg_ckd.options import is_plain
from pyg_ckd.study.baselines import TRAINED, as_baselines, baseline_run, known_baselines
from pyg_ckd.study.claim import claimed
from pyg_ckd.study.command import train_command
from pyg_ckd.study.contenders import Contenders, as_contenders
from pyg_ckd.study.described import described, described_settings
from pyg_ckd.study.executor import alone, check_executor, one_device_each
from pyg_ckd.study.knobs import turned
from pyg_ckd.study.ledger import OF_FOLDER, Ledger, Trial, require_optuna
from pyg_ckd.study.maker import LEFT_OUT
from pyg_ckd.study.results import StudyResults
from pyg_ckd.study.run import check_distillable, check_sizes, monitored
from pyg_ckd.study.runs import Run
from pyg_ckd.study.search import Search, best_so_far
from pyg_ckd.study.settings import REFERENCE, StudySettings, as_settings
from pyg_ckd.study.store import RunStore
from pyg_ckd.study.study import Study
from pyg_ckd.study.tuned import Tuned, Tuner, check_data, own_options
from pyg_ckd.study.workshop import Workshop
from pyg_ckd.training.folder import free_options

if TYPE_CHECKING:
    import pandas as pd

TRIALS, CHOSEN, OWNER = "trials.log", "chosen.json", "owner.json"
FACTS = ("winner", "baseline", "best", "baselines", "left_out")
RESULTS = "results.json"


class Tuning:
    r"""Searches settings of every contender with the same number of trials, and tests the best contender.

    1. Every contender, including plain training, and LightGCN have the same number of trials. The first trial has the
       defaults, given by the settings. Optuna's TPE proposes the others. A trial is a run of a study, evaluated on the
       validation part, on which closed forms choose their own knobs.
    2. The winner is the contender with the best trial, the strongest baseline the one that is best on the validation
       part. Both are written to ``chosen.json``. Until then the test part is not read.
    3. A :class:`Study` in the folder ``study`` retrains the winner and plain training, each with the settings of its
       best trial, and the strongest baseline, under several seeds, reads the test part and compares them.

    Trials are compared after the warm-up, after twice as many steps, and so on. A trial is pruned if its best value is
    below the median of the earlier trials of the same contender after as many steps, unless its metric rises fast
    enough to reach the median by the end, or it is in a dip after a high start: while it falls, in the first half of
    the training, and while it climbs out. Only finished trials can win.

    Trainings of a search are not extended, so that all trials have the same budget: unlike in a :class:`Study`,
    ``extend`` is 1 unless the settings say otherwise. If the best runs have not converged, search again with a larger
    ``max_epochs`` in another folder.

    Runs have the keys of studies and are reused. Teachers have the settings of the study instead of those of a trial,
    so they are trained once. A trial depends only on the seed and on earlier trials of the same contender. So results
    are the same for any number of workers, and if a call is killed at any moment and made again. Only with several
    calls on one storage do proposals depend on timing.

    Args:
        data: The graph.
        backbone: Class of the student; it must use the features.
        folder: Where to write; it must be empty, missing, or hold an unfinished tuning of the same settings.
        settings: Options of all parts, the defaults of the search. Views are not tracked unless they say so.
        say: Called with a line of text at every step.
        contenders: As those of :class:`Study`.
        baselines: Names of the baselines. (default: all)
        trials: Trials of every contender and of LightGCN.
        knobs: From knob to its range or values, see :func:`~pyg_ckd.study.knobs.space_of`. (default: :obj:`None`,
            :data:`~pyg_ckd.study.knobs.DEFAULT` and the ``search_space`` of every strategy)
        seed: Seed of all trials and proposals.
        warmup: Steps before which no trial is pruned. (default: :obj:`None`, a fifth of its budget)
        prune: Whether trials are pruned.
        batch: Trials of a contender that are proposed at once, for more workers than contenders.
        storage: A file, or the URL of an Optuna storage such as ``mysql://HOST/NAME``, which several machines can
            share. (default: :obj:`None`, ``<folder>/trials.log``)
        name: Name of the search in the storage.
        runs: Folder of the runs, which several studies can share. (default: :obj:`None`, ``<folder>/runs``)
        workers: Processes that make runs at the same time, as in :class:`Study`.
        backend: Where they are, as in :class:`Study`.
        source: The words that say which graph to load in the line that trains the winner.
        longer: The words of a line that searches again with more epochs, which the verdict names where runs had not
            converged. (default: none)

    Raises:
        InputError: If Optuna is not installed, there is no validation or test part, no feature tells items apart, a
            number is out of its range, the warm-up is longer than the budget, a knob does not exist or has no range,
            or folder or storage belong to another study.
    """

    def __init__(
        self,
        data: HeteroData,
        backbone: type[Backbone],
        folder: str | os.PathLike[str],
        settings: StudySettings | None = None,
        say: Callable[[str], object] = lambda line: None,
        contenders: Contenders | None = None,
        baselines: str | Sequence[str] | Mapping[str, Mapping[str, Any]] | None = None,
        trials: int = 12,
        knobs: Mapping[str, Any] | None = None,
        seed: int = 0,
        warmup: int | None = None,
        prune: bool = True,
        batch: int = 1,
        storage: str | os.PathLike[str] | None = None,
        name: str = "tune",
        runs: str | os.PathLike[str] | None = None,
        workers: int = 1,
        backend: str = "loky",
        source: Sequence[str] = ("--data", "DATA"),
        longer: Sequence[str] = (),
    ) -> None:
        require_optuna()
        self.data, self.backbone, self.folder, self.say = data, backbone, as_path(folder), say
        settings = as_settings(settings)
        trainer, workers = one_device_each({"track_views": False, "extend": 1, **settings.trainer}, workers)
        self.settings = replace(settings, trainer=trainer)
        self.trials, self.batch = as_integer(trials, "trials", 1), as_integer(batch, "batch", 1)
        self.seed, self.prune = as_seed(seed), as_flag(prune, "prune")
        self.backend, self.source, self.longer = backend, list(source), list(longer)
        check_data(data)
        self.baselines = as_baselines(known_baselines() if baselines is None else baselines)
        given = as_contenders(contenders, self.settings, taken=known_baselines())
        self.contenders = {name: contender.with_needed_views() for name, contender in given.items()}
        strategies = [contender.strategy for contender in self.contenders.values()]
        check_distillable(data, backbone, strategies, study=True)
        self._device = str(self.settings.trainer.get("device", "auto"))
        self.workers = check_executor(workers, backend)
        check_sizes(data, self.settings.k, self.settings.trainer)
        self.monitor, _, cutoff = monitored(data, self.settings.trainer)
        self.cutoffs = tuple(sorted({*self.settings.k, cutoff}))
        Evaluator(data, "val", self.cutoffs, [])  # Fails early with cut-offs that cannot be.
        self._fingerprint = fingerprint(data)
        tuner = Tuner(data, backbone, self.settings, self._fingerprint, self.monitor, self.trials, warmup)
        self.tuned = tuner.tuned(self.contenders, self.baselines, knobs)
        decides = {one.name: self._decides(one) for one in self.tuned.values()}
        self.runs = self.folder / "runs" if runs is None else as_path(runs)
        with claimed(self.folder, *self._claim(name), self.runs):
            found = None if storage is None else self._open(storage, name, decides, begin=False)
            store = self._store(found)
            self.ledger = self._open(storage or self.folder / TRIALS, name, decides, self._owner(storage is None))
        self._stores = {"baseline": store, "teacher": store, "contender": store}
        self.study: Study | None = None

    def run(self, seeds: Sequence[int] = (0,)) -> dict[str, Any]:
        """Search, name the winner, test it, write ``results.json`` and return what it holds.

        It holds what that of a study holds, and under ``tuning`` the trials, the knobs and what was chosen.

        Args:
            seeds: The seeds under which the winner is retrained.

        Raises:
            InputError: If the seeds are none or a single number, a run fails, its process dies, another process runs
                the same tuning, or trials or contenders differ from those whose winner has been tested; what is
                finished is kept.
        """
        seeds = as_seeds(seeds)
        with alone(self.folder):
            chosen = self._chosen() or self._search()
            self.study = self._study(chosen)
            results = self.study.run(seeds)
            results["winner"] = self._winner(results, chosen)
            results["tuning"] = self._described(chosen)
            results = plain_values(results)
            write_json(self.folder / RESULTS, results)
            return StudyResults(results)

    def histories(self, seeds: Sequence[int]) -> dict[tuple[str, int], pd.DataFrame]:
        """Return the history of every run that was retrained, see :meth:`Study.histories`.

        Args:
            seeds: The seeds.
        """
        return {} if self.study is None else self.study.histories(seeds)

    def _open(
        self,
        storage: str | os.PathLike[str],
        name: str,
        decides: Mapping[str, Mapping[str, Any]],
        owner: str = "",
        begin: bool = True,
    ) -> Ledger:
        ledger = Ledger(storage, name, self.seed, owner, str(self.folder.resolve()))
        for contender, settings in decides.items():
            ledger.open(contender, settings, begin)
        return ledger

    def _decides(self, tuned: Tuned) -> dict[str, Any]:
        """Return all that decides about the trials of a contender."""
        search = {"seed": self.seed, "warmup": tuned.warmup, "prune": self.prune, "batch": self.batch}
        space = {knob: one.text for knob, one in tuned.space.items()}
        return {**tuned.run(tuned.defaults, self.seed).decides, "search": search, "space": space}

    def _store(self, ledger: Ledger | None) -> RunStore:
        """Return the folder of runs; a storage that was made just now goes if it is refused."""
        try:
            return RunStore(self.runs)
        except InputError:
            if ledger is not None:
                ledger.withdraw()
            raise

    def _claim(self, name: str) -> tuple[dict[str, Any], set[str]]:
        """Return what the folder is claimed for, and what may differ from that of an earlier call.

        Contenders and baselines that only one of the calls has may come and go.
        """
        trainer = {n: value for n, value in self.settings.trainer.items() if n not in ("callbacks", "loggers")}
        manifest = plain_values(
            {
                "data": self._fingerprint,
                "backbone": self.backbone.__name__,
                **described_settings(self.settings),
                "trainer": {n: value if is_plain(value) else repr(type(value)) for n, value in trainer.items()},
                "search": {"name": name, "seed": self.seed, "prune": self.prune, "batch": self.batch},
                "contenders": {n: described(one, trainer) for n, one in self.contenders.items()},
                "spaces": {n: {k: one.text for k, one in t.space.items()} for n, t in self.tuned.items()},
                "warmups": {n: tuned.warmup for n, tuned in self.tuned.items()},
            }
        )
        found = read_json(self.folder / "settings.json")
        free = free_options("max_epochs") | {"k"}
        for part in ("contenders", "spaces", "warmups"):
            earlier = found.get(part) if isinstance(found, dict) else None
            if isinstance(earlier, dict):  # Those that are left out now are kept, for their trials are.
                free |= {f"{part}.{n}" for n in manifest[part].keys() - earlier.keys()}
                manifest[part] = {**earlier, **manifest[part]}
        return manifest, free

    def _owner(self, alone_in_storage: bool) -> str:
        """Return what tells the calls on this folder from those on others, which may share the storage.

        It is that of the machine and the folder, so that trials are found again if the file was removed.
        """
        if alone_in_storage:
            return OF_FOLDER
        path = self.folder / OWNER
        found = read_json(path)
        if not isinstance(found, dict) or "owner" not in found:
            place = f"{socket.gethostname()}:{uuid.getnode()}:{self.folder.resolve()}"
            found = {"owner": hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:32]}
            write_json(path, found)
        return str(found["owner"])

    def _search(self) -> dict[str, Any]:
        place = (self.data, self._fingerprint, self.folder, self._stores, self.monitor, self.cutoffs)
        workshop = Workshop(*place, self._device, self.workers, self.backend)
        search = Search(list(self.tuned.values()), self.ledger, workshop, self.seed, self.batch, self.prune, self.say)
        closed = [self._closed(name) for name in self.baselines if name != TRAINED]
        records = search.run(closed)
        fitted = {run.name: records[run.key] for run in closed}
        best = {name: search.best(tuned) for name, tuned in self.tuned.items()}
        values = {name: float(trial.outcome["value"]) for name, trial in best.items()}
        known = {n: float(r["val"][self.monitor]) for n, r in fitted.items() if LEFT_OUT not in r}
        rivals = {n: values.get(n, known.get(n)) for n in self.baselines if n in values or n in known}
        facts = ("settings", "training_seconds")
        chosen = {
            **self._plan(),
            "winner": max(self.contenders, key=values.__getitem__),
            "baseline": max(rivals, key=rivals.__getitem__) if rivals else None,  # type: ignore[arg-type]
            "best": {n: {"trial": t.rank, "value": values[n], "values": t.values} for n, t in best.items()},
            "baselines": {n: {"value": v, **{f: fitted[n][f] for f in facts}} for n, v in known.items()},
            "left_out": {n: record[LEFT_OUT] for n, record in fitted.items() if LEFT_OUT in record},
        }
        chosen = plain_values(chosen)
        write_json(self.folder / CHOSEN, chosen)
        winner = chosen["winner"]
        self.say(f"best on validation: {winner} ({self.monitor} {values[winner]:.4f}); now the test part is read")
        return chosen

    def _plan(self) -> dict[str, Any]:
        return {"trials": self.trials, "contenders": list(self.contenders), "rivals": list(self.baselines)}

    def _chosen(self) -> dict[str, Any] | None:
        """Return what an earlier call has chosen, if it is what this call would choose among."""
        found = read_json(self.folder / CHOSEN)
        if not isinstance(found, dict):
            return None
        for part, wanted in self._plan().items():
            if found.get(part) != wanted:
                name = {"rivals": "baselines"}.get(part, part)
                raise InputError(
                    f"{name}: found {_listed(wanted)}, expected {_listed(found.get(part))} as in the search whose "
                    "winner the test part has been read for; choose another folder and the same runs"
                )
        lacking = [part for part in FACTS if part not in found]
        if lacking:
            raise InputError(
                f"{self.folder / CHOSEN}: found no {lacking[0]!r}, expected what an earlier call of this search has "
                "written; remove the file, and the same command writes it again from the trials"
            )
        self._check_kept(found["best"])
        return found

    def _check_kept(self, best: Mapping[str, Mapping[str, Any]]) -> None:
        """Refuse a storage that has lost trials from which the best ones were chosen."""
        for name, one in best.items():
            most, kept = self.tuned[name].trials, self.ledger.trials(name)
            found = f"{len(kept)} trials of {name}, expected the {most}"
            if len(kept) >= most:
                value = kept[one["trial"]].outcome.get("value")
                if value == one["value"]:
                    continue
                found = f"the value {value} of trial {one['trial']} of {name}, expected the {one['value']}"
            raise InputError(
                f"storage {self.ledger.shown}: found {found} that {self.folder / CHOSEN} was written from; put the "
                f"storage back as it was, or choose another folder and the runs {self.runs}, where finished trials are "
                "found again"
            )

    def _closed(self, name: str) -> Run:
        return baseline_run(name, {}, self._fingerprint, self.monitor, self.settings, 0)

    def _study(self, chosen: Mapping[str, Any]) -> Study:
        names = list(dict.fromkeys([REFERENCE, chosen["winner"]]))
        contenders = {n: turned(self.contenders[n], chosen["best"][n]["values"]) for n in names}
        base = chosen["baseline"]
        options = own_options(self.baselines[base], chosen["best"][base]["values"]) if base == TRAINED else {}
        return Study(
            self.data,
            self.backbone,
            self.folder / "study",
            self.settings,
            self.say,
            contenders,
            {} if base is None else {base: options},
            self.runs,
            self.workers,
            self.backend,
        )

    def _winner(self, results: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
        runs = [run for run in results["runs"] if run["name"] == chosen["winner"]]
        means = {part: mean_std([run[part][self.monitor] for run in runs])[0] for part in ("val", "test")}
        return {"name": chosen["winner"], "metric": self.monitor, **means}

    def _described(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        winner = turned(self.contenders[chosen["winner"]], chosen["best"][chosen["winner"]]["values"])
        line = train_command(winner, self.backbone, self.settings, self.source, self.seed)
        return {
            **chosen,
            "metric": self.monitor,
            "seed": self.seed,
            "pruning": self.prune,
            "searches": [self._searched(tuned, chosen["best"][name]["trial"]) for name, tuned in self.tuned.items()],
            "command": shlex.join(line),
            "longer": shlex.join(self.longer),
        }

    def _searched(self, tuned: Tuned, best: int) -> dict[str, Any]:
        count = max(tuned.trials, best + 1)  # Earlier versions chose among all trials of a call with more.
        trials = self.ledger.trials(tuned.name)[:count]
        return {
            "name": tuned.name,
            "kind": tuned.kind,
            "space": {knob: one.text for knob, one in tuned.space.items()},
            "warmup": tuned.warmup,
            "budget": tuned.budget,
            "best": best,
            "importance": self.ledger.importance(tuned.name, tuned.space, count),
            "trials": [
                {"values": trial.values, "best_so_far": so_far, **_outcome(trial)}
                for trial, so_far in zip(trials, best_so_far(trials), strict=True)
            ],
        }


def _outcome(trial: Trial) -> dict[str, Any]:
    return {**trial.outcome, "state": trial.state}


def _listed(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
