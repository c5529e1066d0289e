"""Options that several commands share, and how they are read: data, backbone, trainer, checkpoints, files."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.yaml_files import as_flag
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, is_leftover, read_text
from pyg_ckd.locks import held

if TYPE_CHECKING:
    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData

    from pyg_ckd.nn import Backbone

SIZES = ("num_users", "num_items", "feature_dims")
SOURCE = "an .npz file, a folder in any format, or the word 'synthetic'"
DATA_OPTIONS = "further arguments of the reader, such as --data_options.split temporal"


DEFAULT_BACKBONE = "FISM"
"""The best one on data that it was not tuned for, see docs/results/defaults.md."""


def add_data(options: Options, required: bool = True) -> None:
    """Add what says which graph to load.

    Args:
        options: The options of the command.
        required: Whether the command does nothing without it.
    """
    if required:
        options.add("data", default=REQUIRED, help=SOURCE, path=True)
    else:
        options.add("data", str | None, None, f"{SOURCE} (default: none)", path=True)
    options.add("transform", default="standardize", help="transform of the features; also l2, none, pca")
    impute = "how to impute features of items that lack a modality; also zero, graph, neighbors, given"
    options.add("impute", default="mean", help=impute)
    add_data_options(options)


def add_data_options(options: Options) -> None:
    """Add the mapping of further arguments of the reader.

    Args:
        options: The options of the command.
    """
    options.add("data_options", dict[str, Any], {}, DATA_OPTIONS)


def data_options(config: Namespace) -> dict[str, Any]:
    """Return the further arguments of the reader, in which ``no`` is a truth value where it can be nothing else.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.datasets.loading import reader_flags

    flags = reader_flags()
    return {name: as_flag(value) if name in flags else value for name, value in config.data_options.items()}


def load_data(config: Namespace, transform: Callable[[HeteroData], HeteroData] | None = None) -> HeteroData:
    """Load the graph.

    Args:
        config: The values of the options.
        transform: The feature transform. (default: :obj:`None`, that of the option)
    """
    from pyg_ckd.datasets import load

    for name in ("path", "transform", "impute"):
        if name in config.data_options:
            option = "data" if name == "path" else name
            raise InputError(f"data_options.{name}: expected no such option here; give it as --{option}")
    impute = {} if config.impute == "mean" else {"impute": config.impute}  # Not every source lets items lack something.
    how = config.transform if transform is None else transform
    return load(config.data, transform=how, **impute, **data_options(config))


def add_backbone(options: Options, given: Given, trainer: Mapping[str, Any] | None = None) -> type[Backbone]:
    """Add the backbone with its options, and those of the trainer.

    Args:
        options: The options of the command.
        given: The arguments, which say which backbone it is.
        trainer: Defaults of the trainer's options that the command has itself.

    Returns:
        The class.
    """
    from pyg_ckd.nn import backbones
    from pyg_ckd.training import Trainer

    known = backbones()
    named = given.text("backbone")
    name = DEFAULT_BACKBONE if named is None else named
    if name not in known and re.fullmatch(r"\w+([.:]\w+)+", name):
        cls = re.split(r"[.:]", name)[-1]
        raise InputError(
            f"backbone: found the import path {name!r}, expected one of {', '.join(known)}; commands take strategies "
            f"of your own, but no backbones: use them in Python, as in Study(data, {cls}, 'study').run()"
        )
    if name not in known:
        raise unknown_name("backbone", name, known)
    backbone = known[name]
    best = backbone.recommended
    options.add("backbone", default=name, help=f"one of {', '.join(known)}")
    group = f"Backbone {name}"
    options.add_arguments_of(backbone, "model", SIZES, best.get("model"), group=group)
    defaults = {**best.get("trainer", {}), **(trainer or {})}
    options.add_arguments_of(Trainer, "trainer", ("checkpoint_dir", "seed"), defaults, group="Trainer")
    return backbone


def add_checkpoint(options: Options) -> None:
    """Add the checkpoint of a trained model.

    Args:
        options: The options of the command.
    """
    options.add("checkpoint", default=REQUIRED, help="a model.pt of train or compare", path=True)
    add_origin(options)


def add_origin(options: Options) -> None:
    """Add where classes of a model are from that are not in the library.

    Args:
        options: The options of the command.
    """
    text = "strategy that the model ranks with, if it is outside the library: its import path (default: none)"
    options.add("strategy", str | None, None, text)
    text = "modules of your own models to import first, such as my_file, separated by commas"
    options.add("imports", list[str], [], text, metavar="MODULE,...", many=True)


def load_checkpoint(config: Namespace, path: str | None = None) -> tuple[Any, HeteroData]:
    """Return the model of a checkpoint and the graph, in the order of the model.

    Args:
        config: The values of the options.
        path: The checkpoint. (default: :obj:`None`, that of the option)
    """
    from pyg_ckd.training.model import open_model

    import_strategy(config)
    return open_model(config.checkpoint if path is None else path, load_data(config))


def import_strategy(config: Namespace) -> None:
    """Import the strategy and the modules of a checkpoint, if there are any to import.

    Args:
        config: The values of the options.

    Raises:
        InputError: If one cannot be imported.
    """
    for name in config.imports:
        try:
            import_module(name)
        except Exception as error:  # What the file itself does, such as a mistake in its syntax.
            reason = " ".join(str(error).split())
            raise InputError(
                f"imports: {name} cannot be imported ({type(error).__name__}: {reason}), expected a module on Python's "
                "path, such as my_file for my_file.py in the current folder"
            ) from error
    if config.strategy is not None:
        from pyg_ckd.balance.discovery import find_strategy

        find_strategy(config.strategy)


def section(config: Namespace, name: str) -> dict[str, Any]:
    """Return the options of a group as a dict, empty if there are none.

    Args:
        config: The values of the options.
        name: What precedes their names.
    """
    found = config.get(name)
    return {} if found is None else dict(found.as_dict())


def sections(config: Namespace, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Return the options of several groups.

    Args:
        config: The values of the options.
        names: What precedes the names of each.
    """
    return {name: section(config, name) for name in names}


def read_lines(path: str, option: str) -> dict[int, str]:
    """Return the lines of a text file that are not blank, without blanks around them, by their numbers from 1.

    Args:
        path: The file.
        option: The option that names it, for messages.

    Raises:
        InputError: If it cannot be read or has no such line.
    """
    try:
        lines = [line.strip() for line in read_text(path).split("\n")]
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not UTF-8; save it as UTF-8"
        raise InputError(f"{option} {path}: cannot be read ({reason}), expected a text file of ids") from None
    if not any(lines):
        raise InputError(f"{option} {path}: found no id, expected one in every line")
    return {number: line for number, line in enumerate(lines, start=1) if line}


def save_json(path: str | None, content: Mapping[Any, Any]) -> None:
    """Write results to a file, if there is one to write.

    Args:
        path: The file, or :obj:`None`.
        content: The results.

    Raises:
        InputError: If it cannot be written.
    """
    if path is not None:
        from pyg_ckd.files import write_json

        with writable("json", path):
            write_json(path, content)


@contextmanager
def writable(option: str, path: str) -> Iterator[None]:
    """Turn what the system says about a file that cannot be written into one line.

    Args:
        option: The option that names the file.
        path: The file.

    Raises:
        InputError: If the block raises an OSError.
    """
    try:
        yield
    except OSError as error:
        raise InputError(f"{option} {path}: cannot be written ({error.strerror}); choose another place") from None


@contextmanager
def no_leftovers(*folders: str | None) -> Iterator[None]:
    """Remove folders that the block made if bad input ends it before there is more in them than their settings.

    Args:
        *folders: Folders that the block makes.
    """
    from pyg_ckd.training.folder import MANIFEST

    paths = [as_path(folder) for folder in folders if folder is not None]
    made = {path: [p for p in (path, *path.parents) if not p.exists()] for path in paths}
    empty = {path: path.is_dir() and all(is_leftover(path / MANIFEST, p) for p in path.iterdir()) for path in paths}
    try:
        yield
    except InputError:
        for path in paths:
            new = made[path] or empty[path]
            if not (new and path.is_dir()) or any(p.name != MANIFEST for p in path.rglob("*") if not p.is_dir()):
                continue
            with suppress(InputError), held(path):  # Else it is that of another process.
                if empty[path]:
                    (path / MANIFEST).unlink(missing_ok=True)
                    continue
                shutil.rmtree(path)
                with suppress(OSError):
                    for parent in made[path][1:]:
                        parent.rmdir()
        raise


def check_parts(prefix: str, names: Collection[str], make: Callable[[], Any]) -> Any:
    """Build something from options, so that a wrong one is found before anything is trained.

    Args:
        prefix: What precedes the names of the options on the command line.
        names: Their names.
        make: Builds it.

    Raises:
        InputError: If an option cannot be used; the message has its full name.
    """
    try:
        return make()
    except InputError as error:
        name = str(error).partition(":")[0]
        raise InputError(f"{prefix}.{error}" if name in names else str(error)) from None
    except (RuntimeError, MemoryError, OverflowError) as error:  # Sizes that no machine has memory for.
        reason = str(error).partition("\n")[0]
        raise InputError(f"{prefix}: cannot be built ({reason}), expected options of a smaller model") from None
