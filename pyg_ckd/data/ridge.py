"""Ridge regression whose penalty chooses itself: what is known about newcomers becomes rows of an embedding table."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

ALPHAS = tuple(10.0**n for n in range(-4, 5))
"""Penalties tried, in units of the mean squared singular value of the inputs."""

RIDGE = ("mean", "target", "scale", "weight")
"""What a ridge has learnt."""

FAR = 3
"""Times that a feature of a newcomer lies farther from the mean of its column than any known one, to be far outside."""
NOISE = 1e-6
"""Share of the widest column up to which the spread of another one is rounding."""
FEW = 10
"""Of fewer known rows nobody can say what is far outside."""

TRIED = 10_000
"""Rows that choose the penalty; of more, as many at even distances do."""

_MAX_NUMBERS = 2**26  # Inputs that are learnt from, 512 MiB; further rows are left out at random.


def far_outside(known: Tensor, new: Tensor) -> tuple[Tensor, Tensor]:
    """Return features of newcomers without values far outside of those that are known, and which were, bool ``[n, d]``.

    A value is far outside if it lies more than three times farther from the mean of its column than any known one. It
    counts as one that lies as far as the farthest known one, for nothing is known of what is beyond. Columns that are
    constant among known rows say nothing, and neither do fewer than ten known rows. In columns that are constant but
    for rounding, such as those of dead units of a network, values are replaced in the same way, but not counted.

    Args:
        known: Features ``[N, d]``.
        new: Features ``[n, d]``.
    """
    if known.size(0) < FEW or not new.numel():
        return new, torch.zeros_like(new, dtype=torch.bool)
    mean = known.mean(dim=0, dtype=torch.float64)
    low, high = known.amin(dim=0).double(), known.amax(dim=0).double()
    most, x = torch.maximum(mean - low, high - mean), new.double()
    far, spread = ((x - mean).abs() > FAR * most) & (low < high), high - low
    near = torch.minimum(torch.maximum(x, mean - most), mean + most)
    return torch.where(far, near.to(new.dtype), new), far & (spread > NOISE * spread.amax())


def within_known(
    known: Mapping[str, Tensor], new: Mapping[str, Tensor], name: Callable[[int], Any], source: str
) -> list[Tensor]:
    """Return features of new items by modality without values far outside of those of known items, with a warning.

    Args:
        known: Features ``[N, d_m]`` of known items by modality.
        new: Features ``[n, d_m]`` of new items by modality.
        name: Returns the id of a new item by its row, for the message.
        source: Begins the message.

    Warns:
        UserWarning: If there are such values: of how many items, and where the first one is.
    """
    pairs = {m: far_outside(known[m], x) for m, x in new.items()}
    wrong = torch.stack([far.any(dim=1) for _, far in pairs.values()], dim=1)  # [n, M]
    rows = wrong.any(dim=1).nonzero().view(-1)
    if rows.numel():
        row = int(rows[0])
        m = list(new)[int(wrong[row].nonzero()[0])]
        column = int(pairs[m][1][row].nonzero()[0])
        value, there = float(new[m][row, column]), known[m][:, column]
        warnings.warn(
            f"{source}: {rows.numel():,} of {wrong.size(0):,} new items have features far outside of those of known "
            f"items (first: {name(row)!r}, {m!r}, column {column}: {value:.4g}, where known ones are from "
            f"{float(there.amin()):.4g} to {float(there.amax()):.4g} on the scale of the graph); they count as the "
            "farthest known value, mend those that are wrong",
            stacklevel=4,
        )
    return [near for near, _ in pairs.values()]


class Ridge:
    r"""Ridge regression whose penalty is chosen by its error on left-out rows.

    With inputs :math:`\mathbf{X}` of zero mean and unit variance, outputs :math:`\mathbf{Y}` of zero mean and
    :math:`\mathbf{X} = \mathbf{U} \, \mathrm{diag}(\mathbf{s}) \, \mathbf{V}^\top`,

    .. math::
        \hat{\mathbf{Y}} = \mathbf{U} \, \mathrm{diag} \left( \frac{\mathbf{s}^2}{\mathbf{s}^2 + \alpha} \right)
        \mathbf{U}^\top \mathbf{Y}, \qquad
        e_i = \frac{\mathbf{y}_i - \hat{\mathbf{y}}_i}{1 - h_i - 1/n}, \qquad
        h_i = \sum_j \frac{s_j^2}{s_j^2 + \alpha} \, u_{ij}^2

    where :math:`e_i` is the error at row ``i`` of the regression fitted on all other rows (`Hastie et al., section 7.10
    <https://hastie.su.domains/ElemStatLearn/>`_); the :math:`\alpha` with the least sum of its squares is taken.

    Of more than 10,000 rows, 10,000 at even distances choose :math:`\alpha`, and all are fitted with it once. The
    penalties that are tried are those of the fit on all rows, and the chosen one is not scaled with the number of rows:
    the best :math:`\alpha` is the variance of noise over that of weights, whatever the number of rows. Scaled with it,
    the fit on all rows would be shrunk as much as that on a few, which know less.

    All is computed in float64. A prediction that is longer than the longest output it was learnt from is shortened to
    that length, so that no input, however far from all others, gets scores that nothing has ever had.

    Args:
        x: Inputs ``[n, d]``; constant columns count for nothing.
        y: Outputs ``[n, D]``.
        seed: Seeds the choice of rows, where not all of them fit into 512 MiB.
    """

    def __init__(self, x: Tensor, y: Tensor, seed: int = 0) -> None:
        self.longest = y.double().norm(dim=1).amax()
        self.dtype, most = y.dtype, max(2, _MAX_NUMBERS // max(x.size(1), y.size(1)))
        if x.size(0) > most:
            generator = torch.Generator().manual_seed(seed)
            chosen = torch.randperm(x.size(0), generator=generator)[:most].sort().values
            x, y = x[chosen.to(x.device)], y[chosen.to(y.device)]
        x, y = x.double(), y.double()
        self.mean, self.target = x.mean(dim=0), y.mean(dim=0)
        x = x - self.mean
        deviation = x.square().mean(dim=0).sqrt()
        varies = deviation > 1e-9 * (self.mean.abs() + deviation)
        self.scale = torch.where(varies, 1 / torch.where(varies, deviation, 1.0), 0.0)
        self.weight = self._fit(x * self.scale, y - self.target)  # [d, D]

    def __call__(self, x: Tensor) -> Tensor:
        """Return the outputs for inputs ``[n, d]``."""
        found = (x.double() - self.mean) * self.scale @ self.weight + self.target
        if self.longest is not None:
            length = found.norm(dim=1, keepdim=True)
            found = torch.where(length > self.longest, found * (self.longest / length), found)
        return found.to(self.dtype)

    def state(self) -> dict[str, Any]:
        """Return what it has learnt: tensors and plain values."""
        longest = {} if self.longest is None else {"longest": self.longest.cpu()}
        return {"dtype": str(self.dtype), **{name: getattr(self, name).cpu() for name in RIDGE}, **longest}

    @classmethod
    def from_state(cls, state: Mapping[str, Any], device: torch.device | str = "cpu") -> Ridge:
        """Return one that has learnt what :meth:`state` said.

        Args:
            state: As :meth:`state` returned it.
            device: Where it shall compute.
        """
        out = cls.__new__(cls)
        out.dtype = getattr(torch, str(state["dtype"]).removeprefix("torch."))
        out.mean, out.target, out.scale, out.weight = (state[name].to(device) for name in RIDGE)
        out.longest = state["longest"].to(device) if "longest" in state else None  # Those of before have no bound.
        return out

    def _fit(self, x: Tensor, y: Tensor) -> Tensor:
        if x.size(0) > TRIED:
            return _fit_many(x, y)
        narrow = x.size(1) <= x.size(0)
        square, vectors = _spectrum(x.t() @ x if narrow else x @ x.t())
        left = x @ vectors / square.sqrt() if narrow else vectors  # U, [n, r]
        image = left.t() @ y
        penalty = _best_penalty(square, left, image, y, _unit(square))
        if penalty is None:
            return x.new_zeros(x.size(1), y.size(1))
        right = vectors if narrow else x.t() @ left / square.sqrt()
        best: Tensor = right @ ((square / (square + penalty) / square.sqrt()).unsqueeze(1) * image)
        return best


def _fit_many(x: Tensor, y: Tensor) -> Tensor:
    """Return the weights ``[d, D]`` of all rows, with the penalty that rows at even distances choose."""
    square, vectors = _spectrum(x.t() @ x)
    rows = (torch.arange(TRIED, device=x.device) * x.size(0)).div(TRIED, rounding_mode="floor")
    some, outputs = (table[rows] - table[rows].mean(dim=0) for table in (x, y))
    own, directions = _spectrum(some.t() @ some)
    left = some @ directions / own.sqrt()
    penalty = _best_penalty(own, left, left.t() @ outputs, outputs, _unit(square))
    if penalty is None:
        return x.new_zeros(x.size(1), y.size(1))
    return vectors @ ((vectors.t() @ (x.t() @ y)) / (square + penalty).unsqueeze(1))


def _spectrum(product: Tensor) -> tuple[Tensor, Tensor]:
    """Return the squares of the singular values that are not rounding ``[r]``, and their vectors ``[n, r]``."""
    square, vectors = torch.linalg.eigh(product)
    kept = square > 1e-10 * square[-1].clamp(min=1e-300)
    return square[kept], vectors[:, kept]


def _unit(square: Tensor) -> float:
    return float(square.mean()) if square.numel() else 1.0


def _best_penalty(square: Tensor, left: Tensor, image: Tensor, y: Tensor, unit: float) -> float | None:
    """Return the penalty with the least error on left-out rows, :obj:`None` if no error is a number.

    Args:
        square: Squares of the singular values ``[r]``.
        left: Singular vectors ``[n, r]``.
        image: Outputs along them ``[r, D]``.
        y: Outputs ``[n, D]``.
        unit: Unit of penalties.
    """
    least, best = torch.inf, None
    for alpha in ALPHAS:
        penalty = alpha * unit
        shrink = square / (square + penalty)
        left_out = (1 - 1 / y.size(0) - left.square() @ shrink).clamp(min=1e-6).unsqueeze(1)
        error = float(((y - left @ (shrink.unsqueeze(1) * image)) / left_out).square().sum())
        if error < least:
            least, best = error, penalty
    return best
