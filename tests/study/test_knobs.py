"""Knobs: what a search turns by itself, how ranges are written, and which are refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.nn import BM3, FISM, VBPR, EarlyFusionLightGCN, LightGCN
from pyg_ckd.study import Contender
from pyg_ckd.study.knobs import DEFAULT, check_knobs, default_of, parse_knobs, space_of, turned

PLAIN = Contender("plain", {"l2": 0.03}, {"embedding_dim": 32}, {"lr": 5e-3})


def text(name="plain", contender=PLAIN, backbone=VBPR, given=None) -> dict[str, str]:
    return {knob: one.text for knob, one in space_of(name, contender, backbone, given).items()}


def test_by_itself_a_search_turns_what_a_contender_has():
    assert text() == {
        "trainer.lr": "0.0002:0.02 (log)",
        "strategy.l2": "0.0001:0.1 (log)",
        "model.embedding_dim": "32,64,128",
    }
    found = text("ckd", Contender("ckd"), EarlyFusionLightGCN)
    assert found["model.num_layers"] == "1:4"
    assert found["strategy.distillation_weight"] == "0.001:1 (log)"
    assert text("dropout", Contender("modality-dropout"))["strategy.rate"] == "0.1:0.7"


def test_a_strategy_that_trains_nothing_has_no_knobs_but_its_own():
    assert text("ensemble", Contender("ensemble")) == {}


def test_ranges_that_are_searched_by_default_hold_the_defaults():
    wide = Contender("plain", {"l2": 0.5}, {"embedding_dim": 100}, {"lr": 1e-5})
    assert text(contender=wide) == {
        "trainer.lr": "1e-05:0.02 (log)",
        "strategy.l2": "0.0001:0.5 (log)",
        "model.embedding_dim": "64,100,128",
    }
    none = space_of("plain", Contender("plain", {"l2": 0.0}), BM3, None)["strategy.l2"]
    assert (
        none.low == DEFAULT["strategy.l2"][0]
    )  # No logarithmic scale has a zero; the first trial has it all the same.
    assert none.nearest(0.0) == none.low


def test_given_knobs_are_the_only_ones_and_that_of_one_contender_comes_first():
    given = {"strategy.l2": (1e-3, 1e-2), "ckd.l2": "0.01:0.02", "ckd.distillation_weight": None}
    assert text(given=given) == {"strategy.l2": "0.001:0.01 (log)"}
    assert text("ckd", Contender("ckd"), VBPR, given) == {
        "strategy.l2": "0.01:0.02",
        "strategy.distillation_weight": "0.001:1 (log)",
    }


def test_whole_numbers_values_and_texts_keep_their_kind():
    given = {"trainer.batch_size": "512:4096", "model.fusion": "concat,sum", "model.item_bias": [True, False]}
    found = space_of("plain", PLAIN, VBPR, given)
    assert found["trainer.batch_size"].ends == (512, 4096)
    assert found["trainer.batch_size"].whole
    assert found["model.fusion"].values == ("concat", "sum")
    assert found["model.item_bias"].values == (True, False)
    assert space_of("plain", PLAIN, VBPR, {"trainer.lr": "1e-3,1e-2"})["trainer.lr"].values == (1e-3, 1e-2)


@pytest.mark.parametrize(
    ("knob", "given", "text"),
    [
        ("trainer.lr", (np.float64(1e-3), np.float32(0.5)), "0.001:0.5 (log)"),
        ("model.embedding_dim", [np.int64(4), np.int64(8)], "4,8"),
        ("model.embedding_dim", np.array([4, 8]), "4,8"),
        ("model.embedding_dim", torch.tensor([4, 8]), "4,8"),
        ("model.embedding_dim", range(4, 7), "4,5,6"),
        ("model.item_bias", [np.True_, np.False_], "true,false"),
    ],
    ids=str,
)
def test_numbers_of_other_libraries_are_plain_ones(knob, given, text):
    found = space_of("plain", PLAIN, VBPR, {knob: given})[knob]
    assert found.text == text
    assert {type(end) for end in found.ends} <= {int, float, bool}


def test_the_number_of_negatives_begins_at_what_the_backbone_draws():
    given = {"trainer.num_negatives": "1:16"}
    found = space_of("plain", PLAIN, VBPR, given)["trainer.num_negatives"]
    assert (found.ends, found.whole) == ((1, 16), True)
    assert default_of("trainer.num_negatives", PLAIN, VBPR) == 4
    assert default_of("trainer.num_negatives", PLAIN, EarlyFusionLightGCN) == 1
    assert default_of("trainer.num_negatives", turned(PLAIN, {"trainer.num_negatives": 8}), VBPR) == 8
    assert default_of("trainer.num_negatives", turned(PLAIN, {"trainer.num_neighbors": [5]}), LightGCN) == 1
    for contender, backbone in ((PLAIN, FISM), (turned(PLAIN, {"trainer.ranking": "softmax"}), VBPR)):
        with pytest.raises(InputError, match=r"unknown knob 'trainer.num_negatives'"):
            check_knobs(given, {"plain": (contender, backbone)})  # Of a softmax it is the number of all its items.


def test_negatives_are_no_knob_of_a_backbone_that_reads_none_unless_a_strategy_does():
    knob = {"trainer.negatives": ["uniform", "hard"]}
    assert text(given=knob) == {"trainer.negatives": "uniform,hard"}
    assert text(given=knob, backbone=FISM) == {}
    assert text("ckd", Contender("ckd"), FISM, knob) == {"trainer.negatives": "uniform,hard"}
    light = {"lightgcn": (PLAIN, LightGCN)}
    check_knobs(knob, {"plain": (PLAIN, FISM), "ckd": (Contender("ckd"), FISM), **light})
    for backbone, end in ((FISM, r"leave it out, or search model\.num_negatives$"), (BM3, "leave it out$")):
        for name in ("negatives", "num_negatives"):
            message = rf"unknown knob 'trainer\.{name}': found it for {backbone.__name__}, whose losses read no .*{end}"
            with pytest.raises(InputError, match=message):
                check_knobs({f"trainer.{name}": None}, {"plain": (PLAIN, backbone), **light})


@pytest.mark.parametrize(
    ("knob", "backbone", "given", "text", "kinds"),
    [
        ("trainer.clip_norm", VBPR, "0.1,1", "0.1,1", {float}),
        ("trainer.clip_norm", VBPR, (1, 5), "1:5", {float}),
        ("model.num_negatives", FISM, "8:64", "8:64", {int}),
        ("model.cosine", VBPR, "1:5", "1:5", {float}),
    ],
)
def test_options_without_a_default_have_the_kind_that_they_are_annotated_as(knob, backbone, given, text, kinds):
    check_knobs({knob: given}, {"plain": (PLAIN, backbone)})
    found = space_of("plain", PLAIN, backbone, {knob: given})[knob]
    assert found.text == text
    assert {type(end) for end in found.ends} == kinds
    assert default_of(knob, PLAIN, backbone) is None


@pytest.mark.parametrize(
    ("knob", "given", "message"),
    [
        ("trainer.clip_norm", "a,b", "found 'a,b', expected numbers$"),
        ("model.num_negatives", "0.5,1", "found '0.5,1', expected whole numbers$"),
        ("model.num_negatives", "0.5:4", "found '0.5:4', expected whole numbers$"),
    ],
)
def test_values_of_another_kind_than_annotated_are_refused(knob, given, message):
    with pytest.raises(InputError, match=f"knob {knob}: {message}"):
        space_of("plain", PLAIN, FISM, {knob: given})


def test_what_is_neither_number_nor_text_is_no_knob():
    for knob in ("trainer.num_neighbors", "trainer.optimizer", "trainer.callbacks", "trainer.checkpoint_dir"):
        with pytest.raises(InputError, match=f"unknown knob '{knob}'"):
            check_knobs({knob: "1,2"}, {"plain": (PLAIN, VBPR)})


def test_a_turned_contender_has_the_values_where_they_belong():
    found = turned(PLAIN, {"trainer.lr": 0.1, "model.embedding_dim": 8, "strategy.l2": 0.2, "model.fusion": "sum"})
    assert (found.strategy, found.options, found.trainer) == (Objective, {"l2": 0.2}, {"lr": 0.1})
    assert found.model == {"embedding_dim": 8, "fusion": "sum"}
    assert PLAIN.trainer == {"lr": 5e-3}
    assert default_of("trainer.batch_size", PLAIN, VBPR) == 2048
    assert default_of("strategy.bpr_eps", PLAIN, VBPR) == 0.0


def test_knobs_are_read_from_words():
    assert parse_knobs(["trainer.lr=1e-4:1e-2", "model.embedding_dim=64", "128", "strategy.l2"]) == {
        "trainer.lr": "1e-4:1e-2",
        "model.embedding_dim": "64,128",
        "strategy.l2": None,
    }
    assert parse_knobs(["trainer.lr=0.001", "0.01"]) == {"trainer.lr": "0.001,0.01"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["trainer.lr="], "found 'trainer.lr='"),
        (["64"], "found '64'"),
        (["=1:2"], "found '=1:2'"),
        (["trainer.lr=1:2", "trainer.lr=1:3"], "found trainer.lr twice"),
    ],
)
def test_words_that_are_no_knobs_are_refused(words, message):
    with pytest.raises(InputError, match=f"knobs: {message}"):
        parse_knobs(words)


@pytest.mark.parametrize(
    ("knob", "given", "message"),
    [
        ("trainer.lr", "1e-2:1e-4", "found '1e-2:1e-4', expected the lower end first .* a reversed range"),
        ("trainer.lr", (0.1, 0.1), "found '0.1:0.1', .* an empty range"),
        ("trainer.lr", "low:high", "found 'low:high', expected two numbers"),
        ("trainer.lr", "1e-4:", "found '1e-4:', expected two numbers"),
        ("trainer.lr", "1:2:3", "expected two numbers"),
        ("trainer.lr", (1e-4, float("inf")), "expected two numbers"),
        ("trainer.lr", [], "expected a range such as"),
        ("trainer.lr", "0.01", "what is not searched is an option of its own, --trainer.lr 0.01"),
        ("trainer.lr", "a,b", "expected values of the kind of 0.005"),
        ("trainer.lr", [0.1, 0.1], "expected every value once"),
        ("trainer.batch_size", "1.5:4", "expected whole numbers"),
        ("model.fusion", "0:1", "expected values with commas .* no number"),
        ("model.item_bias", "1,2", "expected values of the kind of true"),
        ("model.sparse", None, "found no range"),
    ],
)
def test_ranges_that_make_no_sense_are_refused_by_name(knob, given, message):
    with pytest.raises(InputError, match=f"knob {knob}: .*{message}"):
        space_of("plain", PLAIN, VBPR, {knob: given})


def test_a_knob_that_no_contender_has_is_refused_with_what_there_is():
    both = {"plain": (PLAIN, VBPR), "ckd-0.1": (Contender("ckd"), VBPR)}
    check_knobs({"ckd-0.1.temperature": (0.1, 1.0), "strategy.temperature": None}, both)
    with pytest.raises(InputError, match=r"unknown knob 'model.num_layers': .*model.embedding_dim"):
        check_knobs({"model.num_layers": (1, 2)}, both)
    for knob in ("trainer.seed", "trainer.device", "trainer.max_epochs", "lr", "multitask.weight"):
        with pytest.raises(InputError, match=f"unknown knob '{knob}'"):
            check_knobs({knob: (1, 2)}, both)


def test_knobs_are_a_mapping():
    with pytest.raises(InputError, match="knobs: found list, expected a mapping"):
        check_knobs(["trainer.lr"], {})
    with pytest.raises(InputError, match=r"knobs: found the name 5, expected a text such as 'trainer\.lr'"):
        check_knobs({5: (1, 2)}, {"plain": (PLAIN, VBPR)})
