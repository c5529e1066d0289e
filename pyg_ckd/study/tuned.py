"""Whose knobs a search turns: contenders and LightGCN with their defaults, their knobs and their budgets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer
from pyg_ckd.data import held_out
from pyg_ckd.data.content import items_with_content, modalities_without_content
from pyg_ckd.data.inputs import check_graph
from pyg_ckd.errors import InputError
from pyg_ckd.nn import Backbone, LightGCN
from pyg_ckd.study.baselines import TRAINED, baseline_run, lightgcn
from pyg_ckd.study.contenders import Contender, check_teacher
from pyg_ckd.study.formats import BATCH
from pyg_ckd.study.knobs import Knob, check_knobs, default_of, space_of, turned
from pyg_ckd.study.plan import contender_run, teacher_run
from pyg_ckd.study.pruning import budgets
from pyg_ckd.study.refusals import check_space
from pyg_ckd.study.runs import Run
from pyg_ckd.study.settings import StudySettings
from pyg_ckd.training import Pace

EPOCHS = "trainer.max_epochs"
WARMUP = 5
"""Without a warm-up of the user's, trials are left alone for this part of their budget."""


@dataclass(frozen=True)
class Tuned:
    """A contender, or LightGCN, whose knobs are turned.

    Attributes:
        name: Its name.
        kind: ``"contender"`` or ``"baseline"``.
        backbone: Class of the model.
        base: The contender with all its options, which the first trial has.
        space: Its knobs.
        run: Returns the run of given values under a seed.
        trials: The number of its trials.
        warmup: Steps before which none of them is pruned.
        interactions: Training interactions, which make the steps of an epoch.
    """

    name: str
    kind: str
    backbone: type[Backbone]
    base: Contender
    space: Mapping[str, Knob]
    run: Callable[[Mapping[str, Any], int], Run]
    trials: int
    warmup: int
    interactions: int

    @property
    def defaults(self) -> dict[str, Any]:
        """The values of the first trial."""
        found = {knob: default_of(knob, self.base, self.backbone) for knob in self.space}
        return {knob: self._triples(value) if knob == BATCH else value for knob, value in found.items()}

    def epoch_steps(self, values: Mapping[str, Any]) -> int:
        """Return the steps in an epoch.

        Args:
            values: What the knobs are set to.
        """
        size = values.get(BATCH, default_of(BATCH, self.base, self.backbone))
        return -(-self.interactions // self._triples(size))

    def whole(self, values: Mapping[str, Any]) -> int:
        """Return the steps of a whole training, which a trial of other batches or epochs has more or fewer of.

        Args:
            values: What the knobs are set to.
        """
        return int(values.get(EPOCHS, default_of(EPOCHS, self.base, self.backbone))) * self.epoch_steps(values)

    def _triples(self, size: Any) -> int:
        """Return the triples of a step, also of a size that is chosen by the number of interactions."""
        return Pace.of(size if isinstance(size, str) else int(size), 1.0, 1, self.interactions).batch_size

    @property
    def budget(self) -> int:
        """Steps of a whole training with the largest batches that the knobs allow: those that all trials have."""
        knob = self.space.get(BATCH)
        sizes = [
            self._triples(size) for size in (default_of(BATCH, self.base, self.backbone), *(knob.ends if knob else ()))
        ]
        epochs = int(default_of(EPOCHS, self.base, self.backbone))
        return epochs * self.epoch_steps({BATCH: max(sizes)})

    @property
    def budgets(self) -> list[int]:
        """Budgets in steps at which trials are compared."""
        return budgets(self.warmup, self.budget)


@dataclass(frozen=True)
class Tuner:
    """Finds out what there is to turn.

    Attributes:
        data: The graph.
        backbone: Class of the student.
        settings: Options of all parts.
        fingerprint: Fingerprint of the graph.
        monitor: The metric that decides.
        trials: Trials of every contender.
        warmup: Steps before which no trial is pruned, :obj:`None` for a part of the budget.
    """

    data: HeteroData
    backbone: type[Backbone]
    settings: StudySettings
    fingerprint: str
    monitor: str
    trials: int
    warmup: int | None

    def tuned(
        self,
        contenders: Mapping[str, Contender],
        baselines: Mapping[str, Mapping[str, Any]],
        knobs: Mapping[str, Any] | None,
    ) -> dict[str, Tuned]:
        """Return contenders and LightGCN by their names.

        Args:
            contenders: The contenders.
            baselines: The baselines with their options; only LightGCN has knobs.
            knobs: See :func:`~pyg_ckd.study.knobs.space_of`.

        Raises:
            InputError: If a knob does not exist or has a wrong range, an option of the teachers is wrong, or the
                warm-up is longer than the budget.
        """
        settings = self.settings
        check_teacher(self.backbone, self.data, settings.teacher, settings.model, settings.trainer)
        bases = {name: (self._based(contender), self.backbone) for name, contender in contenders.items()}
        runs = {name: self._run_of(name, contender) for name, contender in contenders.items()}
        if TRAINED in baselines:
            bases[TRAINED] = (lightgcn(settings, baselines[TRAINED]), LightGCN)
            runs[TRAINED] = self._run_of_lightgcn(baselines[TRAINED])
        if knobs is not None:
            check_knobs(knobs, bases)
        found, interactions = {}, held_out(self.data, "train").size(1)
        for name, (base, backbone) in bases.items():
            kind, space = "contender" if name in contenders else "baseline", space_of(name, base, backbone, knobs)
            check_space(name, base, backbone, space, self.data)
            trials = self.trials if space else 1
            tuned = Tuned(name, kind, backbone, base, space, runs[name], trials, 0, interactions)
            found[name] = replace(tuned, warmup=self._warmup(tuned))
        return found

    def _based(self, contender: Contender) -> Contender:
        model, trainer = {**self.settings.model, **contender.model}, {**self.settings.trainer, **contender.trainer}
        return Contender(contender.strategy, contender.options, model, trainer)

    def _run_of(self, name: str, contender: Contender) -> Callable[[Mapping[str, Any], int], Run]:
        place = (self.fingerprint, self.backbone, self.settings)

        def run(values: Mapping[str, Any], seed: int) -> Run:
            teachers = [teacher_run(m, *place, seed) for m in self.data.modalities]
            return contender_run(name, turned(contender, values), *place, seed, teachers)

        return run

    def _run_of_lightgcn(self, options: Mapping[str, Any]) -> Callable[[Mapping[str, Any], int], Run]:
        def run(values: Mapping[str, Any], seed: int) -> Run:
            own = own_options(options, values)
            return baseline_run(TRAINED, own, self.fingerprint, self.monitor, self.settings, seed)

        return run

    def _warmup(self, tuned: Tuned) -> int:
        budget = tuned.budget
        if self.warmup is None:
            return max(1, budget // WARMUP)
        warmup = as_integer(self.warmup, "warmup", 1, "a number of steps")
        if warmup > budget and tuned.kind == "contender":  # LightGCN, which has batches of its own, is not pruned then.
            raise InputError(
                f"warmup: found {warmup} steps, expected at most {budget}, the whole budget of {tuned.name}; raise "
                "max_epochs of the trainer, or lower the warm-up"
            )
        return warmup


def own_options(options: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return options of LightGCN, which stand side by side, with those of a trial.

    Args:
        options: The options.
        values: From knob to value.
    """
    return {**options, **{knob.partition(".")[2]: value for knob, value in values.items()}}


def check_data(data: HeteroData) -> None:
    """Refuse a graph that settings cannot be searched on.

    Args:
        data: The graph.

    Raises:
        InputError: If it lacks a validation or a test part, or no feature tells items apart.
    """
    check_graph(data)
    for part, name, why in (("val", "validation", "compares trials by"), ("test", "test", "tests the winner on")):
        if not held_out(data, part).size(1):
            raise InputError(
                f"data: found no {name} part, expected one, which the search {why}; split the interactions into train, "
                "val and test"
            )
    if len(modalities_without_content(data)) == len(data.modalities):
        says = {m: int(items_with_content(data, m).sum()) for m in data.modalities}
        found = ", ".join(f"{m}: {number} items" for m, number in says.items()) or "no modality"
        raise InputError(
            f"features: found no content that tells items apart ({found}), expected it for two items or more of a "
            "modality; without content, train LightGCN or fit EASE"
        )
