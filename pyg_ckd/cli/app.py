"""The command ``pyg-ckd``: finds the file of a command and runs it; bad input becomes one line and exit code 2."""

from __future__ import annotations

import difflib
import os
import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from inspect import signature

from pyg_ckd import __version__
from pyg_ckd.cli import ranks
from pyg_ckd.cli.output import close_output, replace_what_the_encoding_lacks, say
from pyg_ckd.errors import InputError, unknown_name

EXIT_BAD_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
DESCRIPTIONS = {
    "compare": "run a study: baselines, plain training, teachers and strategies, with a report",
    "train": "train one model, or resume an interrupted run",
    "tune": "search settings of every strategy with equal budgets, and test the best one, with a report",
    "evaluate": "rank all items with a trained model",
    "effects": "measure how much every modality contributes to a trained model",
    "show": "print the model card of a trained model: settings, data and training",
    "export": "convert a trained model to safetensors, ONNX or torch.export",
    "recommend": "write the best items of all or some users to a file",
    "data": "describe data sets and convert them between formats",
    "models": "list the backbones",
    "strategies": "list the strategies that balance modalities, or show the options of one",
    "doctor": "show versions, devices and optional packages",
}
DATA_DESCRIPTIONS = {
    "amazon": "download the Amazon reviews of a category and write them with features of texts and images",
    "convert": "convert a data set to another format; the format of the source is recognised",
    "describe": "show statistics and problems of a data set",
}
HELP = ("-h", "--help")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit code: 0, or 2 for bad input, with one line on stderr.

    Started several times by ``torchrun``, the processes share the work of a command, and the first of them prints.

    Args:
        argv: Arguments; by default those of the process.
    """
    args = list(sys.argv[1:] if argv is None else argv)
    replace_what_the_encoding_lacks()
    try:
        with plain_warnings(), ranks.one_voice():
            return _run(args)
    except InputError as error:
        message, everywhere = str(error), error.everywhere
    except BrokenPipeError:  # The reader of a pipe, such as head, has seen enough.
        close_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        message, everywhere = ranks.text_of(error), False
    except KeyboardInterrupt:
        if ranks.first():
            sys.stderr.write(f"pyg-ckd: interrupted; {_after_break(args)}\n")
        return EXIT_INTERRUPTED
    ranks.report(" ".join(message.split()), everywhere)
    return EXIT_BAD_INPUT


@contextmanager
def plain_warnings() -> Iterator[None]:
    """Write warnings as one line each, without the place in the code that they come from."""
    before = warnings.formatwarning

    def one_line(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if category is not UserWarning:
            return before(message, category, filename, lineno, line)
        return f"pyg-ckd: warning: {' '.join(str(message).split())}\n"

    warnings.formatwarning = one_line
    try:
        yield
    finally:
        warnings.formatwarning = before


def _after_break(args: Sequence[str]) -> str:
    if args and args[0] in ("compare", "tune", "train"):
        return "the same command goes on from the last checkpoint"
    return "nothing is half-written, the same command starts again"


def _run(args: list[str]) -> int:
    ranks.join()
    with ranks.alike():
        run = _prepared(args)
    return 0 if run is None else int(run())


def _prepared(args: list[str]) -> Callable[[], int] | None:
    """Return the command with its options; :obj:`None` if there is nothing to run."""
    if not args or args[0] in HELP:
        say(_overview("pyg-ckd COMMAND [options]", DESCRIPTIONS))
        if args:
            sys.exit(0)
        return None
    if args[0] == "--version":
        say(f"pyg-ckd {__version__}")
        sys.exit(0)
    command, rest = args[0], args[1:]
    if command.startswith("-"):
        if difflib.get_close_matches(command, ["--help", "--version"], cutoff=0.7):
            raise unknown_name("option", command, ["--help", "--version"])
        later = next((arg for arg in args if arg in DESCRIPTIONS), None)
        raise InputError(
            f"command: found option {command} in its place, expected one of {', '.join(DESCRIPTIONS)} first and the "
            f"options after it: pyg-ckd {later or 'compare'} {command} ..."
        )
    if command in DATA_DESCRIPTIONS:
        raise InputError(
            f"unknown command {command!r}: did you mean pyg-ckd data {command}? pyg-ckd --help lists all commands"
        )
    if command not in DESCRIPTIONS:
        raise unknown_name("command", command, DESCRIPTIONS)
    ranks.check(command)
    if command != "data":
        return _call(command, command, DESCRIPTIONS[command], rest)
    if rest and rest[0] in HELP:
        say(_overview("pyg-ckd data COMMAND [options]", DATA_DESCRIPTIONS))
        sys.exit(0)
    if not rest or rest[0].startswith("-"):
        raise InputError(
            "data: found no command after it, expected amazon, describe or convert: pyg-ckd data amazon baby --out "
            "baby.npz, pyg-ckd data describe PATH, pyg-ckd data convert FROM TO --format npz"
        )
    if rest[0] not in DATA_DESCRIPTIONS:
        raise unknown_name("command of data", rest[0], DATA_DESCRIPTIONS)
    return _call(rest[0], f"data {rest[0]}", DATA_DESCRIPTIONS[rest[0]], rest[1:])


def _call(module: str, command: str, description: str, args: Sequence[str]) -> Callable[[], int]:
    """Return a command with its options; its file is imported now, because it imports heavy libraries."""
    from pyg_ckd.cli.arguments import Given
    from pyg_ckd.cli.options import Options

    if os.getcwd() not in sys.path and "" not in sys.path:  # noqa: PTH109
        sys.path.append(os.getcwd())  # noqa: PTH109 - A strategy in a file of the current folder has an import path.
    file = import_module(f"pyg_ckd.cli.{module}")
    given, options = Given(args), Options(command, description)
    file.add_options(options, given)
    if given.help:
        say(options.help())
        sys.exit(0)
    words = {"words": tuple(args)} if "words" in signature(file.run).parameters else {}
    return partial(file.run, options.parse(given), **words)


def _overview(usage: str, descriptions: Mapping[str, str]) -> str:
    from pyg_ckd.cli.help import item

    lines = [f"usage: {usage}", ""]
    if descriptions is DESCRIPTIONS:
        lines += ["Multimodal graph recommenders: measure which modality starves, and balance it.", ""]
    lines.append("Commands:")
    for name, text in descriptions.items():
        lines += item(name, text)
    lines += ["", "Options:", *item("-h, --help", "show this help, or that of a command after its name")]
    if descriptions is DESCRIPTIONS:
        lines += item("--version", "show the version")
    return "\n".join(lines)
