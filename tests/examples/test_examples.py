"""Every example runs from the command line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from examples.zoo import settings_of
from pyg_ckd.nn import backbones

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.mark.parametrize(
    ("name", "args", "words"),
    [
        ("wrap_your_model.py", ["--max_epochs", "1"], ["recall@20", "weight"]),
        ("train_backbone.py", ["--max_epochs", "1"], ["best epoch 1", "recall@20", "recall_drop"]),
        ("balance_backbone.py", ["--max_epochs", "1"], ["joint", "acoustic", "weight"]),
        ("single_layer.py", ["--steps", "2", "--num_nodes", "60"], ["accuracy"]),
        ("missing_modality.py", ["--max_epochs", "1"], ["is missing for", "recall@20", "weight"]),
        (
            "search.py",
            [
                "--data",
                "synthetic",
                "--max_epochs",
                "1",
                "--out",
                "{tmp}/search",
                "--l2",
                ".01",
                "--l2_factor",
                "1",
                "--distillation_weight",
                ".1",
            ],
            ["teacher visual", "chosen: "],
        ),
        (
            "training_options.py",
            ["--max-epochs", "2", "--only", "averaging 0.99", "schedule cosine", "--out", "{tmp}/options"],
            ["| option | VBPR, synthetic |", "| none | 0.", "* |", "| averaging 0.99 |", "| schedule cosine |", "of 1"],
        ),
        (
            "parts.py",
            ["--users", "200", "--share", "0.5", "--modalities", "visual", "--max-epochs", "1"],
            ["| ease |", "| ease-content |", "| FISM |"],
        ),
        (
            "parts.py",
            ["--users", "200", "--no-content", "--max-epochs", "1", "--model", "embedding_dim=8"],
            ["| ease |", "| FISM |"],
        ),
        (
            "planted_curves.py",
            ["--draws", "1", "--every", "200"],
            ["| curve | every 200 steps |", "| rise | 0 %, 0 % |", "| long dip, slow climb | 0 %, 0 % |"],
        ),
        ("blend.py", ["--max-epochs", "1"], ["| synthetic | FISM |", "| synthetic | FISM and ease-content | 0."]),
        ("baselines.py", ["--baselines", "popularity", "ease"], ["| synthetic | popularity |", "| synthetic | ease |"]),
        (
            "ablation.py",
            [
                "--max_epochs",
                "1",
                "--data_options",
                '{{"num_users": 60, "num_items": 40, "num_interactions": 900}}',
                "--out",
                "{tmp}/ablation",
            ],
            ["| plain |", "| **ckd** |", "| specific = False |", "| reweight = False |", "| target = best |"],
        ),
        (
            "unseen_combinations.py",
            ["--max-epochs", "1", "--seeds", "1", "--impute", "mean", "--out", "{tmp}/unseen"],
            ["| visual | yes |", "| visual, textual, acoustic | no |", "unseen-mean over plain-mean"],
        ),
    ],
)
def test_an_example_runs(name: str, args: list[str], words: list[str], tmp_path: Path) -> None:
    environment = {**os.environ, "HOME": str(tmp_path), "PYG_HOME": str(tmp_path)}
    environment.pop("PYTHONPATH", None)  # Nothing but the documented command finds an example's neighbours.
    alone = "from examples" not in (EXAMPLES / name).read_text(encoding="utf-8")
    script = [str(EXAMPLES / name)] if alone else ["-m", f"examples.{Path(name).stem}"]
    command = [sys.executable, *script, *(arg.format(tmp=tmp_path) for arg in args)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=EXAMPLES.parent)
    assert done.returncode == 0, done.stderr
    for word in words:
        assert word in done.stdout


def test_the_zoo_prints_a_line_per_backbone_and_goes_on(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.zoo", "--max_epochs", "1", "--backbones", "VBPR", "FREEDOM"]
    command += ["--out", str(tmp_path / "zoo")]
    first, second = (
        subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES.parent) for _ in range(2)
    )
    assert first.returncode == 0, first.stderr
    assert "| VBPR | late | 1 | 0.1 |" in first.stdout
    assert "| FREEDOM | early | 1 | 0.0001 |" in first.stdout
    assert len({line.count("|") for line in first.stdout.splitlines() if line.startswith("|")}) == 1
    assert "ease-content 0." in first.stdout
    assert first.stdout.count("| plain 1 of 1, ckd 1 of 1 |") == 2  # A few epochs are too few for both.
    assert first.stderr.count("settings: recommended") == 2
    assert first.stderr.count("seed 0: lightgcn") == 1  # Shared by both studies.
    assert second.stdout == first.stdout
    assert "seed 0: plain" not in second.stderr
    assert (tmp_path / "zoo" / "zoo.md").read_text(encoding="utf-8").strip() == first.stdout.strip()


def test_the_zoo_leaves_out_what_takes_long(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "examples.zoo", "--max_epochs", "1", "--backbones", "VBPR", "FREEDOM"]
    command += ["--under", "0", "--out", str(tmp_path / "zoo")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=EXAMPLES.parent)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line]
    assert lines[0] == "## synthetic: test recall@20"
    assert re.fullmatch(r"Left out, .* take 0 minutes of .*: VBPR \d+\.\d, FREEDOM \d+\.\d\.", lines[1]), lines
    assert len(lines) == 2
    assert (tmp_path / "zoo" / "zoo.md").read_text(encoding="utf-8").strip() == done.stdout.strip()


def test_every_file_of_the_zoos_settings_is_used_and_complete() -> None:
    found = {name: cls for name, cls in backbones().items() if cls.uses_features}
    files = {path.stem: path for path in (EXAMPLES / "configs" / "zoo").iterdir()}
    assert files.keys() == {f"{data}_{name}" for data in ("tiktok", "lastfm") for name in found}
    for stem, path in files.items():
        data, name = stem.split("_")
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        assert (content["data"], content["backbone"]) == (f"{data}.npz", name)
        settings = settings_of(found[name], path, None)
        assert {"lr", "batch_size", "max_epochs", "patience"} <= settings.trainer.keys()
        found[name](3, 3, {"visual": 2}, **settings.model)
        assert settings_of(found[name], path, 7).trainer["max_epochs"] == 7
