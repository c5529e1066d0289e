"""A simulation on paper: from sizes, ranks and bandwidths to memory, bytes on the wire and time per step.

``"ddp"``, ``"users"``, ``"columns"`` and ``"sampled"`` are the ways in which the trainer shares a training out. Of
``"sampled"`` every rank has the whole graph and whole tables, and samples the neighbourhood of its share of a batch.
Not built are ``"users x columns"``, and ``"sampled, cut"``, where ranks have some rows each and fetch those of others.
Nothing is measured here: ``benchmarks/scale.py`` measures the rates of a machine and compares what comes out with real
steps.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

FLOAT = 4
"""Bytes of a number, of a column index and of a weight of the graph."""
NARROW = 4
"""Features up to so many times the width of the embeddings are propagated once per run, as early fusion does."""
SAMPLER, OWN_SAMPLER = 32, 16
"""Bytes of an interaction in the sampler: two ids, a key among the user's, and its place in the order of the epoch.
Every rank has all interactions there, whatever the cut; with ``shuffle="own"`` those of its users alone, whose ids
have 32 bits and whose order comes in blocks."""
BACKBONES = ("LightGCN", "EarlyFusionLightGCN", "VBPR", "MMGCN")
STRATEGIES = ("one", "ddp", "users", "users own", "columns", "users x columns", "sampled", "sampled, cut")
"""Ways to train; ``"users own"`` is ``"users"`` with ``shuffle="own"``. ``"users x columns"`` and ``"sampled, cut"``
cannot be run today."""
INDEX = 8
"""Bytes of the number of a row that is sent."""
DRAWN = 24
"""Bytes of a node in the sampler of neighbours, which has the source of every edge beside the graph."""
SHARED_GEMMS, ALL_GEMMS = 4, 18
"""Operations per row and pair of columns of a map whose input needs no gradient, and of the three maps of a layer of
MMGCN, forward and backward."""
PASSES = {"cat": 3, "split": 3, "Adam": 7, "clear": 2, "product": 3, "view": 4, "penalty": 5, "layer": 42}
"""How often a table is moved between memory and processor. What is written without having been read is moved twice,
because its lines are fetched first. In turn: tables side by side, and their gradient apart again; an update of Adam,
which reads a parameter, its gradient and two moments and writes all but the gradient; clearing a gradient; adding to a
product; a view of early fusion; the gradients of LightGCN's penalty; a layer of MMGCN with its backward pass, apart
from products."""


@dataclass(frozen=True)
class Sizes:
    """What is trained.

    Attributes:
        users: Number of users ``U``.
        items: Number of items ``I``.
        interactions: Number of training interactions ``E``.
        backbone: One of :data:`BACKBONES`.
        modalities: Number of modalities ``M``.
        features: Columns of every modality.
        dim: Width ``D`` of the embeddings.
        layers: Number of layers ``L``.
        batch: Training triples ``B`` of a step, of all ranks together.
        random: Random triples ``R`` of a step with distillation; zero is plain training.
        feature_bytes: Bytes of a feature: 4, or 2 in half precision.
        late: Whether the last layer runs for the rows of the batch alone, as it does on the CPU.
    """

    users: int
    items: int
    interactions: int
    backbone: str = "EarlyFusionLightGCN"
    modalities: int = 3
    features: int = 768
    dim: int = 64
    layers: int = 2
    batch: int = 2048
    random: int = 0
    feature_bytes: int = 4
    late: bool = True

    def __post_init__(self) -> None:
        if self.backbone not in BACKBONES:
            raise ValueError(f"backbone: found {self.backbone!r}, expected one of {', '.join(BACKBONES)}")

    @property
    def distilled(self) -> bool:
        """Whether there are teachers."""
        return self.random > 0

    @property
    def views(self) -> int:
        """Number of views of a step: full, uni-modal and leave-one-out, which are the same of two modalities."""
        if not self.distilled:
            return 1
        return self.modalities + 1 if self.modalities == 2 else 2 * self.modalities + 1

    def is_wide(self, columns: int = 1) -> bool:
        """Return whether early fusion propagates features in every step.

        Args:
            columns: Into how many parts columns are cut.
        """
        return columns * self.features > NARROW * self.dim

    def streams(self, columns: int = 1) -> int:
        """Return the number of tables that early fusion propagates side by side.

        Args:
            columns: Into how many parts columns are cut.
        """
        wide = self.backbone == "EarlyFusionLightGCN" and self.distilled and self.is_wide(columns)
        return 1 + self.modalities * wide

    @property
    def branches(self) -> tuple[int, int]:
        """Number of branches of MMGCN: factual ones and intervened ones."""
        return self.modalities, self.modalities * self.distilled

    @property
    def user_columns(self) -> int:
        """Columns of all tables with a row for every user."""
        return self.dim * (1 + self.modalities * (self.backbone in ("VBPR", "MMGCN")))

    @property
    def item_columns(self) -> int:
        """Columns of all tables with a row for every item, a bias among them."""
        return self.dim + (self.backbone == "VBPR")

    @property
    def shared(self) -> int:
        """Number of parameters that belong to neither users nor items."""
        if self.backbone == "LightGCN":
            return 0
        maps = self.modalities * self.dim * (self.features + 1)
        layers = self.modalities * self.layers * self.dim * (3 * self.dim + 2)
        return maps + layers * (self.backbone == "MMGCN")

    @property
    def parameters(self) -> int:
        """Number of all parameters."""
        return self.users * self.user_columns + self.items * self.item_columns + self.shared


@dataclass(frozen=True)
class Layout:
    """How a training is shared out.

    Attributes:
        strategy: One of :data:`STRATEGIES`.
        users: Into how many parts users are cut.
        columns: Into how many parts columns are cut.
        ranks: Number of processes.
        fanout: Neighbours of a node that are sampled, layer by layer.
        cut_features: Whether a rank has the features of a part of the items alone, where users are cut.
    """

    strategy: str = "one"
    users: int = 1
    columns: int = 1
    ranks: int = 1
    fanout: tuple[int, ...] = ()
    cut_features: bool = False

    @property
    def feature_parts(self) -> int:
        """Into how many parts the features are cut by items."""
        return self.users if self.cut_features else 1

    @property
    def built(self) -> bool:
        """Whether the trainer can do so."""
        return self.strategy not in ("users x columns", "sampled, cut")

    @classmethod
    def of(
        cls,
        strategy: str,
        ranks: int = 1,
        columns: int = 1,
        fanout: Iterable[int] = (10, 10),
        cut_features: bool = False,
    ) -> Layout:
        """Return the layout of a strategy.

        Args:
            strategy: One of :data:`STRATEGIES`.
            ranks: Number of processes.
            columns: Of ``"users x columns"``, into how many parts columns are cut.
            fanout: Of sampled neighbourhoods, neighbours of a node, layer by layer.
            cut_features: Where users are cut, whether features are cut by items; others pass over it.
        """
        if strategy not in STRATEGIES:
            raise ValueError(f"strategy: found {strategy!r}, expected one of {', '.join(STRATEGIES)}")
        if strategy == "one" and ranks != 1:
            raise ValueError(f"ranks: found {ranks} beside strategy 'one', expected 1")
        if strategy == "users x columns" and ranks % columns:
            raise ValueError(f"columns: found {columns}, expected a divisor of {ranks} ranks")
        parts = {
            "users": (ranks, 1),
            "users own": (ranks, 1),
            "columns": (1, ranks),
            "users x columns": (ranks // columns, columns),
        }
        users, columns = parts.get(strategy, (1, 1))
        kept = tuple(fanout) if strategy.startswith("sampled") else ()
        return cls(strategy, users, columns, ranks, kept, cut_features and users > 1)


@dataclass(frozen=True)
class Machine:
    """Rates of a rank.

    Attributes:
        gather: Bytes per second that a sparse product reads.
        stream: Bytes per second that passes over tables read and write.
        matmul: Operations per second of a product of a table with a small matrix.
        rows: Rows of 64 columns per second whose margins are computed, forward and backward.
        sampling: Sampled nodes per second.
        inside: Bytes per second that a rank sends to others of its node.
        between: Bytes per second that a rank sends to other nodes.
        per_node: Ranks of a node.
        overhead: Seconds of a step whatever its size.
        copies: Bytes per second that the processor of a rank sends to others, where it does that itself, as with gloo.
    """

    gather: float
    stream: float
    matmul: float
    rows: float
    sampling: float
    inside: float
    between: float
    per_node: int
    overhead: float = 0.0
    copies: float = math.inf

    def wire(self, ranks: int) -> float:
        """Return the bytes per second between so many ranks, neighbours first.

        Args:
            ranks: Number of ranks that take part.
        """
        return self.inside if ranks <= self.per_node else self.between


GPU = Machine(2e12, 4e12, 1e14, 2e12 / (8 * 64 * FLOAT), 1e9, 450e9, 50e9, 8)
"""A GPU with 4 TB/s of memory, half of it for gathers, NVLink and InfiniBand; from data sheets, not measured."""
LARGE = Sizes(10**8, 10**7, 10**10, random=65_536, batch=65_536, late=False)
"""Ten billion interactions; on GPUs all views are tables."""


class Wire(NamedTuple):
    """What a rank sends in a step.

    Attributes:
        reduced: Bytes of the tensors that are summed over ranks.
        fetched: Bytes of rows that are fetched from other ranks or sent back.
        calls: Number of calls.
        members: Number of ranks in a call.
    """

    reduced: float = 0.0
    fetched: float = 0.0
    calls: int = 0
    members: int = 1

    def seconds(self, machine: Machine) -> float:
        """Return how long it takes: a sum sends every byte twice, but for the rank's own part."""
        if self.members == 1:
            return 0.0
        remote = (self.members - 1) / self.members
        if self.fetched:
            near = min(machine.per_node, self.members) / self.members
            there = (near - 1 / self.members) / machine.inside + (1 - near) / machine.between
            return self.fetched * there + 2 * self.reduced * remote / machine.wire(self.members)
        return 2 * self.reduced * remote / machine.wire(self.members)

    def busy(self, machine: Machine) -> float:
        """Return how long the processor of a rank is at work for it."""
        return (self.fetched + 2 * self.reduced) * (1 - 1 / self.members) / machine.copies


@dataclass(frozen=True)
class Forecast:
    """What the model says about a rank.

    Attributes:
        memory: Bytes by what they hold.
        wires: What is sent in a step, by what for.
        seconds: Seconds of a step by what they are spent on.
        steps: Steps of an epoch.
    """

    memory: Mapping[str, float]
    wires: Mapping[str, Wire] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    steps: float = 0.0

    @property
    def bytes(self) -> float:
        """Memory of a rank."""
        return sum(self.memory.values())

    @property
    def sent(self) -> float:
        """Bytes of all tensors that a step sums or fetches."""
        return sum(wire.reduced + wire.fetched for wire in self.wires.values())

    @property
    def step(self) -> float:
        """Seconds of a step."""
        return sum(self.seconds.values())


def forecast(sizes: Sizes, layout: Layout, machine: Machine = GPU) -> Forecast:
    """Return memory, bytes on the wire and time per step of a rank.

    Args:
        sizes: What is trained.
        layout: How it is shared out.
        machine: The rates.
    """
    if layout.fanout:
        return _sampled(sizes, layout, machine)
    wires = {"sums over users": _over_users(sizes, layout), "margins": _over_columns(sizes, layout)}
    if layout.strategy == "ddp":
        wires = {"gradients": Wire(FLOAT * sizes.parameters, 0, 1, layout.ranks)}  # Large ones have calls of their own.
    elif layout.users > 1:
        shared = FLOAT * (sizes.items * sizes.item_columns * (sizes.backbone == "VBPR") + sizes.shared / layout.columns)
        wires["shared gradients"] = Wire(shared, 0, 1, layout.users)
        wires["projections"] = _of_features(sizes, layout)
    wires = {name: wire for name, wire in wires.items() if wire.members > 1 and wire.reduced}
    seconds = _seconds(sizes, layout, machine) | {name: wire.seconds(machine) for name, wire in wires.items()}
    return Forecast(_memory(sizes, layout), wires, seconds, sizes.interactions / sizes.batch)


def read_share(size: int, drawn: int, uniform: int) -> tuple[float, float]:
    """Return which share of rows a batch reads, and which share of all interactions these rows have.

    Degrees are taken as exponentially distributed: popular rows are drawn more often, and have more interactions.

    Args:
        size: Number of rows.
        drawn: How many interactions are drawn.
        uniform: How many rows are drawn beside them, all with the same probability.
    """
    if not size:
        return 0.0, 0.0
    missed, elsewhere = 1 / (1 + drawn / size), math.exp(-uniform / size)
    return 1 - missed * elsewhere, 1 - missed**2 * elsewhere


def rows_of_batch(sizes: Sizes, layout: Layout) -> tuple[float, float]:
    """Return how many rows a rank's batch reads, and which share of the rank's entries of the graph these rows have.

    Args:
        sizes: What is trained.
        layout: How it is shared out.
    """
    parts = layout.users if layout.users > 1 else layout.ranks if layout.strategy == "ddp" else 1
    batch, more = sizes.batch / parts, sizes.random / parts
    users, of_users = read_share(math.ceil(sizes.users / layout.users), batch, more)
    items, of_items = read_share(sizes.items, batch, batch + 2 * more)
    return users * sizes.users / layout.users + items * sizes.items, (of_users + of_items) / 2


def _is_late(sizes: Sizes, layout: Layout) -> bool:
    """Return whether the last layer runs for the rows of the batch: whole rows of the graph, few of them."""
    rows, _ = rows_of_batch(sizes, layout)
    return sizes.late and layout.users == 1 and sizes.backbone != "VBPR" and rows <= 0.75 * (sizes.users + sizes.items)


def _table(sizes: Sizes, layout: Layout) -> float:
    """Return the bytes of a rank's part of a table with a row for every node."""
    return FLOAT * (sizes.users / layout.users + sizes.items) * sizes.dim / layout.columns


def _memory(sizes: Sizes, layout: Layout) -> dict[str, float]:
    users, items, dim = sizes.users / layout.users, sizes.items, sizes.dim / layout.columns
    tables = (users * sizes.user_columns + items * sizes.item_columns + sizes.shared) / layout.columns
    read = items / layout.feature_parts
    directions = 2 if sizes.backbone == "MMGCN" else 1
    graph = directions * (4 * FLOAT * sizes.interactions / layout.users + FLOAT * (users + items))
    return {
        "parameters": FLOAT * tables,
        "gradients": FLOAT * tables,
        "Adam": 2 * FLOAT * tables,
        "graph": graph,
        "interactions": _drawn_from(sizes, layout),
        "teachers": FLOAT * sizes.modalities * sizes.distilled * (users + items) * dim,
        "features": _reads(sizes) * sizes.feature_bytes * read * sizes.modalities * sizes.features,
        "kept": _kept(sizes, layout),
        "activations": _activations(sizes, layout),
    }


def _drawn_from(sizes: Sizes, layout: Layout) -> float:
    """Return the bytes of the interactions that a rank draws from."""
    if layout.strategy == "users own":
        return OWN_SAMPLER * sizes.interactions / layout.users
    return SAMPLER * sizes.interactions


def _reads(sizes: Sizes) -> bool:
    return sizes.backbone != "LightGCN"


def _kept(sizes: Sizes, layout: Layout) -> float:
    """Return the bytes of what is propagated once per run, as narrow features are by early fusion."""
    if sizes.backbone != "EarlyFusionLightGCN" or not sizes.distilled or sizes.is_wide(layout.columns):
        return 0.0
    users, items = sizes.users / layout.users, sizes.items
    return FLOAT * ((users + items / layout.feature_parts) * sizes.modalities * sizes.features + users + items)


def _of_features(sizes: Sizes, layout: Layout) -> Wire:
    """Return what ranks with parts of the features send: projections are gathered forward, and summed backward."""
    if not layout.cut_features or not _reads(sizes):
        return Wire()
    table = FLOAT * sizes.items * sizes.modalities * sizes.dim / layout.columns
    return Wire(table, table, 2 * sizes.modalities, layout.users)


def _activations(sizes: Sizes, layout: Layout) -> float:
    """Return the bytes that a step holds at its peak beyond gradients."""
    table, late = _table(sizes, layout), _is_late(sizes, layout)
    rows, _ = rows_of_batch(sizes, layout)
    some = FLOAT * rows * sizes.dim / layout.columns
    reads = 3 * (sizes.batch + sizes.random) / layout.users
    margins = FLOAT * reads * sizes.dim / layout.columns
    if sizes.backbone == "VBPR":
        blocks = 1 + sizes.modalities
        projected = FLOAT * sizes.items * sizes.dim / layout.columns * (2 * (sizes.batch + sizes.random) >= sizes.items)
        return 2 * blocks * margins + 2 * sizes.modalities * projected
    if sizes.backbone == "MMGCN":
        factual, intervened = sizes.branches
        layers = sizes.layers - late
        inside = 3 * layers * (factual + intervened) + 2 * factual + 1
        ends = (1 + sizes.views) * (some if late else table)
        return (inside + 4) * table + 3 * (factual + intervened) * late * some + ends
    streams = sizes.streams(layout.columns)
    penalty = table * (sizes.backbone == "LightGCN")  # Its gradient, a table for users and one for each list of items.
    if late:
        return streams * table * (1 + min(sizes.layers - 1, 2)) + 3 * sizes.views * some + penalty
    return (streams + sizes.views) * table + 2 * penalty


def _over_users(sizes: Sizes, layout: Layout) -> Wire:
    """Return the sums of items' rows: one for every product of a stream, forward and backward, and one at the end."""
    items = FLOAT * sizes.items * sizes.dim / layout.columns
    if sizes.backbone == "VBPR" or layout.users == 1:
        return Wire()
    if sizes.backbone == "MMGCN":  # The first layer of a branch that is intervened on propagates nothing.
        factual, intervened = sizes.branches
        calls = 2 * (factual * sizes.layers + intervened * (sizes.layers - 1)) + 1
        return Wire(calls * items, 0, calls, layout.users)
    calls = 2 * sizes.layers + 1
    return Wire(calls * sizes.streams(layout.columns) * items, 0, calls, layout.users)


def _over_columns(sizes: Sizes, layout: Layout) -> Wire:
    """Return the margins that meet in one sum: of all views, of random triples, of teachers, and the squared norm."""
    if layout.columns == 1:
        return Wire()
    batch, more, m = sizes.batch / layout.users, sizes.random / layout.users, sizes.modalities
    taught = m * more + m * (batch + more) if sizes.distilled else 0
    return Wire(FLOAT * (sizes.views * batch + taught + 1), 0, 1, layout.columns)


def _seconds(sizes: Sizes, layout: Layout, machine: Machine) -> dict[str, float]:
    """Return what a step computes on a rank."""
    dim, late = sizes.dim / layout.columns, _is_late(sizes, layout)
    rows, share = rows_of_batch(sizes, layout)
    nodes, table = sizes.users / layout.users + sizes.items, _table(sizes, layout)
    share, rows = (share, rows) if late else (1.0, nodes)
    users, items = sizes.users / layout.users, sizes.items
    parameters = FLOAT * (users * sizes.user_columns + items * sizes.item_columns + sizes.shared) / layout.columns
    parts = layout.users if layout.users > 1 else layout.ranks if layout.strategy == "ddp" else 1
    triples = (sizes.batch + sizes.random) / parts
    taught = 0.5 * sizes.modalities * sizes.distilled  # Without gradient.
    blocks = 1 + sizes.modalities if sizes.backbone == "VBPR" else sizes.views  # Views of VBPR share blocks.
    read = 3 * triples * (blocks + taught) * dim / 64
    product = 2 * sizes.interactions / layout.users * (FLOAT * dim + 2 * FLOAT)
    feature, own = SHARED_GEMMS * sizes.modalities * sizes.features * dim, items / layout.feature_parts
    passes, products, dense = PASSES["Adam"] * parameters, 0.0, 0.0
    if sizes.backbone == "VBPR":
        passes += PASSES["clear"] * parameters  # Gradients are tables.
        dense = 1.5 * feature * (own if layout.cut_features else min(2 * triples, items))
    elif sizes.backbone == "MMGCN":
        factual, intervened = sizes.branches
        whole = factual * (sizes.layers - 1) + intervened * (sizes.layers - 2)
        branches = factual + intervened
        products = 2 * (whole + branches * share) * product
        gemms = ALL_GEMMS * (whole * nodes + branches * rows) + 6 * intervened * nodes
        dense = gemms * dim**2 + feature * own
        passes += PASSES["layer"] * ((whole + intervened) * table + branches * table * rows / nodes)
    else:
        streams = sizes.streams(layout.columns)
        products = 2 * (sizes.layers - 1 + share) * streams * product
        passes += streams * table * sum(PASSES[name] for name in ("cat", "split"))
        passes += PASSES["product"] * streams * table * (sizes.layers - 1 + rows / nodes)
        once = sizes.distilled and not sizes.is_wide(layout.columns)
        dense = feature * (rows - items + own if once else own) * (sizes.backbone == "EarlyFusionLightGCN")
        passes += PASSES["view"] * sizes.views * table * rows / nodes
        passes += PASSES["penalty"] * table * (sizes.backbone == "LightGCN")
    return {
        "products": products / machine.gather,
        "dense": dense / machine.matmul,
        "tables": passes / machine.stream,
        "triples": read / machine.rows,
        "overhead": machine.overhead,
    }


def _sampled(sizes: Sizes, layout: Layout, machine: Machine) -> Forecast:
    """Return the forecast of sampled neighbourhoods, of which a triple has three trees.

    As built, the graph, tables, features and teachers are whole on every rank, and gradients are summed: rows of all
    ranks where these hold at most half of all nodes together, else whole tables. Tables of gradients are counted whole
    in memory. ``"sampled, cut"`` cuts all of them but the interactions into rows of ranks; rows are fetched from the
    ranks that hold them, and their gradients sent back.
    """
    cut, ranks = layout.strategy == "sampled, cut", layout.ranks
    memory = _memory(sizes, replace(layout, strategy="users", users=1))
    memory["graph"] += 2 * FLOAT * sizes.interactions + DRAWN * (sizes.users + sizes.items)
    if cut:
        memory = {name: size / (ranks if name != "interactions" else 1) for name, size in memory.items()}
    tree, level = 1, 1
    for fanout in layout.fanout:
        level *= fanout
        tree += level
    triples = (sizes.batch + sizes.random) / ranks
    rows = 3 * triples * tree
    row = FLOAT * sizes.dim
    memory["activations"] = rows * row * (2 + len(layout.fanout))
    if cut:
        wire = Wire(0, 2 * rows * row, 2, ranks)
    elif 2 * ranks * rows <= sizes.users + sizes.items:
        wire = Wire(0, ranks * rows * (row + INDEX), 2, ranks)
    else:
        wire = Wire(FLOAT * sizes.parameters, 0, 1, ranks)
    name = "fetched rows" if cut else "gradients"
    seconds = {
        "sampling": rows / machine.sampling,
        "rows": 4 * rows * row / machine.gather,
        "triples": 3 * triples * sizes.views / machine.rows,
        "overhead": machine.overhead,
        name: wire.seconds(machine),
    }
    return Forecast(memory, {name: wire} if ranks > 1 else {}, seconds, sizes.interactions / sizes.batch)


def break_even(sizes: Sizes, fanout: Iterable[int] = (10, 10)) -> float:
    """Return the batch above which a pass over the whole graph is cheaper than sampled neighbourhoods.

    Args:
        sizes: What is trained.
        fanout: Neighbours of a node, layer by layer.
    """
    tree, level = 1, 1
    for k in fanout:
        level *= k
        tree += level
    return 4 * sizes.layers * sizes.interactions / (3 * tree)


class Measured(NamedTuple):
    """What a rank really took.

    Attributes:
        memory: Bytes at the peak.
        seconds: Seconds of the processor of a step.
        sent: Bytes of all tensors that a step sums or fetches.
    """

    memory: float
    seconds: float
    sent: float = 0.0


def check(
    cases: Iterable[tuple[Sizes, Layout]], machine: Machine, measure: Callable[[Sizes, Layout], Measured]
) -> list[dict[str, Any]]:
    """Return forecasts beside measurements, and their ratios.

    Args:
        cases: What is trained, and how it is shared out.
        machine: The rates; seconds of the processor hold no waiting, but the copies that it makes of what it sends.
        measure: Measures a case.
    """
    rows: list[dict[str, Any]] = []
    for sizes, layout in cases:
        told, found = forecast(sizes, layout, machine), measure(sizes, layout)
        computed = sum(value for name, value in told.seconds.items() if name not in told.wires)
        computed += sum(wire.busy(machine) for wire in told.wires.values())
        rows.append(
            {
                "backbone": sizes.backbone,
                "interactions": sizes.interactions,
                "training": "CKD" if sizes.distilled else "plain",
                "strategy": layout.strategy,
                "ranks": layout.ranks,
                "memory (MiB)": told.bytes / 2**20,
                "measured": found.memory / 2**20,
                "ratio": told.bytes / found.memory,
                "step (ms)": 1e3 * computed,
                "measured step": 1e3 * found.seconds,
                "ratio of steps": computed / found.seconds,
                "bytes a step": told.sent,
                "measured bytes": found.sent,
            }
        )
    return rows
