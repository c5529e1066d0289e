"""What a graph knows of its features: fingerprints that hold on any processor, a record that survives every file."""

from __future__ import annotations

import copy
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch_geometric.data import Batch, HeteroData

from pyg_ckd.data import (
    NeighborImputation,
    PCAFeatures,
    StandardizeFeatures,
    build_data,
    check_data,
    fingerprint,
)
from pyg_ckd.data.prepared import changed, current
from pyg_ckd.data.transforms import FeatureTransform, prepare_rows
from pyg_ckd.datasets import MultimodalFolder, load, read_npz, write_npz
from pyg_ckd.datasets.writing import WRITERS
from pyg_ckd.errors import InputError

RNG = np.random.default_rng(0)
TRAIN = np.array([(u, i) for u in range(8) for i in range(20) if (u * 3 + i) % 5 == 0]).T
X = {"visual": RNG.gamma(2, 30, (20, 6)), "textual": RNG.normal(size=(20, 9))}
HAS = {"visual": np.arange(20) % 4 > 0}
TRANSFORMS = ["standardize", "l2", "pca", "none", PCAFeatures(3, whiten=True), StandardizeFeatures(scale=False)]
IMPUTATIONS = ["mean", "zero", "graph", "neighbors", NeighborImputation(3)]


def graph(transform="standardize", impute="mean", has=HAS, x=X) -> HeteroData:
    return build_data(TRAIN, x, has=has, transform=transform, impute=impute)


def nudged(data: HeteroData) -> HeteroData:
    """Return the graph as another processor would have made it: every derived number differs in its last bit."""
    out = copy.copy(data)
    for m in data.modalities:
        out["item"][m] = torch.nextafter(data["item"][m], torch.tensor(torch.inf))
    return out


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("impute", IMPUTATIONS, ids=repr)
def test_a_processor_that_rounds_otherwise_gives_the_same_fingerprint(transform, impute, monkeypatch):
    expected = fingerprint(graph(transform, impute))
    if transform != "none":
        for cls in (FeatureTransform, *FeatureTransform.__subclasses__()[0].__subclasses__()):
            if "apply_rows" in vars(cls):
                rounded = cls.apply_rows

                def apply(self, x, fitted, rounded=rounded):
                    return torch.nextafter(rounded(self, x, fitted), torch.tensor(torch.inf))

                monkeypatch.setattr(cls, "apply_rows", apply)
        data = graph(transform, impute)
        assert not torch.equal(data["item"].visual, graph("none", impute)["item"].visual)
    assert fingerprint(graph(transform, impute)) == expected


def test_fingerprints_tell_apart_every_setting_and_every_number_that_was_read():
    seen = {}
    for transform in TRANSFORMS:
        for impute in IMPUTATIONS:
            seen[repr((transform, impute))] = fingerprint(graph(transform, impute))
    x = {m: value.copy() for m, value in X.items()}
    x["textual"][3, 2] += 1e-3
    seen["value"] = fingerprint(graph(x=x))
    seen["mask"] = fingerprint(graph(has={"visual": np.arange(20) % 5 > 0}))
    seen["order"] = fingerprint(graph(x={m: X[m] for m in ("textual", "visual")}))
    seen["swapped"] = fingerprint(graph(x={m: value[[1, 0, *range(2, 20)]] for m, value in X.items()}))
    assert len(set(seen.values())) == len(seen)


def test_what_rows_of_items_without_the_modality_held_is_not_in_the_fingerprint():
    x = {"visual": np.where(HAS["visual"][:, None], X["visual"], np.nan), "textual": X["textual"]}
    assert fingerprint(graph(x=x)) == fingerprint(graph())


@pytest.mark.parametrize(
    "change",
    [
        lambda x: x.mul_(2),
        lambda x: x.copy_(x[torch.randperm(20, generator=torch.Generator().manual_seed(1))]),
        lambda x: x.copy_(x.flip(1)),
        lambda x: x[3].add_(1e-6),
    ],
    ids=["scaled", "shuffled", "turned", "one row"],
)
def test_features_that_are_changed_by_hand_change_the_fingerprint(change):
    data = copy.deepcopy(graph())
    change(data["item"].textual)
    assert changed(data, "textual")
    assert not changed(data, "visual")
    assert fingerprint(data) != fingerprint(graph())


def test_a_graph_without_a_record_is_known_by_its_content():
    data = graph("none", has={})
    bare = copy.copy(data)
    del bare.prepared
    assert fingerprint(bare) == fingerprint(data)
    assert fingerprint(nudged(bare)) != fingerprint(bare)


def test_a_transform_of_somebody_else_is_known_by_its_content():
    class Doubled(FeatureTransform):
        def transform_rows(self, x):
            return 2 * x

    for transform in (Doubled(), lambda data: Doubled()(data)):
        data = graph(transform)
        assert changed(data, "visual")
        assert fingerprint(data) != fingerprint(graph("none"))
        assert fingerprint(nudged(data)) != fingerprint(data)


def test_transforms_applied_to_a_graph_are_recorded_like_those_of_the_builder():
    assert fingerprint(StandardizeFeatures()(graph("none"))) == fingerprint(graph())
    one = StandardizeFeatures("visual")(graph("none"))
    assert [step["name"] for step in current(one, "visual")["steps"]] == ["StandardizeFeatures"]
    assert current(one, "textual")["steps"] == []


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
@pytest.mark.parametrize("format", sorted(WRITERS))
def test_the_record_survives_every_format(tmp_path, transform, format):
    data = graph(transform, "neighbors")
    path = tmp_path / ("d.npz" if format == "npz" else "d")
    WRITERS[format](data, path)
    again = load(path, "none", impute="neighbors")
    assert fingerprint(again) == fingerprint(data)
    for m in data.modalities:
        torch.testing.assert_close(prepare(again, m), prepare(data, m))


def prepare(data: HeteroData, modality: str) -> torch.Tensor:
    return prepare_rows(torch.from_numpy(X[modality]).float(), current(data, modality))


@pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)
def test_what_was_read_prepared_again_is_what_the_graph_holds(transform):
    data = graph(transform)
    for m, has in (("visual", HAS["visual"]), ("textual", np.ones(20, bool))):
        torch.testing.assert_close(prepare(data, m)[has], data["item"][m][has], rtol=1e-5, atol=1e-6)


def test_the_record_survives_processed_folders_checks_copies_and_devices(tmp_path):
    source = tmp_path / "d.npz"
    np.savez(source, train=TRAIN, has_visual=HAS["visual"], **X)
    expected = fingerprint(read_npz(source))
    for _ in range(2):
        data = MultimodalFolder(source, root=tmp_path / "root")[0]
        assert fingerprint(data) == expected
        assert current(data, "visual")["steps"][0]["fitted"]["mean"].dtype == torch.float64
    assert fingerprint(check_data(data)) == expected
    assert fingerprint(copy.deepcopy(data).to("cpu")) == expected


def test_a_part_of_a_graph_has_features_of_its_own():
    data = graph()
    part = data.subgraph({"item": torch.arange(5), "user": torch.arange(8)})
    assert changed(part, "visual")
    assert fingerprint(part) != fingerprint(data)


def test_components_without_variance_are_zero():
    x = {"visual": np.outer(np.arange(20.0), [1, 2, 3])}
    data = build_data(TRAIN, x, transform=PCAFeatures(3))
    assert (data["item"].visual[:, 1:] == 0).all()
    assert data["item"].visual[:, 0].std() > 1


def test_damaged_records_are_named(tmp_path):
    write_npz(graph(), tmp_path / "d.npz")
    arrays = dict(np.load(tmp_path / "d.npz"))
    for text in ("{", '{"visual": {}}', '{"visual": {"array": 99}}', "[1]"):
        np.savez(tmp_path / "e.npz", **(arrays | {"prepared": np.array(text)}))
        with pytest.raises(InputError, match=r"e.npz: 'prepared' is damaged .*write the file again") as error:
            read_npz(tmp_path / "e.npz", "none")
        assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("transform", ["pca", "standardize"])
def test_fingerprints_do_not_depend_on_the_number_of_threads(transform):
    code = (
        "import numpy as np; from pyg_ckd.data import build_data, fingerprint;"
        "x = np.maximum(np.random.default_rng(0).normal(size=(2500, 512)), 0); t = np.arange(2500);"
        f"data = build_data([t % 50, t], {{'visual': x}}, has={{'visual': t % 7 > 0}}, transform={transform!r});"
        "print(fingerprint(data))"
    )
    found = set()
    for threads in ("1", "2"):
        env = os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.pathsep.join(sys.path)}
        run = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=env, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        found.add(run.stdout)
    assert len(found) == 1


def test_graphs_that_were_prepared_differently_are_batched_without_their_records():
    has = {"visual": np.array([True, True, False])}
    graphs = [
        build_data([[0, 1], [0, 1]], {"visual": np.eye(3)}, has=has, transform="none", impute=name)
        for name in ("mean", "given", "neighbors")
    ]
    back = Batch.from_data_list(graphs, exclude_keys=["prepared"]).to_data_list()
    for data, graph in zip(back, graphs, strict=True):
        assert torch.equal(data["item"].visual, graph["item"].visual)
