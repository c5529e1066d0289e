"""The benchmark suite runs at any size, compares what is comparable, and goes on without what is missing."""

from __future__ import annotations

import importlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch_geometric.data import HeteroData

from benchmarks import __main__ as suite_main
from benchmarks import bounded, common, drawing, epoch, evaluation, memory, problems, propagation, sampling, strategies
from benchmarks.common import Bars, Limits, Lines, Missing, Suite, Table, compare
from pyg_ckd.data.inputs import unpack
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import MMGCN, Adjacency
from pyg_ckd.scoring.views import counterfactual_views

MODALITIES = {"visual": 0.6, "acoustic": 0.4}


@pytest.fixture(name="suite", scope="module")
def _suite() -> Suite:
    data = synthetic_multimodal(num_users=60, num_items=40, num_interactions=600, dim=8, modalities=MODALITIES)
    suite = Suite(data, rounds=2, min_run_time=1e-4)
    suite.limits = Limits.measure(suite.device, rounds=2, copy_bytes=2**16, matmul_size=16)
    return suite


@pytest.mark.parametrize(
    ("name", "options", "ratios"),
    [
        ("propagation", {"large": (500,)}, ["forward / ours", "both / ours", "share of gather bound"]),
        ("sampling", {"batch_size": 256}, ["share"]),
        ("step", {"names": ("VBPR", "MMGCN"), "batch_size": 256}, ["CKD / plain", "of minima"]),
        ("strategies", {"names": ("VBPR",), "batch_size": 256}, ["step / plain", "of minima"]),
        ("evaluation", {}, ["ratio to bare"]),
        ("shares", {"interactions": 3000}, ["ratio"]),
        ("epoch", {"batch_size": 256}, ["ratio to plain VBPR"]),
        ("scaling", {"sizes": (500, 1000), "batch_size": 256}, ["growth, all rows", "growth, rows of the batch"]),
        ("neighborhoods", {"size": 500, "batch_size": 64}, ["CPU s/step of the whole graph's"]),
        ("inference", {"sizes": (30_000, 10_000, 20_000), "backbones": ["MMGCN"]}, ["peak / table"]),
        ("memory", {"sizes": (60_000,)}, ["beyond / needed", "peak / needed"]),
        ("closed_form", {"sizes": (60,)}, ["ratio to PyTorch", "of minima"]),
        ("dropout", {"sizes": ((20, 6),)}, ["ratio to PyTorch", "of minima"]),
        ("import_time", {}, ["seconds"]),
        ("study", {"epochs": 1, "seeds": 1, "batch_size": 256}, ["ratio to one worker"]),
    ],
)
def test_a_benchmark_gives_finite_positive_numbers_and_its_ratios(
    suite: Suite, name: str, options: dict[str, Any], ratios: list[str]
) -> None:
    short = Suite(suite.data, rounds=1, min_run_time=1e-4)
    short.limits = suite.limits
    tables = importlib.import_module(f"benchmarks.{name}").run(short, **options)
    assert set(ratios) <= set(tables[0].rows[0])
    for table in tables:
        assert table.rows
        assert not any("left out" in note and "not installed" not in note for note in table.notes)
        for row in table.rows:
            assert list(row) == list(table.rows[0])
            numbers = [value for value in row.values() if isinstance(value, (int, float))]
            assert numbers
            assert all(math.isfinite(value) and value > 0 for value in numbers)


@pytest.mark.parametrize("way", drawing.WAYS)
def test_what_processes_hold_to_draw_from_is_measured(way, tmp_path: Path) -> None:
    drawing.write(tmp_path / "data", 2000)
    found = drawing.measure(tmp_path / "data", *drawing.WAYS[way], batch_size=256)
    assert all(math.isfinite(value) for value in found.values())
    assert found["until the end, most"] >= found["before the first step, most"]


def test_what_is_measured_of_bounded_memory_are_the_same_graphs_and_models(tmp_path: Path) -> None:
    edges, users, items = bounded._interactions(300)
    graphs = [build(edges, users, items).matrix for build in (bounded.by_keys, Adjacency.from_interactions)]
    assert torch.equal(graphs[0].to_dense(), graphs[1].to_dense())
    assert all(bounded.build(way, 300)["entries"] > 0 for way in ("keys", "package"))
    assert all("epoch, peak" in bounded.sample(shuffle, 300) for shuffle in ("whole", "blocks"))
    for kind in ("none", "memory", "float32", "float16"):
        written = bounded.write(kind, str(tmp_path), 300, 4, users=20)
        assert (written["writing"] is None) == (kind in ("none", "memory"))
        assert math.isfinite(bounded.train(kind, str(tmp_path))["training"])
    (found,) = bounded.in_processes(1, bounded.train_part, f"{tmp_path}/float16", True)
    assert found["sent, MB a step"] == 0  # One process, which has all features.
    assert found["anonymous"] > 0


def test_alternatives_are_timed_in_turns_and_a_longer_one_takes_longer() -> None:
    calls: list[str] = []

    def nap(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    found = compare({"a": lambda: nap("a", 0.002), "b": lambda: nap("b", 0.006)}, rounds=3, min_run_time=1e-3)
    assert list(dict.fromkeys(calls)) == ["a", "b"]
    assert [name for name, before in zip(calls, ["", *calls], strict=False) if name != before] == ["a", "b", "a", "b"]
    assert found["a"].runs >= 3
    assert found["a"].minimum >= 0.002
    assert found["b"].minimum >= 0.006
    assert found["a"].minimum <= found["a"].median < found["b"].median


def test_a_missing_library_is_named_and_the_other_products_are_measured(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch_sparse", None)
    details, summary = propagation.run(suite, large=())
    assert [note for note in details.notes if note.startswith("torch-sparse") and "it is not installed" in note]
    assert {row["product"] for row in details.rows} == {propagation.OURS, *propagation.ALTERNATIVES} - {"torch-sparse"}
    assert len(summary.rows) == 1


def test_a_product_that_needs_more_memory_than_there_is_is_left_out(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(common, "_memory", lambda name: 1)
    details, _ = propagation.run(suite, large=())
    assert any("PyG LGConv" in note and "GiB of memory" in note for note in details.notes)
    assert any(row["product"] == "torch.sparse CSR" for row in details.rows)


def test_an_alternative_with_another_result_is_refused() -> None:
    graph = Adjacency.from_interactions(torch.tensor([[0, 1], [0, 0]]), 2, 1)
    x = torch.ones(3, 4)
    propagation.check(graph.matmul, graph, x, x)
    with pytest.raises(ValueError, match="another"):
        propagation.check(lambda x: 2 * graph.matmul(x), graph, x, x)


def test_the_gather_bound_counts_rows_indices_and_output() -> None:
    graph = Adjacency.from_interactions(torch.tensor([[0, 1], [0, 0]]), 2, 1)
    rows, columns, pointers, output = 4 * 64 * 4, 4 * 4, 4 * 4, 3 * 64 * 4  # Two interactions are four directed edges.
    assert propagation.gather_bytes(graph) == rows + columns + pointers + output


def test_mmgcn_over_an_edge_list_is_the_same_model(suite: Suite) -> None:
    features, graph = unpack(suite.data)
    ours, other = MMGCN.from_data(suite.data), epoch.EdgeListMMGCN.from_data(suite.data)
    other.load_state_dict(ours.state_dict())
    for found, expected in zip(other(features, graph), ours(features, graph), strict=True):
        torch.testing.assert_close(found, expected)


def test_random_interactions_are_distinct_within_range_and_the_same_for_a_seed() -> None:
    edge_index, num_users, num_items = problems.random_interactions(2000)
    assert torch.unique(edge_index, dim=1).size(1) == edge_index.size(1) > 1500
    assert edge_index.min() >= 0
    assert edge_index[0].max() < num_users
    assert edge_index[1].max() < num_items
    assert torch.equal(edge_index, problems.random_interactions(2000)[0])


def test_without_a_data_file_the_suite_says_so_and_takes_a_synthetic_graph(
    suite: Suite, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PYG_CKD_DATA", str(tmp_path))
    asked: dict[str, Any] = {}
    monkeypatch.setattr(problems, "SyntheticMultimodal", lambda **sizes: asked.update(sizes) or [suite.data])
    _, source = problems.real_or_synthetic(None)
    assert f"no data file {tmp_path / 'tiktok.npz'}" in source
    assert (asked["num_users"], asked["num_items"], asked["dim"]) == (9308, 6710, 128)
    assert problems.real_or_synthetic(str(tmp_path / "other.npz"))[1].startswith("no data file")


def test_memory_that_tensors_share_counts_once() -> None:
    x = torch.zeros(8)
    assert memory.occupied([x, x, x.clone()]) == 64


def test_a_killed_process_is_reported_as_missing_memory() -> None:
    with pytest.raises(Missing, match="killed"):
        memory.alone(os._exit, 9)


def test_a_table_is_markdown_with_three_digits_and_dashes_for_nothing() -> None:
    rows = [{"name": "a", "value": 1234.5678, "share": 0.01234}, {"name": "b", "value": None, "share": 2}]
    lines = Table("title", rows, ["A note."]).markdown().splitlines()
    assert lines[2:6] == [
        "| name | value | share |",
        "| --- | ---: | ---: |",
        "| a | 1235 | 0.0123 |",
        "| b | – | 2 |",
    ]
    assert lines[-1] == "A note."


@pytest.fixture(name="small")
def _small(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> HeteroData:
    """Let the command line measure a small graph, quickly."""
    monkeypatch.setattr(suite_main, "real_or_synthetic", lambda path: (suite.data, "small"))
    monkeypatch.setattr(Limits, "measure", lambda *args: suite.limits)
    monkeypatch.setattr(suite_main, "Suite", lambda *args: Suite(*args, rounds=1, min_run_time=1e-4))
    return suite.data


@pytest.mark.usefixtures("small")
@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_missing_device_is_reported_in_one_line_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert suite_main.main(["evaluation", "--device", "cuda", "--out", str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert "cuda: this machine or this torch has none, going on with the CPU." in out.splitlines()
    assert "## evaluation of the validation part" in out
    found = json.loads((tmp_path / "out" / "benchmarks.json").read_text(encoding="utf-8"))
    assert found["benchmarks"]["evaluation"]["tables"][0]["rows"][0]["ranking"] == evaluation.BARE
    assert {"processor", "threads", "torch", "load average at the start", "load average at the end"} <= set(
        found["about"]
    )
    lines = (tmp_path / "out" / "benchmarks.md").read_text(encoding="utf-8").splitlines()
    assert lines[:2] == ["# Benchmarks", ""]
    assert lines[2].startswith("cuda")
    assert (tmp_path / "out" / "evaluation.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.usefixtures("small")
def test_a_benchmark_that_fails_is_reported_and_the_next_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(suite: Suite) -> list[Table]:
        raise ZeroDivisionError("on purpose")

    monkeypatch.setattr(sampling, "run", broken)
    assert suite_main.main(["sampling", "evaluation", "--out", str(tmp_path)]) == 1
    out = capsys.readouterr().out
    assert "sampling: failed, ZeroDivisionError: on purpose" in out
    assert "## evaluation of the validation part" in out


def test_an_unknown_benchmark_is_refused_with_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        suite_main.main(["propagatoin"])
    assert stop.value.code == 2
    assert "expected one of propagation" in capsys.readouterr().err


@pytest.mark.parametrize("chart", [Bars("ratio", ("name",)), Lines("size", ("ratio",), {"end": 15.0}), None])
def test_a_chart_is_drawn_where_a_table_has_one(tmp_path: Path, chart: Bars | Lines | None) -> None:
    from benchmarks.plots import draw

    rows = [{"name": str(n), "size": 10 * n, "ratio": n, "wanted, at most": 2.0} for n in (1, 2)]
    draw([Table("title", rows, chart=chart)], tmp_path / "chart.png")
    assert (tmp_path / "chart.png").exists() == (chart is not None)


def test_wrappers_are_measured_around_another_strategy_too_and_stages_with_other_views_apart(suite: Suite) -> None:
    problem = problems.Problem.of(suite.data, suite.device)
    found = strategies.objectives_of(problem, "VBPR")
    assert {"odsw around ckd", "dyncim around ckd", "mi-balance, later"} <= set(found)
    counts = {name: strategies.mean_views(objective) for name, objective in found.items()}
    modalities = len(problem.features)
    assert counts["plain"] == counts["modality-dropout"] == 1
    assert counts["multitask"] == 1 + modalities
    assert counts["odsw around ckd"] == counts["ckd"] == len(counterfactual_views(list(problem.features)))
    assert counts["mi-balance, later"] == counts["mi-balance"] + 1
    step = problems.Steps(problem, found["incremental"], 64)
    assert {"relations", "rehearsal"} <= set(step.take(step.draw()))


def test_steps_are_made_on_whole_batches_alone(suite: Suite) -> None:
    problem = problems.Problem.of(suite.data, suite.device)
    edges = problem.edge_index.size(1)
    for size, whole in ((edges - 7, edges - 7), (2 * edges, edges)):
        steps = problems.Steps(problem, problem.objective(MMGCN), size)
        assert {steps.draw().user.numel() for _ in range(3)} == {whole}


def test_the_prices_in_the_index_of_strategies_are_those_that_were_measured() -> None:
    docs = Path(__file__).parents[2] / "docs"
    found = json.loads((docs / "results" / "benchmarks" / "strategies" / "benchmarks.json").read_text(encoding="utf-8"))
    rows = found["benchmarks"]["strategies"]["tables"][0]["rows"]
    ratio = {(row["backbone"], row["strategy"]): row["of minima"] for row in rows}
    index = (docs / "strategies" / "README.md").read_text(encoding="utf-8")
    head, _, *lines = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in index.splitlines() if line.startswith("| ")
    ]
    column = head.index("step / plain")
    shown = {line[0].strip("`"): line[column] for line in lines if len(line) == len(head)}
    measured = {name: text for name, text in shown.items() if text != "–"}
    assert len(measured) >= 31
    for name, text in measured.items():
        assert text == ", ".join(f"{ratio[backbone, name]:.1f}" for backbone in strategies.BACKBONES), name
