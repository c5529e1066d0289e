"""Gradients by modality and by loss term: what strategies share that override ``Objective.backward``.

Gradients may be dense, or sparse with whole rows, as those of ``VBPR(sparse=True)``; any other layout is refused by
name. Under ``16-mixed`` losses are scaled up; the trainer takes that factor out before a strategy sees its gradients.
In a loop of your own they may still carry it. What is done to gradients is therefore best homogeneous: from ``s`` times
the gradients it makes ``s`` times the
result. That holds for sums, projections, masks, cosines, ratios of norms and noise in proportion to a gradient's own
size; it does not hold for a threshold or for noise of a fixed size. Infinite and NaN gradients, by which a step is
skipped, must stay so.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

from pyg_ckd.balance.objective import Objective
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.autograd import leaves_behind

Gradients = list[Tensor | None]
"""Gradients of a list of parameters, in its order; None where a loss does not reach a parameter."""

SHARED = ""
"""Name of the group of parameters that belong to no modality; no modality can be called so."""


def parameter_groups(model: Objective | Backbone) -> dict[str, list[nn.Parameter]]:
    """Return all trained parameters: the group of every modality, and last, under :data:`SHARED`, all others.

    Args:
        model: A backbone, or an objective, whose own parameters are among the shared ones.
    """
    student = model.student if isinstance(model, Objective) else model
    groups = {m: [p for p in own if p.requires_grad] for m, own in student.modality_parameters.items()}
    taken = {id(p) for own in groups.values() for p in own}
    groups[SHARED] = [p for p in model.parameters() if p.requires_grad and id(p) not in taken]
    return groups


def check_steerable(
    student: Backbone,
    strategy: str,
    margins: Iterable[Tensor] | None = None,
    scores: str = "",
    modality: str | None = None,
) -> None:
    """Refuse a backbone on which a strategy that changes the training of modalities' parameters would have no effect.

    Args:
        student: The backbone. One that assigns its parameters to modalities only later is accepted.
        strategy: Name of the strategy, for the message.
        margins: Margins, or losses made of them, the first time that there are any; if they have a gradient, one of
            them must depend on a parameter that belongs to a modality. (default: :obj:`None`, it is enough that there
            is such a parameter)
        scores: When scores must depend on such a parameter as far as the backbone says it, see
            :attr:`~pyg_ckd.nn.Backbone.steered`: in all ``"steps"`` or, at least, in the first one of ``"epochs"``.
            (default: ``""``, it is enough that losses do)
        modality: The modality that the parameter must belong to. (default: :obj:`None`, any)

    Raises:
        InputError: If no trained parameter belongs to a modality alone, or no margin depends on one.
    """
    try:
        groups = student.modality_parameters
        chosen = groups.values() if modality is None else [groups[modality]]
        own = {id(p) for group in chosen for p in group if p.requires_grad}
    except InputError:  # An adapted module finds out when it is prepared.
        return
    name, among = type(student).__name__, ""
    with_graph = [x for x in margins or () if x.requires_grad]
    if with_graph:
        own &= {id(p) for p in leaves_behind(with_graph)}
        among = " that scores depend on"
    if scores and student.steered not in ("steps", scores):
        own, among = set(), " that scores depend on" + (" in every step" if student.steered == "epochs" else "")
    if not own:
        of = "one modality" if modality is None else repr(modality)
        raise InputError(
            f"{strategy}: found {name} without a trained parameter of {of} alone{among}, expected some, for "
            "it is these that the strategy steers; choose a strategy that adds losses on views, such as multitask"
        )


def only(student: Backbone, modalities: Collection[str] | str, shared: bool = True) -> None:
    """Keep the gradients of some modalities' parameters; those of all other modalities' become :obj:`None`.

    Adam leaves a parameter without a gradient alone, and its moments too. After a gradient of zero, it would go on in
    the direction of the moments and let them decay. In a loop of your own, clear gradients with
    ``zero_grad(set_to_none=True)``, PyTorch's default: zeros that a strategy's ``backward`` finds come back after it.

    Args:
        student: The backbone, after its gradients have been computed.
        modalities: The modalities, or the name of one, that keep their gradients.
        shared: Whether parameters that belong to no modality, such as id embeddings and parts that all modalities go
            through, keep their gradients too; if not, these become :obj:`None` as well. Parameters of the objective
            itself are not touched.

    Raises:
        InputError: If a modality is unknown.
    """
    kept = {modalities} if isinstance(modalities, str) else set(modalities)
    for m in sorted(kept):
        if m not in student.modalities:
            raise unknown_name("modality", m, student.modalities)
    for name, parameters in parameter_groups(student).items():
        if not (shared if name == SHARED else name in kept):
            for p in parameters:
                p.grad = None


def per_term(
    terms: Mapping[str, Tensor],
    groups: Mapping[str, Sequence[nn.Parameter]],
    run: Callable[..., None],
    retain_graph: bool = False,
) -> dict[str, dict[str, Gradients]]:
    """Return the gradient of every loss term on every group of parameters, and leave all ``p.grad`` as they are.

    Every term takes one backward pass, through ``run``, so that the precision of the training treats all terms alike.

    Args:
        terms: The loss terms, scalars. One that depends on no parameter has no gradients.
        groups: Groups of parameters by name, *e.g.*, from :func:`parameter_groups`.
        run: What :meth:`~pyg_ckd.Objective.backward` is given.
        retain_graph: Whether ``run`` will be called again on the graph of these terms.

    Returns:
        From term to group to the gradients, in the order of the group's parameters.
    """
    reached = leaves_behind(terms.values())
    before = [p.grad for p in reached]
    known = {id(p) for p in reached}
    out: dict[str, dict[str, Gradients]] = {}
    with_graph = [name for name, term in terms.items() if term.requires_grad]
    try:
        for name, term in terms.items():
            for p in reached:
                p.grad = None
            if term.requires_grad:
                run(term.to(_at_least_single(term)), retain_graph=retain_graph or name != with_graph[-1])
            out[name] = {
                group: [p.grad if id(p) in known else None for p in parameters] for group, parameters in groups.items()
            }
    finally:
        for p, grad in zip(reached, before, strict=True):
            p.grad = grad
    return out


@torch.no_grad()
def edit(parameters: Iterable[nn.Parameter], fn: Callable[[Tensor], Tensor | None]) -> None:
    """Replace the gradient of every parameter that has one by a function of it.

    Args:
        parameters: The parameters, *e.g.*, ``student.modality_parameters["visual"]``.
        fn: Takes a gradient and returns the new one of the same shape, in place or not, or :obj:`None` for no gradient.
            For a sparse gradient, it takes the stored rows, ``[rows, ...]``, each once; all others stay zero.

    Raises:
        InputError: If the layout of a gradient is neither dense nor rows, or the result has another shape.
    """
    for p in parameters:
        if p.grad is None:
            continue
        rows, values = _parts(p.grad)
        new = fn(values)
        if new is not None and new.shape != values.shape:
            raise InputError(
                f"edit: the function made a gradient of shape {list(new.shape)} of one of shape "
                f"{list(values.shape)}, expected the same shape"
            )
        p.grad = None if new is None else _whole(rows, new, p)


@torch.no_grad()
def edit_with(
    parameters: Iterable[nn.Parameter], tensors: Iterable[Tensor], fn: Callable[[Tensor, Tensor], Tensor]
) -> None:
    """Replace the gradient of every parameter that has one by a function of it and of a tensor like the parameter.

    Args:
        parameters: The parameters.
        tensors: A tensor of the same shape for each, such as its former values.
        fn: Takes a gradient and the tensor and returns the new gradient, as in :func:`edit`. For a sparse gradient, it
            takes the stored rows of both.
    """
    for p, tensor in zip(parameters, tensors, strict=True):
        if p.grad is not None:
            rows, values = _parts(p.grad)
            p.grad = _whole(rows, fn(values, tensor if rows is None else tensor.index_select(0, rows)), p)


@torch.no_grad()
def assign(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor | None]) -> None:
    """Set the gradients of parameters.

    Args:
        parameters: The parameters.
        gradients: Their gradients in the same order, dense or sparse, or :obj:`None`.
    """
    for p, grad in zip(parameters, gradients, strict=True):
        p.grad = grad


@torch.no_grad()
def combine(gradients: Sequence[Sequence[Tensor | None]], weights: Sequence[float | Tensor]) -> Gradients:
    r"""Return :math:`\sum_k w_k g_k` for every parameter; sparse if all gradients of the parameter are.

    Args:
        gradients: Several losses' gradients of the same parameters.
        weights: A weight for every loss, numbers or scalars.
    """
    return [_sum(grads, weights) for grads in zip(*gradients, strict=True)]


@torch.no_grad()
def inner_product(first: Sequence[Tensor | None], second: Sequence[Tensor | None]) -> Tensor:
    """Return the inner product of two losses' gradients over all their parameters, a scalar in double precision.

    With the same gradients twice, it is the squared norm. A missing gradient counts as zero.

    Args:
        first: The gradients of one loss.
        second: The gradients of the other on the same parameters.

    Raises:
        InputError: If the layout of a gradient is neither dense nor rows.
    """
    products = [_product(a, b) for a, b in zip(first, second, strict=True) if a is not None and b is not None]
    if not products:
        some = next((g for g in (*first, *second) if g is not None), torch.zeros(()))
        return torch.zeros((), dtype=torch.float64, device=some.device)
    return torch.stack(products).sum()


def gate(x: Tensor, factor: Tensor | float) -> Tensor:
    """Return ``x`` itself, to the bit; the gradient that comes back through it is multiplied by ``factor``.

    Args:
        x: Any tensor of finite numbers.
        factor: One factor, or a tensor of them that broadcasts to ``x``; used without gradient.
    """
    factor = factor.detach() if isinstance(factor, Tensor) else factor
    return x.detach() + factor * (x - x.detach())


def modulated(margin: Tensor, contributions: Tensor, factors: Tensor) -> Tensor:
    r"""Return margins themselves, to the bit; the gradient that comes back through contributions to them is multiplied.

    With contributions :math:`\phi_m` and factors :math:`k_m`, the gradient is that of
    :math:`\delta + \sum_m (k_m - 1) \phi_m`. Where the contributions and a part without factor add up to the margin, it
    is the one of that part plus the gated contributions, see :func:`gate`.

    Args:
        margin: Margins ``[B]``.
        contributions: The contribution of every modality, ``[B, M]``, finite.
        factors: The factors ``[M]`` or ``[B, M]``, used without gradient.
    """
    nothing = contributions - contributions.detach()
    return margin + ((factors.detach() - 1).to(nothing.dtype) * nothing).sum(dim=-1)


def _at_least_single(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _parts(grad: Tensor) -> tuple[Tensor | None, Tensor]:
    """Return the numbers of the rows that a gradient holds, ascending, and these rows; of a dense one no numbers."""
    if grad.layout == torch.strided:
        return None, grad
    if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1:
        kind = f"{grad.sparse_dim()} sparse dimensions" if grad.layout == torch.sparse_coo else str(grad.layout)
        raise InputError(
            f"gradient of shape {list(grad.shape)}: found {kind}, expected a dense gradient or a sparse one of whole "
            "rows (torch.sparse_coo with one sparse dimension)"
        )
    grad = grad.coalesce()
    return grad.indices()[0], grad.values()


def _whole(rows: Tensor | None, values: Tensor, like: Tensor) -> Tensor:
    if rows is None:
        return values
    return torch.sparse_coo_tensor(rows.unsqueeze(0), values, like.shape, is_coalesced=True, check_invariants=False)


def _sum(gradients: Sequence[Tensor | None], weights: Sequence[float | Tensor]) -> Tensor | None:
    total: Tensor | None = None
    for grad, weight in zip(gradients, weights, strict=True):
        if grad is None:
            continue
        rows, values = _parts(grad)
        part = _whole(rows, values * weight, grad)
        if total is not None and total.is_sparse and not part.is_sparse:
            total, part = part, total  # PyTorch adds sparse to dense, not dense to sparse.
        total = part if total is None else total + part
    return total


def _product(first: Tensor, second: Tensor) -> Tensor:
    (rows, a), (others, b) = _parts(first), _parts(second)
    if rows is not None and others is None:
        b = b.index_select(0, rows)
    elif rows is None and others is not None:
        a = a.index_select(0, others)
    elif rows is not None and others is not None:
        if others.numel() == 0:
            return a.new_zeros((), dtype=torch.float64)
        at = torch.searchsorted(others, rows).clamp_(max=others.numel() - 1)
        same = (others.index_select(0, at) == rows).view(-1, *[1] * (a.dim() - 1))
        b = torch.where(same, b.index_select(0, at), 0)
    return (a * b).sum(dtype=torch.float64)
