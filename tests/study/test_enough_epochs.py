"""How many epochs a study says are enough for runs that have not converged."""

from __future__ import annotations

import pytest

from pyg_ckd.study.findings import verdict
from pyg_ckd.study.results import enough_epochs
from tests.study.problem import TRAINER, small
from tests.study.test_findings import late, study


@pytest.mark.parametrize(
    ("trainer", "epochs", "more"),
    [
        ({}, [250, 100, 200], "; in another folder, --trainer.max_epochs 250 is enough unless they rise again."),
        (
            {"extend": 3},
            [250, 100, 200],
            "; in another folder, --trainer.max_epochs 84 is enough unless they rise again.",
        ),
        (
            {"extend": 3, "schedule": "step"},
            [250, 1, 1],
            "; in another folder, --trainer.max_epochs 250 is enough unless they rise again.",
        ),
        ({}, [250, None, 200], "."),
    ],
)
def test_the_epochs_that_are_enough_for_all_runs_are_said_where_they_are_known(trainer, epochs, more):
    results = late(study({"plain": 0.07, "mine": 0.08}), "mine", 3) | {"settings": {"trainer": trainer}}
    found = iter(epochs)
    for run in results["runs"]:
        run["enough_epochs"] = next(found) if run.get("converged") is False else None
    assert verdict(results)[0] == (
        "Warning: mine (3 of 3 seeds) had not converged when the epochs were used up, so more of them may change the "
        f"numbers{more}"
    )


@pytest.mark.parametrize(
    "settings",
    [
        {"teacher": {"max_epochs": 2}},
        {"teacher": {"schedule": "cosine"}},
        {"lightgcn": {"extend": 1}},
        {"baselines": {"lightgcn": {"max_epochs": 3}}},
    ],
)
def test_nothing_is_said_of_parts_with_a_budget_of_their_own(settings):
    results = late(study({"plain": 0.07, "lightgcn": 0.07}), "teacher:a", 3)
    results = late(results, "lightgcn", 3) | {"settings": {"trainer": {"extend": 3}}}
    for run in results["runs"]:
        run["enough_epochs"] = 30 if run.get("converged") is False else None
    assert enough_epochs(results) == 10
    results["settings"] |= settings
    assert enough_epochs(results) is None


def test_a_study_with_as_many_epochs_has_no_run_that_is_too_short_to_tell(tmp_path):
    trainer = {**TRAINER, "patience": 12, "lr": 1e-9, "batch_size": 1000}  # A step an epoch, and nothing is learnt.
    options = {"contenders": "plain", "baselines": ()}
    results = small(tmp_path / "short", settings={"trainer": trainer}, **options).run()
    assert {run["enough_epochs"] for run in results["runs"]} == {24}
    assert "; in another folder, --trainer.max_epochs 24 is enough unless they rise again." in verdict(results)[0]
    results = small(tmp_path / "longer", settings={"trainer": {**trainer, "max_epochs": 24}}, **options).run()
    assert {(run["converged"], run["enough_epochs"]) for run in results["runs"]} == {(True, None)}
    assert not any("converged" in line for line in verdict(results))
