"""Loss functions that objectives and backbones share."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from pyg_ckd.scoring.margins import squared_norm


def bpr_loss(margin: Tensor, eps: float = 0.0, weight: Tensor | None = None) -> Tensor:
    r"""Bayesian personalised ranking, :math:`-\ln \sigma(\delta)` averaged over triples.

    From `"BPR: Bayesian Personalized Ranking from Implicit Feedback" <https://arxiv.org/abs/1205.2618>`_.

    Args:
        margin: Margins :math:`\delta`, ``[B]``.
        eps: Added inside the logarithm, as some published implementations do; the default is exact.
        weight: Weight of every triple, ``[B]``. (default: :obj:`None`, all weigh 1)

    Returns:
        Scalar loss, the mean over triples of weight times loss.
    """
    loss = F.softplus(-margin) if eps == 0.0 else -torch.log(eps + torch.sigmoid(margin))
    return mean_of_triples(loss, weight)


def mean_of_triples(loss: Tensor, weight: Tensor | None = None) -> Tensor:
    """Return the mean over triples of their losses, times their weights where there are any; zero without triples.

    Args:
        loss: Loss of every triple, ``[B]``.
        weight: Weight of every triple, ``[B]``.
    """
    loss = loss if weight is None else loss * weight
    return loss.mean() if loss.size(0) else loss.sum()  # One of several processes may have no triple of a small batch.


def l2_penalty(*rows: Tensor, squared: bool = True) -> Tensor:
    r"""Penalty on the rows of a batch, :math:`\frac{1}{2B} \sum_k \lVert \mathbf{R}_k \rVert_F^2`.

    Args:
        *rows: Matrices ``[B, D]``, a row for every triple; rows that occur several times count several times.
        squared: With :obj:`False`, :math:`\frac{1}{B} \sum_k \lVert \mathbf{R}_k \rVert_F` as in the MMRec toolbox.

    Returns:
        Scalar penalty.
    """
    if squared:
        return l2_from_norm(torch.stack([squared_norm(row) for row in rows]).sum(), rows[0].size(0))
    return torch.stack([row.norm() for row in rows]).sum() / max(1, rows[0].size(0))


def l2_from_norm(squared_norm: Tensor, num_triples: int) -> Tensor:
    """Return :func:`l2_penalty` where the sum of squares of all rows is known already.

    Args:
        squared_norm: The sum of squares, a scalar.
        num_triples: Number of triples ``B``.
    """
    return 0.5 * squared_norm / max(1, num_triples)


def ranking_cross_entropy(
    student: Tensor, teacher: Tensor, temperature: float, eps: float = 0.0, known: Tensor | None = None
) -> Tensor:
    r"""Soft ranking distillation: cross-entropy between two pairwise preferences.

    .. math::
        -\left[ a \ln b + (1 - a) \ln (1 - b) \right] \quad \text{with} \quad
        a = \sigma(t / \tau), \; b = \sigma(s / \tau)

    Args:
        student: Student margins :math:`s`, ``[R]``.
        teacher: Teacher margins :math:`t`, ``[R]``.
        temperature: Temperature :math:`\tau > 0`.
        eps: Added inside both logarithms, which caps a term near :math:`-\ln \epsilon` and stops the gradient of
            saturated margins, as the published code does with 1e-8; the default is exact.
        known: Which triples count, bool ``[R]``; :obj:`None` means all.

    Returns:
        Scalar loss, the mean over the triples that count; zero if none does.
    """
    loss = ranking_cross_entropies(student, teacher, temperature, eps)
    return mean_of_triples(loss) if known is None else (loss * known).sum() / known.sum().clamp(min=1)


def ranking_cross_entropies(student: Tensor, teacher: Tensor, temperature: float, eps: float = 0.0) -> Tensor:
    """Return the loss of every triple, ``[R]``, of which :func:`ranking_cross_entropy` is the mean.

    Args:
        student: As there.
        teacher: As there.
        temperature: As there.
        eps: As there.
    """
    target = torch.sigmoid(teacher / temperature)
    if eps == 0.0:
        loss = F.binary_cross_entropy_with_logits(student / temperature, target, reduction="none")
    else:
        prob = torch.sigmoid(student / temperature)
        loss = -(target * torch.log(prob + eps) + (1 - target) * torch.log(1 - prob + eps))
    return loss


def softmax_loss(
    user: Tensor,
    item: Tensor,
    positive: Tensor,
    drawn: Tensor | None = None,
    weight: Tensor | None = None,
    log_q: Tensor | None = None,
) -> Tensor:
    r"""Cross-entropy of every user's positive item among all items, or among those that were drawn.

    .. math::
        - \ln \frac{e^{s_{ui}}}{\sum_j e^{s_{uj}}}, \qquad s_{ui} = \mathbf{x}_u^\top \mathbf{x}_i

    If items are not drawn uniformly, they are corrected as in `"Adaptive Importance Sampling to Accelerate Training of
    a Neural Probabilistic Language Model" <https://doi.org/10.1109/TNN.2007.912312>`_ (logQ correction):
    :math:`s_{uj} - \ln q_j` replaces :math:`s_{uj}`, so that the expectation of the sum over drawn items is that of a
    uniform draw. The positive is not drawn, so it is not corrected.

    Args:
        user: Rows of the users ``[B, D]``.
        item: Rows of all items ``[I, D]``.
        positive: Row numbers of the positive items, int64 ``[B]``.
        drawn: Row numbers of the drawn items, int64 ``[N]``; one that is the positive itself does not count. (default:
            :obj:`None`, all items)
        weight: Weight of every row, ``[B]``. (default: :obj:`None`, all weigh 1)
        log_q: :math:`\ln q_j` of the items that were drawn, ``[N]``, where :math:`q_j` is the probability of the item
            relative to a uniform draw. (default: :obj:`None`, they were drawn uniformly)

    Returns:
        Scalar loss, the mean over rows of weight times loss.
    """
    if drawn is None:
        return mean_of_triples(F.cross_entropy(user @ item.t(), positive, reduction="none"), weight)
    own = (user * item.index_select(0, positive)).sum(dim=1, keepdim=True)
    others = user @ item.index_select(0, drawn).t()
    if log_q is not None:
        others = others - log_q.to(others.dtype)
    others = others.masked_fill(drawn == positive.unsqueeze(1), float("-inf"))
    scores = torch.cat([own, others], dim=1)
    return mean_of_triples(F.cross_entropy(scores, torch.zeros_like(positive), reduction="none"), weight)


def contrastive_loss(
    x: Tensor,
    y: Tensor,
    temperature: float,
    ids: Tensor | None = None,
    known: Tensor | None = None,
    eps: float = 1e-12,
    normalize: bool = True,
) -> Tensor:
    r"""Tell which row of ``y`` belongs to a row of ``x``: InfoNCE with the other rows of ``y`` as negatives.

    .. math::
        -\frac{1}{B} \sum_b \ln \frac{\exp(\cos(\mathbf{x}_b, \mathbf{y}_b) / \tau)}
        {\sum_c \exp(\cos(\mathbf{x}_b, \mathbf{y}_c) / \tau)}

    Args:
        x: Rows ``[B, D]``.
        y: Rows ``[B, D]``; without ``ids``, a row that occurs twice would be its own negative.
        temperature: Temperature :math:`\tau > 0`.
        ids: The id of each row, int64 ``[B]``; rows with the same id are not negatives of each other. (default:
            :obj:`None`, all ids differ)
        known: Which rows count, bool ``[B]``; the others are no negatives either. (default: :obj:`None`, all)
        eps: Rows shorter than this are not made longer than their share of it.
        normalize: Whether similarities are cosines; if not, they are inner products.

    Returns:
        Scalar loss, the mean over the rows that count; zero if none does, also of no rows at all.
    """
    if normalize:
        x, y = F.normalize(x, eps=eps), F.normalize(y, eps=eps)
    similarity = (x / temperature) @ y.t()
    own = torch.arange(x.size(0), device=x.device)
    if not x.size(0):
        return similarity.sum()
    if ids is None and known is None:
        return F.cross_entropy(similarity, own)
    left_out = torch.zeros_like(similarity, dtype=torch.bool)
    if ids is not None:
        left_out |= ids.unsqueeze(1) == ids
    if known is not None:
        left_out |= ~known
    loss = F.cross_entropy(similarity.masked_fill(left_out.fill_diagonal_(False), -torch.inf), own, reduction="none")
    return loss.mean() if known is None else (loss * known).sum() / known.sum().clamp(min=1)


def distinct(ids: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return distinct ids in ascending order, for :func:`contrastive_loss`.

    How many there are would have to be waited for on other devices than the CPU: there all ids are returned, and which
    of them come for the first time.

    Args:
        ids: The ids, int64 ``[B]``.

    Returns:
        The ids, and which of them count, bool ``[B]``, or :obj:`None` if all do.
    """
    if ids.device.type == "cpu":
        return ids.unique(), None
    ids = ids.sort().values
    return ids, torch.cat([torch.ones_like(ids[:1], dtype=torch.bool), ids[1:] != ids[:-1]])


def first_of_each(ids: Tensor) -> Tensor:
    """Return which ids have not been named before, bool ``[B]``, without a look at how many there are.

    Args:
        ids: The ids, int64 ``[B]``.
    """
    sorted_ids, order = ids.sort(stable=True)
    first = torch.ones_like(ids, dtype=torch.bool)
    first[1:] = sorted_ids[1:] != sorted_ids[:-1]
    return torch.empty_like(first).scatter(0, order, first)
