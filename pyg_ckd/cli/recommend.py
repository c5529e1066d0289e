"""``pyg-ckd recommend``: the best items of every user, or of some, in a file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pyg_ckd.cli.arguments import Given
from pyg_ckd.cli.common import add_checkpoint, add_data, import_strategy, load_data, read_lines
from pyg_ckd.cli.options import REQUIRED, Options
from pyg_ckd.cli.output import say
from pyg_ckd.errors import InputError

if TYPE_CHECKING:
    from jsonargparse import Namespace


def add_options(options: Options, given: Given) -> None:
    """Add the options of the command.

    Args:
        options: Where to add them.
        given: The arguments.
    """
    from pyg_ckd.data.checks import SPLITS

    add_data(options)
    add_checkpoint(options)
    options.add("out", default=REQUIRED, help="a .parquet or .csv file: user, rank, item, score", path=True)
    users = "ids of users, with commas or blanks between them; by default all users"
    options.add("users", list[str] | None, None, users, metavar="ID,...", many=True)
    users = "a text file with the id of a user in every line, instead of --users"
    options.add("users_file", str | None, None, users, path=True)
    options.add("k", int, 20, "items per user")
    options.add("exclude_seen", bool, True, "leave out items that a user has met")
    options.add("seen", list[str], list(SPLITS), "splits whose interactions count as seen")
    candidates = "a text file with the id of an item in every line; only these are recommended"
    options.add("candidates_file", str | None, None, candidates, path=True)
    options.add("device", str, "cpu", "where to compute, such as cpu or cuda")


def run(config: Namespace) -> int:
    """Write the file.

    Args:
        config: The values of the options.
    """
    from pyg_ckd.serving import Recommender, check_format

    if config.users is not None and config.users_file is not None:
        raise InputError("users_file: found it beside --users, expected one of the two")
    check_format(config.out)  # Before the work, not after it.
    users = read_lines(config.users_file, "users_file") if config.users_file is not None else config.users
    candidates = None if config.candidates_file is None else read_lines(config.candidates_file, "candidates_file")
    import_strategy(config)
    data = load_data(config)
    recommender = Recommender.load(config.checkpoint, data, None, config.device, config.seen)
    path = recommender.export_top_k(
        config.out,
        config.k,
        user_ids=None if users is None else recommender.users.parse(users),
        exclude_seen=config.exclude_seen,
        candidates=None if candidates is None else recommender.items.parse(candidates),
    )
    say(f"recommendations: {path}")
    return 0
