"""Approximate search for large catalogues with FAISS, and how much of the exact result it finds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch_geometric.nn.pool import MIPSKNNIndex

from pyg_ckd.arguments import as_integer, as_seed
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path, to_disk, writing
from pyg_ckd.serving.lists import check_flag
from pyg_ckd.serving.recommender import Recommender
from pyg_ckd.serving.results import Recommendations
from pyg_ckd.serving.saved import write
from pyg_ckd.training.checkpoint import check_file, damaged, load_checkpoint

KIND, WHOLE = "index", ".pt"
NEAR = 1e-4
"""How far embeddings in a file may lie from those of a recommender, which another device may have computed."""
_PROBES = 16  # Items that a file of FAISS is asked about.
_BLOCK = 2**16  # Rows of an index that are compared at once.
LARGE = 20_000
"""From so many items on, the default index is approximate."""


class ItemIndex:
    r"""A FAISS index of the items of a recommender, built by PyG's :class:`~torch_geometric.nn.pool.MIPSKNNIndex`.

    Needs the extra ``retrieval``. Always ask :meth:`recall` what an index of a given catalogue loses.

    Args:
        recommender: The recommender.
        factory: A `description <https://github.com/facebookresearch/faiss/wiki/The-index-factory>`_ of the index, such
            as ``"Flat"`` (exact), ``"IVF256,Flat"`` or ``"HNSW32"``. (default: :obj:`None`, ``Flat`` below 20 000 items
            and else an inverted file with :math:`4 \sqrt{I}` cells)
        parameters: Settings of the search, such as ``"nprobe=16"``. (default: :obj:`None`, an eighth of the cells for
            the default inverted file, else FAISS's own)

    Raises:
        InputError: If FAISS is not installed, or refuses the description or the settings; or if an argument is of
            another type.
    """

    def __init__(self, recommender: Recommender, factory: str | None = None, parameters: str | None = None) -> None:
        faiss = _faiss()
        _check_recommender(recommender)
        for name, text in (("factory", factory), ("parameters", parameters)):
            if not isinstance(text, (str, type(None))):
                raise InputError(f"{name}: found {text!r} ({type(text).__name__}), expected a text such as 'Flat'")
        self.recommender = recommender
        table = recommender.embeddings.item.float().cpu().contiguous()
        if not table.size(1):
            raise InputError("index: found no embeddings but weights between items, expected tables; search exactly")
        if factory is None:
            cells = int(4 * table.size(0) ** 0.5)
            factory = f"IVF{cells},Flat" if table.size(0) >= LARGE else "Flat"
            if table.size(0) >= LARGE and parameters is None:
                parameters = f"nprobe={max(1, cells // 8)}"
        self.factory, self.parameters = factory, parameters
        try:
            self._index = _FactoryIndex(factory, table)
            if parameters is not None:
                faiss.ParameterSpace().set_index_parameters(self._index.index, parameters)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:160]
            raise InputError(
                f"index: FAISS refuses {factory!r} with parameters {parameters!r} for {table.size(0)} items of width "
                f"{table.size(1)} ({reason}); choose another factory, such as Flat"
            ) from None

    def recommend(
        self,
        user_ids: Any = None,
        k: int = 20,
        exclude_seen: bool = True,
        candidates: Any = None,
        exclude: Any = None,
        where: Any = None,
        diversity: float = 0.0,
        unknown: str = "error",
    ) -> Recommendations:
        """Return about the best ``k`` items of every user, as :meth:`Recommender.recommend` does exactly.

        Args:
            user_ids: One id or many. (default: :obj:`None`, all users)
            k: Items per user.
            exclude_seen: Whether items that a user has met are left out.
            candidates, exclude, where, diversity, unknown: What :meth:`Recommender.recommend` has beside; refused here.

        Raises:
            InputError: As :meth:`Recommender.recommend`, and if an argument is given that an index does not know.
        """
        given = {"candidates": candidates, "exclude": exclude, "where": where}
        names = [name for name, value in given.items() if value is not None]
        names += ["diversity"] * (diversity != 0) + ["unknown"] * (unknown != "error")
        if names:
            raise InputError(
                f"{names[0]}: found it for an index, which searches all items for known users, expected nothing; take "
                "recommend of its recommender, which is exact"
            )
        check_flag(exclude_seen, "exclude_seen")
        source = self.recommender
        asked, users = source.find_users(user_ids)
        catalogue = source.catalogue()
        scores, items = self._search(users, source.check_k(k, catalogue), exclude_seen)
        if users.numel() and not bool((items >= 0).any()):
            raise source.nothing_left(users, catalogue)
        return Recommendations(asked, source.items.take(items.numpy()), scores.numpy())

    def recall(self, k: int = 20, num_users: int = 1000, exclude_seen: bool = True, seed: int = 0) -> float:
        """Return the share of the items that exact search finds for random users which the index finds as well.

        Args:
            k: Items per user.
            num_users: Number of users, or all if there are fewer.
            exclude_seen: Whether items that a user has met are left out.
            seed: Seeds the choice of users.

        Raises:
            InputError: If ``k`` or ``num_users`` is out of range.
        """
        source = self.recommender
        num_users, seed = as_integer(num_users, "num_users"), as_seed(seed)
        if num_users < 1:
            raise InputError(f"num_users: found {num_users}, expected at least 1")
        catalogue = source.catalogue()
        k = source.check_k(k, catalogue)
        users = torch.randperm(len(source.users), generator=torch.Generator().manual_seed(seed))[:num_users]
        exact = source.rank(users, k, exclude_seen, catalogue)[1]
        found = self._search(users, k, exclude_seen)[1]
        hits = ((exact.unsqueeze(2) == found.unsqueeze(1)) & (exact >= 0).unsqueeze(2)).any(dim=2)
        return float(hits.sum() / (exact >= 0).sum().clamp(min=1))

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the index.

        Args:
            path: The file. One that ends in ``.pt`` holds the recommender as well and is opened by :meth:`load` alone.
                Any other is FAISS's own, for ``faiss.read_index``; the numbers in it are rows of items.

        Raises:
            InputError: If it cannot be written.
        """
        path, faiss = as_path(path), _faiss()
        if path.suffix.lower() == WHOLE:
            stored = torch.from_numpy(faiss.serialize_index(self._index.index))
            about = {"faiss": stored, "factory": self.factory, "parameters": self.parameters}
            return write(path, {"kind": KIND, **about, "recommender": self.recommender.state()})
        with writing(path), atomic_path(path) as temporary, to_disk():
            faiss.write_index(self._index.index, str(temporary))
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str], recommender: Recommender | None = None) -> ItemIndex:
        """Open what :meth:`save` wrote.

        Args:
            path: The file.
            recommender: The recommender of the index; needed for a file of FAISS, which holds none.

        Raises:
            InputError: If the file is missing or damaged, or does not fit the recommender: where the file holds one, or
                an index that stores embeddings as they are, those have to be the recommender's.
        """
        if recommender is not None:
            _check_recommender(recommender)
        place, faiss = check_file(path), _faiss()
        content = load_checkpoint(place, KIND) if place.suffix.lower() == WHOLE else {}
        if content:
            if {"faiss", "factory", "parameters", "recommender"} - content.keys():
                raise InputError(f"checkpoint {path}: lacks its index or recommender; it is damaged, save it again")
            recommender = recommender or Recommender.from_state(content["recommender"], place)
        if recommender is None:
            raise InputError(
                f"index {path}: found a file of FAISS, which knows no users and no ids, expected its recommender: "
                "ItemIndex.load(path, recommender)"
            )
        try:
            index = faiss.deserialize_index(content["faiss"].numpy()) if content else faiss.read_index(str(place))
        except Exception as error:  # A damaged file makes FAISS fail in any way.
            raise damaged(place, error) from None
        table = recommender.embeddings.item
        if (index.ntotal, index.d) != tuple(table.shape):
            raise InputError(
                f"index {path}: found {index.ntotal} items of width {index.d}, expected {table.size(0)} of width "
                f"{table.size(1)} as the recommender has; build the index anew"
            )
        stored, mine = content["recommender"]["tables"]["item"] if content else None, table.float().cpu()
        try:
            same = _same(index, mine) if stored is None else _near(stored.float(), mine)
        except RuntimeError as error:  # Of one whose parts do not fit together.
            raise damaged(place, error) from None
        if not same:
            raise InputError(
                f"index {path}: found the items of another recommender or damaged ones, expected the embeddings of "
                "this one; build the index anew"
            )
        out = cls.__new__(cls)
        out.recommender, out.parameters = recommender, content.get("parameters")
        out.factory = content.get("factory", type(index).__name__)
        out._index = _FactoryIndex(out.factory, None)
        out._index.index = index
        return out

    def _search(self, users: Tensor, k: int, exclude_seen: bool) -> tuple[Tensor, Tensor]:
        """Return scores and item rows ``[n, k]``, with empty slots as in exact search."""
        source, scores, items = self.recommender, [], []
        for part in users.split(4096) if users.numel() else ():
            query = source.embeddings.user[part.to(source.embeddings.user.device)].float().cpu()
            links = torch.stack(source.seen.of(part)) if exclude_seen else None
            score, item = self._index.search(query, k, links)
            scores.append(score.masked_fill(item < 0, -torch.inf))
            items.append(item)
        none = torch.empty(0, k)
        return torch.cat([none, *scores]), torch.cat([none.long(), *items])


class _FactoryIndex(MIPSKNNIndex):
    """PyG's index of inner products, of any kind that FAISS can describe."""

    def __init__(self, factory: str, emb: Tensor | None) -> None:
        self.factory = factory
        super().__init__(emb)

    def _create_index(self, channels: int) -> Any:
        faiss = _faiss()
        return faiss.index_factory(channels, self.factory, faiss.METRIC_INNER_PRODUCT)


def _check_recommender(found: Any) -> None:
    if not isinstance(found, Recommender):
        raise InputError(
            f"index: found {type(found).__name__}, expected a recommender; write ItemIndex(Recommender(model, data))"
        )


def _same(index: Any, table: Tensor) -> bool:
    """Return whether an index has the rows of a table and finds them; one that stores codes is not asked."""
    faiss = _faiss()
    if not isinstance(index, (faiss.IndexFlat, faiss.IndexIVFFlat, faiss.IndexHNSWFlat)):
        return True
    if isinstance(index, faiss.IndexIVFFlat):
        index.make_direct_map()
    near = NEAR * float(table.abs().amax()) if table.numel() else 0.0
    for start in range(0, table.size(0), _BLOCK):
        block = table[start : start + _BLOCK]
        found = torch.as_tensor(index.reconstruct_n(start, block.size(0)))  # Of NumPy, or by PyG of PyTorch.
        if not torch.allclose(found, block, rtol=NEAR, atol=near):
            return False
    if isinstance(index, faiss.IndexIVFFlat):
        index.set_direct_map_type(faiss.DirectMap.NoMap)
    query = table[:: max(1, table.size(0) // _PROBES)]
    scores, items = (torch.from_numpy(x) for x in index.search(query.numpy(), min(5, table.size(0))))
    expected = (query.unsqueeze(1) * table[items.clamp(min=0)]).sum(dim=2)
    return _near(scores[items >= 0], expected[items >= 0])


def _near(one: Tensor, other: Tensor) -> bool:
    near = NEAR * float(other.abs().amax()) if other.numel() else 0.0
    return one.shape == other.shape and torch.allclose(one, other, rtol=NEAR, atol=near)


def _faiss() -> Any:
    try:
        import faiss
    except ImportError:
        raise InputError(
            "index: found no package faiss; install it with pip install 'pyg-ckd[retrieval]', or search exactly"
        ) from None
    return faiss
