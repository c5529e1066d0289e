"""Balancing by mutual information: strong teachers teach weak modalities, then losses are weighed every epoch."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from pyg_ckd.arguments import as_integer
from pyg_ckd.balance.attribution import RunningInformation, gaussian_information, label_information
from pyg_ckd.balance.given import TaughtObjective
from pyg_ckd.balance.multitask import unimodal_losses
from pyg_ckd.balance.objective import check_not_negative, check_positive, total
from pyg_ckd.balance.progress import Score
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.loss import ranking_cross_entropies
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.triples import Triples
from pyg_ckd.scoring.views import EMPTY, View, unimodal_views


class InformationBalancing(TaughtObjective):
    r"""Lets teachers of strong modalities teach weak ones, then gives weak, non-redundant modalities larger weights.

    After `"Balanced Multimodal Learning via Mutual Information" <https://arxiv.org/abs/2511.00987>`_, whose code is not
    public; the functional forms are built here to do what it describes. In the first stage, the first
    ``pretrain_epochs``, every modality learns alone, from the interactions and from one teacher,

    .. math::
        \mathcal{L} = \lambda \, \mathcal{L}_2 + \sum_m \Big( \underset{uij}{\textrm{mean}} \;
        \ell(\delta_{uij}(\{m\})) + \gamma \, \textrm{BCE} \big( \sigma( \delta_{ujk}(\{m\}) / \tau ),
        \sigma ( t^{n(m)}_{ujk} / \tau ) \big) \Big),

    the latter on random triples. Who teaches is decided once, on the triples of the validation part, by the criterion
    of `"Information-Theoretic Criteria for Knowledge Distillation in Multimodal Learning"
    <https://arxiv.org/abs/2510.13182>`_: teacher :math:`n` may teach modality :math:`m` if it ranks better and
    :math:`I(b^n; b^m) > I(b^m; Y) + \epsilon`, that is, if it knows more of what :math:`m` says than the interactions
    do. :math:`n(m)` is the best of them; where there is none, :math:`m` keeps its own teacher. Here
    :math:`b^m = t^m(\{m\}) - t^m(\emptyset)` is a teacher's margin without what does not depend on its modality: users'
    and items' ids are in all teachers, and would make them look dependent on each other. Information is that of
    :func:`~pyg_ckd.balance.attribution.gaussian_information` between margins and of
    :func:`~pyg_ckd.balance.attribution.label_information` about which item is the positive one; :math:`\epsilon` is
    what independent margins reach by chance, see :func:`chance_information`.

    In the second stage, modalities learn beside the joint model,

    .. math::
        \mathcal{L} &= \mathcal{L}_{BPR} + \lambda \, \mathcal{L}_2 + w \sum_m w_m \,
        \underset{uij}{\textrm{mean}} \; \ell(\delta_{uij}(\{m\}))

        w_m &= M \, \textrm{softmax}_m ( - s (a_m + r_m) ), \qquad a_m = \frac{P_m}{\max_n P_n}, \qquad
        r_m = \frac{\textrm{mean}_{n \neq m} \, I(m; n)}{\max_{k \neq n} I(k; n)}

    with the performance :math:`P_m` of each view in the last validation and the information between
    :math:`\delta(\{m\}) - \delta(\emptyset)` of the modalities over the training triples of the epoch before. A
    modality that ranks badly and says what no other says gets the largest weight; one that ranks badly because it only
    repeats another gets less. Weights of terms on the same parameters keep their effect under Adam, which would undo a
    factor of a modality's gradient.

    In both stages each uni-modal loss includes the penalty of its view, without :math:`w_m`. Overrides ``views``,
    ``ranked``, ``balance``, ``backward`` and ``before_training``. Costs the uni-modal views, in the second stage the
    empty one as well. The joint loss is shown in the first stage, and not trained.

    Args:
        student: The backbone to train, with at least two modalities.
        teachers: From modality to the teacher's embeddings, as :func:`~pyg_ckd.train_teachers` returns them: with their
            tables of the empty view. Without these, as in a plain dict or in a cache of an earlier version, every
            modality keeps its own teacher, with a warning. With :obj:`None` there are no teachers, which only the
            second stage allows.
        pretrain_epochs: Epochs of the first stage; 0 leaves it out.
        weight: Weight :math:`w` of the modalities' own losses in the second stage; with 0 it is plain training.
        teaching_weight: Weight :math:`\gamma` of the teachers' loss.
        temperature: Temperature :math:`\tau` of the teachers' loss.
        sharpness: How much weights differ, :math:`s`; with 0 they are all equal.
        num_random_triples: Random triples per batch for the teachers' loss.
        l2: Weight :math:`\lambda` of the backbone's penalty.
        has: For modalities that some items lack, which items have them, bool ``[num_items]``; see
            :func:`~pyg_ckd.data.item_masks`. Triples with an item that lacks a modality add nothing to its terms.

    Raises:
        InputError: If there are fewer than two modalities, a teacher is missing or unknown or has other sizes than the
            student, there are none for the first stage, a number is out of its range, or a mask does not fit; when
            training begins, if there is no validation part or the trainer does not evaluate the modalities alone.
    """

    name = "mi-balance"
    capturable = True
    sampled = True
    needs_validation = True
    needs_unimodal_views = True
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {"weight": (0.01, 3.0), "sharpness": (0.1, 10.0)}
    neutral: ClassVar[Mapping[str, Any]] = {"pretrain_epochs": 0, "weight": 0.0}
    needs_whole = ""
    batch_items = 0
    reports: ClassVar[Mapping[str, str]] = {
        "teaches": "epochs in which the row's teacher taught the column's modality",
        "weight": "weight of the modality's own loss",
        "information": "what the modality alone tells about the positive item, in nats",
    }

    taught_by: Tensor
    weights: Tensor

    def __init__(
        self,
        student: Backbone,
        teachers: Mapping[str, Embeddings] | None,
        pretrain_epochs: int = 5,
        weight: float = 1.0,
        teaching_weight: float = 1.0,
        temperature: float = 0.1,
        sharpness: float = 1.0,
        num_random_triples: int = 5000,
        l2: float = 1e-2,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__(student, l2)
        self.store_masks(has)
        self.check_views()
        self.pretrain_epochs = as_integer(pretrain_epochs, "pretrain_epochs", 0)
        given = {"weight": weight, "teaching_weight": teaching_weight, "sharpness": sharpness}
        for option, value in given.items():
            check_not_negative(option, value)
        check_positive("temperature", temperature)
        self.weight, self.teaching_weight, self.sharpness = weight, teaching_weight, sharpness
        self.needs_unimodal_views = weight > 0
        self.temperature = temperature
        if teachers is not None:
            self.store_teachers(teachers)
            self._store_bases(getattr(teachers, "bases", {}))
        elif pretrain_epochs:
            raise InputError("teachers: found none, expected one for each modality, or pretrain_epochs=0")
        if pretrain_epochs and teaching_weight:
            self.num_random_triples = as_integer(num_random_triples, "num_random_triples", 1)
        num = len(self.modalities)
        self._alone = unimodal_views(self.modalities)
        self._teacher_of = list(self.modalities)
        self.information = RunningInformation(self.modalities)
        self.register_state("taught_by", torch.arange(num))
        self.register_state("weights", torch.ones(num, dtype=torch.float64))

    def _store_bases(self, bases: Mapping[str, Embeddings]) -> None:
        self.has_bases = set(self.modalities) <= bases.keys()
        for m in self.modalities if self.has_bases else ():
            for side, table in zip(("user", "item"), bases[m], strict=True):
                self.register_buffer(f"base_{side}_{m}", table.detach().clone(), persistent=False)  # Asked for once.

    @property
    def pretraining(self) -> bool:
        """Whether the epoch belongs to the first stage."""
        return self.progress.epoch <= self.pretrain_epochs

    @property
    def stages_left(self) -> int:  # type: ignore[override]
        """One in the first stage."""
        return int(self.pretraining)

    @property
    def views(self) -> Sequence[View]:
        """The full view, those of every modality, and in the second stage the empty one."""
        if self.pretraining:
            return [self.view, *self._alone.values()]
        return [self.view, *self._alone.values(), EMPTY] if self.weight > 0 else [self.view]

    def before_training(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Decide which teacher teaches which modality."""
        if not self.pretrain_epochs:
            return
        if not self.has_bases:
            warnings.warn(
                f"{self.name}: found teachers without their tables of the empty view, expected those of "
                "train_teachers, to tell what modalities share from the ids that all share; every modality keeps its "
                "own teacher. Train teachers from the cache of an earlier version again, with another cache_dir",
                stacklevel=2,
            )
            return
        user, first, second = (x.to(self.taught_by.device) for x in score.triples)
        known, margins = self.available(first, second), []
        for m in self.modalities:
            base = Embeddings(getattr(self, f"base_user_{m}"), getattr(self, f"base_item_{m}"))
            margins.append(self.teacher(m).margin(user, first, second) - base.margin(user, first, second))
        added = torch.stack(margins, dim=-1)
        performance = torch.tensor([score(self.teacher(m)) for m in self.modalities], dtype=torch.float64)
        label, between = label_information(added, known), gaussian_information(added, None, known)
        chance = chance_information(user, first, known).to(between)
        self.taught_by.copy_(choose_teachers(performance.to(label.device), label, between - chance))

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Look up who teaches whom, or weigh the modalities anew."""
        if self.pretraining:
            self._teacher_of = [self.modalities[n] for n in self.taught_by.tolist()]
        elif self.weight > 0:
            self._weigh()
        return super().begin_epoch(features, graphs)

    def _weigh(self) -> None:
        found = [self.progress.evaluations(m)[-1:] for m in self.modalities]
        if not all(found):
            return
        performance = torch.tensor(found, dtype=torch.float64).flatten().to(self.weights.device)
        between = self.information.gaussian.nan_to_num(nan=0.0)
        self.weights.copy_(calibrated_weights(performance, between, self.sharpness))

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return the weight of the uni-modal losses, which in the first stage is one."""
        return dict.fromkeys(self._alone.values(), 1.0 if self.pretraining else self.weight) if len(out) > 1 else {}

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the modalities' own losses, and in the first stage what the teachers say."""
        if not self.pretraining and self.weight == 0:
            return {}
        training = (batch.user, batch.positive, batch.negative)
        random = (batch.random_user, batch.random_first, batch.random_second)
        known = self.available(*training[1:])
        if self.pretraining:
            triples = [training, random] if self.teaching_weight > 0 else [training]
            read = {m: out[view].margins(*triples) for m, view in self._alone.items()}
            losses = unimodal_losses({m: own[0] for m, own in read.items()}, known)
            terms = {f"alone/{m}": loss for m, loss in losses.items()}
            return terms | (self._taught({m: own[1] for m, own in read.items()}, batch) if triples[1:] else {})
        margins = {m: out[view].margin(*training) for m, view in self._alone.items()}
        alone = torch.stack(list(margins.values()), dim=-1)
        added = batch.gathered(alone.detach() - out[EMPTY].margin(*training).detach().unsqueeze(-1))
        self.information.track(added, None, self.available(*batch.whole[1:3]))
        losses, factors = unimodal_losses(margins, known), (self.weight * self.weights).to(alone.dtype)
        return {f"alone/{m}": factors[column] * loss for column, (m, loss) in enumerate(losses.items())}

    def _taught(self, margins: Mapping[str, Tensor], batch: TripletBatch) -> dict[str, Tensor]:
        random: Triples = (batch.random_user, batch.random_first, batch.random_second)
        said = {m: self.teacher(m).margin(*random) for m in dict.fromkeys(self._teacher_of)}
        known, terms = self.available(*random[1:]), {}
        for (m, margin), n in zip(margins.items(), self._teacher_of, strict=True):
            both = self.whole(known, frozenset((m, n)))
            loss = batch.mean_of_random(ranking_cross_entropies(margin, said[n], self.temperature), both)
            terms[f"teaching/{m}"] = self.teaching_weight * loss
        return terms

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of all terms, in the first stage without the joint loss.

        Terms of a wrapper around the strategy are trained in both stages.
        """
        if self.pretraining:
            terms = {name: term for name, term in terms.items() if name not in self.main_terms}
        run(total(terms))

    def epoch_statistics(self) -> dict[str, float]:
        """Return who taught whom (1, else 0) in the first stage, and weights and label information in the second."""
        if self.pretraining:
            pairs = zip(self.modalities, self._teacher_of, strict=True)
            return {f"teaches/{n}/{m}": float(n == teacher) for m, teacher in pairs for n in self.modalities}
        if self.weight == 0:
            return {}
        self.information.finish_epoch()
        columns = {"weight": self.weights.tolist(), "information": self.information.label.tolist()}
        return {
            f"{name}/{m}": value
            for name, values in columns.items()
            for m, value in zip(self.modalities, values, strict=True)
        }


def chance_information(user: Tensor, item: Tensor, known: Tensor | None = None) -> Tensor:
    r"""Return the Gaussian information that margins of independent modalities stay below, but for one in a thousand.

    A correlation of :math:`n` independent pairs lies within :math:`\tanh(3 / \sqrt{n - 3})`, so that the information
    lies below :math:`\epsilon = \ln \cosh(3 / \sqrt{n - 3})`. Triples of one user or of one item are not independent:
    :math:`n` is the number of users or of items, whichever is less.

    Args:
        user: Users of the triples, int64 ``[B]``.
        item: Their positive items, int64 ``[B]``.
        known: Which modalities the items of each triple have, bool ``[B, M]``; of two modalities, the triples that have
            both count. (default: :obj:`None`, all of them)

    Returns:
        The information of all pairs in nats: a scalar, or ``[M, M]`` with ``known``.
    """

    def of(counted: Tensor) -> float:
        number = min(user[counted].unique().numel(), item[counted].unique().numel())
        return math.log(math.cosh(3 / math.sqrt(max(number - 3, 1))))

    if known is None:
        return torch.tensor(of(torch.ones_like(user, dtype=torch.bool)), dtype=torch.float64)
    columns = known.unbind(dim=-1)
    return torch.tensor([[of(m & n) for n in columns] for m in columns], dtype=torch.float64)


def choose_teachers(performance: Tensor, label: Tensor, between: Tensor) -> Tensor:
    """Return for every modality the best teacher among those that rank better and say more about it than labels do.

    Args:
        performance: How well the teachers rank, ``[M]``.
        label: What the teachers' margins tell about which item is the positive one, in nats, ``[M]``.
        between: What the margins of two teachers tell about each other, in nats, ``[M, M]``, without what chance does.

    Returns:
        Numbers of modalities, int64 ``[M]``: a modality's own where no other may teach it.
    """
    may = (performance > performance.unsqueeze(1)) & (between > label.unsqueeze(1))  # [m, n]: n may teach m.
    best = torch.where(may, performance, -torch.inf).argmax(dim=1)
    return torch.where(may.any(dim=1), best, torch.arange(performance.numel(), device=performance.device))


def calibrated_weights(performance: Tensor, between: Tensor, sharpness: float = 1.0) -> Tensor:
    r"""Return weights that fall with performance and redundancy, :math:`M \, \textrm{softmax}(-s (a + r))`.

    Args:
        performance: How well every modality ranks alone, ``[M]``, at least zero.
        between: What the margins of two modalities tell about each other, in nats, ``[M, M]``; zero on the diagonal.
        sharpness: The factor :math:`s`.

    Returns:
        The weights ``[M]``, whose mean is one.
    """
    num, largest, most = performance.numel(), performance.max(), between.max()
    ability = performance / torch.where(largest > 0, largest, 1)
    redundancy = between.sum(dim=1) / (num - 1) / torch.where(most > 0, most, 1)
    return num * torch.softmax(-sharpness * (ability + redundancy), dim=0)
