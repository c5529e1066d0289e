"""Trained models as programs: torch.export and ONNX of every backbone, equal to the eager pass."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close
from torch_geometric.data import HeteroData

from pyg_ckd import Objective
from pyg_ckd.data.inputs import RATES, embed, unpack
from pyg_ckd.errors import InputError
from pyg_ckd.nn import FISM, LATTICE, MMGCN, VBPR, AdaptedBackbone, Adjacency, backbones
from pyg_ckd.nn.edges import EdgeGraph
from pyg_ckd.serving import EmbeddingProgram, export_program, record
from tests.conftest import random_data
from tests.nn.models.zoo import BACKBONES, SMALL_FISM, Toy, every_backbone

ATOL = 1e-5
OPTIONS: dict[str, dict[str, Any]] = {
    "FISM": SMALL_FISM,
    "GRCN": {"latent_dim": 4, "num_layers": 1, "num_routing": 1},
    "EgoGCN": {"latent_dim": 4, "num_layers": 1, "num_routing": 1},
    "MMGCN": {"num_layers": 1, "latent_dims": 4},
    **{name: {"num_neighbors": 3} for name in ("FREEDOM", "LATTICE", "MICRO", "MGCN")},
}
QUICK = ("VBPR", "MMGCN", "LATTICE")
"""Backbones that are written as ONNX in every run of the tests; all are in the slow ones."""


def repeated(edges: Tensor) -> Tensor:
    return torch.cat([edges, edges[:, :3]], dim=1)


def shuffled(edges: Tensor) -> Tensor:
    return edges[:, torch.randperm(edges.size(1), generator=torch.Generator().manual_seed(0))]


def other_clicks(data: HeteroData) -> Tensor:
    """Interactions of another night: as many users and items, other pairs and another number of them."""
    return random_data(num_users=data["user"].num_nodes, num_items=data["item"].num_nodes, seed=5)[RATES].edge_index


@every_backbone
def test_a_recorded_program_gives_what_the_model_gives_and_counts_repetitions_once(make, make_data):
    data = make_data()
    torch.manual_seed(0)
    model = make(data)
    recorded = record(model, data).module()
    features, graph = unpack(data)
    user, item = embed(model, data)[0]
    assert_close(recorded(features, graph[RATES]), (user, item), atol=ATOL, rtol=0)
    assert_close(recorded(features, shuffled(graph[RATES])), (user, item), atol=ATOL, rtol=0)
    if not isinstance(model, AdaptedBackbone):  # Which counts as its module does.
        assert_close(recorded(features, repeated(graph[RATES])), (user, item), atol=ATOL, rtol=0)
    later = other_clicks(data)
    assert later.size(1) != graph[RATES].size(1)
    with torch.no_grad():
        expected = EmbeddingProgram(model, data)(features, later)
    assert_close(recorded(features, later), expected, atol=ATOL, rtol=0)


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.slow) for name in sorted(backbones())]
)
def test_onnx_gives_what_every_backbone_gives(name, make_data, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    data = make_data()
    torch.manual_seed(0)
    model = backbones()[name].from_data(data, **{"embedding_dim": 4} | OPTIONS.get(name, {}))
    path = export_program(model, data, tmp_path / "model.onnx")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [(i.name, i.shape) for i in session.get_inputs()] == [
        ("features/mod0", [9, 3]),
        ("features/mod1", [9, 4]),
        ("edge_index", [2, "num_interactions"]),
    ]
    about = session.get_modelmeta().custom_metadata_map
    assert (about["model"], about["num_users"], about["modalities"]) == (name, "12", "mod0,mod1")
    features, graph = unpack(data)
    given = {f"features/{m}": x.numpy() for m, x in features.items()}
    for edges in (graph[RATES], repeated(shuffled(graph[RATES])), other_clicks(data)):
        with torch.no_grad():
            expected = EmbeddingProgram(model, data)(features, edges)
        got = session.run(["user", "item"], given | {"edge_index": edges.numpy()})
        assert_close(tuple(map(torch.from_numpy, got)), expected, atol=ATOL, rtol=0)


def test_features_are_inputs_of_a_program(make_data):
    data = make_data()
    for model in (VBPR.from_data(data, embedding_dim=4), LATTICE.from_data(data, embedding_dim=4, num_neighbors=3)):
        program = EmbeddingProgram(model, data)
        features, edges = program.inputs
        changed = {m: x + 0.01 * torch.arange(9.0).unsqueeze(1) for m, x in features.items()}
        got = record(model, data).module()(changed, edges)
        assert not torch.allclose(got[1], program(features, edges)[1], atol=1e-4)
        assert_close(got[0], program(changed, edges)[0], atol=ATOL, rtol=0)


def test_a_view_of_one_modality_is_recorded(make_data):
    data = make_data()
    for model in (BACKBONES["GRCN without routing"](data), FISM.from_data(data, **SMALL_FISM)):
        got = record(model, data, "mod1").module()(*EmbeddingProgram(model, data).inputs)
        assert_close(got, tuple(embed(model, data, ["mod1"])[0]), atol=ATOL, rtol=0)


MODELS: dict[str, Callable[[HeteroData], nn.Module]] = {
    "objective": lambda data: Objective(VBPR.from_data(data, embedding_dim=4)),
    "compiled": lambda data: torch.compile(MMGCN.from_data(data, embedding_dim=4, num_layers=1)),
    "data parallel": lambda data: nn.DataParallel(VBPR.from_data(data, embedding_dim=4)),
    "double": lambda data: MMGCN.from_data(data, embedding_dim=4, num_layers=1).double(),
    "plain module": lambda data: Toy(12, {m: data["item"][m].size(1) for m in data.modalities}),
    "training": lambda data: FISM.from_data(data, **{**SMALL_FISM, "feature_dropout": 0.5, "leave_one_out": True}),
}


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS.keys())
def test_models_are_recorded_as_they_are_brought(make, make_data):
    data = make_data()
    torch.manual_seed(0)
    model = make(data).train()
    user, item = embed(model, data)[0]
    recorded = record(model, data).module()
    features, edges = EmbeddingProgram(model, data).inputs
    assert features["mod0"].dtype == user.dtype
    assert_close(recorded(features, edges), (user, item), atol=ATOL, rtol=0)
    assert model.training  # It stays as it was.
    assert any(p.requires_grad for p in model.parameters())


def test_a_program_is_opened_without_the_model(make_data, tmp_path):
    data = make_data()
    model = VBPR.from_data(data, embedding_dim=4)
    path = export_program(model, data, tmp_path / "new" / "model.pt2")
    about = {"pyg_ckd.txt": ""}
    recorded = torch.export.load(path, extra_files=about).module()
    assert "model=VBPR\nnum_users=12\nnum_items=9\nmodalities=mod0,mod1" in about["pyg_ckd.txt"]
    assert_close(recorded(*EmbeddingProgram(model, data).inputs), tuple(embed(model, data)[0]), atol=ATOL, rtol=0)
    assert [file.name for file in path.parent.iterdir()] == ["model.pt2"]


class Looks(nn.Module):
    def forward(self, x_dict: dict[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        item = x_dict["mod0"]
        return item.new_ones(12, 3) * (2 if bool(item.sum() > 0) else 1), item


def test_what_cannot_be_written_is_refused_and_leaves_nothing(make_data, tmp_path, monkeypatch, capfd):
    data = make_data()
    model = VBPR.from_data(data, embedding_dim=4)
    for path in ("model.pt", "model"):
        with pytest.raises(InputError, match=r"^out .*model.*: unknown format .* valid names are .onnx, .pt2"):
            export_program(model, data, tmp_path / path)
    with pytest.raises(InputError, match=r"^export: Looks cannot be recorded \(.+\); expected a forward pass"):
        export_program(Looks(), data, tmp_path / "model.pt2")
    with pytest.raises(InputError, match=r"^model: found Embeddings, expected a model"):
        record(embed(model, data)[0], data)
    with pytest.raises(InputError, match=r"^model: found int, expected a backbone"):
        record(3, data)
    monkeypatch.setattr("pyg_ckd.serving.program.LIMIT", 10)
    with pytest.raises(InputError, match=r"of weights, an ONNX file holds 2; write a .pt2 file"):
        export_program(model, data, tmp_path / "model.onnx")
    monkeypatch.setitem(__import__("sys").modules, "onnxscript", None)
    with pytest.raises(InputError, match=r"found no package onnxscript; install it with pip install 'pyg-ckd\[onnx\]'"):
        export_program(model, data, tmp_path / "model.onnx")
    assert list(tmp_path.iterdir()) == []
    out, err = capfd.readouterr()
    assert "def forward" not in out + err  # What PyTorch prints of a pass that it cannot record.


@pytest.mark.parametrize("normalization", ["sym", "mean", "none"])
@pytest.mark.parametrize("self_loops", [False, True], ids=["plain", "loops"])
def test_a_graph_of_edges_multiplies_as_the_sparse_one_does(normalization, self_loops, make_data):
    edges = make_data()[RATES].edge_index
    given = (12, 9, normalization, self_loops, 1e-7, torch.float64)
    sparse, listed = (kind.from_interactions(repeated(edges), *given) for kind in (Adjacency, EdgeGraph))
    x = torch.randn(21, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert_close(listed.matmul(x), sparse.matmul(x))
    assert_close(listed.mean_of_powers(x, 3), sparse.mean_of_powers(x, 3))
    assert_close(listed.sides(12), sparse.sides(12))
    assert (listed.num_nodes, listed.dtype) == (sparse.num_nodes, sparse.dtype)
    if not self_loops:
        assert_close(listed.to_users(12).matmul(x[12:]), sparse.to_users(12).matmul(x[12:]))
    once = listed.dot(x, x).isfinite()
    order = (listed.edge_index[1] * 21 + listed.edge_index[0])[once].argsort()
    assert_close(listed.edge_index[:, once][:, order], sparse.edge_index)
    assert_close(listed.dot(x, x)[once][order], sparse.dot(x, x))


def test_a_graph_of_edges_of_32_bits_is_that_of_64():
    edges, sizes = torch.tensor([[61_356, 69_999], [17_296, 3]]), (70_000, 70_000)
    wide, narrow = (EdgeGraph.from_interactions(e, *sizes) for e in (edges, edges.int()))
    assert torch.equal(narrow.edge_index, wide.edge_index)
    assert torch.equal(narrow.weight, wide.weight)


def test_every_backbone_is_covered() -> None:
    assert len(backbones()) == 13
    assert set(OPTIONS) <= set(backbones())


def test_a_path_may_begin_at_home(make_data, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    data = make_data()
    assert export_program(VBPR.from_data(data, embedding_dim=4), data, "~/a.pt2") == Path(tmp_path / "a.pt2")
