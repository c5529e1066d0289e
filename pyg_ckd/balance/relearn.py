"""Strategies that hold modalities back or start them again: diagnosing and re-learning, and InfoReg."""

from __future__ import annotations

import copy
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.attribution import RunningInformation, masked_mean, unbiased_label_information
from pyg_ckd.balance.given import MaskedObjective
from pyg_ckd.balance.gradients import check_steerable, edit_with, inner_product
from pyg_ckd.balance.objective import check_not_negative
from pyg_ckd.balance.progress import Score
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views


class Relearning(MaskedObjective):
    r"""Partly re-initialises the modalities that overfit their training triples.

    From `"Diagnosing and Re-learning for Balanced Multimodal Learning" <https://arxiv.org/abs/2407.09705>`_. Every
    ``every`` epochs, at most ``times`` times, each modality is diagnosed by the
    :func:`~pyg_ckd.balance.unbiased_label_information` of what it alone adds to the ids,
    :math:`\delta(\{m\}) - \delta(\emptyset)`, on the triples of the last epoch and on those of the validation part. A
    modality that knows more about the former than about the latter has overfitted; its parameters :math:`\theta_m` move
    towards new random ones,

    .. math::
        g_m = \max \left( 0, \frac{I_m^{\textrm{train}} - I_m^{\textrm{val}}}{\ln 2} \right), \qquad
        \theta_m \leftarrow (1 - w_m) \, \theta_m + w_m \, \theta_m^{\textrm{new}}, \qquad w_m = \tanh(a \, g_m)

    Overrides ``views``, ``balance``, ``before_validation`` and ``begin_epoch``. Costs the uni-modal views and the empty
    one in the epochs before a diagnosis, without a backward pass, and in validations up to the last one; and a copy of
    the student for a moment. Learns from the validation part. Triples with an item that lacks a modality do not count
    for its information. The history shows :math:`w_m` as ``relearned/visual``.

    The published code diagnoses by the purity of clusters of the representations, for which recommenders have no
    classes, and mixes with the weights of the beginning; here they are drawn anew, which is the same in distribution
    and needs no second copy all the time. Parameters that their module cannot draw anew stay, of which a warning
    tells. As published, the optimizer's moments stay too. Adam forgets directions in some ten steps, and the size of
    earlier gradients in some thousand: until then steps are smaller where gradients have become smaller, and larger
    where they have grown.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        strength: :math:`a`; 0 is plain training.
        every: Epochs from one diagnosis to the next.
        times: Largest number of diagnoses.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, a number is out
            of its range or a mask does not fit; at the first step, if margins depend on no such parameter; when
            training begins, if no parameter of a modality can be drawn anew; in the trainer, if there is no validation
            part, or no validation before the first diagnosis.
    """

    name = "relearn"
    capturable = True
    sampled = True
    needs_validation = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"strength": (1.0, 10.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"strength": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "relearned": "how far the modality was set back to its first weights in the epoch",
    }
    held_out: Tensor
    done: Tensor

    def __init__(
        self,
        student: Backbone,
        strength: float = 3.0,
        every: int = 15,
        times: int = 2,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("strength", strength)
        self.strength, self.every, self.times = strength, as_integer(every, "every", 1), as_integer(times, "times", 0)
        self.store_masks(has)
        check_steerable(student, self.name, scores="epochs" if strength > 0 and times > 0 else "")
        self._alone = unimodal_views(student.modalities)
        self._measured = [*self._alone.values(), EMPTY]
        self.information = RunningInformation(student.modalities)
        self.register_state("held_out", torch.full((len(student.modalities),), torch.nan, dtype=torch.float64))
        self.register_state("done", torch.zeros((), dtype=torch.int64))
        self._weights, self._drawable = [0.0] * len(student.modalities), False

    def _is_left(self) -> bool:
        return self.strength > 0 and self.progress.epoch <= self.every * self.times

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Diagnose and start again what has overfitted, if it is time."""
        self._weights = [0.0] * len(self.modalities)
        if self._is_left() and not self._drawable:
            check_drawable(self.student, self.name)
            self._drawable = True
        past = self.progress.epoch - 1
        if self.strength > 0 and past > 0 and past % self.every == 0 and int(self.done) < self.times:
            if bool(self.held_out.isnan().any()):
                raise InputError(
                    f"{self.name}: found no validation in the first {past} epochs, expected one before every "
                    "diagnosis; lower eval_every or raise every"
                )
            weights = relearning_weights(self.information.label, self.held_out, self.strength).tolist()
            moved = start_again(self.student, dict(zip(self.modalities, weights, strict=True)))
            self._weights = [w if moved[m] else 0.0 for m, w in zip(self.modalities, weights, strict=True)]
            self.done += 1
        return super().begin_epoch(features, graphs)

    @property
    def views(self) -> Sequence[View]:
        """The full view; in an epoch before a diagnosis, the uni-modal views and the empty one as well."""
        measures = self._is_left() and self.progress.epoch % self.every == 0
        return [self.view, *(self._measured if measures else [])]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Measure the information on training triples; the loss has no further terms."""
        if self._is_left():
            self.check_reached(out, batch)
        if EMPTY in out:
            with torch.no_grad():
                margins = torch.stack([out[view].margin(*batch[:3]) for view in self._alone.values()], dim=-1)
                added = batch.gathered(margins - out[EMPTY].margin(*batch[:3]).unsqueeze(-1))
                self.information.track(added, None, self.available(*batch.whole[1:3]))
        return {}

    def before_validation(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Measure the information on triples of the validation part."""
        if not self._is_left():
            return
        *alone, empty = self.student.outputs(features, graphs, self._measured)
        user, positive, negative = (ids.to(self.held_out.device) for ids in score.triples)
        margins = torch.stack([out.margin(user, positive, negative) for out in alone], dim=-1)
        added = margins - empty.margin(user, positive, negative).unsqueeze(-1)
        self.held_out.copy_(unbiased_label_information(added, self.available(positive, negative)))

    def epoch_statistics(self) -> dict[str, float]:
        """Return how far every modality started again at the beginning of the finished epoch."""
        self.information.finish_epoch()
        if self.strength == 0:
            return {}
        return {f"relearned/{m}": w for m, w in zip(self.modalities, self._weights, strict=True)}


def relearning_weights(train: Tensor, held_out: Tensor, strength: float) -> Tensor:
    r"""Return :math:`w_m = \tanh(a \max(0, I^{\textrm{train}}_m - I^{\textrm{val}}_m) / \ln 2)`, ``[M]``.

    Args:
        train: Information on training triples in nats, ``[M]``.
        held_out: Information on held-out triples, ``[M]``.
        strength: :math:`a`.
    """
    return torch.tanh(strength * torch.relu(train - held_out) / math.log(2))


@torch.no_grad()
def start_again(student: Backbone, weights: Mapping[str, float]) -> dict[str, list[str]]:
    """Move the parameters of modalities towards new random ones, as the modules that hold them draw them.

    Args:
        student: The backbone. Parameters that no ``reset_parameters`` draws, values that it leaves alone, such as a row
            of zeros, and frozen parameters stay.
        weights: How far, from modality to a number from 0 to 1; the others stay as they are, to the bit.

    Returns:
        Names of the parameters that were drawn anew, by modality; none of a modality that stayed as it is.
    """
    new, groups = drawn_anew(student), student.modality_parameters
    names = {id(p): name for name, p in student.named_parameters()}
    moved: dict[str, list[str]] = {}
    for m, parameters in groups.items():
        chosen = [p for p in parameters if p.requires_grad and names[id(p)] in new] if weights.get(m, 0.0) > 0 else []
        for p in chosen:
            drawn = new[names[id(p)]]
            p.copy_(torch.where(drawn.isnan(), p, p.lerp(drawn, weights[m])))
        moved[m] = [names[id(p)] for p in chosen]
    return moved


@torch.no_grad()
def drawn_anew(student: Backbone) -> dict[str, Tensor]:
    """Return new random values of parameters by name, of all that their modules can draw; the student stays as it is.

    Args:
        student: The backbone, whose own ``reset_parameters`` draws them, or if it has none those of its modules.

    Returns:
        The parameters of which any value was drawn; NaN where one was not.
    """
    twin = copy.deepcopy(student)
    for p in twin.parameters():
        if p.is_floating_point():
            p.fill_(torch.nan)  # What still is NaN afterwards has not been drawn.
    own = [twin] if hasattr(twin, "reset_parameters") else [x for x in twin.modules() if hasattr(x, "reset_parameters")]
    for module in own:
        module.reset_parameters()  # type: ignore[operator]
    return {name: p for name, p in twin.named_parameters() if not bool(p.isnan().all())}


def check_drawable(student: Backbone, strategy: str) -> None:
    """Refuse a backbone with a modality of whose trained parameters none can be drawn anew; random numbers stay.

    It warns of modalities of which some can be and some not.

    Args:
        student: The backbone.
        strategy: Name of the strategy, for messages.

    Raises:
        InputError: If there is such a modality.
    """
    devices = {p.device for p in student.parameters() if p.device.type != "cpu"}
    kind = next((device.type for device in devices), "cuda")
    with torch.random.fork_rng([device.index or 0 for device in devices], device_type=kind):
        new = drawn_anew(student)
    names = {id(p): name for name, p in student.named_parameters()}
    where, staying = type(getattr(student, "module", student)).__name__, []
    for m, parameters in student.modality_parameters.items():
        trained = [names[id(p)] for p in parameters if p.requires_grad]
        stay = [name for name in trained if name not in new]
        if trained and len(stay) == len(trained):
            raise InputError(
                f"{strategy}: found no parameter of {m!r} that its module can draw anew ({', '.join(stay)}), expected "
                f"some, to learn it again; give {where} a reset_parameters() that draws them"
            )
        staying += stay
    if staying:
        warnings.warn(
            f"{strategy}: found parameters that their modules cannot draw anew ({', '.join(staying)}), which stay as "
            f"they are when others of their modalities start again; give {where} a reset_parameters() that draws them",
            stacklevel=3,
        )


class InformationRegulation(MaskedObjective):
    r"""Holds back the modality that is ahead, in the epochs in which the model learns most.

    InfoReg of `"Adaptive Unimodal Regulation for Balanced Multimodal Information Acquisition"
    <https://arxiv.org/abs/2503.18595>`_. With what modality :math:`m` alone adds to the ids on the triples of a step,
    :math:`s_m = \textrm{mean} \; \sigma( \delta(\{m\}) - \delta(\emptyset) )`, the parameters :math:`\theta_m` of a
    modality whose score is above the mean of the others are pulled back to their values at the start of the epoch,
    :math:`\theta_m^0`. Its gradient becomes

    .. math::
        \mathbf{g}_m + \beta_m \lVert \mathbf{g}_m \rVert \frac{\theta_m - \theta_m^0}{\lVert \theta_m - \theta_m^0
        \rVert}, \qquad \beta_m = \kappa \exp \left( \tanh \left( s_m - \underset{n \neq m}{\textrm{mean}} \; s_n
        \right) \right)

    A modality is only held back in its prime learning window, while its Fisher information grows: the trace, the mean
    squared length of :math:`\mathbf{g}_m` over an epoch, summed over the last ``window`` epochs, must have grown by
    more than ``growth`` of the sum in the last one of them. As in the published code, epochs before the first count as
    zero, so that about the first ``window`` epochs are in the window. Once it is closed, it stays so.

    Overrides ``views``, ``balance``, ``backward`` and ``begin_epoch``. While a window is open, costs the uni-modal
    views and the empty one, without a backward pass, and a copy of the modalities' parameters; afterwards nothing.
    Triples with an item that lacks a modality do not count for its score. The history shows the mean of :math:`\beta_m`
    as ``pull/visual``.

    The published code adds :math:`\beta (\theta_m - \theta_m^0)` itself, whose effect depends on the learning rate of
    SGD; in units of the gradient, the pull keeps its meaning under Adam. It watches the window of one modality of two,
    and never holds back the other, because both branches of its comparison ask the same question; and it sums scores
    over the batch, so that :math:`\tanh` is nearly 1 for any difference. Its :math:`\kappa` is 0.95.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        weight: :math:`\kappa`; 0 is plain training.
        growth: How much the trace must grow.
        window: Epochs over which traces are summed.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, a number is out
            of its range or a mask does not fit; at the first step, if margins depend on no such parameter.
    """

    name = "inforeg"
    capturable = True
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.05, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"weight": 0.0}
    needs_whole = "the gradients of a batch"
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {"pull": "how strongly the modality is held back, mean over the epoch"}
    traces: Tensor
    open: Tensor

    def __init__(
        self,
        student: Backbone,
        weight: float = 0.3,
        growth: float = 0.05,
        window: int = 10,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        check_not_negative("weight", weight)
        check_not_negative("growth", growth)
        self.weight, self.growth, self.window = weight, growth, as_integer(window, "window", 1)
        self.store_masks(has)
        check_steerable(student, self.name, scores="epochs" if weight > 0 else "")
        num = len(student.modalities)
        self._alone = unimodal_views(student.modalities)
        self.register_state("traces", torch.zeros(window + 1, num, dtype=torch.float64))
        self.register_state("open", torch.ones(num, dtype=torch.bool))
        self._sums = torch.zeros(3, num, dtype=torch.float64)  # Traces, pulls and steps of the epoch.
        self._watched = list(student.modalities) if weight > 0 else []
        self._start: dict[str, list[Tensor]] = {}
        self._pull: Tensor | None = None

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Note where the parameters of the modalities stand whose window is open."""
        still = self.open.tolist() if self.weight > 0 else []
        self._watched = [m for m, is_open in zip(self.modalities, still, strict=False) if is_open]
        groups = self.student.modality_parameters if self._watched else {}
        self._start = {m: [p.detach().clone() for p in groups[m]] for m in self._watched}
        self._sums = torch.zeros_like(self._sums, device=self.open.device)
        return super().begin_epoch(features, graphs)

    @property
    def views(self) -> Sequence[View]:
        """The full view; while a window is open, the uni-modal views and the empty one as well."""
        return [self.view, *([*self._alone.values(), EMPTY] if self._watched else [])]

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Find out who is ahead; the loss has no further terms."""
        self._pull = None
        if EMPTY in out:
            self.check_reached(out, batch)
            with torch.no_grad():
                margins = torch.stack([out[view].margin(*batch[:3]) for view in self._alone.values()], dim=-1)
                prob = torch.sigmoid(margins - out[EMPTY].margin(*batch[:3]).unsqueeze(-1))
                known = self.available(batch.positive, batch.negative)
                score = masked_mean(prob, known)
                if known is not None:  # Without a triple there is nothing to compare.
                    score = torch.where(known.any(dim=0), score, torch.nan)
                self._pull = pull_strengths(score, self.weight)
        return {}

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients and add the pull to those of the modality that is ahead."""
        super().backward(terms, run)
        if self._pull is None or not self._start:
            return
        with torch.no_grad():
            groups, found = self.student.modality_parameters, torch.zeros_like(self._sums)
            for column, m in enumerate(self.modalities):
                if m not in self._start:
                    continue
                grads = [p.grad for p in groups[m]]
                moved = [p - start for p, start in zip(groups[m], self._start[m], strict=True)]
                length, distance = inner_product(grads, grads), inner_product(moved, moved)
                factor = self._pull[column] * torch.where(distance > 0, (length / distance).sqrt(), 0)
                edit_with(groups[m], moved, lambda grad, back, f=factor: grad + f.to(grad.dtype) * back)  # type: ignore[misc]
                traced = torch.where(length.isfinite(), length, 0).double()  # Of a skipped step too.
                found[:, column] = torch.stack([traced, self._pull[column].double(), torch.ones_like(traced)])
            self._sums += found

    def end_fit(self) -> None:
        """Let go of where the parameters stood."""
        self._start, self._pull = {}, None

    def epoch_statistics(self) -> dict[str, float]:
        """Return the mean pull of every modality, and close the windows in which nothing grows any more."""
        if self.weight == 0:
            return {}
        mean = self._sums[:2] / self._sums[2].clamp(min=1)
        self.traces.copy_(torch.cat([self.traces[1:], mean[:1].to(self.traces.device)]))
        self.open &= (trace_growth(self.traces) > self.growth).to(self.open.device)
        return {f"pull/{m}": value for m, value in zip(self.modalities, mean[1].tolist(), strict=True)}


def pull_strengths(score: Tensor, weight: float) -> Tensor:
    r"""Return :math:`\beta_m`, zero for modalities whose score is not above the mean of the others, ``[M]``.

    Args:
        score: Scores :math:`s_m`, ``[M]``; those that are NaN are unknown and none of the others.
        weight: :math:`\kappa`.
    """
    known = ~score.isnan()
    others = (torch.where(known, score, 0).sum() - score) / (known.sum() - 1)
    ahead = torch.where(others.isfinite(), score - others, 0)
    return torch.where(ahead > 0, weight * torch.exp(torch.tanh(ahead)), 0)


def trace_growth(traces: Tensor) -> Tensor:
    """Return by which share of it a running sum has grown in the last epoch, ``[M]``; infinite where it is zero.

    Args:
        traces: Traces of past epochs, the last one at the end, zero where there was none yet, ``[W + 1, M]``; the sum
            is over ``W`` of them.
    """
    total = traces[1:].sum(dim=0)
    return torch.where(total > 0, (traces[-1] - traces[0]) / total, torch.inf)
