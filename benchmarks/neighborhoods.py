"""Steps on sampled neighbourhoods against steps on the whole graph, and the sizes at which one or the other pays."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch_geometric.sampler import NodeSamplerInput, SamplerOutput

from benchmarks.common import WIDTH, Missing, Row, Suite, Table, first_line, quiet_clock
from benchmarks.memory import alone
from benchmarks.problems import BATCH_SIZE, Problem, Steps
from pyg_ckd.balance import DistillationWrapper, Objective
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.neighbors_sampled import NeighborhoodSampler, UniformSampler, pyg_sampler
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn import MMGCN, EarlyFusionLightGCN, LightGCN
from pyg_ckd.nn.subgraph import both_directions
from pyg_ckd.processes import Processes
from pyg_ckd.training.layouts import Whole
from pyg_ckd.training.sampled import Subgraphs

FAN_OUTS: tuple[tuple[int, ...] | None, ...] = (None, (10, 10), (5, 5))
SMALL_FAN, FEW = (5, 5), 256
PROCESSES = (1, 2, 4)
QUICK, FULL = 300_000, 1_000_000
CASES = (
    (LightGCN, Objective),
    (EarlyFusionLightGCN, Objective),
    (EarlyFusionLightGCN, DistillationWrapper),
    (MMGCN, Objective),
)


class SampledSteps(Steps):
    """Training steps on sampled neighbourhoods, or on the whole graph with :obj:`None`."""

    def __init__(
        self, problem: Problem, objective: Objective, fan_out: Sequence[int] | None, batch_size: int = BATCH_SIZE
    ) -> None:
        objective.num_random_triples = min(objective.num_random_triples, batch_size)
        super().__init__(problem, objective, batch_size)
        self.subgraphs = None if fan_out is None else Subgraphs(objective.student, fan_out, sparse=True)

    def place(self) -> tuple:
        """Draw a batch and its neighbourhood."""
        return (self.graph, self.draw()) if self.subgraphs is None else self.subgraphs(self.graph, self.draw())

    def __call__(self) -> None:
        """Make a step."""
        self.optimizer.zero_grad(set_to_none=True)
        terms = self.objective.loss(self.features, *self.place())
        self.objective.backward(terms, lambda loss, **options: loss.backward(**options))
        self.optimizer.step()
        if self.subgraphs is not None:
            self.subgraphs.done()


def break_even(interactions: int, fan_out: Sequence[int]) -> int:
    """Return the batch above which a step on the whole graph costs less, by the rows that both read."""
    reached = 1
    for number in reversed(fan_out):
        reached = 1 + number * reached
    return round(4 * len(fan_out) * interactions / (3 * reached))


def run(suite: Suite, size: int | None = None, batch_size: int = BATCH_SIZE) -> list[Table]:
    """Measure seconds of the processor, so that what else the machine does counts less, and at full size memory.

    On a GPU seconds go on until it is done, and memory is left out.

    Args:
        suite: What to measure on.
        size: Interactions of the random graph.
        batch_size: Triples in a step.
    """
    size = size or (FULL if suite.full else QUICK)
    problems = {"data": Problem.of(suite.data, suite.device), "random": Problem.random(size, suite.device)}
    steps, draws = Table("steps on sampled neighbourhoods", []), Table("drawing neighbourhoods", [])
    shares = Table("expanded by each of several processes", [])
    for graph, problem in problems.items():
        for backbone, strategy in CASES:
            steps.rows += measure(suite, graph, problem, backbone, strategy, batch_size)
        draws.rows += samplers(suite, graph, problem, batch_size)
        shares.rows += shared(graph, problem, batch_size)
    if not suite.full or suite.device.type != "cpu":
        return [steps, draws, shares]
    memory = Table("peak memory with MMGCN (MiB)", [])
    cases = {f"step, {_named(fan)}": fan for fan in (None, SMALL_FAN)} | {"validation, whole": None}
    for case, fan_out in cases.items():
        try:
            found = alone(peak, size, fan_out, case.startswith("validation"))
        except (Missing, RuntimeError) as error:
            memory.notes.append(f"{case}: left out, {first_line(error)}.")
            continue
        memory.rows.append({"what": case, **{k: v / 2**20 for k, v in found.items()}})
    memory.notes.append(
        f"Over what the process held with features, parameters and graph; two layers, {FEW} triples in a step. A table "
        "has a row for every node."
    )
    return [steps, draws, shares, memory]


def measure(
    suite: Suite, graph: str, problem: Problem, backbone: type, strategy: type[Objective], batch_size: int
) -> list[Row]:
    """Return a row for every way to train one objective."""
    ways = {
        _named(fan): SampledSteps(problem, problem.objective(backbone, strategy, num_layers=2), fan, batch_size)
        for fan in FAN_OUTS
    }
    clock, processor = quiet_clock(suite.device), _processor(suite)
    found = suite.compare(ways, clock)
    parts = suite.compare({name: way.place for name, way in ways.items()}, clock)
    rows: list[Row] = []
    for fan in FAN_OUTS:
        name = _named(fan)
        rows.append(
            {
                "graph": graph,
                "interactions": problem.edge_index.size(1),
                "objective": f"{backbone.__name__}, {strategy.name}",
                "num_neighbors": name,
                f"{processor}s/step of the whole graph's": found[name].minimum / found["whole"].minimum,
                f"{processor}ms/step": 1e3 * found[name].minimum,
                "of it drawing": parts[name].minimum / found[name].minimum,
                "break-even batch": None if fan is None else break_even(problem.edge_index.size(1), fan),
            }
        )
    return rows


def samplers(suite: Suite, graph: str, problem: Problem, batch_size: int) -> list[Row]:
    """Return how long samplers take for the same batches."""
    sizes = problem.num_users, problem.num_items
    edges = both_directions(problem.edge_index, *sizes)
    batch = SampledSteps(problem, problem.objective(LightGCN, num_layers=2), None, batch_size).draw()
    users, items = batch.user, torch.cat([batch.positive, batch.negative])
    ways = {}
    for name, make in {"UniformSampler": UniformSampler, "PyG with torch-sparse or pyg-lib": pyg_sampler}.items():
        try:
            ways[name] = NeighborhoodSampler(edges, *sizes, [10, 10], make)
        except InputError:
            continue
    found = suite.compare({n: lambda s=s: s(users, items) for n, s in ways.items()}, quiet_clock(suite.device))
    unit = f"{_processor(suite)}ms"
    return [{"graph": graph, "sampler": name, unit: 1e3 * timing.minimum} for name, timing in found.items()]


def shared(graph: str, problem: Problem, batch_size: int) -> list[Row]:
    """Return how many nodes the processes of a training expand in a step, and how many edges they draw."""
    rows: list[Row] = []
    for fan in FAN_OUTS[1:]:
        steps = SampledSteps(problem, problem.objective(LightGCN, num_layers=2), fan, batch_size)
        batch = steps.draw()
        for size in PROCESSES:
            found = [expanded(steps, fan or (), batch, Processes(rank, size)) for rank in range(size)]
            nodes, edges = (max(counts) for counts in zip(*found, strict=True))
            row: Row = {"graph": graph, "num_neighbors": _named(fan), "processes": size}
            rows.append(row | {"nodes expanded by one": nodes, "edges drawn by one": edges})
    return rows


def expanded(steps: SampledSteps, fan_out: Sequence[int], batch: TripletBatch, processes: Processes) -> tuple[int, int]:
    """Return how many nodes a process expands for its share of a batch, and how many edges it draws.

    Args:
        steps: Its objective and graph.
        fan_out: Neighbours that nodes keep.
        batch: The whole batch.
        processes: The processes, which need not be running.
    """
    seen: list[tuple[int, int]] = []

    class Counting(UniformSampler):
        def sample_from_nodes(self, index: NodeSamplerInput, **kw: Any) -> SamplerOutput:
            out = super().sample_from_nodes(index)
            seen.append((out.col.unique().numel(), out.edge.numel()))
            return out

    objective = steps.objective
    parts = Subgraphs(objective.student, fan_out, Counting, objective=objective, processes=processes)
    parts(steps.graph, Whole(processes).share(batch)[0])
    parts.done()
    return seen[0]


def peak(size: int, fan_out: Sequence[int] | None, validates: bool) -> dict[str, float]:
    """Return the largest memory of two steps, or of the tables of a validation, in bytes over what was held before."""
    torch.set_num_threads(1)
    problem = Problem.random(size, torch.device("cpu"), dims=WIDTH)
    steps = SampledSteps(problem, problem.objective(MMGCN, num_layers=2), fan_out, FEW)
    start = _status("VmRSS")
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:  # noqa: PTH123
        file.write("5")  # Forgets the peak so far.
    if validates:
        steps.objective.eval()
        with torch.no_grad():
            steps.objective.forward_views(steps.features, {**steps.graph}, [None])
    else:
        steps()
        steps()
    return {"peak": _status("VmHWM") - start, "table": 4 * WIDTH * steps.graph[RATES].num_nodes}


def _processor(suite: Suite) -> str:
    """Return what stands before the unit of seconds of the processor."""
    return "CPU " if suite.device.type == "cpu" else ""


def _named(fan_out: Sequence[int] | None) -> str:
    return "whole" if fan_out is None else str(list(fan_out))


def _status(name: str) -> int:
    with open("/proc/self/status", encoding="ascii") as file:  # noqa: PTH123
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(name))
