"""Who makes the runs of a study: this process, several of them, or a cluster, through joblib."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import warnings
from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import atomic_path, read_json, write_json
from pyg_ckd.processes import started
from pyg_ckd.study.cards import on_card
from pyg_ckd.study.clusters import BACKENDS, CONNECT, DEATHS, configuration
from pyg_ckd.study.maker import Maker
from pyg_ckd.study.runs import Run, sources_of
from pyg_ckd.study.sources import Sources, check_sources, renewed
from pyg_ckd.study.store import RunStore
from pyg_ckd.training.layouts.choice import check_devices

ERROR = "error"
STUDY_LOCK = ".lock"
Pair = tuple[Run, dict[str, Any]]


@dataclass(frozen=True)
class Workplace:
    """What a worker needs to know beside the run; it reads the graph from a file, once.

    Attributes:
        folder: Folder of the study, where the graph lies and workers note what they are at.
        data: Fingerprint of the graph.
        stores: Folders of the runs, by kind.
        monitor: The metric that decides.
        cutoffs: Cut-offs of all metrics.
        parent: Process of the study where its workers end with it, else 0.
        cards: Number of GPUs that the workers share out among themselves; 0 leaves that to the cluster.
        test: Whether runs are measured on the test part, too.
        ids: Digest of the ids of users and items, which lie beside the graph.
    """

    folder: str
    data: str
    stores: tuple[tuple[str, str], ...]
    monitor: str
    cutoffs: tuple[int, ...]
    parent: int = 0
    cards: int = 0
    test: bool = True
    ids: str = ""

    @property
    def graph(self) -> Path:
        """The file of the graph."""
        return Path(self.folder) / "data.pt"

    @property
    def marks(self) -> Path:
        """Folder in which every worker notes the run that it is at."""
        return Path(self.folder) / "running"


def check_executor(workers: int, backend: str) -> int:
    """Refuse what the runs cannot be made with.

    Args:
        workers: Number of processes.
        backend: ``"loky"``, ``"dask"`` or ``"ray"``.

    Raises:
        InputError: If the number is no positive integer, or the backend is unknown, not installed, or has no cluster.
    """
    try:
        number = as_integer(workers, "workers")
    except InputError:
        number = 0
    if number < 1:
        raise InputError(f"workers: found {workers!r}, expected a whole number of at least 1, the processes that train")
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS)
    CONNECT[backend]()
    return number


def one_device_each(trainer: Mapping[str, Any], workers: int) -> tuple[dict[str, Any], int]:
    """Return the trainer's options for runs of one device each, and the number of workers.

    Runs that share nothing are the best use of several devices, so that ``devices`` of the trainer are workers.

    Args:
        trainer: Options of the trainer.
        workers: Number of processes.

    Raises:
        InputError: If both numbers are given and differ, the runs shall be shared out over devices or machines, or this
            process is one of several that were started together.
    """
    options = dict(trainer)
    devices, num_nodes = options.pop("devices", "auto"), options.pop("num_nodes", 1)
    strategy = options.pop("strategy", "auto")
    devices, _ = check_devices(devices, num_nodes, strategy)
    if started() > 1:
        raise InputError(
            f"study: found {started()} processes that were started together, expected one, which starts its "
            "workers itself (--workers), or has a cluster (--backend)"
        )
    if num_nodes != 1 or strategy != "auto":
        raise InputError(
            f"trainer: found num_nodes {num_nodes} and strategy {strategy!r} in a study, whose runs have one device "
            "each, expected 1 and 'auto'; pyg-ckd train shares one run out, --backend the runs over machines"
        )
    if devices == "auto":
        return options, workers
    if workers not in (1, devices):
        raise InputError(
            f"workers: found {workers} beside trainer.devices {devices}, expected one of the two: a study gives every "
            "run one device"
        )
    return options, int(devices)


def run_all(
    runs: Sequence[Run],
    maker: Maker,
    workplace: Workplace,
    workers: int = 1,
    backend: str = "loky",
) -> Iterator[Pair]:
    """Make all runs and yield each with its record as soon as it is there.

    One worker of ``"loky"`` is this process, which takes the runs in order. Several take teachers first, then what
    needs them, and then the rest; a run whose teachers are not there yet lets others go before.

    Args:
        runs: The runs, each once.
        maker: Makes runs in this process.
        workplace: What other processes need to know.
        workers: Number of processes.
        backend: Where they are, see :func:`check_executor`.

    Raises:
        InputError: If a run fails or a process dies; the message names the run. Finished runs are kept.
    """
    workplace.graph.unlink(missing_ok=True)  # Of a call that was killed.
    if backend == "loky" and workers == 1:
        for run in runs:
            yield run, maker.make(run)
        return
    by_key = {run.key: run for run in runs}
    sources = {run.key: sources_of(run) for run in runs}  # Before the first run begins, for a file may be changed.
    if renewed(sources.values()) and backend == "loky":
        _end_idle_workers()
    with atomic_path(workplace.graph) as temporary:
        torch.save({**pack(maker.data), "ids": maker.ids}, temporary)
    for mark in workplace.marks.glob("*.json"):
        mark.unlink()
    dead: list[int] = []
    try:
        with (
            _watched(workplace.marks, dead) if backend == "loky" else nullcontext(),
            closing(_outcomes(workplace, _in_order(runs, maker.stores), sources, workers, backend)) as outcomes,
        ):
            for key, outcome in outcomes:
                if ERROR in outcome:
                    raise InputError(outcome[ERROR])
                yield by_key[key], outcome
    except Exception as error:
        if isinstance(error, BrokenProcessPool) or type(error).__name__ in DEATHS:
            raise InputError(_obituary(workplace.marks, dead)) from None
        raise
    finally:
        workplace.graph.unlink(missing_ok=True)
        with suppress(OSError):  # There is none, or a worker that was broken off has left its mark.
            workplace.marks.rmdir()


def _outcomes(
    workplace: Workplace, runs: Iterator[Run], sources: Mapping[str, Sources], workers: int, backend: str
) -> Generator[tuple[str, dict[str, Any]], None, None]:
    """Hand the runs to joblib and yield what :func:`work` returns, as soon as it is there."""
    from joblib import Parallel, delayed, parallel_config

    with warnings.catch_warnings(), parallel_config(**configuration(backend)):
        # Loky replaces a worker that holds 300 MB more than at first, as one does that keeps graphs for its next run.
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        parallel = Parallel(
            n_jobs=workers, pre_dispatch=workers, batch_size=1, return_as="generator_unordered", max_nbytes=None
        )
        found = parallel(delayed(work)(workplace, run, sources[run.key]) for run in runs)
        try:
            for outcome in found:  # noqa: UP028  "yield from" would end joblib's generator before the lines below.
                yield outcome
        finally:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # That runs are broken off is known here.
                found.close()


def work(workplace: Workplace, run: Run, sources: Sources) -> tuple[str, dict[str, Any]]:
    """Make one run in a worker and return its key and record, or the message of what failed.

    Args:
        workplace: What it needs to know beside the run.
        run: The run.
        sources: The files of its code, see :func:`~pyg_ckd.study.runs.sources_of`.
    """
    if workplace.parent:
        _follow(workplace.parent)
    if workplace.cards:
        on_card(workplace.cards)
    mark = workplace.marks / f"{run.key}.json"
    write_json(mark, {"run": run.title, "process": os.getpid(), "machine": socket.gethostname()})
    try:
        check_sources(run.title, sources)
        return run.key, _maker(workplace).make(run)
    except InputError as error:
        return run.key, {ERROR: str(error)}
    finally:
        mark.unlink(missing_ok=True)


def _end_idle_workers() -> None:
    """End the workers that joblib keeps for the next call: they hold a module as it was before it was reloaded."""
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True)


def pack(data: HeteroData) -> dict[str, Any]:
    """Return a graph as a dict that is read without executing anything, see :func:`unpack_graph`.

    Args:
        data: A graph of tensors and plain values.
    """
    return {"stores": [(store._key, dict(store.items())) for store in data.stores]}


def unpack_graph(content: Mapping[str, Any]) -> HeteroData:
    """Return the graph that :func:`pack` took apart.

    Args:
        content: The dict.
    """
    data = HeteroData()
    for key, values in content["stores"]:
        target = data if key is None else data[key]
        for name, value in values.items():
            target[name] = value
    return data


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold the folder of a study, so that no other process runs the same study at the same time.

    Args:
        folder: The folder.

    Raises:
        InputError: If another process holds it.
    """
    from filelock import FileLock, Timeout

    lock = FileLock(folder / STUDY_LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"output folder {folder}: another process runs this study, expected one at a time; wait for it, or choose "
            "another folder and the same runs"
        ) from None
    try:
        yield
    finally:
        lock.release()


@lru_cache(maxsize=1)
def _maker(workplace: Workplace) -> Maker:
    """Return the maker of this process, which keeps the graph from run to run."""
    content = torch.load(workplace.graph, map_location="cpu", mmap=True, weights_only=True)
    stores = {kind: RunStore(Path(folder)) for kind, folder in workplace.stores}
    data, ids = unpack_graph(content), content["ids"]
    return Maker(data, stores, workplace.monitor, workplace.cutoffs, test=workplace.test, ids=ids)


def _in_order(runs: Sequence[Run], stores: Mapping[str, RunStore]) -> Iterator[Run]:
    """Yield teachers, what needs them, and the rest; what would have to wait lets others go before.

    The rest are EASE with content, trainings and shorter closed forms, so that workers end at about the same time.
    """

    def rank(run: Run) -> int:
        if run.kind == "teacher":
            return 0
        if run.kind == "contender":
            return 1 if run.teachers else 3
        if run.backbone is not None:
            return 4
        return {"ease-content": 2, "item-knn-content": 5}.get(run.name, 6)  # The others reuse their knobs.

    left = sorted(runs, key=rank)

    def ready(run: Run) -> bool:
        return all(stores[t.kind].read(t) is not None for t in run.teachers)

    while left:
        chosen = next((run for run in left if ready(run)), left[0])
        left.remove(chosen)
        yield chosen


@lru_cache(maxsize=1)
def _follow(parent: int) -> None:
    """End this process when the one of the study has ended: what it was at goes on from its checkpoint."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def _watched(marks: Path, dead: list[int]) -> Iterator[None]:
    """Note which process ends first while the others are at work, for joblib then ends them all."""
    if not hasattr(os, "pidfd_open"):
        yield
        return
    stop = threading.Event()
    thread = threading.Thread(target=_watch, args=(marks, dead, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _watch(marks: Path, dead: list[int], stop: threading.Event) -> None:
    known: dict[int, int] = {}  # From process to descriptor.
    poller = select.poll()
    try:
        while not stop.is_set() and not dead:
            for process in {mark["process"] for mark in _marks(marks)} - known.keys():
                try:
                    known[process] = os.pidfd_open(process)
                except ProcessLookupError:  # It died before it was seen, and the others are being ended for it.
                    dead.append(process)
                except OSError:
                    continue
                else:
                    poller.register(known[process], select.POLLIN)
            if dead:
                break
            ended = {descriptor for descriptor, _ in poller.poll(100)}
            dead += [process for process, descriptor in known.items() if descriptor in ended]
    finally:
        for descriptor in known.values():
            os.close(descriptor)


def _marks(folder: Path) -> list[dict[str, Any]]:
    found = (read_json(path) for path in sorted(folder.glob("*.json")))
    return [mark for mark in found if isinstance(mark, dict) and {"run", "process"} <= mark.keys()]


def _obituary(folder: Path, dead: Sequence[int]) -> str:
    marks = _marks(folder)
    gone = [mark for mark in marks if mark["process"] in dead] or [mark for mark in marks if _is_gone(mark)]
    found = [mark["run"] for mark in gone or marks]
    return (
        f"{' or '.join(found) or 'a run'}: the process that made it died, perhaps killed for want of memory; finished "
        "runs are kept, and the same call goes on from the last checkpoint, with fewer workers if memory is short"
    )


def _is_gone(mark: Mapping[str, Any]) -> bool:
    if os.name != "posix" or mark.get("machine") != socket.gethostname():
        return False
    try:
        os.kill(mark["process"], 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False
