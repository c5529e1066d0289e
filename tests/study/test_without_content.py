"""Studies and trainings of features that tell no items apart: a warning before, and a conclusion that says so."""

from __future__ import annotations

import warnings

import pytest
import torch

from pyg_ckd.nn import VBPR, LightGCN
from pyg_ckd.report import write_report
from pyg_ckd.study import verdict
from pyg_ckd.study.run import train_run
from tests.study.problem import TRAINER, small
from tests.study.test_findings import study
from tests.training.problem import planted_data

FOUND = "found no content that tells items apart"


def spoiled(*names):
    data = planted_data()
    for number, m in enumerate(names):
        data["item"][m] = torch.full_like(data["item"][m], float(number))
    return data


def said(found) -> list[str]:
    return [str(one.message) for one in found if FOUND in str(one.message)]


def test_a_study_warns_once_and_does_not_say_that_such_modalities_are_well_trained(tmp_path, monkeypatch):
    names = ["visual", "textual"]
    monkeypatch.setattr("tests.study.problem.planted_data", lambda: spoiled(*names))
    with pytest.warns(UserWarning, match=FOUND) as found:
        results = small(tmp_path, contenders="plain").run([0, 1])
    assert len(said(found)) == 1
    assert said(found)[0].startswith(f"features of {', '.join(map(repr, names))}: ")
    assert results["without_content"] == names
    sentence = f"{' and '.join(names)} have no content that tells items apart, so there is nothing to balance."
    assert sentence in verdict(results)
    assert not any("starve" in line for line in verdict(results))
    assert sentence in write_report(tmp_path, results, {}).read_text(encoding="utf-8")


def test_a_study_of_features_that_say_something_does_not_warn(tmp_path):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        results = small(tmp_path, contenders="plain").run()
    assert not said(found)
    assert results["without_content"] == []


@pytest.mark.parametrize(("backbone", "number"), [(VBPR, 1), (LightGCN, 0)])
def test_a_training_warns_once_if_the_model_uses_features(backbone, number, tmp_path):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        train_run(spoiled("visual"), backbone, tmp_path, options={"trainer": TRAINER}, k=[3])
    assert len(said(found)) == number


REACH = {"plain": {"a": 1.0, "b": 0.5, "c": 0.95}}


@pytest.mark.parametrize(
    ("names", "lines"),
    [
        ([], ["b starves: its view of plain reaches 50 % of its teacher's test recall@20."]),
        (
            ["a"],
            [
                "a has no content that tells items apart, so there is nothing to learn from it.",
                "b starves: its view of plain reaches 50 % of its teacher's test recall@20.",
            ],
        ),
        (
            ["b"],
            [
                "b has no content that tells items apart, so there is nothing to learn from it.",
                "No other modality starves: every other modality reaches at least 95 % of its teacher's test recall@20 "
                "in plain.",
            ],
        ),
        (
            ["a", "b"],
            [
                "a and b have no content that tells items apart, so there is nothing to balance.",
                "No other modality starves: c reaches at least 95 % of its teacher's test recall@20 in plain.",
            ],
        ),
        (["a", "b", "c"], ["a, b and c have no content that tells items apart, so there is nothing to balance."]),
    ],
)
def test_the_conclusion_is_about_the_modalities_that_have_content(names, lines):
    results = study({"plain": 0.07}, REACH) | {"without_content": names}
    assert verdict(results)[: len(lines)] == lines
    assert not any("starve" in line for line in verdict(results)[len(lines) :])


def test_a_single_modality_without_content_is_called_that():
    results = study({"plain": 0.07}, {"plain": {"a": 1.0}})
    assert verdict(results)[0] == "There is one modality only, a: nothing is there to balance."
    expected = "a has no content that tells items apart, so there is nothing to balance."
    assert verdict(results | {"without_content": ["a"]})[0] == expected
    assert not any("one modality" in line for line in verdict(results | {"without_content": ["a"]}))
