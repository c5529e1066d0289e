"""``pyg-ckd data``: arguments of describe, convert and amazon."""

from __future__ import annotations

import pytest
import yaml

from pyg_ckd.cli import main
from pyg_ckd.cli.amazon import add_options
from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.options import Options
from tests.cli.problem import fails

BAD = {
    "nothing to describe": (["describe"], ["data describe: these arguments are required: source"]),
    "too many": (["convert", "a", "b", "c", "--format", "npz"], ["found 'c', which belongs to no option"]),
    "no target": (["convert", "a"], ["required: target, --format"]),
    "mistyped": (["describe", "a", "--smple", "3"], ["unknown option --smple: did you mean --sample?"]),
    "short": (["describe", "a", "--sam", "3"], ["unknown option --sam"]),
    "type": (["describe", "synthetic", "--k", "x"], ["--k: found 'x', expected an integer"]),
    "blanks": (["amazon", "baby", "--out", "x", "--ratios", "0.8 0.1 0.1"], ["--ratios: found '0.8 0.1 0.1'"]),
    "format": (["amazon", "baby", "--out", "x", "--format", "npy"], ["unknown format 'npy'", "'npz'"]),
    "seed": (["amazon", "baby", "--out", "x", "--seed", "-1"], ["--seed: found -1"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_gives_one_line_and_no_file(case: str, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    args, words = BAD[case]
    line = fails(capsys, ["data", *args])
    for word in words:
        assert word in line
    assert not list(tmp_path.iterdir())


def test_arguments_may_stand_before_or_after_options_or_in_a_file(arrays, save, capsys, tmp_path) -> None:
    data = save(arrays)
    assert main(["data", "convert", data, "--format", "mmrec", str(tmp_path / "a")]) == 0
    assert main(["data", "convert", "--format", "mmrec", data, str(tmp_path / "b")]) == 0
    (tmp_path / "c.yaml").write_text(yaml.safe_dump({"source": data, "target": str(tmp_path / "c"), "format": "mmrec"}))
    assert main(["data", "convert", "--config", str(tmp_path / "c.yaml")]) == 0
    names = [{path.name.replace(f"{name}.", "x.") for path in (tmp_path / name).iterdir()} for name in "abc"]
    assert "x.inter" in names[0]
    assert names[0] == names[1] == names[2]


@pytest.mark.parametrize(
    ("text", "fields"), [("title,brand", ["title", "brand"]), ("[]", []), ("", []), ("title", ["title"])]
)
def test_lists_and_paths_of_the_reviews(text: str, fields: list[str], tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    args = ["baby", "--out", "~/x.npz", "--vectors", "{audio: ~/a.npy}", "--vectors.video", "~/v.npy"]
    options, given = Options("data amazon", "download"), Given([*args, "--text", text, "--ratios", "0.7,0.2,0.1"])
    add_options(options, given)
    config = options.parse(given)
    assert (config.category, config.text, config.ratios) == ("baby", fields, [0.7, 0.2, 0.1])
    assert config.vectors == {"audio": "/home/somebody/a.npy", "video": "/home/somebody/v.npy"}
    assert config.out == "/home/somebody/x.npz"
