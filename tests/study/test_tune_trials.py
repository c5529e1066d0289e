"""Trials that fail, are refused, or are more than a call counts."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FISM
from pyg_ckd.study.knobs import Knob
from pyg_ckd.study.ledger import COMPLETE, Ledger
from tests.study.search_problem import PLAIN, TRAINER, searches, small, untimed

MIXED: dict[str, Any] = {
    **PLAIN,
    "knobs": {"trainer.ranking": ["bpr", "softmax"], "trainer.negatives": ["uniform", "popularity", "hard"]},
}
"""Of six combinations of these values, the trainer refuses two."""
REFUSED = {"hard": "negatives: found 'hard' beside ranking='softmax'", "popularity": "num_negatives: found none beside"}


def test_a_trial_that_diverges_counts_as_failed_and_a_default_that_does_ends_the_search(tmp_path):
    results = small(tmp_path / "a", **{**PLAIN, "knobs": {"trainer.lr": (1e30, 1e38)}}, trials=3).run()
    trials = searches(results)["plain"]["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed", "failed"]
    assert "diverged" in trials[1]["stopped"]
    with pytest.raises(InputError, match=r"plain \(seed 0\): .*diverged"):
        small(tmp_path / "b", **PLAIN, settings={"trainer": {**TRAINER, "lr": 1e35}}).run()


def test_a_search_goes_on_after_combinations_that_the_trainer_refuses(tmp_path):
    said = list[str]()
    (found,) = small(tmp_path, **MIXED, trials=8, say=said.append).run()["tuning"]["searches"]
    refused = list[str]()
    for place, trial in enumerate(found["trials"], 1):
        values = trial["values"]
        reason = REFUSED.get(values["trainer.negatives"]) if values["trainer.ranking"] == "softmax" else None
        assert trial["state"] == ("complete" if reason is None else "failed")
        if reason is not None:
            assert trial["stopped"].startswith(reason)
            assert trial["value"] is None
            refused += [] if "repeats" in trial else [f"  plain, trial {place} of 8: failed: {trial['stopped']}"]
    assert refused
    assert [line for line in said if "failed" in line] == refused


@pytest.mark.parametrize("batch", [1, 3])
def test_a_search_that_ended_at_a_refused_combination_goes_on(batch, tmp_path):
    search = small(tmp_path, **MIXED, trials=4, batch=batch)
    space = search.tuned["plain"].space
    for values in (("bpr", "uniform"), ("softmax", "hard")):
        search.ledger.claim("plain", space, dict(zip(MIXED["knobs"], values, strict=True)), (), 4)
    (found,) = small(tmp_path, **MIXED, trials=4, batch=batch).run()["tuning"]["searches"]
    assert len(found["trials"]) == 4
    assert found["trials"][1]["state"] == "failed"


def test_values_that_no_combination_has_are_refused_before_the_start(tmp_path):
    knobs = {"trainer.ranking": ["bpr", "softmax"], "trainer.negatives": ["popularity", "hard"]}
    with pytest.raises(
        InputError, match=r"plain: knob trainer\.ranking at softmax: found no values of the other knobs"
    ):
        small(tmp_path / "out", **{**MIXED, "knobs": knobs})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("knob", ["negatives", "num_negatives", "ranking"])
def test_what_a_backbone_does_not_read_is_refused_before_the_start_whoever_else_does(knob, tmp_path):
    values = {"negatives": ["uniform", "hard"], "num_negatives": [1, 4], "ranking": ["bpr", "softmax"]}
    with pytest.raises(InputError, match=rf"trainer\.{knob}.* for FISM, ") as error:
        small(tmp_path / "out", backbone=FISM, knobs={f"trainer.{knob}": values[knob]}, contenders="plain")
    assert "LightGCN" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_an_option_without_a_default_is_searched_by_what_it_is_annotated_as(tmp_path):
    options = {**PLAIN, "knobs": {"trainer.clip_norm": (0.1, 1.0)}}
    (found,) = small(tmp_path, **options).run()["tuning"]["searches"]
    values = [trial["values"]["trainer.clip_norm"] for trial in found["trials"]]
    assert values[0] is None
    assert 0.1 <= values[1] <= 1.0


def fewer(folder: Path, **options: Any) -> None:
    """Leave a search of six trials that was ended when plain had claimed its third one and ckd had two."""
    search = small(folder, trials=6, baselines=[], **options)
    tuned, claims = search.tuned, []
    claim = search.ledger.claim

    def until_the_fifth(name: str, *args: Any) -> Any:
        claims.append(name)
        if len(claims) == 6:
            raise KeyboardInterrupt
        return claim(name, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search.ledger, "claim", until_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            search.run()
    assert [len(search.ledger.trials(name)) for name in tuned] == [3, 2]


def test_with_fewer_trials_than_an_earlier_call_claimed_all_have_as_many(tmp_path):
    said = list[str]()
    fewer(tmp_path / "out")
    results = small(tmp_path / "out", trials=2, baselines=[], say=said.append).run()
    assert {name: len(one["trials"]) for name, one in searches(results).items()} == {"plain": 2, "ckd": 2}
    assert said[0] == "an earlier call asked for more trials (plain has 3); the first 2 of each count"
    assert not [line for line in said if "trial 3 of 2" in line or "waiting" in line]
    assert untimed(results) == untimed(small(tmp_path / "other", trials=2, baselines=[]).run())
    assert untimed(small(tmp_path / "out", trials=2, baselines=[]).run()) == untimed(results)


def test_a_trial_that_a_call_with_fewer_left_alone_is_made_by_one_with_more(tmp_path, monkeypatch):
    fewer(tmp_path / "out")
    with monkeypatch.context() as patch:
        patch.setattr("pyg_ckd.study.tune.write_json", lambda *args: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path / "out", trials=2, baselines=[]).run()
    results = small(tmp_path / "out", trials=3, baselines=[]).run()
    assert untimed(results) == untimed(small(tmp_path / "other", trials=3, baselines=[]).run())


class Hungry(Objective):
    """Fails where its option is not 0.5, the default, at a moment and by an error of one's own."""

    error: ClassVar[type[Exception]] = RuntimeError
    moment: ClassVar[str] = ""
    text: ClassVar[str] = "you can't allocate memory\nof any kind"

    def __init__(self, student: Any, share: float = 0.5) -> None:
        super().__init__(student)
        self.share = share
        if self.moment == "built" and student.num_users > 2:
            self.fail()

    def epoch_statistics(self) -> dict[str, float]:
        if self.moment == "trained":
            self.fail()
        return super().epoch_statistics()

    def fail(self) -> None:
        if self.share != 0.5:
            raise self.error(self.text)


HUNGRY: dict[str, Any] = {"contenders": {"hungry": Hungry}, "baselines": [], "knobs": {"hungry.share": (0.1, 0.9)}}


@pytest.mark.parametrize("error", [RuntimeError, MemoryError, ZeroDivisionError, torch.OutOfMemoryError])
@pytest.mark.parametrize("moment", ["built", "trained"])
def test_a_search_goes_on_after_trials_that_need_too_much(moment, error, tmp_path, monkeypatch):
    monkeypatch.setattr(Hungry, "error", error)
    monkeypatch.setattr(Hungry, "moment", moment)
    results = small(tmp_path, **HUNGRY, trials=3).run()
    trials = searches(results)["hungry"]["trials"]
    assert [trial["state"] for trial in trials] == ["complete", "failed", "failed"]
    reason = rf"Hungry on VBPR raised {error.__name__} \(you can't allocate memory of any kind\) in .*_trials\.py, line"
    assert re.match(reason, trials[1]["stopped"])
    assert not list(tmp_path.glob("runs/hungry-*/trial-*"))


@pytest.mark.parametrize("error", [OSError, KeyError, ValueError, RuntimeError])
def test_a_full_disk_a_mistake_in_code_and_a_broken_device_end_a_search(error, tmp_path, monkeypatch):
    monkeypatch.setattr(Hungry, "error", error)
    monkeypatch.setattr(Hungry, "moment", "trained")
    monkeypatch.setattr(Hungry, "text", "CUDA error: an illegal memory access was encountered")
    with pytest.raises((InputError, OSError), match="illegal memory access"):
        small(tmp_path, **HUNGRY).run()


def test_a_default_that_needs_too_much_ends_the_search(tmp_path, monkeypatch):
    monkeypatch.setattr(Hungry, "fail", lambda self: [][0])
    monkeypatch.setattr(Hungry, "moment", "trained")
    with pytest.raises(InputError, match=r"hungry \(seed 0\): Hungry on VBPR raised IndexError"):
        small(tmp_path, **HUNGRY).run()


def test_a_trial_without_a_value_says_nothing_about_values_near_it(tmp_path):
    space = {"trainer.clip_norm": Knob("trainer.clip_norm", 0.1, 10.0, log=True)}

    def ledger(name: str, values: list[float | None]) -> Ledger:
        made = Ledger(tmp_path / f"{name}.log", "tune", 0, "folder")
        made.open("plain", {})
        for rank, value in enumerate(values):
            trial = made.claim("plain", space, {"trainer.clip_norm": value}, (), 9)
            assert trial is not None
            made.finish(trial, COMPLETE, {"value": 0.5 + 0.1 * (-1) ** rank})
        return made

    few, enough = ledger("few", [None, 0.2, 1.0, 5.0]), ledger("enough", [None, 0.2, 0.5, 1.0, 5.0])
    assert few.trials("plain")[0].values == {"trainer.clip_norm": None}
    assert few.importance("plain", space, 4) == {}  # Three trials are too few.
    assert enough.importance("plain", space, 5) == {"trainer.clip_norm": 1.0}
    assert 0.1 <= enough.propose("plain", space, 5, 5)["trainer.clip_norm"] <= 10
