"""The command ``pyg-ckd``: every option is a constructor argument of a class of the library."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_ckd import __version__
from pyg_ckd.errors import InputError, unknown_name

if TYPE_CHECKING:
    from jsonargparse import ArgumentParser, Namespace
    from torch_geometric.data import HeteroData

    from pyg_ckd.nn import Backbone

EXIT_BAD_INPUT = 2
DESCRIPTIONS = {
    "compare": "the whole study: baselines, plain student, teachers and distilled student, with a report",
    "train": "train one model, or go on with a run that was broken off",
    "evaluate": "rank all items with a trained model",
    "effects": "measure how much every modality contributes to a trained model",
    "recommend": "write the best items of every user, or of some, to a file",
    "data": "describe data sets and convert them between formats",
    "models": "list the backbones",
    "doctor": "show what this machine has",
}
GLOBAL_OPTIONS = ("-h", "--help", "--version")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 for bad input, with one line on stderr.

    Args:
        argv: Arguments; by default those of the process.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(args)
    except InputError as error:
        message = str(error)
    except (argparse.ArgumentError, argparse.ArgumentTypeError, TypeError, KeyError) as error:
        if isinstance(error, (TypeError, KeyError)) and not _from_parser(error):
            raise
        message = _name_options(str(error))
    except KeyboardInterrupt:
        sys.stderr.write(f"pyg-ckd: interrupted; {_after_break(args)}\n")
        return 130
    sys.stderr.write(f"pyg-ckd: error: {' '.join(message.split())}\n")
    return EXIT_BAD_INPUT


def _after_break(args: Sequence[str]) -> str:
    if args and args[0] in ("compare", "train"):
        return "the same command goes on from the last checkpoint"
    return "nothing is half-written, the same command starts again"


def _from_parser(error: BaseException) -> bool:
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and "jsonargparse" in trace.tb_frame.f_code.co_filename


def _name_options(message: str) -> str:
    """Return a message of the parser with options as they are typed: ``--out`` for ``compare.out``."""
    head, marker, names = message.partition("arguments are required: ")
    names = (
        ", ".join(f"--{name.removeprefix('data.').partition('.')[2] or name}" for name in names.split(", "))
        if marker
        else ""
    )
    return re.sub(r'^Parser key "([\w.]+)":', r"--\1:", head) + marker + names


def _run(args: list[str]) -> int:
    command = args[0] if args and args[0] not in GLOBAL_OPTIONS else None
    if command is not None and command.startswith("-"):
        later = next((arg for arg in args if arg in DESCRIPTIONS), None)
        raise InputError(
            f"command: found option {command} in its place, expected one of {', '.join(DESCRIPTIONS)} first and the "
            f"options after it: pyg-ckd {later or 'compare'} {command} ..."
        )
    if command is not None and command not in DESCRIPTIONS:
        raise unknown_name("command", command, DESCRIPTIONS)
    for path in _config_files(args):
        _read_yaml(path)
    parser = _parser(command, args)
    if not args:
        parser.print_help()
        return 0
    config = parser.parse_args(args)
    return _COMMANDS[config.subcommand](config[config.subcommand])


def _parser(command: str | None, args: Sequence[str]) -> ArgumentParser:
    """Build the parser; only the command that is asked for gets its options, because they import heavy libraries."""
    from jsonargparse import ArgumentParser

    parser = ArgumentParser(
        prog="pyg-ckd",
        description="Modality-balanced graph recommenders: who is starving, and what balancing buys.",
        exit_on_error=False,
    )
    parser.add_argument("--version", action="version", version=f"pyg-ckd {__version__}")
    commands = parser.add_subcommands(required=False)
    for name, text in DESCRIPTIONS.items():
        sub = ArgumentParser(description=f"{text[0].upper()}{text[1:]}.", exit_on_error=False)
        commands.add_subcommand(name, sub, help=text)
        if name == command:
            _OPTIONS[name](sub, args)  # After it has been added, because commands of its own come in level order.
    return parser


def _add_data(parser: ArgumentParser) -> None:
    parser.add_argument("--config", action="config", help="read options from a YAML file")
    parser.add_argument("--data", type=str, required=True, help="an .npz file, a folder, or the word 'synthetic'")
    parser.add_argument("--transform", type=str, default="standardize", help="of the features; also l2, none, pca")
    impute_help = "what stands in for features of items that lack a modality; also zero, graph, neighbors, given"
    parser.add_argument("--impute", type=str, default="mean", help=impute_help)
    parser.add_argument("--data_options", type=dict[str, Any], default={}, help="further arguments of the reader")


def _add_compare(parser: ArgumentParser, args: Sequence[str]) -> None:
    from pyg_ckd.nn import LightGCN

    _add_data(parser)
    parser.add_argument("--out", type=str, required=True, help="folder of the report; the same call goes on in it")
    parser.add_argument("--seeds", type=int, default=1, help="number of repetitions")
    k_help = "cut-offs of the test metrics; that of --trainer.monitor is always among them"
    parser.add_argument("--k", type=list[int], default=[10, 20], help=k_help)
    backbone = _add_backbone(parser, args)
    _add_objectives(parser, backbone, ("plain", "teacher", "distillation"))
    sizes, best = {"num_users", "num_items", "feature_dims"}, LightGCN.recommended
    parser.add_class_arguments(LightGCN, "lightgcn", skip=sizes)
    parser.add_argument("--lightgcn.l2", type=float, default=best["plain"]["l2"], help="weight of its penalty")
    parser.add_argument("--lightgcn.lr", type=float, default=best["trainer"]["lr"], help="its learning rate")
    parser.set_defaults({f"lightgcn.{key}": value for key, value in best["model"].items()})


def _add_train(parser: ArgumentParser, args: Sequence[str]) -> None:
    _add_data(parser)
    parser.add_argument("--out", type=str, required=True, help="folder of the run; the same call goes on in it")
    parser.add_argument("--seed", type=int, default=0, help="seed of everything random")
    parser.add_argument("--objective", type=str, default="plain", help="plain or ckd")
    parser.add_argument("--k", type=list[int], default=[10, 20], help="cut-offs of the test metrics")
    _add_objectives(parser, _add_backbone(parser, args), ("plain", "teacher", "distillation"))


def _add_backbone(parser: ArgumentParser, args: Sequence[str]) -> type[Backbone]:
    from pyg_ckd.nn import backbones
    from pyg_ckd.training import Trainer

    known = backbones()
    name = _peek(args, "backbone") or "MMGCN"
    if name not in known:
        raise unknown_name("backbone", name, known)
    backbone = known[name]
    parser.add_argument("--backbone", type=str, default=name, help=f"one of {', '.join(known)}")
    parser.add_class_arguments(backbone, "model", skip={"num_users", "num_items", "feature_dims"})
    parser.add_class_arguments(Trainer, "trainer", skip={"checkpoint_dir", "seed"})
    return backbone


def _add_objectives(parser: ArgumentParser, backbone: type[Backbone], names: Sequence[str]) -> None:
    from pyg_ckd.balance import DistillationWrapper, Objective

    for name in names:
        cls = DistillationWrapper if name == "distillation" else Objective
        parser.add_class_arguments(cls, name, skip={"student", "teachers", "view", "bpr_eps", "log_eps", "has"})
    defaults = backbone.recommended
    parser.set_defaults({f"{part}.{key}": value for part in defaults for key, value in defaults[part].items()})


def _add_evaluate(parser: ArgumentParser, args: Sequence[str]) -> None:
    from pyg_ckd.evaluation import evaluate

    _add_data(parser)
    parser.add_argument("--checkpoint", type=str, required=True, help="a model.pt of train or compare")
    parser.add_argument("--json", type=str, default=None, help="also write the metrics to this file")
    parser.add_function_arguments(evaluate, skip={"model", "data", "per_user", "view"})
    parser.add_argument("--view", type=list[str] | None, default=None, help="modalities that stay factual; [] is none")


def _add_effects(parser: ArgumentParser, args: Sequence[str]) -> None:
    from pyg_ckd.balance import estimate_effects

    _add_data(parser)
    parser.add_argument("--checkpoint", type=str, required=True, help="a model.pt of train or compare")
    parser.add_argument("--json", type=str, default=None, help="also write the effects to this file")
    parser.add_function_arguments(estimate_effects, skip={"model", "data"})


def _add_recommend(parser: ArgumentParser, args: Sequence[str]) -> None:
    from pyg_ckd.data.checks import SPLITS

    _add_data(parser)
    parser.add_argument("--checkpoint", type=str, required=True, help="a model.pt of train or compare")
    parser.add_argument("--out", type=str, required=True, help="a .parquet or .csv file: user, rank, item, score")
    parser.add_argument("--users", type=str, nargs="+", default=None, help="ids of users; by default all of them")
    users_help = "a text file with the id of a user in every line, instead of --users"
    parser.add_argument("--users_file", "--users-file", type=str, default=None, help=users_help)
    parser.add_argument("--k", type=int, default=20, help="items per user")
    parser.add_argument("--exclude_seen", type=bool, default=True, help="leave out items that a user has met")
    seen_help = "splits whose interactions count as seen"
    parser.add_argument("--seen", type=list[str], default=list(SPLITS), help=seen_help)
    candidates_help = "a text file with the id of an item in every line; only these are recommended"
    parser.add_argument("--candidates_file", "--candidates-file", type=str, default=None, help=candidates_help)
    parser.add_argument("--device", type=str, default="cpu", help="where to compute, such as cpu or cuda")


def _add_data_command(parser: ArgumentParser, args: Sequence[str]) -> None:
    from jsonargparse import ArgumentParser

    from pyg_ckd.datasets.writing import WRITERS

    commands = parser.add_subcommands(required=False)
    text = "write a data set in another format; that of the source is recognised"
    sub = ArgumentParser(description=f"{text[0].upper()}{text[1:]}.", exit_on_error=False)
    sub.add_argument("source", type=str, help="an .npz file, a folder in any format, or the word 'synthetic'")
    sub.add_argument("target", type=str, help="the file or folder to write; must be new")
    sub.add_argument("--format", type=str, required=True, help=f"one of {', '.join(WRITERS)}")
    commands.add_subcommand("convert", sub, help=text)
    _add_describe(commands)
    _add_amazon(commands)


def _add_describe(commands: Any) -> None:
    from jsonargparse import ArgumentParser

    from pyg_ckd.data import describe_data

    text = "show statistics of a data set and what is wrong with it"
    sub = ArgumentParser(description=f"{text[0].upper()}{text[1:]}.", exit_on_error=False)
    sub.add_argument("source", type=str, help="an .npz file, a folder in any format, or the word 'synthetic'")
    sub.add_argument("--out", type=str, default=None, help="also write it to this .html file, or into this folder")
    sub.add_function_arguments(describe_data, skip={"data"})
    sub.add_argument("--data_options", type=dict[str, Any], default={}, help="further arguments of the reader")
    commands.add_subcommand("describe", sub, help=text)


def _add_amazon(commands: Any) -> None:
    from jsonargparse import ArgumentParser

    from pyg_ckd.datasets import AmazonReviews
    from pyg_ckd.datasets.writing import WRITERS

    text = "download the Amazon reviews of a category and write them with features of texts and images"
    sub = ArgumentParser(description=f"{text[0].upper()}{text[1:]}.", exit_on_error=False)
    sub.add_argument("category", type=str, help="baby, beauty, sports, clothing, or a name such as Video_Games")
    sub.add_argument("--out", type=str, required=True, help="the file or folder to write; must be new")
    sub.add_argument("--format", type=str, default="npz", help=f"one of {', '.join(WRITERS)}")
    sub.add_argument("--root", type=str, default="data/amazon", help="folder of downloads and finished batches")
    text_help = "fields of the metadata that make up the text, with commas between them; '' leaves it out"
    sub.add_argument("--text", type=str, default="title,description", help=text_help)
    sub.add_argument("--encoder", type=str, default="tfidf", help="or sentence-transformers:MODEL")
    sub.add_argument("--vectors", type=dict[str, str], default={}, help="files of further modalities, by name")
    files_help = "a folder that holds the files already, in the place of a download"
    sub.add_argument("--files", type=str, default=None, help=files_help)
    own = {"category", "root", "text", "encoder", "vectors", "files"}
    given = {"features", "impute", "transform", "pre_transform", "force_reload"}
    sub.add_class_arguments(AmazonReviews, skip=own | given)
    commands.add_subcommand("amazon", sub, help=text)


def _add_models(parser: ArgumentParser, args: Sequence[str]) -> None:
    """Models has no options."""


def _add_doctor(parser: ArgumentParser, args: Sequence[str]) -> None:
    """Doctor has no options."""


def _peek(args: Sequence[str], key: str) -> str | None:
    """Return an option before the parser exists, from the arguments or else from the configuration file."""
    given = _values(args, key)
    if given:
        return given[-1]
    value = None
    for path in _config_files(args):
        value = _read_yaml(path).get(key, value)
    return None if value is None else str(value)


def _config_files(args: Sequence[str]) -> list[str]:
    return _values(args, "config")


def _values(args: Sequence[str], key: str) -> list[str]:
    """Return the values that an option is given, before the parser exists."""
    peek = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    peek.add_argument(f"--{key}", action="append", default=[])
    return [str(value) for value in getattr(peek.parse_known_args(list(args))[0], key)]


def _read_yaml(path: str) -> dict[str, Any]:
    import yaml

    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"configuration {path}: found no such file, expected a YAML file of options") from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(f"configuration {path}: cannot be read as YAML ({error})") from None
    if content is None:
        raise InputError(f"configuration {path}: the file is empty, expected a mapping of options, such as data: x.npz")
    if not isinstance(content, dict):
        raise InputError(f"configuration {path}: found {type(content).__name__}, expected a mapping of options")
    return content


def _load(config: Namespace) -> HeteroData:
    from pyg_ckd.datasets import load

    for name in ("path", "transform", "impute"):
        if name in config.data_options:
            option = "data" if name == "path" else name
            raise InputError(f"data_options.{name}: expected no such option here; give it as --{option}")
    impute = {} if config.impute == "mean" else {"impute": config.impute}  # Not every source lets items lack something.
    return load(config.data, transform=config.transform, **impute, **config.data_options)


def _options(config: Namespace, name: str) -> dict[str, Any]:
    section = config.get(name)
    if section is None:
        return {}
    if not hasattr(section, "as_dict"):
        raise InputError(f"{name}: found {section!r}, expected options, each with a value")
    return dict(section.as_dict())


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _compare(config: Namespace) -> int:
    from rich.console import Console

    from pyg_ckd.nn import backbones
    from pyg_ckd.report.report import render_console_table, verdict, write_report
    from pyg_ckd.study import Study, StudySettings

    if config.seeds < 1:
        raise InputError(f"seeds: found {config.seeds}, expected at least 1")
    parts = ("model", "plain", "teacher", "distillation", "lightgcn", "trainer")
    settings = StudySettings(**{part: _options(config, part) for part in parts}, k=tuple(config.k))
    study = Study(_load(config), backbones()[config.backbone], config.out, settings, _say)
    seeds = list(range(config.seeds))
    results = study.run(seeds)
    report = write_report(config.out, results, study.histories(seeds))
    Console().print(render_console_table(results))
    for line in verdict(results):
        _say(line)
    _say(f"report: {report}")
    return 0


def _train(config: Namespace) -> int:
    from pyg_ckd.nn import backbones
    from pyg_ckd.study.run import train_run

    options = {part: _options(config, part) for part in ("model", "plain", "teacher", "distillation", "trainer")}
    metrics = train_run(
        _load(config), backbones()[config.backbone], config.out, config.objective, options, config.k, config.seed
    )
    _say(str(metrics))
    return 0


def _checkpoint(config: Namespace) -> tuple[Any, HeteroData]:
    from pyg_ckd.training.model import load_model

    data = _load(config)
    return load_model(config.checkpoint, data), data


def _evaluate(config: Namespace) -> int:
    from pyg_ckd.evaluation import evaluate

    names = ("split", "k", "metrics", "view", "cold", "mask", "candidates")
    model, data = _checkpoint(config)
    metrics = evaluate(model, data, **{name: config[name] for name in names})
    _write_json(config.json, dict(metrics))
    if config.view is not None:
        _say(f"view: {', '.join(config.view) or 'no modality is factual, each is replaced with its mean'}")
    _say(str(metrics))
    return 0


def _effects(config: Namespace) -> int:
    from pyg_ckd.balance import estimate_effects

    names = ("split", "k", "num_negatives", "num_bootstrap", "confidence", "seed")
    model, data = _checkpoint(config)
    report = estimate_effects(model, data, **{name: config[name] for name in names})
    _write_json(config.json, report.table.to_dict("index"))
    _say(str(report))
    return 0


def _recommend(config: Namespace) -> int:
    from pyg_ckd.serving import Recommender, check_format

    if config.users is not None and config.users_file is not None:
        raise InputError("users_file: found it beside --users, expected one of the two")
    check_format(config.out)  # Before the work, not after it.
    users = _lines(config.users_file, "users_file") if config.users_file is not None else config.users
    candidates = None if config.candidates_file is None else _lines(config.candidates_file, "candidates_file")
    data = _load(config)
    recommender = Recommender.load(config.checkpoint, data, None, config.device, config.seen)
    path = recommender.export_top_k(
        config.out,
        config.k,
        user_ids=None if users is None else recommender.users.parse(users),
        exclude_seen=config.exclude_seen,
        candidates=None if candidates is None else recommender.items.parse(candidates),
    )
    _say(f"recommendations: {path}")
    return 0


def _lines(path: str, option: str) -> list[str]:
    """Return the lines of a text file that are not blank."""
    try:
        lines = [line.strip() for line in Path(path).read_text(encoding="utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{option} {path}: cannot be read ({reason}), expected a text file of ids") from None
    if not any(lines):
        raise InputError(f"{option} {path}: found no id, expected one in every line")
    return [line for line in lines if line]


def _write_json(path: str | None, content: dict[Any, Any]) -> None:
    if path is not None:
        from pyg_ckd.files import write_json

        try:
            write_json(path, content)
        except OSError as error:
            raise InputError(f"json {path}: cannot be written ({error.strerror}); choose another file") from None


def _data(config: Namespace) -> int:
    if config.subcommand is None:
        raise InputError(
            "data: found no command after it, expected amazon, describe or convert: pyg-ckd data amazon baby --out "
            "baby.npz, pyg-ckd data describe PATH, pyg-ckd data convert FROM TO --format npz"
        )
    return _DATA_COMMANDS[config.subcommand](config[config.subcommand])


def _convert(config: Namespace) -> int:
    from pyg_ckd.datasets import convert

    data = convert(config.source, config.target, config.format)
    shapes = ", ".join(f"{m} {list(data['item'][m].shape)}" for m in data.modalities)
    _say(f"{config.target}: {data['user'].num_nodes} users, {data['item'].num_nodes} items, {shapes}")
    return 0


def _describe(config: Namespace) -> int:
    from rich.console import Console

    from pyg_ckd.data import describe_data
    from pyg_ckd.datasets import load
    from pyg_ckd.evaluation import render_description, write_description

    as_it_is = {"impute": "given", "strict": False} if config.source != "synthetic" else {}
    data = load(config.source, transform="none", **as_it_is, **config.data_options)
    description = describe_data(data, config.k, config.sample, config.seed)
    Console().print(render_description(description))
    if config.out is not None:
        try:
            _say(f"description: {write_description(config.out, description)}")
        except OSError as error:
            raise InputError(f"out {config.out}: cannot be written ({error.strerror}); choose another place") from None
    return 0


def _amazon(config: Namespace) -> int:
    from pyg_ckd.datasets import AmazonReviews
    from pyg_ckd.datasets.writing import check_target, write_graph

    options = dict(config.as_dict())
    target, format = options.pop("out"), options.pop("format")
    check_target(target, format)
    options["text"] = [name.strip() for name in options["text"].split(",") if name.strip()]
    data = AmazonReviews(**options, features="none", impute="given")[0]
    write_graph(data, target, format)
    shapes = ", ".join(f"{m} {list(data['item'][m].shape)}" for m in data.modalities)
    _say(f"{target}: {data['user'].num_nodes} users, {data['item'].num_nodes} items, {shapes}")
    return 0


def _models(config: Namespace) -> int:
    from pyg_ckd.nn.models.discovery import backbones, fusion_of

    for name, cls in backbones().items():
        _say(f"{name:<20} {fusion_of(cls):<8} {(cls.__doc__ or '').strip().splitlines()[0]}")
    return 0


def _doctor(config: Namespace) -> int:
    import torch

    from pyg_ckd.versions import versions

    for name, value in versions().items():
        _say(f"{name:<18} {value}")
    _say(f"{'threads':<18} {torch.get_num_threads()}")
    return 0


_OPTIONS: dict[str, Callable[[Any, Sequence[str]], None]] = {
    "compare": _add_compare,
    "train": _add_train,
    "evaluate": _add_evaluate,
    "effects": _add_effects,
    "recommend": _add_recommend,
    "data": _add_data_command,
    "models": _add_models,
    "doctor": _add_doctor,
}
_COMMANDS: dict[str, Callable[[Any], int]] = {
    "compare": _compare,
    "train": _train,
    "evaluate": _evaluate,
    "effects": _effects,
    "recommend": _recommend,
    "data": _data,
    "models": _models,
    "doctor": _doctor,
}
_DATA_COMMANDS: dict[str, Callable[[Any], int]] = {"amazon": _amazon, "convert": _convert, "describe": _describe}
