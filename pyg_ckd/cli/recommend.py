"""``pyg-ckd recommend``: the best items of every user, or of some, in a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli import ranks
from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import SOURCE, add_checkpoint, add_data, import_strategy, load_data, read_lines
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say
from pyg_ckd.cli.yaml_files import parse_word
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.data.checks import SPLITS

    add_data(options)
    text = f"{SOURCE}; none for a saved recommender"
    options.known["data"] = replace(options.known["data"], default=None, type=str | None, help=text)
    add_checkpoint(options)
    text = "a model.pt of train or compare, or a saved recommender"
    options.known["checkpoint"] = replace(options.known["checkpoint"], help=text)
    text = (
        "a .parquet, .csv or .jsonl file, the last two also with .gz behind: user, rank, item, score; a name without "
    )
    text += "ending is a folder of Parquet files, of which each of several processes writes one"
    options.add("out", default=REQUIRED, help=text, path=True)
    users = "ids of users, with commas or blanks between them; by default all users"
    options.add("users", list[str] | None, None, users, metavar="ID,...", many=True)
    users = "a text file with the id of a user in every line, instead of --users"
    options.add("users_file", str | None, None, users, path=True)
    options.add("k", int, 20, "items per user")
    options.add("exclude_seen", bool, True, "leave out items that a user has met")
    options.add("seen", list[str], list(SPLITS), "splits whose interactions count as seen")
    candidates = "a text file with the id of an item in every line; only these are recommended"
    options.add("candidates_file", str | None, None, candidates, path=True)
    exclude = "a text file with the id of an item in every line; nobody gets these"
    options.add("exclude_file", str | None, None, exclude, path=True)
    items = "a .csv, .csv.gz or .parquet file with a row for every item: a column item or item_id, columns for --where"
    options.add("items_file", str | None, None, items, path=True)
    where = "which items to choose from by their columns, such as --where.category shoes"
    options.add("where", dict[str, Any], {}, where, texts=True)
    text = "what unknown users of --users get: error, or popular, the items with most interactions, marked in a column"
    options.add("unknown", str, "error", text)
    options.add("diversity", float, 0.0, "how unlike the items of a list shall be, from 0 to 1")
    options.add("device", str, "cpu", "where to compute, such as cpu or cuda")


def run(config: Namespace) -> int:
    """Write the file.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.processes import present
    from pyg_ckd.serving import Recommender, check_format
    from pyg_ckd.training.layouts.choice import own_device

    with ranks.alike():
        if config.users is not None and config.users_file is not None:
            raise InputError("users_file: found it beside --users, expected one of the two")
        check_format(config.out, folder=True)  # Before the work, not after it.
        users = read_lines(config.users_file, "users_file") if config.users_file is not None else config.users
        candidates = None if config.candidates_file is None else read_lines(config.candidates_file, "candidates_file")
        excluded = None if config.exclude_file is None else read_lines(config.exclude_file, "exclude_file")
        columns = None if config.items_file is None else _table(config.items_file)
        import_strategy(config)
        data = None if config.data is None else load_data(config)
        device = own_device(present(), config.device)  # Of several, each has a card of its own.
        recommender = Recommender.load(config.checkpoint, data, None, device, config.seen, columns)
        asked = None if users is None else recommender.users.parse(users)
        chosen = None if candidates is None else recommender.items.parse(candidates)
        without = None if excluded is None else recommender.items.parse(excluded)
    for note in recommender.notes:
        sys.stderr.write(f"note: {note}\n")
    path = recommender.export_top_k(
        config.out,
        config.k,
        user_ids=asked,
        exclude_seen=config.exclude_seen,
        candidates=chosen,
        exclude=without,
        where={name: _like(columns, name, value) for name, value in config.where.items()},
        diversity=config.diversity,
        unknown=config.unknown,
    )
    say(f"recommendations: {path}")
    return 0


def _like(columns: pd.DataFrame | None, name: str, value: Any) -> Any:
    """Return what a column shall be: texts as numbers or truth values where the column holds such."""
    from pandas.api.types import is_bool_dtype, is_numeric_dtype

    if columns is None or name not in columns:
        return value
    column = columns[name].infer_objects()
    if not (is_numeric_dtype(column) or is_bool_dtype(column)):
        return value
    several = isinstance(value, list)
    found = [parse_word(part) if isinstance(part, str) else part for part in (value if several else [value])]
    return found if several else found[0]


def _table(path: str) -> pd.DataFrame:
    import pandas as pd

    from pyg_ckd.datasets.delimited import decompressed, read_csv
    from pyg_ckd.files import as_path
    from pyg_ckd.serving.catalogue import ID_COLUMNS

    place = as_path(path)
    try:
        if place.suffix.lower() == ".parquet":
            frame = pd.read_parquet(place)
        else:
            with decompressed(place) as file:
                frame = read_csv(file, ID_COLUMNS[:1])
                name = next((name for name in ID_COLUMNS if name in frame.columns), ID_COLUMNS[0])
                if name in frame.columns:  # Once more: an id such as 01001 stays what it is.
                    read_csv(file, (name,))
                    frame = read_csv(file, (name,), {name: str})
    except InputError as error:
        raise InputError(f"items_file {error}") from None
    except Exception as error:  # Readers raise whatever they like.
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:160]
        raise InputError(f"items_file {path}: cannot be read ({reason}), expected a .csv or .parquet file") from None
    if not any(name in frame.columns for name in ID_COLUMNS):
        raise InputError(
            f"items_file {path}: found the columns {', '.join(map(str, frame.columns))}, expected 'item' or 'item_id' "
            "with the ids of items; rename one"
        )
    return frame
