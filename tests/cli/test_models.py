"""``pyg-ckd models`` and ``pyg-ckd doctor``."""

from __future__ import annotations

import inspect

import torch

from pyg_ckd import nn
from pyg_ckd.cli import main
from tests.cli.problem import fails

BASES = {"AdaptedBackbone", "Backbone", "EarlyFusion", "LateFusion"}
BACKBONES = [n for n in nn.__all__ if inspect.isclass(getattr(nn, n)) and issubclass(getattr(nn, n), nn.Backbone)]


def test_models_lists_every_backbone_with_one_line(capsys) -> None:
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(set(BACKBONES) - BASES)
    fusion = {line.split()[0]: line.split()[1] for line in lines}
    assert (fusion["VBPR"], fusion["LATTICE"], fusion["LightGCN"]) == ("late", "early", "none")
    assert all(len(line.split()) > 4 for line in lines)


def test_doctor_says_what_is_installed(capsys) -> None:
    assert main(["doctor"]) == 0
    assert torch.__version__ in capsys.readouterr().out


def test_they_have_no_options_of_their_own(capsys) -> None:
    for command in ("models", "doctor"):
        assert "unknown option --backbone" in fails(capsys, [command, "--backbone", "VBPR"])
        assert "found 'VBPR', which belongs to no option" in fails(capsys, [command, "VBPR"])
