"""MMPareto: uni-modal supervision that does not work against the joint loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations_with_replacement, product
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyg_ckd.balance.gradients import (
    SHARED,
    Gradients,
    assign,
    check_steerable,
    combine,
    inner_product,
    parameter_groups,
    per_term,
)
from pyg_ckd.balance.multitask import MultitaskObjective
from pyg_ckd.balance.objective import total
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import unknown_name
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import View

ALONE, PENALTY = "alone/", "l2"
LEAST = 1e-3
"""Least weight of a gradient, as published, so that a loss without gradient does not take all of it."""
RIDGE = 1e-12
"""Added to the diagonal of inner products of mean size 1, for gradients that are multiples of each other."""
RULES = ("sum", "pareto")


class MMPareto(MultitaskObjective):
    r"""Trains every uni-modal view together with the joint one, and resolves conflicts of their gradients.

    From `"MMPareto: Boosting Multimodal Learning with Innocent Unimodal Assistance"
    <https://arxiv.org/abs/2405.17730>`_. The losses are those of :class:`MultitaskObjective`,

    .. math::
        \mathcal{L}_0 = \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\textrm{full})), \qquad
        \mathcal{L}_m = w \, \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\})).

    On the parameters that belong to modality :math:`m` alone, with the gradients :math:`\mathbf{g}` of
    :math:`\mathcal{L}_0` and :math:`\mathbf{h}` of :math:`\mathcal{L}_m`,

    .. math::
        (\alpha, \beta) = \begin{cases} (1/2, 1/2) & \textrm{if } \mathbf{g}^\top \mathbf{h} > 0 \\
        \textrm{argmin}_{\alpha + \beta = 1} \| \alpha \mathbf{g} + \beta \mathbf{h} \| & \textrm{else} \end{cases},
        \qquad \mathbf{n} = 2 \alpha \mathbf{g} + 2 \beta \mathbf{h}.

    The second case gives a direction in which neither loss grows. Where :math:`\mathbf{n}` is shorter than
    :math:`\mathbf{g} + \mathbf{h}`, it is scaled to the same length. Parameters that belong to no modality get the sum
    of all gradients or, with ``shared="pareto"``, that of the same rule over all :math:`M + 1` losses; the two agree if
    no gradients conflict. The gradient of the penalties pulls against all losses. It takes no part in the comparison
    and is added afterwards, as weight decay is in the published code.

    Overrides ``balance`` and ``backward``. Costs the uni-modal views, one backward pass for each of them and one for
    the penalties.

    Differs from the published code: the loss of a uni-modal view, which may reach the parameters of other modalities
    through their means, does not train these; the length is corrected over all parameters of a modality and not tensor
    by tensor, which could turn the gradient against one of the losses; a last factor of 1.5, which has no effect under
    Adam, is left out; and uni-modal losses have a weight.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        weight: Weight :math:`w` of the uni-modal terms.
        shared: The gradient of parameters that belong to no modality, ``"sum"`` or ``"pareto"``.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, ``weight`` is
            negative, ``shared`` is neither of the two or a mask does not fit.
    """

    name = "mmpareto"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 3.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = "the gradients of single terms"
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "conflict": "share of the steps in which the modality's gradient conflicts with the joint one",
    }

    conflicts: Tensor
    steps: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 1.0,
        shared: str = "sum",
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, weight, l2, has)
        check_steerable(student, self.name, scores="epochs" if weight > 0 else "")
        if shared not in RULES:
            raise unknown_name("shared", shared, RULES)
        self.shared = shared
        self.register_state("conflicts", torch.zeros(len(self.modalities), dtype=torch.float64))
        self.register_state("steps", torch.zeros((), dtype=torch.int64))
        self._steerable = False

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the BPR loss of every uni-modal view."""
        terms = super().balance(out, batch)
        if terms and not self._steerable:
            check_steerable(self.student, self.name, terms.values())
            self._steerable = True
        return terms

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of every loss and mix them, parameter by parameter."""
        alone = {m: terms[ALONE + m] for m in self.modalities if ALONE + m in terms}
        if not alone:
            super().backward(terms, run)
            return
        joint = total({name: term for name, term in terms.items() if not name.startswith(ALONE) and name != PENALTY})
        groups = parameter_groups(self)
        penalty = {PENALTY: terms[PENALTY]} if PENALTY in terms else {}
        grads = per_term({SHARED: joint, **{ALONE + m: loss for m, loss in alone.items()}, **penalty}, groups, run)
        pulls = grads.pop(PENALTY, {})
        conflicts = []
        for m in self.modalities:
            pair = [grads[SHARED][m], grads[ALONE + m][m]]
            gram = gram_matrix(pair, joint.device)
            conflicts.append(gram[0, 1] < 0)
            mix(groups[m], pair, gram)
        each = [own[SHARED] for own in grads.values()]
        if self.shared == "pareto":
            mix(groups[SHARED], each, gram_matrix(each, joint.device))
        else:
            assign(groups[SHARED], combine(each, [1.0] * len(each)))
        for name, pull in pulls.items():
            assign(groups[name], combine([[p.grad for p in groups[name]], pull], [1.0, 1.0]))
        self.conflicts += torch.stack(conflicts)
        self.steps += 1

    def epoch_statistics(self) -> dict[str, float]:
        """Return the share of the epoch's steps in which joint and uni-modal gradient of a modality conflicted."""
        share = self.conflicts / self.steps.clamp(min=1)
        self.conflicts.zero_()
        self.steps.zero_()
        return {f"conflict/{m}": s for m, s in zip(self.modalities, share.tolist(), strict=True)}


def mix(parameters: Sequence[nn.Parameter], gradients: Sequence[Gradients], gram: Tensor) -> None:
    """Give parameters the mixed gradient of several losses.

    Args:
        parameters: The parameters.
        gradients: Their gradients by loss.
        gram: What :func:`gram_matrix` returns of these.
    """
    factors = gradient_factors(gram, pareto_weights(gram))
    assign(parameters, combine(gradients, factors.unbind()))


def gram_matrix(gradients: Sequence[Gradients], device: torch.device | None = None) -> Tensor:
    """Return the inner products of several losses' gradients, ``[K, K]`` in double precision.

    Args:
        gradients: The gradients of :math:`K` losses on the same parameters.
        device: Where they are.
    """
    num = len(gradients)
    gram = torch.zeros(num, num, dtype=torch.float64, device=device)
    for k, n in combinations_with_replacement(range(num), 2):
        gram[k, n] = gram[n, k] = inner_product(gradients[k], gradients[n])
    return gram


def pareto_weights(gram: Tensor) -> Tensor:
    r"""Return the weight of every loss: equal ones where no two gradients conflict, else those of least norm.

    Gradients conflict if their inner product is not positive.

    Args:
        gram: Inner products of the losses' gradients over all parameters, ``[K, K]``.

    Returns:
        Weights ``[K]`` of sum 1.
    """
    num = gram.size(0)
    equal = torch.full_like(gram[0], 1 / num)
    weights = two_weights(gram) if num == 2 else min_norm_weights(gram)
    return torch.where((gram > 0).all(), equal, weights)


def two_weights(gram: Tensor) -> Tensor:
    r"""Return the weights of two gradients whose mean of these weights is shortest, ``[2]``.

    .. math::
        \alpha = \frac{\mathbf{h}^\top \mathbf{h} - \mathbf{g}^\top \mathbf{h}}
        {\| \mathbf{g} - \mathbf{h} \|^2}

    Where the shortest is one of the two, the other's weight is :data:`LEAST`.

    Args:
        gram: Inner products ``[2, 2]``.
    """
    (a, b), (_, c) = gram
    least = torch.full_like(b, LEAST)
    first = torch.where(b >= a, 1 - least, torch.where(b >= c, least, (c - b) / (a + c - 2 * b)))
    return torch.stack([first, 1 - first])


def min_norm_weights(gram: Tensor) -> Tensor:
    r"""Return the point of the simplex at which :math:`\mathbf{w}^\top \mathbf{G} \mathbf{w}` is least, ``[K]``.

    It lies inside a face of the simplex, on which :math:`\mathbf{w} \propto \mathbf{G}_F^{-1} \mathbf{1}`. All
    :math:`2^K - 1` faces are tried at once, so that nothing is iterated and nothing read from a device. The published
    code iterates, until a step is shorter than 1e-5.

    Args:
        gram: Symmetric positive semidefinite matrix ``[K, K]``, :math:`K` up to about ten.
    """
    num = gram.size(0)
    corners = [list(face) for face in product([0.0, 1.0], repeat=num) if any(face)]
    inside = torch.tensor(corners, dtype=gram.dtype, device=gram.device)  # [faces, K]
    scaled = gram / gram.diagonal().mean().clamp(min=torch.finfo(gram.dtype).tiny)
    ridge = torch.full_like(inside, RIDGE)
    own = inside.unsqueeze(-1) * inside.unsqueeze(-2) * scaled + torch.diag_embed(ridge + 1 - inside)
    weights, _ = torch.linalg.solve_ex(own, inside.unsqueeze(-1))  # Waits for nothing, and NaN may stay.
    weights = weights.squeeze(-1)
    weights = weights / weights.sum(dim=-1, keepdim=True)
    value = ((weights @ scaled) * weights).sum(dim=-1)
    return weights[torch.where((weights >= 0).all(dim=-1), value, torch.inf).argmin()]


def gradient_factors(gram: Tensor, weights: Tensor, summed: Tensor | None = None) -> Tensor:
    r"""Return the factors of the losses' gradients in the new gradient, ``[K]``.

    .. math::
        \max \left( 1, \frac{\| \sum_k \mathbf{g}_k \|}{\| K \sum_k w_k \mathbf{g}_k \|} \right) K w_k

    Args:
        gram: Inner products of the losses' gradients, ``[K, K]``.
        weights: Weight of every loss, ``[K]``.
        summed: Squared norm of what stands in the numerator, a scalar. (default: :obj:`None`, as above)
    """
    factors = weights.numel() * weights
    summed = gram.sum() if summed is None else summed
    mixed = factors @ gram @ factors
    longer = (summed / torch.where(mixed > 0, mixed, 1)).clamp(min=1).sqrt()
    return torch.where(mixed > 0, longer, 1) * factors
