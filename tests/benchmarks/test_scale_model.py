"""The simulation of a training on many ranks: cases counted by hand, and what must grow with what."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest

from benchmarks import scale
from benchmarks.scale_model import (
    BACKBONES,
    GPU,
    LARGE,
    Layout,
    Machine,
    Measured,
    Sizes,
    Wire,
    break_even,
    check,
    forecast,
    read_share,
)

UNIT = Machine(1.0, 1.0, 1.0, 1.0, 1.0, 10.0, 2.0, per_node=2)
TINY = Sizes(4, 2, 5, "LightGCN", modalities=2, features=3, dim=8, layers=2, batch=4, late=False)
CKD = replace(TINY, backbone="EarlyFusionLightGCN", random=3)


def test_memory_of_a_tiny_training():
    memory = forecast(TINY, Layout.of("one"), UNIT).memory
    table = 4 * 6 * 8  # Six nodes, eight columns.
    assert memory["parameters"] == memory["gradients"] == memory["Adam"] / 2 == table
    assert memory["graph"] == 10 * 8 + 6 * 4  # Ten entries, a column and a weight each, and where rows begin.
    assert memory["features"] == memory["teachers"] == memory["kept"] == 0
    assert memory["activations"] == 2 * table + 2 * table  # A stream and a view, and the gradients of the penalty.


def test_memory_of_teachers_features_and_kept_products():
    memory = forecast(CKD, Layout.of("one"), UNIT).memory
    assert memory["parameters"] == 4 * (6 * 8 + 2 * 8 * 4)  # Tables, weights and biases of two modalities.
    assert memory["teachers"] == 2 * 4 * 6 * 8
    assert memory["features"] == 4 * 2 * 2 * 3
    assert memory["kept"] == 4 * 6 * (2 * 3 + 1)  # Narrow features and a column of ones, propagated.
    assert forecast(replace(CKD, feature_bytes=2), Layout.of("one"), UNIT).memory["features"] == 2 * 2 * 2 * 3


def test_users_and_columns_divide_what_they_say():
    users, columns = (forecast(CKD, Layout.of(name, 2), UNIT).memory for name in ("users", "columns"))
    both = forecast(CKD, Layout.of("users x columns", 4, 2), UNIT).memory
    assert users["teachers"] == 2 * 4 * (2 + 2) * 8
    assert columns["teachers"] == 2 * 4 * 6 * 4
    assert both["teachers"] == 2 * 4 * (2 + 2) * 4
    assert users["graph"] == 5 * 8 + 4 * (2 + 2)
    assert columns["graph"] == 10 * 8 + 6 * 4
    assert users["features"] == columns["features"] == both["features"]


def test_features_that_are_cut_and_what_their_projections_send():
    whole, cut = (Layout.of("users", 2, cut_features=flag) for flag in (False, True))
    assert forecast(CKD, cut, UNIT).memory["features"] == forecast(CKD, whole, UNIT).memory["features"] / 2
    own = 2 + 1  # Users and items; of ones, all items.
    assert forecast(CKD, cut, UNIT).memory["kept"] == 4 * (own * 2 * 3 + 2 + 2)
    wire = forecast(CKD, cut, UNIT).wires["projections"]
    table = 4 * 2 * 8
    assert wire == Wire(2 * table, 2 * table, 2 * 2, 2)  # Of two modalities, forward and backward.
    assert wire.seconds(UNIT) == pytest.approx(2 * table * 0.5 / 10 + 2 * 2 * table * 0.5 / 10)
    assert "projections" not in forecast(CKD, whole, UNIT).wires
    plain = replace(TINY, backbone="LightGCN")
    assert forecast(plain, cut, UNIT) == forecast(plain, whole, UNIT)
    assert Layout.of("columns", 2, cut_features=True) == Layout.of("columns", 2)


@pytest.mark.parametrize("strategy", ["ddp", "users", "columns", "users x columns", "sampled", "sampled, cut"])
def test_every_rank_draws_from_all_interactions(strategy):
    assert forecast(CKD, Layout.of(strategy, 4), UNIT).memory["interactions"] == 32 * 5


def test_a_rank_that_draws_its_own_holds_the_interactions_of_its_users():
    own, all_ = (forecast(CKD, Layout.of(name, 4), UNIT) for name in ("users own", "users"))
    assert own.memory["interactions"] == 16 * 5 / 4
    assert {**own.memory, "interactions": 0} == {**all_.memory, "interactions": 0}
    assert (own.wires, own.seconds) == (all_.wires, all_.seconds)


def test_layouts_say_whether_they_are_built():
    names = ("ddp", "users", "users own", "columns", "sampled")
    layouts = [Layout.of("one"), *(Layout.of(name, 2) for name in names)]
    assert all(layout.built for layout in layouts)
    assert not any(Layout.of(name, 2).built for name in ("users x columns", "sampled, cut"))


def test_sampled_neighbourhoods_are_of_a_whole_graph_with_whole_tables_on_every_rank():
    whole, (one, two) = forecast(CKD, Layout.of("one"), UNIT), (forecast(CKD, Layout.of("sampled", n)) for n in (1, 2))
    for part in ("parameters", "Adam", "teachers", "features", "kept", "interactions"):
        assert one.memory[part] == two.memory[part] == whole.memory[part]
    assert one.memory["graph"] == two.memory["graph"] == whole.memory["graph"] + 2 * 4 * 5 + 24 * 6
    assert two.memory["activations"] == one.memory["activations"] / 2
    assert (one.sent, two.sent) == (0, 4 * CKD.parameters)  # More rows than half of all nodes: tables are summed.
    large = replace(CKD, users=10**6)
    rows = 3 * (4 + 3) * (1 + 3)  # Of both ranks together, with three neighbours of each.
    assert forecast(large, Layout.of("sampled", 2, fanout=[3])).sent == rows * (4 * 8 + 8)
    cut = forecast(CKD, Layout.of("sampled, cut", 2))
    assert cut.memory["parameters"] == two.memory["parameters"] / 2
    assert cut.memory["interactions"] == two.memory["interactions"]


def test_bytes_that_meet():
    items = 4 * 2 * 8
    assert forecast(TINY, Layout.of("users", 2), UNIT).sent == (2 * 2 + 1) * items
    wires = forecast(CKD, Layout.of("users", 2), UNIT).wires
    assert wires["sums over users"] == Wire(5 * items, 0, 5, 2)
    assert wires["shared gradients"].reduced == 4 * 2 * 8 * 4
    margins = forecast(CKD, Layout.of("columns", 2), UNIT).wires["margins"]
    assert margins == Wire(4 * (3 * 4 + 2 * 3 + 2 * (4 + 3) + 1), 0, 1, 2)  # Three views, two teachers, one norm.
    assert forecast(TINY, Layout.of("ddp", 4), UNIT).sent == 4 * 6 * 8
    assert not forecast(TINY, Layout.of("one"), UNIT).wires
    deep = replace(TINY, backbone="MMGCN", layers=3)
    assert forecast(deep, Layout.of("users", 2), UNIT).wires["sums over users"].calls == 2 * 2 * 3 + 1


def test_margins_of_a_step_as_they_were_counted_on_two_processes():
    tiktok = Sizes(9308, 6710, 59541, "EarlyFusionLightGCN", 2, 128, batch=2048, random=5000)
    mean = replace(tiktok, batch=59541 / 30)  # The last batch of an epoch is a small one.
    assert forecast(mean, Layout.of("columns", 2)).sent == pytest.approx(119.7e3, rel=0.01)
    three = replace(tiktok, modalities=3)
    assert forecast(three, Layout.of("columns", 2)).sent == pytest.approx(202e3, rel=0.01)


def test_time_of_a_product_and_of_a_sum():
    told = forecast(TINY, Layout.of("one"), UNIT)
    assert told.seconds["products"] == 4 * 10 * (4 * 8 + 8)  # Two layers, both ways, ten entries of 40 bytes.
    assert told.seconds["dense"] == 0
    assert Wire(100, 0, 1, 2).seconds(UNIT) == 2 * 100 * 0.5 / 10  # Inside a node.
    assert Wire(100, 0, 1, 4).seconds(UNIT) == 2 * 100 * 0.75 / 2  # Over the slow wire.
    assert Wire(0, 80, 1, 4).seconds(UNIT) == pytest.approx(80 * (0.25 / 10 + 0.5 / 2))
    assert Wire(100, 0, 1, 1).seconds(UNIT) == 0


def test_what_the_processor_does_for_the_wire():
    assert Wire(100, 40, 1, 4).busy(UNIT) == 0  # A card sends by itself.
    assert Wire(100, 40, 1, 4).busy(replace(UNIT, copies=3.0)) == pytest.approx((40 + 2 * 100) * 0.75 / 3)
    told = forecast(TINY, Layout.of("users", 2), UNIT)
    case = (TINY, Layout.of("users", 2))
    found, slow = (check([case], m, lambda *_: Measured(1.0, 1.0))[0] for m in (UNIT, replace(UNIT, copies=0.5)))
    assert slow["step (ms)"] - found["step (ms)"] == pytest.approx(1e3 * told.sent / 0.5)  # Two ranks send half twice.


def test_the_last_layer_of_few_rows_costs_less():
    large = Sizes(10**6, 10**5, 10**7, "LightGCN", batch=2048)
    whole, late = (forecast(replace(large, late=flag), Layout.of("one"), UNIT) for flag in (False, True))
    assert late.seconds["products"] < 0.65 * whole.seconds["products"]
    distilled = replace(large, backbone="EarlyFusionLightGCN", random=2048)
    assert (
        forecast(distilled, Layout.of("one")).bytes < forecast(replace(distilled, late=False), Layout.of("one")).bytes
    )
    columns, users = (
        [forecast(replace(large, late=flag), Layout.of(way, 2), UNIT).seconds["products"] for flag in (False, True)]
        for way in ("columns", "users")
    )
    assert columns[1] < 0.65 * columns[0]
    assert users[1] == users[0]  # A part of the graph has no rows that are whole.
    small = Sizes(100, 80, 1000, "LightGCN", batch=2048)  # All rows are read.
    assert forecast(small, Layout.of("one")) == forecast(replace(small, late=False), Layout.of("one"))


def test_features_are_wide_for_ranks_with_few_columns():
    assert (CKD.is_wide(), CKD.is_wide(8), CKD.is_wide(16)) == (False, False, True)  # 3 features, 8 columns in all.
    assert (CKD.streams(8), CKD.streams(16)) == (1, 3)
    assert replace(TINY, features=10**3).streams() == 1  # LightGCN has none.
    assert "kept" in forecast(CKD, Layout.of("columns", 8), UNIT).memory
    assert forecast(CKD, Layout.of("columns", 16), UNIT).memory["kept"] == 0


def test_rows_that_a_batch_reads():
    assert read_share(100, 0, 0) == (0.0, 0.0)
    assert read_share(100, 100, 0) == (0.5, 0.75)
    assert read_share(0, 5, 5) == (0.0, 0.0)


@pytest.mark.parametrize("strategy", ["users", "users own", "columns", "ddp", "sampled", "sampled, cut"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_more_ranks_never_hold_more_nor_compute_longer(strategy, backbone):
    sizes = Sizes(10**6, 10**4, 10**7, backbone, random=4096, batch=4096, late=False)
    told = [forecast(sizes, Layout.of(strategy, ranks), GPU) for ranks in (1, 2, 4, 8)]
    computed = [sum(v for k, v in f.seconds.items() if k not in (*f.wires, "fetched rows")) for f in told]
    for less, more in itertools.pairwise(told):
        assert more.bytes <= less.bytes
    assert computed == sorted(computed, reverse=True)


@pytest.mark.parametrize("name", ["users", "items", "interactions", "modalities", "features", "layers", "batch"])
@pytest.mark.parametrize("backbone", BACKBONES)
def test_larger_trainings_take_no_less(name, backbone):
    sizes = Sizes(10**5, 10**4, 10**6, backbone, random=512, late=False)
    larger = replace(sizes, **{name: 2 * getattr(sizes, name)})
    one = Layout.of("users", 4)
    first, second = forecast(sizes, one, GPU), forecast(larger, one, GPU)
    assert second.bytes >= first.bytes
    assert second.step >= first.step
    assert second.sent >= first.sent


def test_ten_billion_interactions_on_paper():
    users, both = (
        forecast(LARGE, layout, GPU) for layout in (Layout.of("users", 32), Layout.of("users x columns", 32, 8))
    )
    cut = forecast(LARGE, Layout.of("users", 32, cut_features=True), GPU)
    tables = [sum(f.memory[part] for part in ("parameters", "gradients", "Adam")) / 1e9 for f in (users, both)]
    assert tables == pytest.approx([13.4, 4.5], abs=0.1)
    assert [f.memory["graph"] / 1e9 for f in (users, both)] == pytest.approx([5.0, 40], rel=0.02)
    assert [f.memory["activations"] / 1e9 for f in (users, both)] == pytest.approx([37, 12.3], abs=0.1)
    assert users.memory["interactions"] == both.memory["interactions"] == 320e9
    assert max(users.memory, key=lambda part: users.memory[part]) == "interactions"
    own = forecast(LARGE, Layout.of("users own", 32), GPU)
    assert own.memory["interactions"] == 5e9
    assert own.bytes / 1e9 == pytest.approx(163, abs=1)
    assert max(own.memory, key=lambda part: own.memory[part]) == "features"
    assert users.memory["features"] / 1e9 == pytest.approx(92, abs=0.5)
    assert cut.memory["features"] / 1e9 == pytest.approx(2.9, abs=0.05)
    assert cut.bytes == pytest.approx(users.bytes - 89.3e9, rel=0.001)
    assert [f.step for f in (users, both)] == pytest.approx([3.0, 1.8], rel=0.15)
    assert break_even(LARGE) == pytest.approx(2.4e8, rel=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("user", 2), "strategy: found 'user'"),
        (("one", 2), "ranks: found 2 beside strategy 'one'"),
        (("users x columns", 6, 4), "columns: found 4, expected a divisor of 6"),
    ],
    ids=["name", "ranks", "columns"],
)
def test_layouts_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        Layout.of(*arguments)


def test_a_check_takes_any_measuring_function():
    cases = [(CKD, Layout.of("one")), (CKD, Layout.of("users", 2))]
    asked = []

    def measure(sizes: Sizes, layout: Layout) -> Measured:
        asked.append(layout.ranks)
        return Measured(1000.0, 2.0, 5.0)

    rows = check(cases, UNIT, measure)
    told = forecast(CKD, Layout.of("users", 2), UNIT)
    assert asked == [1, 2]
    assert rows[1]["ratio"] == told.bytes / 1000
    assert rows[1]["ratio of steps"] == (told.step - sum(w.seconds(UNIT) for w in told.wires.values())) / 2
    assert (rows[1]["bytes a step"], rows[1]["measured bytes"]) == (told.sent, 5.0)


def test_the_benchmark_runs_and_prints(capsys):
    sizes = Sizes(40, 30, 300, "VBPR", modalities=2, features=4, dim=8, batch=32)
    machine = scale.calibrate(sizes, seconds=1e-4, cold=1000)
    assert min(machine.gather, machine.stream, machine.matmul, machine.rows) > 0
    problem = scale.random_problem(sizes)
    assert problem.edge_index.max(dim=1).values.tolist() <= [39, 29]
    assert torch_unique_columns(problem.edge_index) == problem.edge_index.size(1)
    scale._steps(problem, sizes)()
    names = [(case.backbone, case.distilled) for case, _ in scale.cases_of(sizes)]
    assert ("MMGCN", True) in names
    assert ("LightGCN", True) not in names
    scale.main(["--users", "1000", "--items", "100", "--interactions", "5000", "--ranks", "4", "--columns", "2"])
    printed = capsys.readouterr().out
    assert "users/2 x columns/2, not built" in printed
    assert "| sum |" in printed
    with pytest.raises(SystemExit):
        scale.main(["--ranks", "6", "--columns", "4"])
    assert "expected a divisor of 6" in capsys.readouterr().err


def torch_unique_columns(edges) -> int:
    return len(set(map(tuple, edges.t().tolist())))
