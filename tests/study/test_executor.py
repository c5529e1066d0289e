"""Who makes the runs does not show in the results, whatever dies on the way."""

from __future__ import annotations

import inspect
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from functools import wraps
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock

from pyg_ckd.data import fingerprint, solved
from pyg_ckd.errors import InputError
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import FISM
from pyg_ckd.nn.models import item_weights
from pyg_ckd.study import Contender, Study, StudySettings
from pyg_ckd.study.cards import on_card
from pyg_ckd.study.executor import _in_order, _watch, pack, unpack_graph
from pyg_ckd.study.maker import single_threaded
from pyg_ckd.study.runs import training_data
from tests.conftest import random_data
from tests.study.problem import TRAINER, Deadly, Failing, Gentle, Mistaken, killed, numbers, small
from tests.training.problem import planted_data

CONTENDERS = {"ckd": "ckd", "gentle": Gentle}
MOMENTS = [
    "within an epoch",
    "before run.json",
    "before the checkpoint is removed",
    "after the second run",
    "before results.json",
]


@pytest.fixture(scope="module")
def alone(tmp_path_factory) -> Path:
    """The folder of a study that one process made, undisturbed."""
    folder = tmp_path_factory.mktemp("alone")
    small(folder, contenders=CONTENDERS).run([0, 1])
    return folder


def files(folder: Path) -> dict[str, bytes]:
    """Return what the runs and the study wrote and holds no times, by name."""
    found = [*folder.glob("runs/*/history.csv"), *folder.glob("runs/*/per_user-*.csv")]
    found += [folder / "results.csv", folder / "table.tex"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_two_workers_find_the_same_bits_as_one(alone, tmp_path):
    results = small(tmp_path, contenders=CONTENDERS, workers=2).run([0, 1])
    assert not (tmp_path / "running").exists()
    assert numbers(results) == numbers(read_json(alone / "results.json"))
    assert files(tmp_path) == files(alone)
    assert len(files(alone)) == 2 * 6 * 2 + 1 + 2  # Of two seeds with six runs each, of popularity, and tables.
    assert not (tmp_path / "data.pt").exists()


def test_a_worker_that_dies_is_named_by_its_run_and_the_rest_is_kept(tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    options: dict[str, Any] = {"contenders": {"deadly": Contender(Deadly, {"file": str(flag)})}, "workers": 2}
    with pytest.raises(InputError, match=r"deadly \(seed 0\).*the process that made it died.*the same call goes on"):
        small(tmp_path / "study", **options).run()
    flag.unlink()
    finished = {path.parent.name for path in tmp_path.glob("study/runs/*/run.json")}
    assert sum(name.startswith("teacher") for name in finished) == 2
    before = {name: (tmp_path / "study" / "runs" / name / "run.json").stat().st_mtime_ns for name in finished}
    again = small(tmp_path / "study", **options).run()
    after = {name: (tmp_path / "study" / "runs" / name / "run.json").stat().st_mtime_ns for name in finished}
    assert after == before
    assert numbers(again) == numbers(small(tmp_path / "other", **(options | {"workers": 1})).run())


@pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="processes cannot be watched here")
def test_a_worker_that_died_before_it_was_seen_is_the_first_that_died(tmp_path):
    gone, ended = subprocess.Popen(["true"]), subprocess.Popen(["true"])
    gone.wait()
    os.waitid(os.P_PID, ended.pid, os.WEXITED | os.WNOWAIT)  # It can still be seen.
    for process in (gone, ended):
        write_json(tmp_path / f"{process.pid}.json", {"run": "any", "process": process.pid})
    dead: list[int] = []
    _watch(tmp_path, dead, threading.Event())
    ended.wait()
    assert dead == [gone.pid]


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_that_fails_is_named(workers, tmp_path):
    failing = small(tmp_path, contenders={"failing": Failing}, workers=workers)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with pytest.raises(InputError, match=r"^failing \(seed 0\): weights: found none, expected some$"):
            failing.run()
    assert not (tmp_path / "results.json").exists()


@pytest.mark.filterwarnings("error::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_mistake_in_code_is_said_in_one_line_with_contender_seed_backbone_and_place(workers, tmp_path):
    mistaken = small(tmp_path, contenders={"mine": Mistaken}, workers=workers)
    place = re.escape(str(Path(inspect.getfile(Mistaken))))
    message = rf"^mine \(seed 0\): Mistaken on VBPR raised KeyError \(.*\) in {place}, line \d+, expected code .* kept$"
    with pytest.raises(InputError, match=message) as caught:
        mistaken.run()
    assert "\n" not in str(caught.value)
    assert workers > 1 or isinstance(caught.value.__cause__, KeyError)
    assert not (tmp_path / "results.json").exists()


def test_a_study_killed_at_any_moment_goes_on_to_the_same_result(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.study.problem"])
    known: set[str] = set()
    for moment in MOMENTS:
        process = context.Process(target=killed, args=(tmp_path / "study", moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        assert bool(list(tmp_path.glob("study/runs/plain-*/last.pt"))) == (moment == MOMENTS[0])
        assert not (tmp_path / "study" / "results.json").exists()
        finished = {path.parent.name for path in tmp_path.glob("study/runs/*/run.json")}
        assert finished >= known, moment
        known = finished
    said: list[str] = []
    results = small(tmp_path / "study", say=said.append).run()
    assert not [line for line in said if line.startswith("seed")]  # All runs were there at the last moment.
    assert numbers(results) == numbers(small(tmp_path / "other").run())
    assert not list(tmp_path.rglob("last.pt"))


def test_workers_end_with_a_study_that_is_killed_and_it_goes_on(tmp_path):
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=killed, args=(tmp_path / "study", "after the second run", 2))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert numbers(small(tmp_path / "study").run()) == numbers(small(tmp_path / "other").run())


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """A Dask cluster of this machine, which gives a task up once its worker has died."""
    distributed = pytest.importorskip("distributed")
    dask = pytest.importorskip("dask")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None}
    with dask.config.set({"distributed.scheduler.allowed-failures": 0}), distributed.LocalCluster(**options) as found:
        yield found


def test_a_cluster_finds_the_same_bits(alone, cluster, tmp_path):
    with pytest.importorskip("distributed").Client(cluster):
        results = small(tmp_path, contenders=CONTENDERS, workers=2, backend="dask").run([0, 1])
    assert numbers(results) == numbers(read_json(alone / "results.json"))
    assert files(tmp_path) == files(alone)


def test_a_worker_of_a_cluster_that_dies_is_named_by_its_run(cluster, tmp_path):
    flag = tmp_path / "flag"
    flag.touch()
    contenders = {"deadly": Contender(Deadly, {"file": str(flag)})}
    with pytest.importorskip("distributed").Client(cluster), pytest.raises(InputError, match=r"deadly \(seed 0\)"):
        small(tmp_path / "study", contenders=contenders, workers=2, backend="dask").run()
    assert list(tmp_path.glob("study/runs/teacher-*/run.json"))


def test_workers_of_a_cluster_have_one_thread(tmp_path):
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 1, "threads_per_worker": 2, "dashboard_address": None, "processes": False}
    message = r"backend: found Dask workers with 2 threads, expected 1, .*--nthreads 1"
    with distributed.LocalCluster(**options) as c, distributed.Client(c), pytest.raises(InputError, match=message):
        small(tmp_path / "out", backend="dask")
    assert not (tmp_path / "out").exists()


def test_ray_makes_the_runs_once_it_has_registered_itself(alone, tmp_path, monkeypatch):
    from joblib import register_parallel_backend
    from joblib.parallel import BACKENDS

    registered = []

    def register_ray() -> None:
        registered.append("ray")
        register_parallel_backend("ray", BACKENDS["sequential"])

    module: Any = ModuleType("ray.util.joblib")
    module.register_ray = register_ray
    for name in ("ray", "ray.util"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "ray.util.joblib", module)
    results = small(tmp_path, contenders=CONTENDERS, workers=2, backend="ray").run([0, 1])
    assert registered == ["ray"]
    assert numbers(results) == numbers(read_json(alone / "results.json"))


@pytest.mark.parametrize(
    ("name", "hidden", "message"),
    [
        ("dask", "dask", r"backend: found 'dask', which is not installed, .* pip install 'pyg-ckd\[cluster\]'"),
        ("ray", "ray.util.joblib", r"backend: found 'ray', which is not installed, .* pip install 'ray"),
    ],
)
def test_a_backend_that_is_not_installed_says_how_to_install_it(name, hidden, message, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, hidden, None)
    with pytest.raises(InputError, match=message):
        small(tmp_path / "out", backend=name)
    assert not (tmp_path / "out").exists()


def test_dask_without_a_cluster_says_how_to_find_one(tmp_path, monkeypatch):
    pytest.importorskip("distributed")
    with pytest.raises(InputError, match=r"backend: found no client of a Dask cluster, .*DASK_SCHEDULER_ADDRESS"):
        small(tmp_path / "out", backend="dask")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers: found 0, expected a whole number of at least 1"),
        ({"workers": 1.5}, "workers: found 1.5, expected a whole number"),
        ({"workers": "2"}, "workers: found '2', expected a whole number"),
        ({"backend": "lokyy"}, "unknown backend 'lokyy': did you mean 'loky'"),
    ],
    ids=str,
)
def test_workers_and_backends_that_cannot_be_are_refused(options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        small(tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_workers_of_all_studies_are_spread_over_the_gpus(tmp_path):
    context = multiprocessing.get_context("forkserver")
    with context.Pool(5) as pool:  # Each keeps its place as long as it lives.
        found = pool.map(_card, [str(tmp_path)] * 5, chunksize=1)
    assert sorted(found) == [(0, "4"), (0, "4"), (0, "4"), (1, "7"), (1, "7")]


def _card(folder: str) -> tuple[int, str]:
    import os
    import tempfile
    import time

    tempfile.tempdir, os.environ["CUDA_VISIBLE_DEVICES"] = folder, "4,7"
    number = on_card(2)
    time.sleep(1)  # So that no process takes two tasks.
    return number, os.environ["CUDA_VISIBLE_DEVICES"]


def test_a_run_that_another_process_makes_is_waited_for(tmp_path):
    said: list[str] = []
    study = small(tmp_path, say=said.append)
    run = study.plan([0])[1]
    lock = FileLock(tmp_path / "runs" / "locks" / f"{run.key}.lock")
    done = threading.Thread(target=study.run)
    with lock:
        done.start()
        while not any("waiting" in line for line in said):
            assert done.is_alive()
        assert not (tmp_path / "results.json").exists()
    done.join()
    assert "seed 0: lightgcn is being made by another process, waiting for it" in said
    assert (tmp_path / "results.json").exists()


def test_one_process_at_a_time_runs_a_study(tmp_path):
    study = small(tmp_path)
    with FileLock(tmp_path / ".lock"), pytest.raises(InputError, match="another process runs this study"):
        study.run()


def test_what_must_wait_lets_others_go_before(tmp_path):
    study = small(tmp_path)
    runs = study.plan([0])
    order = [run.name for run in _in_order(runs, study.stores)]
    assert order[:2] == ["teacher:visual", "teacher:textual"]
    assert order[-1] == "ckd"  # No teacher was made meanwhile.
    assert sorted(order) == sorted(run.name for run in runs)
    for run in runs:
        if run.kind == "teacher":
            folder = study.stores["teacher"].path(run)
            folder.mkdir()
            (folder / "run.json").write_text('{"val": {}, "test": {}, "views": {}, "training_seconds": 0}')
    assert [run.name for run in _in_order(runs, study.stores)][2] == "ckd"


def test_the_longest_closed_form_begins_early_and_short_ones_fill_the_end(tmp_path):
    study = small(tmp_path, baselines=["popularity", "item-knn", "item-knn-content", "lightgcn", "ease-content"])
    order = [run.name for run in _in_order(study.plan([0]), study.stores)]
    assert order[2:5] == ["ease-content", "plain", "lightgcn"]
    assert order[5:8] == ["item-knn-content", "popularity", "item-knn"]


def test_a_run_has_one_thread_and_gives_the_others_back(monkeypatch):
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with single_threaded("auto"):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        with single_threaded("auto"):  # On a GPU.
            assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_workers_read_the_graph_as_it_is(tmp_path):
    data = random_data(num_users=40, num_items=30)  # With a record of how the features were prepared.
    data["item"].has_mod0 = torch.arange(30) % 3 > 0
    data["item", "near", "item"].edge_index = torch.tensor([[0, 1], [1, 0]])
    data.user_id, data.planted = [f"u{n}" for n in range(40)], {"mod0": np.float64(0.5), "more": (1, [True, None])}
    kept = training_data(data)
    torch.save(pack(kept), tmp_path / "data.pt")
    again = unpack_graph(torch.load(tmp_path / "data.pt", mmap=True, weights_only=True))
    assert fingerprint(again) == fingerprint(kept) == fingerprint(data)
    assert again.modalities == data.modalities
    assert again.planted == data.planted
    assert "user_id" not in again
    assert again.node_types == data.node_types
    assert again.edge_types == data.edge_types
    assert again["user"].num_nodes == 40
    tensors = 0
    for store, other in zip(kept.stores, again.stores, strict=True):
        assert list(store.keys()) == list(other.keys())
        for name, value in store.items():
            if isinstance(value, torch.Tensor):
                tensors += 1
                assert torch.equal(value, other[name])
                assert value.data_ptr() % 64 == other[name].data_ptr() % 64 == 0
    assert tensors >= 7


def test_no_process_solves_a_closed_form_that_another_one_has(tmp_path, monkeypatch):
    data, settings = planted_data(), StudySettings(trainer=TRAINER | {"max_epochs": 1}, model={"embedding_dim": 4})

    def run(name: str, **options: Any) -> dict[str, Any]:
        monkeypatch.setattr(solved, "_solved", {})  # As in another process.
        folder = tmp_path / name
        return numbers(Study(data, FISM, folder, settings, runs=tmp_path / "runs", baselines=(), **options).run())

    first = run("first", contenders=("ckd",))
    kept = {file.name for file in (tmp_path / "runs" / "solved").glob("*.npz")}
    assert kept
    fails = wraps(item_weights.neighbours)(lambda *args: pytest.fail("solved again"))
    monkeypatch.setattr(item_weights, "neighbours", fails)
    run("second", contenders=("ckd", "multitask"))
    assert {file.name for file in (tmp_path / "runs" / "solved").glob("*.npz")} == kept
    monkeypatch.undo()
    assert run("third", contenders=("ckd",), workers=2) == first
