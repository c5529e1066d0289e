"""Recommendations for all users: how far from a bare product and ``torch.topk``, how fast to Parquet, in what memory.

``python -m benchmarks.serving --users 9308 --items 6710`` has the sizes of the TikTok data; ``--users 1000000 --items
100000`` is the large case: its first pass writes the lists of all users, and ``--served 20000`` has the methods
compared on a part of them. Embeddings and interactions are random; ``--decay`` scales column ``j`` of both tables by
``(j + 1) ** -decay``, for few directions of trained tables carry most of a score, and ``--index`` builds the FAISS
index of the extra ``retrieval`` as well and asks for its recall. ``--requests 1000`` has as many requests answered by
``examples/serve.py`` over HTTP (extra ``serve``), for every number of users in ``--per_request``. The fastest of
``--repeats`` runs counts, taken in turns so that all meet the same machine; the memory is the growth of the peak
resident set while the file is written. ``OMP_NUM_THREADS`` sets the number of threads.
"""
# ruff: noqa: T201

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.neighbors import peak_memory
from pyg_ckd.data import Embeddings, build_data
from pyg_ckd.scoring.tables import GPU_BLOCK_BYTES
from pyg_ckd.serving import ItemIndex, Recommender

BLOCK_BYTES = 2**27


def bare(user: Tensor, item: Tensor, k: int) -> None:
    """Multiply and select, block by block, and nothing else."""
    block_bytes = GPU_BLOCK_BYTES if item.is_cuda else BLOCK_BYTES  # On a GPU as large as those of the evaluation.
    for block in user.split(max(1, block_bytes // (item.size(0) * item.element_size()))):
        (block @ item.t()).topk(k, dim=1)


def recommender(args: argparse.Namespace) -> Recommender:
    """Return random embeddings over random interactions."""
    generator = torch.Generator().manual_seed(args.seed)
    user = torch.arange(args.users).repeat_interleave(args.degree)
    first = torch.randint(args.items, (args.users, 1), generator=generator)
    item = ((first + torch.arange(args.degree) * (args.items // args.degree)) % args.items).view(-1)
    features = {"visual": torch.randn(args.items, 1, generator=generator)}
    data = build_data(torch.stack([user, item]), features, num_users=args.users, num_items=args.items)
    scale = torch.arange(1, args.dims + 1).float() ** -args.decay
    tables = [torch.randn(n, args.dims, generator=generator) * scale for n in (args.users, args.items)]
    return Recommender(Embeddings(*tables), data)


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=9308)
    parser.add_argument("--items", type=int, default=6710)
    parser.add_argument("--served", type=int, default=None, help="users of the comparison; all by default")
    parser.add_argument("--dims", type=int, default=64)
    parser.add_argument("--degree", type=int, default=6, help="interactions per user")
    parser.add_argument("--k", type=int, default=20)
    parser.add_argument("--decay", type=float, default=0.0, help="exponent of the columns' scale")
    parser.add_argument("--index", action="store_true", help="measure the FAISS index too")
    parser.add_argument("--requests", type=int, default=0, help="requests over HTTP; none by default")
    parser.add_argument("--per_request", type=int, nargs="+", default=[1, 100, 10_000], help="users of a request")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()

    source, served = recommender(args), args.served or args.users
    users, user, item = range(served), source.embeddings.user[:served], source.embeddings.item
    threads = f"{torch.get_num_threads()} threads, load average {os.getloadavg()[0]:.1f}"
    print(f"{args.users} users, {args.items} items x {args.dims} dims, decay {args.decay}, k = {args.k}, {threads}\n")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lists.parquet"
        source.export_top_k(path, args.k, user_ids=range(min(served, 100)))  # Loads the libraries.
        before, start = peak_memory(), time.perf_counter()
        source.export_top_k(path, args.k)
        seconds, growth = time.perf_counter() - start, peak_memory() - before
        print(
            f"All users to Parquet: {seconds:.1f} s, {args.users / seconds:.0f} users per second, file of "
            f"{path.stat().st_size / 2**20:.0f} MiB, peak memory growth {growth:.0f} MiB\n"
        )
        methods: dict[str, Callable[[], object]] = {
            "bare matmul + topk": lambda: bare(user, item, args.k),
            "Recommender.recommend": lambda: source.recommend(users, args.k),
            "Recommender.export_top_k": lambda: source.export_top_k(path, args.k, user_ids=users),
        }
        if args.index:
            start = time.perf_counter()
            index = ItemIndex(source)
            built = time.perf_counter() - start
            methods[f"ItemIndex {index.factory}, {index.parameters}"] = lambda: index.recommend(users, args.k)
        best = dict.fromkeys(methods, float("inf"))
        for _ in range(args.repeats):
            for name, method in methods.items():
                start = time.perf_counter()
                method()
                best[name] = min(best[name], time.perf_counter() - start)

    print(f"| {served} users | seconds | users per second | ratio |\n| --- | ---: | ---: | ---: |")
    for name, seconds in best.items():
        print(f"| {name} | {seconds:.2f} | {served / seconds:.0f} | {seconds / best['bare matmul + topk']:.2f} |")
    if args.index:
        recall = index.recall(args.k, num_users=min(served, 1000))
        print(f"\nindex built in {built:.1f} s, recall of the exact top {args.k}: {recall:.3f}")
    if args.requests:
        from benchmarks.over_http import table  # Needs the extra.

        print(f"\n{table(source, args, recommender)}")


if __name__ == "__main__":
    main()
