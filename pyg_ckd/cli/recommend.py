"""``pyg-ckd recommend``: the best items of every user, or of some, in a file."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pyg_ckd.cli import ranks
from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import SOURCE, add_checkpoint, add_data, import_strategy, load_data, read_lines
from pyg_ckd.cli.items import read_columns, wanted, with_columns
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jsonargparse import Namespace
    from torch_geometric.data import HeteroData

    from pyg_ckd.serving import Recommender
    from pyg_ckd.serving.ids import Ids


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
    text = "a .parquet, .csv or .jsonl file, the last two also with .gz: user, rank, item, score; a name without "
    text += "suffix is a folder of Parquet files, to which each process writes one"
    options.add("out", default=REQUIRED, help=text, path=True)
    users = "ids of users, separated by commas or blanks; by default all users"
    options.add("users", list[str] | None, None, users, metavar="ID,...", many=True)
    users = "a text file with the id of a user in every line, instead of --users"
    options.add("users_file", str | None, None, users, path=True)
    options.add("k", int, 20, "items per user")
    options.add("exclude_seen", bool, True, "leave out items that a user has met")
    options.add("seen", list[str], list(SPLITS), "splits whose interactions count as seen")
    candidates = "a text file with the id of an item in every line; only these are recommended"
    options.add("candidates_file", str | None, None, candidates, path=True)
    exclude = "a text file with the id of an item in every line; these are never recommended"
    options.add("exclude_file", str | None, None, exclude, path=True)
    items = (
        "a .csv, .csv.gz or .parquet file with a row for every item: a column item or item_id, and columns for --where"
    )
    options.add("items_file", str | None, None, items, path=True)
    where = "which items to choose from by their columns, such as --where.category shoes"
    options.add("where", dict[str, Any], {}, where, texts=True)
    text = "what users without clicks get: error, or popular, the items with most interactions, marked in a column"
    options.add("unknown", str, "error", text)
    options.add("diversity", float, 0.0, "how different the items of a list should be, from 0 to 1")
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
        names = [name for name in ("users_file", "candidates_file", "exclude_file") if config[name] is not None]
        lists = {name: read_lines(config[name], name) for name in names}
        columns = None if config.items_file is None else read_columns(config.items_file)
        import_strategy(config)
        data = None if config.data is None else load_data(config)
        device = own_device(present(), config.device)  # Of several, each has a card of its own.
        recommender = Recommender.load(config.checkpoint, data, None, device, config.seen)
        if config.unknown == "popular":
            recommender = recommender.with_idle_users()
        if columns is not None:
            recommender = with_columns(recommender, columns, config.items_file)
        if config.where and recommender.columns is None:
            name = next(iter(config.where))
            raise InputError(
                f"where.{name}: found it without columns of items, expected a file with them beside it; give it as "
                "--items_file FILE"
            )
        where = wanted(recommender.columns, config.where)
        asked = None if config.users is None else recommender.users.parse(config.users)
        if "users_file" in lists:
            may_be_new = config.unknown != "error"
            asked = _ids(lists["users_file"], recommender.users, f"users_file {config.users_file}", may_be_new)
        chosen, without = (
            _ids(lists[name], recommender.items, f"{name} {config[name]}") if name in lists else None
            for name in ("candidates_file", "exclude_file")
        )
        notes = [*_notes(recommender, config.data is not None), *([] if data is None else _held_out(data, config.data))]
    path = recommender.export_top_k(
        config.out,
        config.k,
        user_ids=asked,
        exclude_seen=config.exclude_seen,
        candidates=chosen,
        exclude=without,
        where=where,
        diversity=config.diversity,
        unknown=config.unknown,
    )
    for note in notes:
        sys.stderr.write(f"note: {note}\n")
    say(f"recommendations: {path}")
    return 0


def _notes(recommender: Recommender, has_data: bool) -> list[str]:
    """Return what is noted of users and items that the model does not know, with options in the place of arguments."""
    from pyg_ckd.serving.growth import POPULAR

    option = "--unknown popular" if has_data else "--users_file FILE --unknown popular"
    return [note.replace(POPULAR, option) for note in recommender.notes]


def _held_out(data: HeteroData, path: str) -> list[str]:
    """Return a note of the interactions that a reader held out and the lists do not rest on, none if there are none."""
    from pyg_ckd.data.inputs import held_out
    from pyg_ckd.datasets.loading import splits_itself

    count = sum(held_out(data, split).size(1) for split in ("val", "test"))
    if not count or not splits_itself(path):
        return []
    noun = "interaction" if count == 1 else "interactions"
    return [
        f"the lists do not rest on {count:,} {noun} of the validation and test parts; --data_options.split none makes "
        "them training interactions"
    ]


def _ids(lines: Mapping[int, str], known: Ids, source: str, may_be_new: bool = False) -> list[Any]:
    """Return the ids in the lines of a file; one that is unknown is refused with its line.

    Args:
        lines: The ids by the numbers of their lines.
        known: The ids of the graph.
        source: The file, for messages.
        may_be_new: Whether ids may be unknown; they are of the type of those of the graph then, too.
    """
    ids = known.parse(lines.values())
    asked = [one for one in ids if known.integers and isinstance(one, str)] if may_be_new else ids
    unknown = [one for one, row in zip(asked, known.find(asked)[1].tolist(), strict=True) if row < 0]
    if unknown:
        line = next(number for number, one in zip(lines, ids, strict=True) if one == unknown[0])
        header = "; if this line is a header, remove it" if line == next(iter(lines)) else ""
        if may_be_new:
            raise InputError(
                f"{source}: line {line}: found {unknown[0]!r:.60}, expected an integer, as ids of {known.kind}s are, "
                f"also of new ones; mend or remove the line{header}"
            )
        try:
            known.rows(unknown)
        except InputError as error:
            raise InputError(f"{source}: line {line}: {error}{header}") from None
    return ids
