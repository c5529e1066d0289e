"""Where joblib makes the runs of a study: processes of this machine, or a cluster of Dask or Ray."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from pyg_ckd.errors import InputError

BACKENDS = ("loky", "dask", "ray")
DEATHS = ("KilledWorker", "WorkerCrashedError", "RayActorError", "ActorDiedError")
"""What Dask and Ray call a worker that died."""


def configuration(backend: str) -> dict[str, Any]:
    """Return the arguments of :func:`joblib.parallel_config` for a backend that is connected.

    Args:
        backend: One of :data:`BACKENDS`.
    """
    if backend == "dask":
        return {"backend": _reporting_dask()}
    return {"backend": backend, **({"inner_max_num_threads": 1} if backend == "loky" else {})}


def _reporting_dask() -> Any:
    """Return joblib's backend for Dask, which by itself would wait forever for a task whose worker has died."""
    from joblib._dask import DaskDistributedBackend

    class Reporting(DaskDistributedBackend):
        def submit(self, func: Any, callback: Any = None) -> Any:
            def report(future: Future[Any]) -> None:
                error = future.exception()
                if error is not None and callback is not None:
                    callback(error)

            future = super().submit(func, callback)
            future.add_done_callback(report)
            return future

    return Reporting()


def _connect_dask() -> None:
    try:
        import dask
        from distributed import Client, get_client
    except ImportError:
        raise InputError(
            "backend: found 'dask', which is not installed, expected it beside pyg-ckd; install it with: "
            "pip install 'pyg-ckd[cluster]'"
        ) from None
    try:
        client = get_client()
    except ValueError:
        if not dask.config.get("scheduler-address", None):
            raise InputError(
                "backend: found no client of a Dask cluster, expected one; make it with dask.distributed.Client(...), "
                "or set DASK_SCHEDULER_ADDRESS=tcp://HOST:8786"
            ) from None
        client = Client(set_as_default=True)
    threads = max(client.nthreads().values(), default=1)
    if threads > 1:
        raise InputError(
            f"backend: found Dask workers with {threads} threads, expected 1, for runs seed their whole process; start "
            "them with --nthreads 1"
        )


def _connect_ray() -> None:
    try:
        from ray.util.joblib import register_ray
    except ImportError:
        raise InputError(
            "backend: found 'ray', which is not installed, expected it beside pyg-ckd; install it with: "
            "pip install 'ray[default]'"
        ) from None
    register_ray()


CONNECT: dict[str, Callable[[], None]] = {"loky": lambda: None, "dask": _connect_dask, "ray": _connect_ray}
"""From backend to what makes sure that it is installed and has a cluster."""
