"""Options of all commands: names, lists, files, paths, and one line for everything that is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pyg_ckd.cli import main
from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.options import Options
from pyg_ckd.errors import InputError
from tests.cli.problem import QUICK, fails, train


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


LISTS = {
    "one": ("5", [5]),
    "commas": ("5,10", [5, 10]),
    "blanks after commas": ("5, 10", [5, 10]),
    "brackets": ("[5, 10]", [5, 10]),
    "one in brackets": ("[5]", [5]),
}
NO_LISTS = ("5 10", "[5 10]", "(5, 10)", "5,", "5,,10", "", "[5", "5.5", "five", "true", "null", "{a: 5}")


def options(**types: object) -> Options:
    found = Options("try", "try out")
    for name, kind in types.items():
        found.add(name, kind)
    return found


def parse(found: Options, *args: str):
    return found.parse(Given(args))


@pytest.mark.parametrize("case", LISTS)
def test_a_list_is_written_with_commas_with_or_without_brackets(case: str, tmp_path: Path) -> None:
    text, expected = LISTS[case]
    file = tmp_path / "x.yaml"
    file.write_text(f"k: {text}\n")
    assert parse(options(k=list[int]), "--k", text).k == expected
    assert parse(options(k=list[int]), f"--k={text}").k == expected
    assert parse(options(k=list[int]), "--config", str(file)).k == expected
    assert parse(options(k=list[str]), "--k", text).k == list(map(str, expected))
    assert parse(options(k=list[float]), "--k", text).k == [float(value) for value in expected]


@pytest.mark.parametrize("text", NO_LISTS)
def test_what_is_no_list_gives_one_line_with_an_example(text: str, capsys, arrays, save, tmp_path) -> None:
    line = fails(capsys, [*train(save(arrays), tmp_path / "out"), "--k", text])
    assert f"--k: found {repr(text) if text else 'nothing'}, expected integers with commas between them" in line
    assert "5,10" in line
    assert not (tmp_path / "out").exists()


def test_words_with_blanks_between_them_are_no_list(capsys, arrays, save, tmp_path) -> None:
    assert "--k: found '5 10'" in fails(capsys, [*train(save(arrays), tmp_path / "out"), "--k", "5", "10"])


@pytest.mark.parametrize("text", ["5", "5,10", "[5, 10]", "[5,10]"])
@pytest.mark.parametrize("given", ["option", "file"])
def test_every_command_with_a_list_reads_it_alike(text: str, given: str, capsys, tmp_path) -> None:
    file = tmp_path / "x.yaml"
    typed = {"evaluate": ["--metrics", "recall,ndcg", "--mask", "train,val", "--view", "visual"]}
    written = {"evaluate": "metrics: recall,ndcg\nmask: [train, val]\nview: visual\n"}
    for command in ("train", "compare", "evaluate"):
        file.write_text(f"k: {text}\n{written.get(command, '')}")
        args = ["--k", text, *typed.get(command, [])] if given == "option" else ["--config", str(file)]
        with pytest.raises(SystemExit) as stop:
            main([command, "--data", "x", *args, "--print_config"])
        assert stop.value.code == 0
        found = yaml.safe_load(capsys.readouterr().out)
        assert found["k"] == ([5] if text == "5" else [5, 10])
        if command == "evaluate":
            lists = (found["metrics"], found["mask"], found["view"])
            assert lists == (["recall", "ndcg"], ["train", "val"], ["visual"])


def test_names_in_a_list_stay_texts_and_nothing_is_one() -> None:
    found = options(view=list[str] | None)
    assert parse(found, "--view", "[014, 7, null]").view == ["014", "7", "null"]
    assert parse(found, "--view", "[]").view == []
    assert parse(found, "--view", "null").view is None
    assert parse(found).view is None
    assert parse(found, "--view", '["a b",c]').view == ["a b", "c"]


MISTYPED = {
    "--trainer.max_epoch": ("3", "--trainer.max_epochs"),
    "--trainer.max-epoch": ("3", "--trainer.max_epochs"),
    "--trianer.lr": ("1", "--trainer.lr"),
    "--model.embeding_dim": ("8", "--model.embedding_dim"),
    "--distillation.weigth": ("1", "--distillation.distillation_weight"),
    "--strategy.l3": ("1", "--strategy.l2"),
    "--lr": ("1", "--trainer.lr"),
    "--sed": ("1", "--seed"),
    "--back": ("VBPR", "--backbone"),
    "--dat": ("x", "--data"),
    "--conf": ("x", "--config"),
}


@pytest.mark.parametrize("option", MISTYPED)
def test_no_option_is_shortened_and_a_mistyped_one_gives_the_closest(option, arrays, save, capsys, tmp_path) -> None:
    value, expected = MISTYPED[option]
    line = fails(capsys, [*train(save(arrays), tmp_path / "out"), option, value])
    assert f"unknown option {option}: did you mean " in line
    assert expected in line.partition("did you mean ")[2].partition("?")[0].split(" or ")
    assert "pyg-ckd train --help" in line
    assert not (tmp_path / "out").exists()


CALLED_OTHERWISE = {
    "train --split temporal": "did you mean --data_options.split?",
    "compare --min-rating 4": "did you mean --data_options.min_rating?",
    "tune --keep first": "did you mean --data_options.keep?",
    "evaluate --k_cores 5": "did you mean --data_options.k_core?",
    "data describe --transform l2": "did you mean --data_options.transform?",
    "train --temperature 1": "did you mean --model.temperature?",
    "data convert a b --seed 1": "did you mean --data_options.seed?",
    "compare --objective ckd": "did you mean --contenders?",
    "tune --objective ckd": "did you mean --contenders?",
    "train --contenders ckd": "did you mean --objective?",
    "evaluate --objective ckd": "did you mean --strategy?",
    "effects --objective ckd": "did you mean --strategy?",
    "evaluate --out m.json": "did you mean --json?",
    "effects --out m.json": "did you mean --json?",
    "show --checkpoint m.pt": "did you mean the file without an option: pyg-ckd show FILE?",
    "data convert a b --transform l2": "did you mean --features?",
    "data convert --data a": "source and target without an option: pyg-ckd data convert FROM TO",
    "data describe --data a": "the data without an option: pyg-ckd data describe DATA",
}


@pytest.mark.parametrize("words", CALLED_OTHERWISE)
def test_an_option_of_another_command_or_of_the_data_gives_what_it_is_called_here(words, capsys) -> None:
    args = words.split()
    name = next(arg for arg in args[::-1] if arg.startswith("--"))
    line = fails(capsys, args)
    assert f"unknown option {name.replace('-r', '_r')}: " in line
    assert CALLED_OTHERWISE[words] in line


def test_an_option_of_the_data_in_a_file_gives_its_name_there(capsys, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("split: temporal\n")
    line = fails(capsys, ["train", "--config", str(tmp_path / "c.yaml")])
    assert "unknown option split: did you mean data_options.split?" in line


FILES = {
    "top": ("sed: 1", ["unknown option sed", "did you mean seed?"]),
    "nested": ("trainer: {max_epoch: 1}", ["unknown option trainer.max_epoch", "did you mean trainer.max_epochs?"]),
    "dotted": ("trainer.max_epoch: 1", ["unknown option trainer.max_epoch", "did you mean trainer.max_epochs?"]),
    "group": ("trianer: {lr: 1}", ["unknown option trianer"]),
    "list in place of options": ("trainer: [1]", ["trainer: found [1], expected options"]),
    "mapping in place of a list": ("k: {a: 1}", ["k: found {'a': 1}, expected integers"]),
    "mapping in place of a number": ("seed: {a: 1}", ["seed: found {'a': 1}, expected an integer"]),
    "list in place of a text": ("backbone: VBPR\ntransform: [l2]", ["transform: found 'l2', expected a text"]),
    "nothing": ("seed:", ["seed: found nothing, expected an integer"]),
    "type": ("trainer: {patience: long}", ["trainer.patience: found 'long', expected an integer"]),
    "number as a key": ("trainer: {1: 2}", ["trainer: found the key 1"]),
    "twice": ("seed: 1\nseed: 2", ["found the key 'seed' twice, line 2"]),
    "no YAML": ("a: [1,", ["cannot be read as YAML"]),
    "tab": ("a:\n\t- b", ["cannot be read as YAML", "line 2"]),
    "list": ("- a", ["found list, expected a mapping"]),
    "text": ("just a text", ["found str, expected a mapping"]),
    "own reference": ("a: &x {b: *x}", ["cannot be read as YAML"]),
    "template": ("data: {{DATA}}", ["cannot be read as YAML (found a list or a mapping as a key", "line 1"]),
    "list as a key": ("seed: {[a]: 1}", ["found a list or a mapping as a key"]),
    "no integer": ("seed: !!int abc", ["cannot be read as YAML (a value cannot be read: invalid literal"]),
    "no truth value": ("seed: !!bool x", ["cannot be read as YAML (a value cannot be read"]),
    "no date": ("seed: !!timestamp abc", ["cannot be read as YAML (a value cannot be read"]),
    "no number": ("seed: !!float abc", ["cannot be read as YAML (a value cannot be read"]),
    "too many digits": (f"seed: {'1' * 5000}", ["cannot be read as YAML (a value cannot be read"]),
}


@pytest.mark.parametrize("case", FILES)
def test_a_bad_configuration_file_gives_one_line_that_names_file_and_key(case, arrays, save, capsys, tmp_path) -> None:
    text, words = FILES[case]
    file = tmp_path / "config.yaml"
    file.write_text(text)
    line = fails(capsys, [*train(save(arrays), tmp_path / "out"), "--config", str(file)])
    assert f"configuration {file}" in line
    for word in words:
        assert word in line
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("args", "word"),
    [
        (["--seed"], "--seed: found no value, expected an integer"),
        (["--seed", "--k", "5"], "--seed: found no value"),
        (["--seed", "1", "2"], "--seed: found 2 values ('1 2'), expected one"),
        (["--seed", "-1"], "--seed: found -1, expected an integer from 0 to 2^63 - 1"),
        (["--seed", "1.5"], "--seed: found '1.5', expected an integer"),
        (["-seed", "1"], "found -seed, expected an option with two dashes: --seed"),
        (["--"], "expected the name of an option"),
        (["--trainer", "3"], "trainer 3: found no such file"),
        (["--trainer"], "--trainer: found no value"),
        (["--trainer", "{max_epoch: 3}"], "did you mean max_epochs?"),
        (["--trainer.progress", "maybe"], "--trainer.progress: found 'maybe', expected true or false"),
        (["--data_options", "x"], "--data_options: found 'x', expected a mapping"),
        (["--config"], "--config: found"),
        (["--config", "."], "configuration .: cannot be read"),
        (["--print_config", "x"], "--print_config: found 'x'"),
        (["--out", ""], "--out: found an empty text"),
    ],
)
def test_a_value_that_is_missing_or_wrong_is_named_as_it_was_typed(args, word, arrays, save, capsys, tmp_path) -> None:
    assert word in fails(capsys, [*train(save(arrays), tmp_path / "out"), *args])
    assert not (tmp_path / "out").exists()


def test_a_word_that_belongs_to_no_option_is_named(capsys) -> None:
    assert "train: found 'stray', which belongs to no option" in fails(capsys, ["train", "stray", "--data", "x"])
    assert "expected --data VALUE" in fails(capsys, ["train", "data", "x.npz"])


def test_a_group_takes_a_mapping_or_a_file_and_dashes_count_as_underscores(tmp_path: Path) -> None:
    found = Options("try", "try out")
    found.add("trainer.max_epochs", int, 1)
    found.add("trainer.lr", float, 1.0)
    file = tmp_path / "trainer.yml"
    file.write_text("lr: 1e-3\n")
    config = parse(found, "--trainer", str(file), "--trainer.max-epochs", "3")
    assert (config.trainer.lr, config.trainer.max_epochs) == (0.001, 3)
    assert parse(found, "--trainer", "{lr: 2, max_epochs: 4}").trainer.as_dict() == {"lr": 2.0, "max_epochs": 4}


def test_the_command_line_wins_over_files_and_later_files_over_earlier_ones(tmp_path: Path) -> None:
    for name, text in (("a", "x: 1\ny: 1\nz: 1\n"), ("b", "y: 2\nz: 2\n")):
        (tmp_path / f"{name}.yaml").write_text(text)
    files = ["--config", str(tmp_path / "a.yaml"), "--config", str(tmp_path / "b.yaml")]
    for args in (["--z", "3", *files], [*files, "--z", "3"]):
        config = parse(options(x=int, y=int, z=int), *args)
        assert (config.x, config.y, config.z) == (1, 2, 3)


def test_parts_of_a_mapping_are_added_to_what_a_file_says(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("more: {a: 1, b: {c: 2}}\n")
    found = parse(options(more=dict[str, object]), "--config", str(tmp_path / "a.yaml"), "--more.b.d", "1e-3")
    assert found.more == {"a": 1, "b": {"c": 2, "d": 0.001}}


def test_the_configuration_that_is_printed_gives_the_same_run(arrays, save, capsys, tmp_path) -> None:
    args = train(save(arrays), tmp_path / "a", "--strategy.l2", "0.2")
    with pytest.raises(SystemExit):
        main([*args, "--print_config"])
    (tmp_path / "all.yaml").write_text(capsys.readouterr().out)
    assert yaml.safe_load((tmp_path / "all.yaml").read_text())["strategy"] == {"l2": 0.2}
    assert main(args) == 0
    assert main(["train", "--config", str(tmp_path / "all.yaml"), "--out", str(tmp_path / "b")]) == 0
    assert (tmp_path / "a" / "history.csv").read_text() == (tmp_path / "b" / "history.csv").read_text()
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*args, "--print_config=skip_default"])
    printed = yaml.safe_load(capsys.readouterr().out)
    assert "plain" not in printed
    assert printed["trainer"] == {"max_epochs": 2, "progress": False, "lr": 0.01, "batch_size": 64}


def test_every_command_prints_its_configuration(capsys) -> None:
    commands = ["compare", "evaluate", "effects", "recommend", "models", "strategies", "doctor"]
    for command in [*([name] for name in commands), ["data", "describe"], ["data", "convert"], ["data", "amazon"]]:
        with pytest.raises(SystemExit) as stop:
            main([*command, "--print_config"])
        assert stop.value.code == 0
        assert isinstance(yaml.safe_load(capsys.readouterr().out), dict)


def test_a_tilde_is_the_home_of_the_user_in_options_and_files(arrays, save, capsys, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    save(arrays)
    (tmp_path / "c.yaml").write_text("data: ~/data.npz\nout: ~/run\nbackbone: VBPR\nk: 5\n")
    assert main(["train", "--config", "~/c.yaml", *QUICK]) == 0
    checkpoint = ["--data", "~/data.npz", "--checkpoint", "~/run/model.pt"]
    assert main(["evaluate", *checkpoint, "--k", "5", "--json=~/metrics.json"]) == 0
    (tmp_path / "users.txt").write_text("0\n1\n")
    assert main(["recommend", *checkpoint, "--k", "5", "--users_file", "~/users.txt", "--out", "~/top.csv"]) == 0
    assert main(["data", "convert", "~/data.npz", "~/copy", "--format", "mmrec"]) == 0
    assert main(["data", "describe", "~/data.npz", "--out", "~/about.html"]) == 0
    names = {path.name for path in tmp_path.iterdir()}
    assert {"run", "metrics.json", "top.csv", "copy", "about.html"} <= names
    assert not Path("~").exists()
    nowhere = ["--config", "~no_such_user/c.yaml"]
    assert "~no_such_user/c.yaml: found no such file" in fails(capsys, ["train", *nowhere])


def test_users_are_given_with_blanks_or_commas() -> None:
    found = Options("try", "try out")
    found.add("users", list[str], many=True)
    for args in (["--users", "14", "7"], ["--users", "14,7"], ["--users=[14, 7]"]):
        assert parse(found, *args).users == ["14", "7"]


def test_numpy_prints_arrays_in_a_way_that_is_refused(arrays, save, capsys, tmp_path) -> None:
    text = str(np.array([5, 10]))
    assert f"--k: found {text!r}" in fails(capsys, [*train(save(arrays), tmp_path / "out"), "--k", text])


@pytest.mark.parametrize(("word", "flag"), [("no", False), ("yes", True), ("off", False), ("on", True)])
def test_yes_and_no_are_truth_values_where_nothing_else_can_stand(word, flag, tmp_path) -> None:
    options, config = Options("train", "test"), tmp_path / "c.yaml"
    options.add("trainer.progress", bool, not flag)
    options.add("flags", list[bool], [])
    options.add("names", list[str], [])
    options.add("any", dict[str, Any], {})
    config.write_text(f"trainer: {{progress: {word}}}\nflags: [{word}]\nnames: [{word}]\nany: {{a: {word}}}\n")
    typed = ["--trainer.progress", word, "--flags", word, "--names", word, "--any", f"{{a: {word}}}"]
    for given in (["--config", str(config)], typed):
        found = options.parse(Given(given))
        assert found["trainer.progress"] is flag
        assert (found.flags, found.names, found.any) == ([flag], [word], {"a": word})


def test_a_truth_value_among_texts_is_to_be_written_in_quotes(tmp_path) -> None:
    options, config = Options("train", "test"), tmp_path / "c.yaml"
    options.add("names", list[str], [])
    config.write_text("names: [a, false]\n")
    with pytest.raises(InputError, match=r"names: found \['a', False\], expected names.* in quotes, such as \"no\""):
        options.parse(Given(["--config", str(config)]))


def test_a_configuration_file_that_names_another_is_refused(capsys, tmp_path) -> None:
    (tmp_path / "c.yaml").write_text("config: other.yaml\n")
    line = fails(capsys, ["train", "--config", str(tmp_path / "c.yaml")])
    assert "c.yaml: found the key config, expected options" in line
    assert "--config A.yaml --config B.yaml" in line
