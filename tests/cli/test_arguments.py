"""Options of all commands: names, lists, files, paths, and one line for everything that is wrong."""

from __future__ import annotations

import pytest

from pyg_ckd.cli import main
from tests.cli.problem import fails


def test_a_missing_option_is_named_as_it_is_typed(capsys) -> None:
    assert fails(capsys, ["compare", "--data", "train.x"]).endswith("required: --out\n")
    assert fails(capsys, ["train"]).endswith("required: --data, --out\n")
    assert fails(capsys, ["evaluate", "--data", "x"]).endswith("required: --checkpoint\n")


@pytest.mark.parametrize("command", ["train", "compare", "evaluate", "effects"])
def test_an_empty_configuration_file_is_called_empty(command, capsys, tmp_path) -> None:
    config = tmp_path / "empty.yaml"
    for content in ("", "# nothing\n"):
        config.write_text(content)
        assert f"{config}: the file is empty" in fails(capsys, [command, "--config", str(config)])
    config.write_text("- a\n")
    assert f"{config}: found list, expected a mapping" in fails(capsys, [command, f"--config={config}"])


def test_a_configuration_file_gives_what_the_options_give(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    config = tmp_path / "config.yaml"
    config.write_text("backbone: VBPR\nmodel:\n  embedding_dim: 8\ntrainer:\n  max_epochs: 2\n  lr: 0.02\nk: [5]\n")
    assert main(["train", "--config", str(config), "--data", data, "--out", str(tmp_path / "a")]) == 0
    options = ["--backbone", "VBPR", "--model.embedding_dim", "8", "--trainer.max_epochs", "2", "--trainer.lr", "0.02"]
    assert main(["train", *options, "--k", "[5]", "--data", data, "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "history.csv").read_text() == (tmp_path / "b" / "history.csv").read_text()
    with pytest.raises(SystemExit) as stop:
        main(["train", "--config", str(config), "--data", data, "--out", "x", "--print_config"])
    assert stop.value.code == 0
    assert "embedding_dim: 8" in capsys.readouterr().out


def test_a_section_that_is_no_mapping_is_named(arrays, save, capsys, tmp_path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(f"data: {save(arrays)}\nout: {tmp_path / 'run'}\nbackbone: VBPR\ntrainer: 3\n", encoding="utf-8")
    assert "trainer: found 3" in fails(capsys, ["train", "--config", str(config)])
