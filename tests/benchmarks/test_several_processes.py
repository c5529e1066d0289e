"""The benchmarks that start several processes, on data that are as small as can be."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import pytest

from benchmarks import large, scale_ranks
from benchmarks.scale_model import Layout, Sizes


def test_a_rank_is_measured():
    sizes = Sizes(60, 40, 400, "LightGCN", modalities=2, features=8, dim=8, batch=64)
    found = scale_ranks.measure(sizes, Layout.of("users", 2))
    assert found.seconds > 0
    large = replace(sizes, users=3000, interactions=40_000)
    assert scale_ranks.measure(large, Layout.of("one"), only="memory").memory > 32 * large.interactions
    assert found.sent == pytest.approx((2 * sizes.layers + 1) * sizes.items * sizes.dim * 4, abs=0.5)


def test_what_is_left_out_is_not_a_number():
    sizes = Sizes(60, 40, 400, "VBPR", modalities=2, features=8, dim=8, batch=64)
    found = scale_ranks.measure(sizes, Layout.of("one"), only="steps")
    assert found.seconds > 0
    assert math.isnan(found.memory)


def test_one_process_sends_nothing_and_two_at_some_rate():
    assert scale_ranks.copies_of(1) == math.inf
    assert 0 < scale_ranks.copies_of(2) < math.inf


def test_cases_are_what_backbones_can():
    cases = scale_ranks.cases_of(Sizes(60, 40, 400), ["MMGCN"], [2])
    assert {layout.strategy for _, layout in cases} == {"one", "users", "ddp"}


@pytest.mark.slow
def test_a_training_in_two_processes_goes_on_where_it_ended(tmp_path):
    options = ["--users", "300", "--items", "60", "--interactions", "3000", "--features", "8", "--batch", "128"]
    options += ["--steps", "3", "--evaluated", "50", "--backbones", "EarlyFusionLightGCN"]
    large.main([*options, "--folder", str(tmp_path / "here"), "--out", str(tmp_path / "found.json")])
    first, second = json.loads((tmp_path / "found.json").read_text())["rows"]
    assert (first["epoch"], second["epoch"]) == (1, 2)
    assert first["steps"] == second["steps"] == 3  # The second start makes the steps of the second epoch alone.
    assert len(list((tmp_path / "here" / "lists-EarlyFusionLightGCN-2").glob("*.parquet"))) == 2
