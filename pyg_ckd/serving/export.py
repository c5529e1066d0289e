"""Files for other systems: ranked lists and embeddings, each whole under its name or not there at all."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, atomic_folder, atomic_path, check_folder_is_free, to_disk, writing
from pyg_ckd.processes import Processes, present
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.serving.ids import Ids
from pyg_ckd.serving.results import source_of

if TYPE_CHECKING:
    import pyarrow as pa

TOP_K_FORMATS = (".parquet", ".csv", ".jsonl", ".csv.gz", ".jsonl.gz")
EMBEDDING_FORMATS = (".npy", ".parquet", ".safetensors")

PART = "part-{:05d}-of-{:05d}.parquet"
"""A file of a folder of ranked lists: which it is, and of how many."""

_ROWS = 2**18  # Rows of a ranked list that are held and written at once.


class Ranking(Protocol):
    """What is written: two tables with the ids of their rows, and the ranked lists they give."""

    embeddings: Embeddings
    users: Ids
    items: Ids

    def catalogue(self, candidates: Any = None, exclude: Any = None, where: Any = None, diversity: float = 0.0) -> Any:
        """Prepare the items to choose from."""

    def check_k(self, k: Any, catalogue: Any) -> int:
        """Return the length of a list, if there can be one."""

    def rank(self, users: Tensor, k: int, exclude_seen: bool, catalogue: Any) -> tuple[Tensor, Tensor]:
        """Return scores and rows of items ``[B, k]`` of users given as rows."""

    def find_users(self, user_ids: Any = None, unknown: str = "error") -> tuple[np.ndarray, Tensor]:
        """Return ids of users and their rows, -1 for unknown ones."""

    def by_model(self, users: Tensor, unknown: str) -> Tensor:
        """Return which of the users have lists from the model."""

    def with_popular(
        self,
        users: Tensor,
        learnt: Tensor,
        scores: Tensor,
        items: Tensor,
        k: int,
        exclude_seen: bool,
        catalogue: Any,
    ) -> tuple[Tensor, Tensor]:
        """Return the lists of all users, those of others by popularity."""

    def nothing_left(self, users: Tensor, catalogue: Any) -> InputError:
        """Return the error that says why no list has an item."""


def export_top_k(
    recommender: Ranking,
    path: str | os.PathLike[str],
    k: int = 20,
    user_ids: Any = None,
    exclude_seen: bool = True,
    candidates: Any = None,
    exclude: Any = None,
    where: Mapping[str, Any] | None = None,
    diversity: float = 0.0,
    unknown: str = "error",
) -> Path:
    """Write the best ``k`` items of every user, a part of the users at a time, in bounded memory.

    A row per recommended item, in the order of users and ranks: ``user``, ``rank`` (int32, from 1), ``item``,
    ``score``. Empty slots have no row. JSON lines have one line per user: ``{"user": ..., "items": [...], "scores":
    [...]}``, best first; a user without items has none. With ``unknown="popular"``, ``from`` says of each list whether
    it is from the ``model`` or by ``popularity``.

    Args:
        recommender: Where the lists come from.
        path: A file that ends in ``.parquet``, ``.csv``, ``.jsonl``, ``.csv.gz`` or ``.jsonl.gz``.
        k, user_ids, exclude_seen, candidates, exclude, where, diversity, unknown: As in :meth:`Recommender.recommend`;
            the ids of unknown users are of the type of those of the graph.

    Returns:
        The path.

    Raises:
        InputError: As :meth:`Recommender.recommend`, and if the format is unknown, a file cannot be written, or several
            processes shall write a single one. All processes raise it, and nothing is left.
    """
    processes = present()
    with processes.together():
        path = check_format(path, TOP_K_FORMATS, folder=True)
        asked, rows = recommender.find_users(user_ids, unknown)
        learnt = recommender.by_model(rows, unknown)
        users, ids = _numbered(recommender.users, asked, rows)
        schema = _schema(recommender, unknown == "popular")
        catalogue = recommender.catalogue(candidates, exclude, where, diversity)
        k = recommender.check_k(k, catalogue)
        probe = None if processes.alone else recommender.rank(rows[learnt][:1], k, exclude_seen, catalogue)[0]
    processes.agree("export", f"{path}, {k} items for {users.numel()} users from {asked[:1]} to {asked[-1:]}")
    if probe is not None:
        processes.agree_nearly("recommender", probe)
    any_left = False
    with _place(path, processes) as file:
        with processes.together(), writing(path), _writer(file, _suffix(path) or ".parquet", schema) as write:
            for start, stop in processes.blocks(users.numel(), _ROWS // k):
                here = learnt[start:stop]
                scores, items = recommender.rank(rows[start:stop][here], k, exclude_seen, catalogue)
                if not bool(here.all()):
                    part = rows[start:stop], here, scores, items, k
                    scores, items = recommender.with_popular(*part, exclude_seen, catalogue)
                any_left = any_left or bool((items >= 0).any())
                names = ids.arrow(users[start:stop].numpy())
                write(_table(names, recommender.items, items.numpy(), scores.numpy(), here.numpy(), schema))
        any_left = any(processes.gather(any_left))
        with processes.together():
            if users.numel() and not any_left:
                raise recommender.nothing_left(rows, catalogue)
    return path


@contextmanager
def _place(path: Path, processes: Processes) -> Iterator[Path]:
    """Yield the temporary file that a process writes to: the whole, or its part where the path is a folder."""
    if _suffix(path):
        with writing(path), atomic_path(path) as temporary:
            yield temporary
        return
    with ExitStack() as stack:
        with processes.together(), writing(path):
            mine = str(stack.enter_context(atomic_folder(path))) if processes.first else ""
        folder = Path(processes.gather(mine)[0])
        with processes.together():
            if not folder.is_dir():
                raise InputError(f"out {path}: {processes} does not see what the first one makes there, expected it to")
        yield folder / PART.format(processes.rank, processes.size)
        with processes.together(), writing(path):
            stack.pop_all().close()  # All parts are whole: the folder takes its name.


def export_embeddings(recommender: Ranking, path: str | os.PathLike[str]) -> list[Path]:
    """Write the two tables with the ids of their rows; no file takes its name before all are written.

    Only ``.safetensors`` is one file. Of the others, one takes its name after the other, and a process that is killed
    between them leaves files of two exports.

    ================== =========================================================================================
    ``path``           files
    ================== =========================================================================================
    ``x.npy``          ``x.user.npy`` and ``x.item.npy``, ``[N, D]``; where the graph has ids, ``x.user_id.npy``
                       and ``x.item_id.npy`` as well, integers or unicode strings
    ``x.parquet``      ``x.user.parquet`` and ``x.item.parquet``: columns ``user`` or ``item`` and ``embedding``
    ``x.safetensors``  ``x.safetensors`` with tensors ``user`` and ``item`` and the ids as int64 tensors ``user_id``
                       and ``item_id``, or as JSON lists of strings in the metadata (needs the extra ``safetensors``)
    ================== =========================================================================================

    Args:
        recommender: Where they come from.
        path: The file, or what the names of the two begin with.

    Returns:
        The files written.

    Raises:
        InputError: If the format is unknown, its package is not installed, a file cannot be written, or the graph has
            no ids, but a file of ids is there already, which would be read with the new tables.
    """
    path = check_format(path, EMBEDDING_FORMATS)
    if path.suffix.lower() == ".safetensors":
        return [_safetensors(recommender, path)]
    if path.suffix.lower() == ".parquet" and not recommender.embeddings.item.size(1):
        raise InputError(
            f"out {path}: found embeddings of width 0, which Parquet cannot hold, expected at least one column; write "
            ".npy or .safetensors"
        )
    written: dict[Path, Callable[[Path], None]] = {}
    for kind, ids in (("user", recommender.users), ("item", recommender.items)):
        table = getattr(recommender.embeddings, kind).cpu().numpy()
        if path.suffix.lower() == ".parquet":
            written[path.with_suffix(f".{kind}.parquet")] = _parquet(kind, ids.arrow(_all(ids)), table)
            continue
        written[path.with_suffix(f".{kind}.npy")] = _npy(table)
        file = path.with_suffix(f".{kind}_id.npy")
        if ids.given:
            array = ids.take(_all(ids))
            written[file] = _npy(array if ids.integers else array.astype(str))
        elif file.exists():  # It would be read with the tables of today, of whose rows it need not be.
            raise InputError(
                f"out {path}: found {file.name} there already, but no {kind}_id in the graph, expected ids or no such "
                f"file; give the graph {kind}_id, move the file, or take another name"
            )
    for file in written:
        _check_no_folder(file)
    with writing(path), ExitStack() as stack:
        for file, write in written.items():
            write(stack.enter_context(atomic_path(file)))
    return list(written)


def check_format(path: str | os.PathLike[str], formats: tuple[str, ...] = TOP_K_FORMATS, folder: bool = False) -> Path:
    """Return the path, if its name ends as one of the formats.

    Args:
        path: The file to be written.
        formats: The endings.
        folder: Whether a name without an ending is one too, of a folder in which each process writes a part. Several
            processes then need it to be one.

    Raises:
        InputError: If it does not; if it is a folder; or if it shall be one and has files in it.
    """
    path, processes = as_path(path), present()
    if str(path) == "-":
        raise InputError("out -: found a dash, expected the name of a file; write one such as /tmp/lists.csv")
    suffix = _suffix(path)
    if folder and not suffix:
        try:
            check_folder_is_free(path)
        except InputError as error:
            raise InputError(f"out {error}") from None
        return path
    if suffix not in formats:
        raise InputError(f"out {path}: {unknown_name('format', suffix, formats)}")
    if folder and not processes.alone:
        raise InputError(
            f"out {path}: found a single file for {processes.size} processes, expected a folder in which each writes a "
            f"part, a name without an ending such as {str(path)[: -len(suffix)]}"
        )
    _check_no_folder(path)
    return path


def _suffix(path: Path) -> str:
    """Return the ending of a name in small letters, ``.csv.gz`` of a compressed file."""
    parts = [part.lower() for part in path.suffixes[-2:]]
    return "".join(parts if parts[-1:] == [".gz"] else parts[-1:])


def _check_no_folder(path: Path) -> None:
    with writing(path):
        if path.is_dir():
            raise InputError(f"out {path}: is a folder, expected the name of a file; choose another")


def _all(ids: Any) -> np.ndarray:
    return np.arange(len(ids))


def _numbered(ids: Ids, asked: np.ndarray, rows: Tensor) -> tuple[Tensor, Ids]:
    """Return a row for all who were asked for, and ids that have those who are unknown behind the others."""
    new = np.flatnonzero(rows.numpy() < 0)
    if not new.size:
        return rows, ids
    parsed = ids.parse(asked[new].tolist())
    wrong = ids.misfit(parsed)
    if wrong is not None:
        one, kind = parsed[wrong], "an integer below 2^63" if ids.integers else "a string"
        raise InputError(
            f"user_ids: found id {one!r:.60} ({type(one).__name__}) at position {new[wrong]}, expected {kind} as the "
            "ids of the graph are, for a column of a file has one type; leave it out, or take recommend(...).to_frame()"
        )
    place, unique = pd.factorize(pd.Series(parsed, dtype=object))
    more = Ids(ids.kind, ids.take(_all(ids)), len(ids)).extended(unique.tolist(), len(unique))
    numbered = rows.clone()
    numbered[torch.from_numpy(new)] = torch.from_numpy(place.astype(np.int64)) + len(ids)
    return numbered, more


def _schema(recommender: Ranking, marked: bool) -> pa.Schema:
    import pyarrow as pa

    def kind(ids: Any) -> pa.DataType:
        return pa.int64() if ids.integers else pa.string()

    score = pa.from_numpy_dtype(str(recommender.embeddings.user.dtype).removeprefix("torch."))
    fields = [("user", kind(recommender.users)), ("rank", pa.int32()), ("item", kind(recommender.items))]
    return pa.schema([*fields, ("score", score), *([("from", pa.string())] if marked else [])])


def _table(
    users: pa.Array, ids: Ids, items: np.ndarray, scores: np.ndarray, learnt: np.ndarray, schema: pa.Schema
) -> pa.Table:
    import pyarrow as pa

    row, rank = np.nonzero(items >= 0)
    columns = [
        users.take(pa.array(row)),
        pa.array((rank + 1).astype(np.int32)),
        ids.arrow(items[row, rank]),
        pa.array(scores[row, rank]),
        pa.array(source_of(learnt[row]), pa.string()),
    ]
    return pa.Table.from_arrays(columns[: len(schema)], schema=schema)


@contextmanager
def _writer(temporary: Path, suffix: str, schema: pa.Schema) -> Iterator[Callable[[pa.Table], None]]:
    """Yield what writes some of the lists to a temporary file, in the format that the ending says."""
    if suffix == ".parquet":
        from pyarrow.parquet import ParquetWriter

        with ParquetWriter(temporary, schema) as writer:
            yield writer.write_table
        return
    with ExitStack() as stack:
        file: Any = stack.enter_context(temporary.open("wb"))
        if suffix.endswith(".gz"):  # Without name and time, so that the same lists are the same bytes.
            file = stack.enter_context(gzip.GzipFile("", "wb", fileobj=file, mtime=0))
        if suffix.startswith(".jsonl"):
            yield lambda table: file.writelines(_lines(table))
            return
        from pyarrow.csv import CSVWriter

        with CSVWriter(file, schema) as writer:
            yield writer.write_table


def _lines(table: pa.Table) -> Iterator[bytes]:
    """Yield a line of JSON for every user of a part of the lists, whose rows are one user after another."""
    users, items, scores = (table[name].to_pylist() for name in ("user", "item", "score"))
    marks = table["from"].to_pylist() if "from" in table.column_names else None
    ends = [row for row, rank in enumerate(table["rank"].to_pylist()) if rank == 1] + [len(users)]
    for start, stop in pairwise(ends):  # None where no user of the part has an item.
        content = {"user": users[start], "items": items[start:stop], "scores": scores[start:stop]}
        if marks is not None:
            content["from"] = marks[start]
        yield (json.dumps(content, ensure_ascii=False) + "\n").encode()


def _npy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array, allow_pickle=False)


def _parquet(kind: str, ids: pa.Array, table: np.ndarray) -> Callable[[Path], None]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = pa.FixedSizeListArray.from_arrays(pa.array(table.reshape(-1)), table.shape[1])
    return lambda path: pq.write_table(pa.table({kind: ids, "embedding": rows}), path)


def _safetensors(recommender: Ranking, path: Path) -> Path:
    try:
        from safetensors.torch import save_file
    except ImportError:
        raise InputError(
            f"out {path}: found no package safetensors; install it with pip install 'pyg-ckd[safetensors]', or write "
            ".npy or .parquet"
        ) from None
    content = {kind: table.cpu().contiguous() for kind, table in recommender.embeddings._asdict().items()}
    metadata = {}
    for kind, ids in (("user_id", recommender.users), ("item_id", recommender.items)):
        if ids.given and ids.integers:
            content[kind] = ids.rows(None).new_tensor(ids.take(_all(ids)))
        elif ids.given:
            metadata[kind] = json.dumps(ids.take(_all(ids)).tolist())
    with writing(path), atomic_path(path) as temporary, to_disk():
        save_file(content, temporary, metadata or None)
    return path
