"""``pyg-ckd export``: what it writes, and its one line and exit code 2 for every bad input."""

from __future__ import annotations

import torch
from torch.testing import assert_close

from pyg_ckd.cli import main
from pyg_ckd.data.inputs import RATES, embed, unpack
from pyg_ckd.datasets import load
from pyg_ckd.nn import VBPR
from pyg_ckd.training.model import save_model
from tests.cli.problem import fails


def test_a_checkpoint_becomes_a_program(arrays, save, tmp_path, capsys) -> None:
    source, out = save(arrays), tmp_path / "model.pt2"
    data = load(source)
    model = VBPR.from_data(data, embedding_dim=4)
    save_model(tmp_path / "model.pt", model, data)
    command = ["export", str(tmp_path / "model.pt"), "--data", source, "--out"]
    assert main([*command, str(out)]) == 0
    assert capsys.readouterr().out == f"program: {out}\n"
    features, graph = unpack(data)
    got = torch.export.load(out).module()(features, graph[RATES])
    assert_close(got, tuple(embed(model, data)[0]), atol=1e-5, rtol=0)
    assert main([*command, str(tmp_path / "CAPITAL.PT2")]) == 0
    assert torch.export.load(tmp_path / "CAPITAL.PT2").module()(features, graph[RATES])[0].shape == got[0].shape
    line = fails(capsys, [*command, str(tmp_path / "model.onx")])
    assert "unknown format '.onx': did you mean '.onnx'" in line
    assert "valid names are .onnx, .pt, .pt2, .safetensors" in line
    assert "unknown format '.bin'" in fails(capsys, [*command, str(tmp_path / "model.bin")])
    (tmp_path / "folder.onnx").mkdir()
    assert "is a folder" in fails(capsys, [*command, str(tmp_path / "folder.onnx")])
