"""The ablation of any strategy: its switches are found from the constructor, and the table is that of a study."""

from __future__ import annotations

import json
import math
import re
from typing import Literal

import pytest

from examples.ablation import ablate, main, table, variants, without_teachers
from pyg_ckd import DistillationWrapper, Objective
from pyg_ckd.balance.discovery import build_objective, options_of, strategies
from pyg_ckd.data import TripletSampler
from pyg_ckd.data.inputs import RATES, unpack
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.errors import InputError
from pyg_ckd.nn import VBPR
from pyg_ckd.study import StudySettings
from pyg_ckd.study.contenders import Contender, check_options
from pyg_ckd.training import build

SIZES = {"num_users": 60, "num_items": 40, "num_interactions": 900}
SETTINGS = StudySettings(model={"embedding_dim": 4}, trainer={"max_epochs": 1, "batch_size": 512, "extend": 1})
WANTED = {
    "ckd": [
        ("distillation_weight", 0.0),
        ("specific", False),
        ("generic", False),
        ("reweight", False),
        ("effect_base", "id"),
        ("target", "best"),
    ],
    "mi-balance": [("weight", 0.0), ("sharpness", 0.0)],
    "amss": [("least", 1.0), ("ids", False), ("unbiased", False)],
}


LEFT_OUT = {"mla": ["alternate = False"], "mi-balance": ["no teachers"]}


@pytest.fixture(scope="module")
def data():
    return synthetic_multimodal(**SIZES)


class Mine(Objective):
    """A stranger's strategy with a switch of each kind."""

    search_space = {"pull": (0.1, 2.0), "heat": (0.5, 4.0), "period": (2, 9)}  # noqa: RUF012

    def __init__(
        self,
        student,
        pull: float = 1.0,
        heat: float = 2.0,
        period: int = 3,
        kind: Literal["near", "far", "none"] = "near",
        both: bool = False,
        l2: float = 0.01,
    ) -> None:
        super().__init__(student, l2)
        if heat == 0 or period == 0:
            raise InputError("heat: found 0, expected a positive number")


def refusal_of(cls, data):
    def refusal(options):
        try:
            check_options(VBPR, data, {}, Contender(cls, options))
        except InputError as error:
            return str(error)
        return ""

    return refusal


@pytest.mark.parametrize("name", WANTED)
def test_the_switches_of_a_strategy_are_found_from_its_constructor(name, data):
    cls = strategies()[name]
    assert set(WANTED[name]) <= set(variants(cls, refusal_of(cls, data), {}))
    found = dict(variants(cls, refusal_of(cls, data), {}))
    booleans = {option for option, p in options_of(cls).items() if isinstance(p.default, bool)}
    assert booleans | set(cls.search_space) <= set(found)


def test_switches_of_a_strangers_strategy_follow_annotations_and_refusals(data):
    found = list(variants(Mine, refusal_of(Mine, data), {}))
    assert found == [("pull", 0.0), ("heat", math.inf), ("kind", "far"), ("kind", "none"), ("both", True)]
    given = dict(variants(Mine, refusal_of(Mine, data), {"both": True, "pull": 0.0}))
    assert given == {"heat": math.inf, "kind": "none", "both": False}


@pytest.mark.parametrize("name", ["mla", "mi-balance", "pmr"])
def test_the_table_holds_the_numbers_of_the_study(name, data, tmp_path):
    text = ablate(data, VBPR, strategies()[name], tmp_path, settings=SETTINGS)
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert rows[0] == ["variant", "validation recall@20", "test recall@20", "against the whole", "visual alone"] + [
        f"{m} alone" for m in list(results["data"]["modalities"])[1:]
    ]
    assert [row[0] for row in rows[2:4]] == ["plain", f"**{name}**"]
    runs = {run["name"]: run for run in results["runs"] if run["kind"] == "contender"}
    whole = runs[name]["test"]["recall@20"]
    assert {row[0].strip("*") for row in rows[2:]} == set(runs)
    for row in rows[2:]:
        run = runs[row[0].strip("*")]
        assert row[1] == f"{run['val']['recall@20']:.4f}"
        assert row[2] == f"{run['test']['recall@20']:.4f}"
        share = f"{100 * (run['test']['recall@20'] / whole - 1):+.1f} %".replace("-", "−")
        share = "0.0 %" if share[1:] == "0.0 %" else share
        assert row[3] == ("–" if run is runs[name] else share)
        assert row[4:] == [f"{run['views'][m]['recall@20']:.4f}" for m in results["data"]["modalities"]]
    left_out = re.findall(r"^- (.*): left out, (.*)$", text, flags=re.MULTILINE)
    assert [title for title, _ in left_out] == (LEFT_OUT.get(name, []))
    assert all("found" in why for _, why in left_out)
    assert table(results, name) == "\n".join(line for line in text.splitlines() if line.startswith("|"))


def test_distillation_without_teachers_trains_the_views_alone(data):
    features, graph = unpack(data)
    untaught = without_teachers(DistillationWrapper)
    assert untaught is not None
    assert options_of(untaught).keys() == options_of(DistillationWrapper).keys()
    student = build(VBPR, data, 0, embedding_dim=4)
    objective = build_objective(untaught, student, data, None, {"l2": 0.03})
    sampler = TripletSampler(graph[RATES], 60, 40, batch_size=30, num_random_triples=0, seed=1)
    batch = next(iter(sampler))
    terms, plain = (o.loss(features, graph, batch) for o in (objective, Objective(student, l2=0.03)))
    assert terms.keys() - plain.keys() == {"unimodal"}
    assert all(terms[name].item() == pytest.approx(plain[name].item(), abs=1e-6) for name in plain)
    assert without_teachers(Mine) is None


def test_bad_input_is_one_line(tmp_path, capsys):
    sizes = ["--data_options", json.dumps(SIZES), "--out", str(tmp_path / "study")]
    for given, words in (
        (["--strategy", "plain"], "found plain, which has nothing to switch off"),
        (["--strategy", "mlaa"], "unknown strategy 'mlaa': did you mean 'mla'"),
        (["--strategy", "mla", "--options", '{"ridge": 0}'], "ridge: found 0, expected a positive number"),
    ):
        assert main([*given, *sizes]) == 2
        error = capsys.readouterr().err
        assert words in error
        assert error.count("\n") == 1
    assert not (tmp_path / "study").exists()


@pytest.mark.parametrize("name", [name for name, cls in strategies().items() if cls.neutral])
def test_every_piece_that_a_strategy_calls_neutral_is_switched_off_by_itself(name):
    cls = strategies()[name]
    found = dict(variants(cls, lambda chosen: "", {}))
    for option, value in cls.neutral.items():
        assert found.get(option, options_of(cls)[option].default) == value
