"""What the suite measures on a GPU, tried with what stands in for one."""

from __future__ import annotations

import time
import timeit
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks import __main__ as suite_main
from benchmarks import card, inference, launches, memory, processes_per_card, propagation
from benchmarks.common import Limits, Missing, Suite, Table, first_line, quiet_clock, wall_clock
from benchmarks.problems import Problem, Steps
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import VBPR

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(name="suite", scope="module")
def _suite() -> Suite:
    data = synthetic_multimodal(
        num_users=60, num_items=40, num_interactions=600, dim=8, modalities={"visual": 0.6, "acoustic": 0.4}
    )
    return Suite(data, rounds=1, min_run_time=1e-4)


@pytest.fixture(name="waited")
def _waited(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collect what is waited for, without a GPU."""
    waited: list[Any] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device=None: waited.append(device))
    return waited


def test_clocks_wait_for_a_gpu_and_only_the_processor_has_seconds_of_its_own(waited: list[Any]) -> None:
    assert wall_clock(CPU) is timeit.default_timer
    assert quiet_clock(CPU) is time.process_time
    assert not waited
    for clock in (wall_clock(CUDA), quiet_clock(CUDA)):
        first = clock()
        assert clock() >= first
    assert waited == [CUDA] * 4


def test_alternatives_on_a_gpu_are_timed_with_a_clock_that_waits(suite: Suite, waited: list[Any]) -> None:
    Suite(suite.data, CUDA, rounds=1, min_run_time=1e-4).compare({"a": lambda: time.sleep(1e-3)})
    assert waited
    before = len(waited)
    suite.compare({"a": lambda: time.sleep(1e-3)})
    assert CUDA not in waited[before:]


@pytest.mark.parametrize("benchmark", [launches, processes_per_card])
def test_what_has_a_meaning_on_a_gpu_alone_is_missing_on_the_cpu(benchmark: Any, suite: Suite) -> None:
    with pytest.raises(Missing, match="a GPU"):
        benchmark.run(suite)


def test_columns_of_a_gpu_are_those_of_a_gpu_alone(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    assert card.on_a_card(suite, {"": lambda: None}) == {}
    monkeypatch.setattr(card, "seconds_of", lambda *given: card.Seconds(2e-3, 5e-3, 4e-3))
    monkeypatch.setattr(card, "kernels_of", lambda call: [card.Kernel("a", 3, 1e-3), card.Kernel("b", 2, 1e-3)])
    found = card.on_a_card(Suite(suite.data, CUDA), {"CKD, ": lambda: None})
    assert found == {"CKD, host (ms)": 2.0, "CKD, kernels": 5}


def test_the_time_to_issue_ends_before_the_device_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    queued = []

    def synchronize(device: Any = None) -> None:
        while queued:
            time.sleep(queued.pop())

    monkeypatch.setattr(torch.cuda, "synchronize", synchronize)
    found = card.seconds_of(lambda: queued.append(0.004), calls=3)
    assert found.issued < 0.002
    assert found.done >= 0.004
    assert found.in_a_row >= 0.004


def test_kernels_are_summed_by_name_without_annotations_of_the_program() -> None:
    events = [
        SimpleNamespace(name=name, device_time_total=us, is_user_annotation=annotation)
        for name, us, annotation in (("a", 1.0, False), ("b", 5.0, False), ("a", 2.0, False), ("Adam", 9.0, True))
    ]
    found = card.longest(events)
    assert [(kernel.name, kernel.calls) for kernel in found] == [("b", 1), ("a", 2)]
    assert [kernel.seconds for kernel in found] == pytest.approx([5e-6, 3e-6])


def test_launches_are_listed_and_what_cannot_be_captured_is_named(
    suite: Suite, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(steps: Steps, problem: Problem) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing.\nmore")

    monkeypatch.setattr(launches, "seconds_of", lambda call: (call(), card.Seconds(2e-3, 5e-3, 4e-3))[1])
    monkeypatch.setattr(launches, "kernels_of", lambda call: (call(), [card.Kernel("a|b", 3, 1e-3)])[1])
    monkeypatch.setattr(launches, "captured", lambda steps, problem: steps)
    monkeypatch.setattr(launches, "captured_with_sampling", refused)
    monkeypatch.setattr(Problem, "of", staticmethod(lambda data, device, of=Problem.of: of(data, CPU)))
    table, *details = launches.run(Suite(suite.data, CUDA), ["VBPR", "LightGCN"], 64)
    assert [(row["backbone"], row["objective"]) for row in table.rows] == [
        ("VBPR", "plain"),
        ("VBPR", "CKD"),
        ("LightGCN", "plain"),
    ]
    for row in table.rows:
        assert row["idle"] == pytest.approx(0.75)
        assert row["in a row / captured"] == pytest.approx(1.0)
        assert row[launches.DRAWN] is None
    named = [note for note in table.notes if "left out" in note]
    assert len(named) == 3
    assert named[0].endswith("left out, operation not permitted when stream is capturing.")
    assert [detail.rows for detail in details] == 3 * [[{"kernel": "a b", "calls": 3, "ms": 1.0, "share": 1.0}]]


def test_processes_share_a_device_and_a_way_that_fails_is_named(suite: Suite) -> None:
    table = processes_per_card.measure(suite.data, "cpu", (1, 2), processes_per_card.WAYS, 0.05, 64)
    assert [(row["steps"], row["processes"]) for row in table.rows] == [("step by step", 1), ("step by step", 2)]
    assert all(row["steps per second"] > 0 for row in table.rows)
    assert all(row["steps per second"] == pytest.approx(row["of each"] * row["processes"]) for row in table.rows)
    assert table.rows[0]["of one"] == 1
    assert any(note.startswith("captured: left out, ") for note in table.notes)


def test_graphs_that_do_not_fit_on_a_gpu_are_left_out(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[tuple[int, int]] = []

    def measure(suite: Suite, interactions: Any, details: Table, summary: Table, width: int = 64) -> None:
        measured.append((interactions[0].size(1), width))
        if width == propagation.WIDE:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried.\nmore")

    monkeypatch.setattr(propagation, "measure", measure)
    monkeypatch.setattr(Problem, "of", staticmethod(lambda data, device, of=Problem.of: of(data, CPU)))
    large = Suite(suite.data, CUDA)
    large.limits = Limits(1e12, 1e13, 1e14)
    details, _ = propagation.run(large, large=(500,))
    assert [width for _, width in measured] == [64, 64, propagation.WIDE]
    assert "500 interactions, 256 wide: left out, CUDA out of memory. Tried." in details.notes
    assert details.notes[-1] == "Embeddings are 64 wide unless a row says otherwise; copy bandwidth 1000.0 GB/s."


def test_a_wider_product_is_bound_by_more_bytes() -> None:
    graph = propagation.Adjacency.from_interactions(torch.tensor([[0, 1], [0, 0]]), 2, 1)
    rows, nodes = 4, 3
    assert propagation.gather_bytes(graph, 256) - propagation.gather_bytes(graph) == 4 * 192 * (rows + nodes)


def test_memory_of_a_gpu_is_measured_in_this_process_after_its_peak_was_forgotten(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("emptied"))
    monkeypatch.setattr(memory, "forget_peak", lambda device: done.append(f"forgot {device}"))
    assert memory.apart(CUDA, lambda text: done.append(text) or 5, "called") == 5
    assert done == ["emptied", "forgot cuda", "called"]


def test_inference_leaves_what_counts_as_large_as_it_was() -> None:
    before = inference.bounded.LARGE
    found = inference.measure("LightGCN", 1, "parts", (200, 100, 2000), "cpu", torch.get_num_threads())
    assert found["CPU s"] > 0
    assert before == inference.bounded.LARGE


def test_a_gpu_has_benchmarks_of_its_own_that_the_suite_knows() -> None:
    assert set(suite_main.ON_A_GPU) <= set(suite_main.BENCHMARKS)
    assert {"launches", "processes_per_card", "propagation", "step", "strategies"} <= set(suite_main.ON_A_GPU)
    assert not {"shares", "study", "bounded", "scale", "import_time"} & set(suite_main.ON_A_GPU)


def test_an_error_is_told_by_its_first_line_or_its_name() -> None:
    assert first_line(RuntimeError("one.\ntwo")) == "one"
    assert first_line(KeyboardInterrupt()) == "KeyboardInterrupt"


def test_a_step_stays_a_step_where_it_is_captured_with_its_batch(suite: Suite, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs what would be captured, on the CPU, and looks at the triples."""

    class Graph:
        def register_generator_state(self, generator: torch.Generator) -> None:
            self.generator = generator

        def replay(self) -> None:
            replayed.append(self.generator)

    class Block:
        def __init__(self, *args: Any, **options: Any) -> None: ...
        def __enter__(self) -> None: ...
        def __exit__(self, *args: object) -> None: ...
        def wait_stream(self, other: Any) -> None: ...

    replayed: list[torch.Generator] = []
    for name, stand_in in (("CUDAGraph", Graph), ("Stream", Block), ("stream", Block), ("graph", Block)):
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.cuda, "current_stream", Block)
    problem = Problem.of(suite.data, CPU)
    steps, taken = Steps(problem, problem.objective(VBPR), 64), []
    monkeypatch.setattr(steps, "take", taken.append)
    launches.captured_with_sampling(steps, problem)()
    assert replayed == [steps.sampler.generator]
    known = set(map(tuple, problem.edge_index.t().tolist()))
    assert len(taken) == 4
    pairs = [pair for batch in taken for pair in zip(batch.user.tolist(), batch.positive.tolist(), strict=True)]
    assert len(set(pairs)) == min(256, len(known))
    assert set(pairs) <= known
    assert not any(
        pair in known for batch in taken for pair in zip(batch.user.tolist(), batch.negative.tolist(), strict=True)
    )
