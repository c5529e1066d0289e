"""The HTTP service of ``examples/serve.py`` beside the bare call: the time of each of many requests."""

from __future__ import annotations

import http.client
import json
import multiprocessing
import time
from argparse import Namespace
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from pyg_ckd.serving import Recommender

HOST = "127.0.0.1"
WAIT = 120
"""Seconds that the service has to start."""


def table(source: Recommender, args: Namespace, make: Callable[[Namespace], Recommender]) -> str:
    """Return p50 and p95 in milliseconds, in one table of Markdown.

    Requests follow each other over one connection; the service is a process of its own on this machine.

    Args:
        source: The recommender, for the bare call.
        args: The arguments: ``users``, ``k``, ``requests``, and ``per_request``, the sizes of requests.
        make: Builds the same recommender in the process of the service; a function of a module.
    """
    lines = [
        f"{args.requests} requests each, one after the other over one connection, milliseconds:\n",
        "| users per request | HTTP p50 | HTTP p95 | bare p50 | bare p95 | answer (KiB) |",
        "| ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    rng = np.random.default_rng(args.seed)
    with service(args, make) as port:
        for size in args.per_request:
            drawn = [rng.choice(args.users, size, replace=False).tolist() for _ in range(min(args.requests, 50))]
            connection = http.client.HTTPConnection(HOST, port)
            sizes: list[int] = []

            def ask(
                users: list[int], connection: http.client.HTTPConnection = connection, n: list[int] = sizes
            ) -> None:
                n.append(_ask(connection, users, args.k))

            over_http, bare = [], []
            for n in range(-5, args.requests):  # The first five warm up. The two take turns, to meet the same machine.
                users = drawn[n % len(drawn)]
                for call, seconds in ((ask, over_http), (lambda users: source.recommend(users, args.k), bare)):
                    start = time.perf_counter()
                    call(users)
                    if n >= 0:
                        seconds.append(time.perf_counter() - start)
            connection.close()
            quantiles = [1000 * float(np.quantile(found, q)) for found in (over_http, bare) for q in (0.5, 0.95)]
            lines.append(f"| {size} | {' | '.join(f'{q:.1f}' for q in quantiles)} | {np.mean(sizes) / 1024:.0f} |")
    return "\n".join(lines)


@contextmanager
def service(args: Namespace, make: Callable[[Namespace], Recommender]) -> Iterator[int]:
    """Run the service in a process of its own and yield its port."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(args, make, theirs), daemon=True)
    process.start()
    try:
        if not ours.poll(WAIT):
            raise RuntimeError(f"the service did not start within {WAIT} seconds")
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


def _serve(args: Namespace, make: Callable[[Namespace], Recommender], ready: object) -> None:
    import socket

    import uvicorn

    from examples.serve import app

    # With the number of the protocol, as of a service that uvicorn binds: asyncio then sets TCP_NODELAY.
    listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    built = app(make(args))
    listening.bind((HOST, 0))
    listening.listen(128)  # A request that comes before the loop runs waits.
    ready.send(listening.getsockname()[1])  # type: ignore[attr-defined]
    uvicorn.Server(uvicorn.Config(built, log_level="warning")).run(sockets=[listening])


def _ask(connection: http.client.HTTPConnection, users: list[int], k: int) -> int:
    if len(users) == 1:
        connection.request("GET", f"/recommend/{users[0]}?k={k}")
    else:
        content = json.dumps({"users": users, "k": k})
        connection.request("POST", "/recommend", content, {"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise RuntimeError(f"the service answered {response.status}: {answer[:200]!r}")
    return len(answer)
