"""A synthetic catalogue whose truth is known: how much each modality decides what users like."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Generator, Tensor
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import as_integer
from pyg_ckd.data import build_data
from pyg_ckd.data.splits import random_split
from pyg_ckd.datasets.cached import CachedGraph
from pyg_ckd.datasets.npz import Transform
from pyg_ckd.errors import InputError, unknown_name

_SHARES = {"visual": 0.55, "textual": 0.3, "acoustic": 0.15}
_MIN_POOL = 512  # Catalogues up to this size are sampled exactly.
_POOL_PER_INTERACTION = 32
_BLOCK_FLOATS = 1 << 23  # Gathered latent factors of one block of users: 32 MiB.


class SyntheticMultimodal(CachedGraph):
    r"""The graph of :func:`synthetic_multimodal` as a PyG dataset of length one.

    Args:
        root: The folder for the cached graph. (default: :obj:`None`, nothing is written)
        num_users, num_items, num_interactions, modalities, noise, dim: See :func:`synthetic_multimodal`.
        latent_dim, id_share, popularity, temperature, seed: See :func:`synthetic_multimodal`.
        features: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        transform: Applied to the graph at every access. (default: :obj:`None`)
        pre_transform: Applied to the graph before it is cached. (default: :obj:`None`)
        force_reload: If set to :obj:`True`, generate the graph anew. (default: :obj:`False`)

    Raises:
        InputError: As :func:`synthetic_multimodal`.

    Example:
        >>> data = SyntheticMultimodal(seed=1)[0]
        >>> data.planted
        {'visual': 0.55, 'textual': 0.3, 'acoustic': 0.15}
    """

    def __init__(
        self,
        root: str | os.PathLike[str] | None = None,
        num_users: int = 1000,
        num_items: int = 600,
        num_interactions: int = 20000,
        modalities: Mapping[str, float] | None = None,
        noise: float | Mapping[str, float] | None = None,
        dim: int = 32,
        latent_dim: int = 8,
        id_share: float = 0.1,
        popularity: float = 0.1,
        temperature: float = 0.2,
        seed: int = 0,
        features: Transform = "standardize",
        transform: Callable[[HeteroData], Any] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
    ) -> None:
        arguments: dict[str, Any] = {
            "num_users": num_users,
            "num_items": num_items,
            "num_interactions": num_interactions,
            "modalities": _shares(modalities),
            "noise": _noise(noise, _shares(modalities)),
            "dim": dim,
            "latent_dim": latent_dim,
            "id_share": id_share,
            "popularity": popularity,
            "temperature": temperature,
            "seed": seed,
            "transform": features,
        }
        super().__init__(
            lambda: synthetic_multimodal(**arguments), arguments, root, transform, pre_transform, force_reload
        )


def synthetic_multimodal(
    num_users: int = 1000,
    num_items: int = 600,
    num_interactions: int = 20000,
    modalities: Mapping[str, float] | None = None,
    noise: float | Mapping[str, float] | None = None,
    dim: int = 32,
    latent_dim: int = 8,
    id_share: float = 0.1,
    popularity: float = 0.1,
    temperature: float = 0.2,
    seed: int = 0,
    transform: Transform = "standardize",
) -> HeteroData:
    r"""Generate users, items, features and interactions in which each modality has a chosen share of the preference.

    Item :math:`i` has a latent block :math:`\mathbf{z}^m_i` and user :math:`u` a preference block
    :math:`\mathbf{p}^m_u` in :math:`\mathbb{R}^L` for every modality, and one pair
    :math:`\mathbf{p}^0_u, \mathbf{z}^0_i` that no feature shows; all are standard normal. The preference

    .. math::
        r_{ui} = \sqrt{s_0} \, \frac{\langle \mathbf{p}^0_u, \mathbf{z}^0_i \rangle}{\sqrt{L}}
        + \sum_m \sqrt{(1 - s_0) s_m} \, \frac{\langle \mathbf{p}^m_u, \mathbf{z}^m_i \rangle}{\sqrt{L}}
        + \beta b_i, \qquad b_i \sim \mathcal{N}(0, 1)

    has unit variance apart from the popularity :math:`b_i`, of which modality :math:`m` explains
    :math:`(1 - s_0) s_m`. Each user takes items without replacement with probabilities proportional to
    :math:`\exp(r_{ui} / T)` (Gumbel top-k), as many as an activity drawn from a log-normal distribution says. The
    features are :math:`\mathbf{x}^m_i = \mathbf{W}_m \mathbf{z}^m_i + \sigma_m \boldsymbol{\epsilon}`.

    In a catalogue of more than 512 items each user chooses from a random sample of it, at least 512 items and 32
    per interaction, so that time grows with the number of interactions.

    Args:
        num_users: Number of users. (default: :obj:`1000`)
        num_items: Number of items. (default: :obj:`600`)
        num_interactions: Number of interactions over all splits, exact. (default: :obj:`20000`)
        modalities: The share :math:`s_m` of each modality, in order; scaled to sum to one. (default:
            ``{"visual": 0.55, "textual": 0.3, "acoustic": 0.15}``)
        noise: Standard deviation :math:`\sigma_m` of the noise in the features, whose signal has unit variance; one
            number or one per modality. (default: :obj:`None`, 0.5)
        dim: Number of columns of each feature matrix. (default: :obj:`32`)
        latent_dim: Size :math:`L` of each latent block. (default: :obj:`8`)
        id_share: Share :math:`s_0` of the preference that no modality explains. (default: :obj:`0.1`)
        popularity: Weight :math:`\beta` of the popularity. (default: :obj:`0.1`)
        temperature: Temperature :math:`T` of the choice; lower means less noise. (default: :obj:`0.2`)
        seed: The same seed gives the same bits. (default: :obj:`0`)
        transform: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)

    Returns:
        The graph, see :func:`pyg_ckd.data.build_data`, split 8:1:1 per user; ``data.planted`` maps each modality to
        its share :math:`s_m`.

    Raises:
        InputError: If a size, share, noise or temperature is out of range.
    """
    shares = _shares(modalities)
    sigma = _noise(noise, shares)
    sizes = {"num_users": num_users, "num_items": num_items, "dim": dim, "latent_dim": latent_dim}
    sizes = {name: as_integer(size, f"synthetic: {name}") for name, size in sizes.items()}
    num_users, num_items, dim, latent_dim = sizes.values()
    num_interactions = as_integer(num_interactions, "synthetic: num_interactions")
    seed = as_integer(seed, "synthetic: seed")
    _check_arguments(sizes, num_interactions, id_share, popularity, temperature)
    generator = torch.Generator().manual_seed(seed)

    weights = {"": id_share} | {m: (1 - id_share) * share for m, share in shares.items()}
    latent = {m: _on_sphere(num_items, latent_dim, generator) for m in weights}
    preference = {m: _normal(num_users, latent_dim, generator) * (weights[m] / latent_dim) ** 0.5 for m in weights}
    bias = popularity * _normal(num_items, 1, generator)
    features = {m: _features(latent[m], dim, sigma[m], generator) for m in shares}

    users = torch.cat([*preference.values(), torch.ones(num_users, 1)], dim=1) / temperature
    items = torch.cat([*latent.values(), bias], dim=1)
    activity = _activity(num_users, num_items, num_interactions, generator)
    train, val, test = random_split(_choose(users, items, activity, generator), seed=seed)
    data = build_data(
        train,
        features,
        val=val,
        test=test,
        num_users=num_users,
        num_items=num_items,
        source=f"synthetic (seed {seed})",
        transform=transform,
    )
    data.planted = shares
    return data


def _features(latent: Tensor, dim: int, sigma: float, generator: Generator) -> Tensor:
    signal = latent @ _normal(latent.size(1), dim, generator) / latent.size(1) ** 0.5
    return signal + sigma * _normal(latent.size(0), dim, generator)


def _activity(num_users: int, num_items: int, total: int, generator: Generator) -> Tensor:
    """Return the number of interactions of each user ``[U]``: log-normal, within bounds, summing to ``total``."""
    most = max(num_items // 2, math.ceil(total / num_users))
    least = min(3, total // num_users)
    weight = torch.randn(num_users, generator=generator, dtype=torch.float64).exp()
    low, high = 0.0, most / float(weight.min())
    for _ in range(64):  # Bisection for the factor at which the clamped weights sum to `total`.
        factor = (low + high) / 2
        too_many = float((weight * factor).clamp(least, most).sum()) > total
        low, high = (low, factor) if too_many else (factor, high)
    exact = (weight * low).clamp(least, most)
    count = exact.floor().long()
    rest = total - int(count.sum())
    count[torch.argsort(exact - count, descending=True, stable=True)[:rest]] += 1
    return count


def _choose(users: Tensor, items: Tensor, activity: Tensor, generator: Generator) -> Tensor:
    """Return interactions ``[2, E]``: each user's Gumbel top-k of the logits over a random pool of items."""
    order = torch.argsort(activity, descending=True, stable=True)  # Users of a block need pools of about one size.
    edges = []
    start = 0
    while start < order.numel():
        pool = min(items.size(0), max(_MIN_POOL, _POOL_PER_INTERACTION * int(activity[order[start]])))
        block = order[start : start + max(1, _BLOCK_FLOATS // (pool * items.size(1)))]
        edges.append(_choose_block(users, items, activity, block, pool, generator))
        start += block.numel()
    edge_index = torch.cat(edges, dim=1)
    return edge_index[:, torch.argsort(edge_index[0], stable=True)]


def _choose_block(
    users: Tensor, items: Tensor, activity: Tensor, block: Tensor, pool: int, generator: Generator
) -> Tensor:
    if pool == items.size(0):
        logits = users[block] @ items.t()  # [B, I]
        candidates = torch.arange(pool).expand_as(logits)
    else:
        candidates = _distinct(block.numel(), pool, items.size(0), generator)
        factors = items.index_select(0, candidates.view(-1)).view(*candidates.shape, -1)  # [B, pool, D]
        logits = torch.bmm(factors, users[block].unsqueeze(-1)).squeeze(-1)  # [B, pool]
    gumbel = -torch.empty_like(logits).exponential_(generator=generator).log()
    count = activity[block]
    best = (logits + gumbel).topk(int(count.max()), dim=1).indices
    chosen = torch.arange(best.size(1)) < count.view(-1, 1)  # [B, k]
    user = block.view(-1, 1).expand_as(best)
    return torch.stack([user[chosen], candidates.gather(1, best)[chosen]])


def _distinct(num_rows: int, size: int, num_items: int, generator: Generator) -> Tensor:
    """Return ``size`` different items in each row: an arithmetic progression modulo ``num_items``.

    Start and stride are drawn per row. A stride coprime to ``num_items`` visits no item twice.
    """
    strides = torch.arange(1, num_items)
    coprime = strides[torch.gcd(strides, torch.tensor(num_items)) == 1]
    stride = coprime[torch.randint(coprime.numel(), (num_rows, 1), generator=generator)]
    offset = torch.randint(num_items, (num_rows, 1), generator=generator)
    return (offset + stride * torch.arange(size)) % num_items


def _normal(rows: int, columns: int, generator: Generator) -> Tensor:
    return torch.randn(rows, columns, generator=generator)


def _on_sphere(rows: int, columns: int, generator: Generator) -> Tensor:
    """Return rows of equal norm, so that no item is popular for the length of its factors, with unit variance."""
    return columns**0.5 * torch.nn.functional.normalize(_normal(rows, columns, generator), dim=1)


def _shares(modalities: Mapping[str, float] | None) -> dict[str, float]:
    shares = dict(_SHARES if modalities is None else modalities)
    for name, share in shares.items():
        if not 0 < share < math.inf:
            raise InputError(f"synthetic: share of {name!r} is {share}, expected a positive number")
    if not shares:
        raise InputError("synthetic: no modality given, expected a dictionary such as {'visual': 0.7, 'textual': 0.3}")
    total = math.fsum(shares.values())
    return {name: share / total for name, share in shares.items()}


def _noise(noise: float | Mapping[str, float] | None, shares: dict[str, float]) -> dict[str, float]:
    default = 0.5 if noise is None or isinstance(noise, Mapping) else noise
    given = noise if isinstance(noise, Mapping) else {}
    for name in given:
        if name not in shares:
            raise InputError(f"synthetic: noise given for {unknown_name('modality', name, shares)}")
    sigma = {name: float(given.get(name, default)) for name in shares}
    for name, value in sigma.items():
        if not 0 <= value < math.inf:
            raise InputError(f"synthetic: noise of {name!r} is {value}, expected a standard deviation of at least 0")
    return sigma


def _check_arguments(
    sizes: dict[str, int], num_interactions: int, id_share: float, popularity: float, temperature: float
) -> None:
    for name, size in sizes.items():
        if size < 1:
            raise InputError(f"synthetic: {name} is {size}, expected a positive integer")
    num_users, num_items = sizes["num_users"], sizes["num_items"]
    if not num_users <= num_interactions <= num_users * num_items // 2:
        raise InputError(
            f"synthetic: num_interactions is {num_interactions}, expected {num_users} to {num_users * num_items // 2} "
            f"(one per user to half of all pairs of {num_users} users and {num_items} items)"
        )
    if not 0 <= id_share < 1:
        raise InputError(f"synthetic: id_share is {id_share}, expected a share from 0 to below 1")
    if not 0 <= popularity < math.inf:
        raise InputError(f"synthetic: popularity is {popularity}, expected a weight of at least 0")
    if not 0 < temperature < math.inf:
        raise InputError(f"synthetic: temperature is {temperature}, expected a positive number")
