"""The folder of the runs, which several studies and processes can share: every run is made once and kept whole."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pyg_ckd.errors import InputError
from pyg_ckd.files import atomic_path, read_json, write_json
from pyg_ckd.study.runs import Run
from pyg_ckd.training.run_file import remove_checkpoint

if TYPE_CHECKING:
    import pandas as pd

PARTS_OF_METRICS = ("val", "test")
NAN = float("nan")
HISTORY = "history.csv"


class RunStore:
    """Finished and unfinished runs by key, each in a folder ``<name>-<key>`` of its own.

    A folder holds ``run.json``, ``model.pt``, ``history.csv`` and, once the test part was read, the metrics of every
    user in ``per_user-<k>.csv`` with the largest cut-off of whoever measured: studies of other cut-offs leave each
    other's files alone. ``run.json`` is written last and says that the run is finished. Of a run that a search has
    pruned it holds ``pruned-<bars>.json`` alone. Embeddings of teachers lie in the folder ``teachers``, closed forms in
    ``solved``.
    While a run is made, its key is locked: another process that wants it waits. The lock goes with the process that
    holds it.

    Args:
        folder: The folder; created if need be.

    Raises:
        InputError: If the folder cannot be written to.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._locks = folder / "locks"
        try:
            self._locks.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"folder of runs {folder}: cannot be written to ({error.strerror}); choose another"
            ) from None

    @property
    def teachers(self) -> Path:
        """Folder of the teachers' embeddings."""
        return self.folder / "teachers"

    @property
    def solved(self) -> Path:
        """Folder of what backbones have solved of the graph, see :func:`~pyg_ckd.data.solved.solved`."""
        return self.folder / "solved"

    def path(self, run: Run) -> Path:
        """Return the folder of a run: under its key, whatever name it was made under.

        Args:
            run: The run.
        """
        own = self.folder / f"{re.sub(r'[^A-Za-z0-9.+=_-]+', '-', run.name)[:60]}-{run.key}"
        return own if own.exists() else next(self.folder.glob(f"*-{run.key}"), own)

    @contextmanager
    def locked(self, run: Run, waiting: Callable[[], object] = lambda: None) -> Iterator[None]:
        """Hold a run for this process; another one that holds it is waited for.

        Args:
            run: The run.
            waiting: Called before waiting.
        """
        from filelock import FileLock, Timeout

        lock = FileLock(self._locks / f"{run.key}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire(poll_interval=0.1)
        try:
            yield
        finally:
            lock.release()

    def read(self, run: Run) -> dict[str, Any] | None:
        """Return what is known of a finished run under the name that it has now, or :obj:`None`.

        A run whose history is there, but damaged, is none: it is made again.

        Args:
            run: The run.
        """
        record = read_json(self.path(run) / "run.json")
        if not isinstance(record, dict) or not {"val", "test", "views", "training_seconds"} <= record.keys():
            return None
        if record.get("epochs") and (self.path(run) / HISTORY).exists():
            history = self.history(run)
            if history is None or len(history) != record["epochs"]:
                return None
        for part in PARTS_OF_METRICS:
            record[part] = _numbers(record[part])
        record["views"] = {m: _numbers(metrics) for m, metrics in record["views"].items()}
        return {**record, "name": run.name, "kind": run.kind, "seed": run.seed}

    def write(
        self, run: Run, record: Mapping[str, Any], per_user: pd.DataFrame | None, history: pd.DataFrame | None = None
    ) -> None:
        """Keep a finished run.

        Args:
            run: The run.
            record: What ``run.json`` shall hold; what decided about the run is added.
            per_user: Test metrics of every user, or :obj:`None` if the test part was not read.
            history: The record of its training, or :obj:`None` to leave it as it is.
        """
        folder = self.path(run)
        if per_user is not None:
            with atomic_path(folder / f"per_user-{max(cutoffs_of(per_user))}.csv") as path:
                per_user.to_csv(path)
        if history is not None:
            with atomic_path(folder / HISTORY) as path:
                history.to_csv(path)
        write_json(folder / "run.json", {**record, "key": run.key, "made_of": run.decides})

    def per_user(self, run: Run, cutoff: int) -> pd.DataFrame | None:
        """Return the test metrics of every user, or :obj:`None` if they are missing or damaged.

        Args:
            run: A finished run.
            cutoff: The largest cut-off that they were measured with.
        """
        folder = self.path(run)
        for path in (folder / f"per_user-{cutoff}.csv", folder / "per_user.csv"):  # The second: of older versions.
            try:
                found = _table(path, "user")
            except (OSError, ValueError):  # The second: of a damaged file, whichever way.
                continue
            numbers = found.select_dtypes("number").shape == found.shape and not found.isna().to_numpy().any()
            if len(found) and numbers and max(cutoffs_of(found), default=0) == cutoff:
                return found
        return None

    def history(self, run: Run) -> pd.DataFrame | None:
        """Return the record of a run's training, or :obj:`None` if it is missing or damaged.

        Args:
            run: The run.
        """
        try:
            return _table(self.path(run) / HISTORY, "epoch")
        except (OSError, ValueError, TypeError):  # The last: of a file without a column.
            return None

    def checkpoints(self, run: Run) -> Path:
        """Return the folder of a run's checkpoint: one of its own if the run may be pruned.

        Another training of the same key never goes on from a checkpoint of one that was pruned.

        Args:
            run: The run.
        """
        folder = self.path(run)
        return folder if run.pruning is None else folder / f"trial-{run.pruning.key}"

    def discard_checkpoint(self, run: Run) -> None:
        """Remove the checkpoint of a finished run, which a killed process may have left.

        Args:
            run: The run.
        """
        remove_checkpoint(self.path(run))
        if run.pruning is not None:
            shutil.rmtree(self.checkpoints(run), ignore_errors=True)

    def read_pruned(self, run: Run) -> dict[str, Any] | None:
        """Return the record of a run that was pruned by the same bars, or :obj:`None`.

        Args:
            run: The run.
        """
        record = None if run.pruning is None else read_json(self._pruned(run))
        return record if isinstance(record, dict) else None

    def write_pruned(self, run: Run, record: Mapping[str, Any]) -> None:
        """Keep the record of a run that was pruned; its checkpoint goes.

        Args:
            run: The run.
            record: The record.
        """
        self.discard_checkpoint(run)
        write_json(self._pruned(run), record)

    def _pruned(self, run: Run) -> Path:
        assert run.pruning is not None
        return self.path(run) / f"pruned-{run.pruning.key}.json"


def _table(path: Path, index: str) -> pd.DataFrame:
    """Read a table that was written to its end, which is that of a line."""
    import pandas as pd

    content = path.read_bytes()
    if not content.endswith(b"\n"):
        raise ValueError("the last line was cut")
    return pd.read_csv(BytesIO(content), index_col=index)


def cutoffs_of(metrics: Iterable[str]) -> set[int]:
    """Return the cut-offs of metrics such as ``recall@20``; those of cold and warm items have none.

    Args:
        metrics: Their names.
    """
    return {int(cut) for cut in (name.partition("@")[2] for name in metrics) if cut.isdecimal()}


def _numbers(metrics: Mapping[str, float | None]) -> dict[str, float]:
    return {name: NAN if value is None else float(value) for name, value in metrics.items()}
