"""``pyg-ckd`` itself: commands, version, exit codes, encodings of the terminal."""

from __future__ import annotations

import io
import json
import os
import resource
import shlex
import subprocess
import sys

import pytest

import pyg_ckd
from pyg_ckd.cli import DESCRIPTIONS, main
from pyg_ckd.cli.output import replace_what_the_encoding_lacks, say
from tests.cli.problem import fails


def test_a_wrong_command_gives_the_closest_one(capsys) -> None:
    assert "'compare'" in fails(capsys, ["compre", "--data", "x"])


@pytest.mark.parametrize("command", ["convert", "describe", "amazon"])
def test_a_command_of_data_without_the_word_data_gives_the_whole_command(command: str, capsys) -> None:
    line = fails(capsys, [command, "a", "b"])
    assert f"unknown command {command!r}: did you mean pyg-ckd data {command}?" in line


def test_options_before_the_command_are_refused_with_the_right_order(capsys, tmp_path) -> None:
    config = tmp_path / "x.yaml"
    config.write_text("backbone: VBPR\n")
    line = fails(capsys, ["--config", str(config), "train", "--data", "x"])
    assert "found option --config in its place" in line
    assert "pyg-ckd train --config ..." in line
    assert "expected one of compare, train" in fails(capsys, ["--config", str(config)])


def test_the_process_exits_with_code_2_and_without_a_traceback(tmp_path) -> None:
    command = [sys.executable, "-m", "pyg_ckd.cli", "train", "--data", str(tmp_path / "x.npz"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("command", "words"), [("train", "goes on from the last checkpoint"), ("models", "nothing is half-written")]
)
def test_an_interruption_gives_one_line_that_says_what_the_same_command_does(command, words, capsys, monkeypatch):
    def interrupt(args: list[str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("pyg_ckd.cli.app._run", interrupt)
    assert main([command]) == 130
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert words in lines[0]


HEAVY = {"torch", "torch_geometric", "numpy", "pandas", "rich", "jsonargparse", "yaml", "sklearn", "matplotlib"}


@pytest.mark.parametrize("args", [["--version"], ["--help"], ["-h"], [], ["data", "--help"], ["compre"]])
def test_nothing_heavy_is_imported_for_version_help_and_a_wrong_command(args: list[str]) -> None:
    code = (
        "import json, sys\nfrom pyg_ckd.cli import main\ntry:\n    main(json.loads(sys.argv[1]))\n"
        "except SystemExit as stop:\n    assert not stop.code\nprint(json.dumps(sorted(sys.modules)))"
    )
    command = [sys.executable, "-c", code, json.dumps(args)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = {name.partition(".")[0] for name in json.loads(done.stdout.splitlines()[-1])}
    assert "pyg_ckd" in found
    assert not found & HEAVY


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_version_and_help_take_less_than_half_a_second_of_a_processor(option: str) -> None:
    used = []
    for _ in range(3):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "pyg_ckd", option], capture_output=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(used) < 0.5


def test_version_and_help_exit_with_zero(capsys) -> None:
    for args in (["--version"], ["--help"], ["-h"], ["data", "--help"], ["doctor", "--help"]):
        with pytest.raises(SystemExit) as stop:
            main(args)
        assert stop.value.code == 0
        assert capsys.readouterr().out.strip()
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"pyg-ckd {pyg_ckd.__version__}\n"
    assert main([]) == 0
    out = capsys.readouterr().out
    assert all(f"  {name} " in out for name in DESCRIPTIONS)


def test_a_mistyped_global_option_gives_the_closest(capsys) -> None:
    assert "did you mean '--version'?" in fails(capsys, ["--versio"])
    assert "did you mean '--help'?" in fails(capsys, ["--hlep"])


def test_commands_of_data_are_named(capsys) -> None:
    assert "expected amazon, describe or convert" in fails(capsys, ["data"])
    assert "unknown command of data 'convret': did you mean 'convert'" in fails(capsys, ["data", "convret"])


@pytest.mark.parametrize("module", ["pyg_ckd", "pyg_ckd.cli"])
def test_the_package_can_be_run(module: str) -> None:
    done = subprocess.run([sys.executable, "-m", module, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"pyg-ckd {pyg_ckd.__version__}\n"


def stream(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


def written(found: io.TextIOWrapper) -> str:
    assert isinstance(found.buffer, io.BytesIO)
    return found.buffer.getvalue().decode(found.encoding)


def test_characters_that_an_encoding_lacks_become_similar_ones(monkeypatch) -> None:
    text = "0.1 ± 0.2, −3, 4–5, α, 日, \udcff"
    expected = {
        "ascii": "0.1 +- 0.2, -3, 4-5, ?, ?, ?\n",
        "cp1252": "0.1 ± 0.2, -3, 4–5, ?, ?, ?\n",
        "utf-8": "0.1 ± 0.2, −3, 4–5, α, 日, ?\n",
    }
    for encoding, line in expected.items():
        monkeypatch.setattr(sys, "stdout", stream(encoding))
        replace_what_the_encoding_lacks()
        say(text)
        assert written(sys.stdout) == line  # type: ignore[arg-type]


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_tables_and_error_lines_fit_every_encoding(encoding: str, arrays, save, monkeypatch, tmp_path) -> None:
    data = save(arrays)
    for args, code, words in (
        (["data", "describe", data], 0, ["acoustic"]),
        (["compare", "--data", data, "--backbone", "日本"], 2, ["unknown backbone '??'"]),
        (["train", "--data", "日本.npz", "--out", "x"], 2, ["??.npz: does not exist"]),
    ):
        out, err = stream(encoding), stream(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        assert main(args) == code
        for word in words:
            assert word in written(err if code else out)


@pytest.mark.parametrize(
    ("words", "closed", "code"), [("models", ">&-", 0), ("nope", "2>&-", 2), ("nope", ">&- 2>&-", 2)]
)
def test_closed_streams_take_what_is_written_to_them(words: str, closed: str, code: int) -> None:
    command = f"{shlex.quote(sys.executable)} -m pyg_ckd {words} {closed}"
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["train", "compare", "tune"])
def test_an_empty_name_is_no_backbone(command: str, arrays, save, tmp_path, capsys) -> None:
    assert main([command, "--data", save(arrays), "--out", str(tmp_path / "out"), "--backbone", ""]) == 2
    assert "unknown backbone ''" in capsys.readouterr().err


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    command = [sys.executable, "-m", "pyg_ckd", "--help"]
    done = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, check=False)
    os.close(write)
    assert done.returncode == 141
    assert done.stderr == ""


def test_a_file_that_may_not_be_read_is_named(arrays, save, capsys, tmp_path, monkeypatch) -> None:
    def refuse(*args: object, **more: object) -> None:
        raise PermissionError(13, "Permission denied", "secret.npz")

    monkeypatch.setattr("pyg_ckd.datasets.load", refuse)
    line = fails(capsys, ["train", "--data", save(arrays), "--out", str(tmp_path / "out")])
    assert "secret.npz: cannot be used (Permission denied)" in line
    assert not (tmp_path / "out").exists()


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no device that is full")  # noqa: PTH110
@pytest.mark.parametrize(
    "words",
    [["models"], ["--help"], ["train", "--help"], ["train", "--data", "x", "--out", "y", "--print_config"]],
    ids=["models", "overview", "help", "print_config"],
)
def test_a_full_standard_output_is_named(words) -> None:
    with open("/dev/full", "w") as full:  # noqa: PTH123
        command = [sys.executable, "-m", "pyg_ckd.cli", *words]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "pyg-ckd: error: standard output: cannot be used (No space left on device)\n"
