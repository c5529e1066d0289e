"""Modalities take turns: strong ones wait until weak ones have learnt (G2D), or fast ones for slow ones (greedy)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.ckd import DistillationWrapper
from pyg_ckd.balance.given import check_several
from pyg_ckd.balance.gradients import check_steerable, inner_product, only, parameter_groups
from pyg_ckd.balance.objective import Objective, check_not_negative
from pyg_ckd.balance.progress import Score
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View


class G2D(DistillationWrapper):
    r"""Distillation in which modalities with strong teachers wait until those with weak teachers have learnt.

    From `"G2D: Boosting Multimodal Learning with Gradient-Guided Distillation" <https://arxiv.org/abs/2506.21514>`_,
    with the losses of :class:`DistillationWrapper`. Let :math:`r_m` be the rank of modality :math:`m` by the monitored
    metric of its teacher on the validation part, 1 for the weakest. In epoch :math:`e` of 2 to :math:`E`, the
    gradients of the parameters of :math:`m` are kept if

    .. math::
        r_m \le 1 + \left\lfloor \frac{(e - 1) (M - 1)}{E} \right\rfloor

    and are :obj:`None` otherwise, so that an optimizer leaves the parameters and their moments alone; afterwards all
    are kept. With two modalities, the stronger one waits from epoch 2 to :math:`E`. Parameters that belong to no
    modality are always trained.

    In the first epoch all modalities train. Overrides ``balance``, ``backward`` and ``before_training``.
    Costs what distillation costs.

    Differs from the published code, which compares teachers by the label probabilities of every training batch, where a
    teacher that has memorised the training part would win; in which modalities wait from the first epoch on; which sets
    gradients to zero, so that momentum goes on; and in which distillation from the teachers reaches the joint scores
    instead of uni-modal views.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        teachers: From modality to the teacher's embeddings, see :func:`~pyg_ckd.train_teachers`.
        epochs: Last epoch :math:`E` in which modalities wait; 0 and 1 are distillation.
        distillation_weight: Weight of the distillation losses, see :class:`DistillationWrapper`.
        generic_weight: Weight of the generic loss.
        temperature: Temperature of the generic loss.
        specific: Whether the specific loss is on.
        generic: Whether the generic loss is on.
        reweight: Whether losses are re-weighted by effects.
        num_random_triples: Random triples per batch for the generic loss.
        l2: Weight of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`.

    Raises:
        InputError: If no trained parameter belongs to one modality alone, ``epochs`` is negative, and as
            :class:`DistillationWrapper`; when training begins, if there is no validation part.
    """

    name = "g2d"
    sampled = True
    needs_validation = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"epochs": (2, 40), "distillation_weight": (1e-3, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"distillation_weight": 0.0, "generic": False, "epochs": 0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        **DistillationWrapper.reports,
        "trained": "epochs in which the modality's parameters were trained",
    }

    quality: Tensor

    def __init__(
        self,
        student: Backbone,
        teachers: Mapping[str, Embeddings],
        epochs: int = 10,
        distillation_weight: float = 0.01,
        generic_weight: float = 5.0,
        temperature: float = 0.1,
        specific: bool = True,
        generic: bool = True,
        reweight: bool = True,
        num_random_triples: int = 5000,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(
            student,
            teachers,
            distillation_weight,
            generic_weight,
            temperature,
            specific,
            generic,
            reweight,
            num_random_triples,
            l2,
            has=has,
        )
        if teachers is None:
            raise InputError("g2d: found no teachers, expected one for each modality; train them with train_teachers")
        check_steerable(student, self.name, scores="epochs")
        self.epochs = as_integer(epochs, "epochs", 0)
        self.register_state("quality", torch.full((len(self.modalities),), torch.nan, dtype=torch.float64))
        self._kept, self._steerable = self.modalities, False

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Decide which modalities train in the next epoch."""
        epoch, quality = self.progress.epoch, self.quality.tolist()
        self._kept = self.modalities if epoch == 1 else trained_first(self.modalities, quality, epoch, self.epochs)
        return super().begin_epoch(features, graphs)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the re-weighted distillation losses."""
        terms = super().balance(out, batch)
        if not self._steerable:  # After all margins have been read, for the first list that is read decides about bits.
            check_steerable(self.student, self.name, terms.values())
            self._steerable = True
        return terms

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of the sum of all terms and drop those of the modalities that wait."""
        super().backward(terms, run)
        if len(self._kept) < len(self.modalities):
            only(self.student, self._kept)

    def before_training(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Rank the teachers."""
        self.quality.copy_(torch.tensor([score(self.teacher(m)) for m in self.modalities], dtype=torch.float64))

    def epoch_statistics(self) -> dict[str, float]:
        """Return mean effects and weights, and for every modality 1 if it trained in the finished epoch, else 0."""
        return super().epoch_statistics() | {f"trained/{m}": float(m in self._kept) for m in self.modalities}


def trained_first(modalities: Sequence[str], quality: Sequence[float], epoch: int, epochs: int) -> tuple[str, ...]:
    """Return the modalities that train in an epoch, the weaker the earlier; of equals, the first by name.

    Args:
        modalities: Their names.
        quality: How good the teacher of each is; NaN if it is not known yet.
        epoch: The epoch, counted from 1.
        epochs: Epochs after which all train.
    """
    if epoch > epochs or any(math.isnan(q) for q in quality):
        return tuple(modalities)
    num = 1 + (epoch - 1) * (len(modalities) - 1) // epochs
    chosen = sorted(zip(quality, modalities, strict=True))[:num]
    return tuple(m for _, m in chosen)


class Greedy(Objective):
    r"""Lets the modality that learns slowest train alone for some steps, where others are ahead of it.

    From `"Characterizing and Overcoming the Greedy Nature of Learning in Multi-modal Deep Neural Networks"
    <https://arxiv.org/abs/2202.05306>`_. The speed of a modality with parameters :math:`\mathbf{w}_m` and gradients
    :math:`\mathbf{g}_m` is

    .. math::
        v_m = \sum_t \frac{\| \mathbf{g}_m^{(t)} \|^2}{\| \mathbf{w}_m^{(t)} \|^2}

    over all steps :math:`t` so far in which all modalities trained. Where
    :math:`\log_{10} ( \max_n v_n / \min_n v_n )` is above a threshold at the beginning of an epoch, each of its steps
    in which all train is followed by a window of steps in which only the slowest modality and the parameters that
    belong to none are trained; the gradients of the others are :obj:`None` there. A modality that no gradient reaches
    does not count.

    Overrides ``balance`` and ``backward``. Costs no further view.

    Differs from the published code, which compares the path of a modality through the other's layers with its own, for
    two modalities in one architecture; which decides before every window and not before every epoch, for which it has
    to read numbers from the device in a step; and in which the modality that waits takes part with its mean. Adam's
    steps have about the same size for any gradient, so the speed shows which modality the loss would still change, not
    how much it changes.

    Args:
        student: The backbone to train, with at least two modalities and parameters that belong to one alone.
        window: Steps of the slowest modality after each step of all; 0 is plain training.
        threshold: Difference of the common logarithms of speeds above which it trains alone.
        l2: Weight of the backbone's penalty.

    Raises:
        InputError: If there are fewer than two modalities, no trained parameter belongs to one alone, or ``window`` or
            ``threshold`` is negative.
    """

    name = "greedy"
    sampled = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"window": (1, 10), "threshold": (0.01, 1.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"window": 0}
    needs_whole = "the gradients of a batch"
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "speed": "share of the modality in the speed of learning",
        "alone": "epochs in which the modality trained alone in some steps",
    }

    speed: Tensor

    def __init__(self, student: Backbone, window: int = 1, threshold: float = 0.1, l2: float = 1e-2) -> None:
        super().__init__(student, l2)
        check_several(student.modalities)
        check_steerable(student, self.name, scores="epochs")
        check_not_negative("threshold", threshold)
        self.window, self.threshold = as_integer(window, "window", 0), threshold
        self.register_state("speed", torch.zeros(len(self.modalities), dtype=torch.float64))
        self._slowest: str | None = None
        self._step, self._steerable = 0, False

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Decide whether a modality is to train alone in some steps of the next epoch, and which."""
        self._step = 0
        self._slowest = slowest(self.modalities, self.speed.tolist(), self.threshold)
        return super().begin_epoch(features, graphs)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return no further term."""
        if not self._steerable:
            margin = out[self.view].margin(batch.user, batch.positive, batch.negative)
            check_steerable(self.student, self.name, [margin])
            self._steerable = True
        return {}

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients, and measure speeds or drop the gradients of the modalities that wait."""
        super().backward(terms, run)
        if self.window == 0:
            return
        of_all = self._step % (self.window + 1) == 0
        self._step += 1
        if self._slowest is not None and not of_all:
            only(self.student, self._slowest)
            return
        groups = parameter_groups(self.student)
        speed = torch.stack([learning_speed(groups[m], self.speed) for m in self.modalities])
        self.speed += torch.where(speed.isfinite().all(), speed, 0)  # A scaler of gradients skips a step that is not.

    def epoch_statistics(self) -> dict[str, float]:
        """Return the share of every modality in the sum of speeds, and 1 for one that trained alone in some steps."""
        share = self.speed / self.speed.sum().clamp(min=torch.finfo(self.speed.dtype).tiny)
        found = {f"speed/{m}": s for m, s in zip(self.modalities, share.tolist(), strict=True)}
        return found | {f"alone/{m}": float(m == self._slowest) for m in self.modalities}


def learning_speed(parameters: Sequence[nn.Parameter], like: Tensor) -> Tensor:
    r"""Return :math:`\| \mathbf{g} \|^2 / \| \mathbf{w} \|^2` of parameters, a scalar in double precision.

    Args:
        parameters: The parameters, with their gradients.
        like: A tensor on the device of the result.
    """
    gradients = [p.grad for p in parameters]
    if all(grad is None for grad in gradients):
        return like.new_zeros(())
    weights = [p.detach() for p in parameters]
    size = inner_product(weights, weights)
    return inner_product(gradients, gradients) / size.clamp(min=torch.finfo(size.dtype).tiny)


def slowest(modalities: Sequence[str], speed: Sequence[float], threshold: float) -> str | None:
    """Return the modality of least speed if another is faster by more than a threshold, else :obj:`None`.

    Args:
        modalities: Their names.
        speed: The speed of each; one of zero does not count.
        threshold: Difference of common logarithms.
    """
    found = sorted((v, m) for v, m in zip(speed, modalities, strict=True) if v > 0)
    if not found or math.log10(found[-1][0]) - math.log10(found[0][0]) <= threshold:
        return None
    return found[0][1]
