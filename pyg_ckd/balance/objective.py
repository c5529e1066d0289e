"""The seam for balancing strategies: a student and a batch of triples become named loss terms."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd.balance.accumulating import accumulating
from pyg_ckd.balance.names import NO_OPTIONS, STEPS
from pyg_ckd.balance.numbers import check_not_negative as check_not_negative
from pyg_ckd.balance.numbers import check_positive as check_positive
from pyg_ckd.balance.numbers import refuse_teachers, teachers_as_l2
from pyg_ckd.balance.progress import Around, Progress, Score
from pyg_ckd.balance.ranking import with_softmax
from pyg_ckd.balance.rows import KnowsRows
from pyg_ckd.balance.state import FitState
from pyg_ckd.balance.weights import StepWeights, checked_terms, checked_views, checked_weights, named_views
from pyg_ckd.capturing import Capturing
from pyg_ckd.data.identity import Known
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.modules import checked_outputs
from pyg_ckd.data.negatives import SharedNegatives
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.adapter import as_backbone
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.options import record_options
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.column_sums import read_together
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.late import compute_tables
from pyg_ckd.scoring.triples import shared_triples
from pyg_ckd.scoring.views import View, as_view
from pyg_ckd.wrappers import unwrap, unwrapped_state

FURTHER = "further_views"


class Objective(Capturing, KnowsRows, FitState):
    """Plain joint training: BPR on one view of the student plus an L2 penalty, and the base of every strategy.

    A balancing strategy returns further views in :attr:`views` and overrides one or more of these methods. Methods that
    it does not override are those of plain training.

    ========================= ======================================================================================
    method                    what it is for
    ========================= ======================================================================================
    :attr:`views`             which views a step computes, the trained one first
    :meth:`balance`           further loss terms
    :meth:`read`              what :meth:`balance` reads, for processes that have some columns of the tables each
    :meth:`ranked`            which views :meth:`balance` has ranking losses of, for their penalties
    :meth:`triple_weights`    weights of the triples in the main loss
    :meth:`backward`          gradients of its own: projected, frozen, alternating, noisy
    :meth:`step_sizes`        a factor of the learning rate for every modality
    :meth:`begin_fit`         what is forgotten when a training begins
    :meth:`end_fit`           what is let go when it ends
    :meth:`begin_from`        what an earlier model knows, from which training starts
    :meth:`before_training`   what is decided once, on the validation part
    :meth:`before_validation` weights of fused scores, chosen on the validation part
    :meth:`forward_views`     what validation, test and serving rank with
    ========================= ======================================================================================

    Keep state that must survive an interruption in buffers, with :meth:`register_state` if every training begins it
    anew, and draw random numbers from PyTorch's generators, which the trainer seeds and stores. An objective is called
    like its backbone and returns the same embeddings.

    Args:
        student: The backbone to train.
        l2: Weight of the backbone's penalty, see :meth:`~pyg_ckd.nn.Backbone.penalty` and :meth:`ranked`.
        view: The view that is trained; :obj:`None` is joint training, one modality trains a teacher.
        bpr_eps: See :func:`~pyg_ckd.nn.bpr_loss`.

    Raises:
        InputError: If ``student`` is no backbone, ``l2`` is negative or ``view`` names an unknown modality.
    """

    name: ClassVar[str] = "plain"
    """What the command line and studies call the strategy; of a subclass without one, the name of the class."""
    needs_teachers: ClassVar[bool] = False
    """Whether the second argument of the constructor is a dict from modality to the teacher's embeddings."""
    needs_validation: bool = False
    """Whether the strategy learns from the validation part, so that a graph without one is refused."""
    needs_unimodal_views: bool = False
    """Whether the strategy learns from evaluations of the modalities alone, so that a trainer with
    ``track_views=False`` is refused."""
    in_place_of_validation: str = ""
    """An option that does without the validation part, named where there is none."""
    trains: ClassVar[bool] = True
    """Whether there is anything to train; if not, the trainer only validates once."""
    capturable = True
    sampled: ClassVar[bool] = True
    """Whether it trains on sampled neighbourhoods: in a step it reads margins, rows of the batch, and tables of all
    users or items by :meth:`here` and :meth:`items_in_whole`. A subclass says so anew, for only itself knows."""
    batch_items: int | None = 0
    wraps: ClassVar[bool] = False
    """Whether the first argument of the constructor may be another objective, which its option ``inner`` names."""
    search_space: ClassVar[Mapping[str, tuple[float, float]]] = {}
    """The one or two options that a search may turn, with the ends of their ranges."""
    recommended: ClassVar[Mapping[str, Any]] = {}
    """Values of these that were better on validation parts than the defaults of the constructor. Commands and studies
    set them unless another value is given; empty where no other value was better."""
    neutral: ClassVar[Mapping[str, Any]] = {}
    """Options with which training is plain, each of which takes a part of the strategy out; empty of one that trains
    nothing. Tests hold a strategy to it, and ablations switch these off one by one."""
    takes_new_modalities: ClassVar[bool] = False
    """Whether it can start from a model that lacks some of the modalities, see :meth:`begin_from`."""
    carried_buffers: tuple[str, ...] = ()
    """Last names of buffers that a model which starts from this one takes over, as it takes parameters over."""
    own_rows: Mapping[str, str] = {}
    """What the rows of parameters and buffers of its own stand for, by what stands before the first dot of their names:
    ``"user"``, ``"item"``, or a word for what another graph has others of, which a warm start leaves as they are."""
    unchanging_state: tuple[str, ...] = ()
    """Parameters and buffers of its own that no step changes, such as tables of teachers, by what stands before the
    first dot of their names. The trainer keeps no copy of them with the weights of the best epoch."""
    needs_whole: str = ""
    """What a step needs whole, so that several processes cannot share out its batch, such as ``"the batch"``. Nothing
    if all loss terms are means over training triples (:func:`~pyg_ckd.nn.loss.mean_of_triples`), random ones
    (``batch.mean_of_random``) or the same in all processes, such as what is made of ``batch.whole`` or
    ``batch.gathered``; the gradients are those of their sum; and what is kept is in :meth:`epoch_sums` or the same in
    all. A subclass that overrides a method of the table and does not say is taken to need the batch."""
    strategies: frozenset[str] = frozenset({"users", "columns", "ddp"})
    """How processes can share its batches; only ``"ddp"`` for a subclass that overrides a method of the table and does
    not say. For the others, it must read nothing but margins of own triples."""
    reports: ClassVar[Mapping[str, str]] = {}
    """What the entries of :meth:`epoch_statistics` mean, by what stands before the first slash, for reports."""
    progress: Progress = Progress()
    """How far the training is; the trainer sets it before :meth:`begin_epoch`."""
    around: Sequence[Around] = ()
    """The wrappers that an objective is inside of, in their steps."""
    stages_left: int = 0
    """Stages of a schedule that are still to come; the trainer reads it when an epoch begins. While there are any, it
    does not stop early; when one begins, its patience begins anew."""
    stage_of_best: int = 0
    """Number of the stage whose epochs the best one is chosen from. When it grows, what was validated before counts no
    longer; the trainer reads it when an epoch begins."""
    main_terms: Sequence[str] = ()
    """Names of the terms that the main loss had in the last step, without the penalty; :meth:`loss` sets it."""
    _in_step: StepWeights | None = None
    shared_negatives: SharedNegatives | None = None
    """Draws the items of a softmax that replaces the term ``bpr``; the trainer sets it."""

    def __init_subclass__(cls, **kwargs: Any) -> None:
        """Let every constructor record its options and every ``backward`` add up, and give the strategy a name."""
        super().__init_subclass__(**kwargs)
        if "backward" in cls.__dict__:
            cls.backward = accumulating(cls.__dict__["backward"])  # type: ignore[method-assign]
        cls.sampled = cls.__dict__.get("sampled", False)
        record_options(cls, NO_OPTIONS, checked=True, refuse=refuse_teachers)
        if "name" not in cls.__dict__:
            cls.name = cls.__name__
        if STEPS & cls.__dict__.keys():
            cls.needs_whole = cls.__dict__.get("needs_whole", "the batch")
            cls.strategies = cls.__dict__.get("strategies", frozenset({"ddp"}))

    def __init__(self, student: Backbone, l2: float = 1e-2, view: AnyView = None, bpr_eps: float = 0.0) -> None:
        super().__init__()
        self.options: dict[str, Any] = {}  # Filled in by the constructor's wrapper.
        student = unwrap(student)
        if isinstance(student, Objective):
            raise _around_objective(type(self), student)
        if not isinstance(student, Backbone):
            raise InputError(
                f"student: found {type(student).__name__}, expected a backbone; "
                "adapt any other module with as_backbone(module, data)"
            )
        if isinstance(l2, Mapping):
            raise teachers_as_l2(type(self).__name__)
        check_not_negative("l2", l2)
        check_not_negative("bpr_eps", bpr_eps)
        self.student, self.l2, self.bpr_eps = student, l2, bpr_eps
        self._bad_weights: Tensor | None = None
        self.view = as_view(view, student.modalities)

    num_random_triples = 0
    """Random triples that the objective wants beside every batch."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """Names of the student's modalities, in order."""
        return self.student.modalities

    @property
    def views(self) -> Sequence[View]:
        """The views that a step needs, the trained one first, each once; read once in every step.

        They may differ from step to step and may hold the empty view, in which every modality is intervened on.
        """
        return [self.view]

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Prepare the graphs once, as the student wants them."""
        return self.student.prepare(features, edge_index_dict)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Return the graphs that the steps of the next epoch train on."""
        return self.student.begin_epoch(features, graphs)

    def forward(
        self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph], view: AnyView = None, **kw: Any
    ) -> Embeddings:
        """Return the embeddings of one view, see :meth:`forward_views`."""
        outputs = self.forward_views(features, edge_index_dict, [view], **kw)
        found: Embeddings = checked_outputs(type(self).__name__, outputs, 1)[0]
        return found

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return the student's embeddings of several views."""
        return self.student.forward_views(features, edge_index_dict, views, **kw)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **options: Any) -> Any:
        """Copy weights, also those that were stored by a compiled or otherwise wrapped objective."""
        return super().load_state_dict(unwrapped_state(state_dict, self.state_dict().keys()), *args, **options)

    def loss(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        batch: TripletBatch,
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss terms of a batch; the loss is their sum.

        Args:
            features: From modality to feature matrix ``[I, d_m]``.
            edge_index_dict: The graph, best prepared.
            batch: The triples.
            n_id_dict: Row numbers of the users and items of a sampled subgraph, under ``'user'`` and ``'item'``; graph
                and triples are then by the row numbers of the subgraph. (default: :obj:`None`, the whole graph)
        """
        views, names = checked_views(self, self.views, self.modalities), self.modalities
        further = [checked_views(x, x.further_views(), names, FURTHER) for x in self.around]
        asked = list(dict.fromkeys([*views, *chain.from_iterable(further)]))
        part = () if n_id_dict is None else (n_id_dict,)
        whole = dict(zip(asked, self.student.outputs(features, edge_index_dict, asked, *part), strict=True))
        out = {view: whole[view] for view in views}
        self._in_step = StepWeights(whole)
        try:
            with named_views(self, out):
                return self._loss(whole, out, batch, features)
        finally:
            self._in_step = None  # It holds the graph of the step.

    def _loss(
        self,
        whole: Mapping[View, Output],
        out: Mapping[View, Output],
        batch: TripletBatch,
        features: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        view, joint = next(iter(out.items()))
        if self.shared_negatives is not None:
            compute_tables(joint)  # The softmax reads all items: what is read before it finds them computed.
        with shared_triples():
            read_together(lambda: self.read(out, batch, features))
            # First the terms that read most: what follows finds its rows already read.
            added: list[tuple[Any, dict[str, Tensor]]] = [(self, checked_terms(self, self.balance(out, batch)))]
            for x in self.around:
                with named_views(x, whole, FURTHER):
                    added.append((x, checked_terms(x, x.add_terms(whole, batch), "add_terms")))
            weight = self.main_weights(out, batch)
            weighted = batch if weight is None else batch.weighted(weight)
            terms = self.student.losses(joint, weighted, features, view, self.bpr_eps)
            if self.shared_negatives is not None:
                terms = with_softmax(terms, joint, weighted, self.shared_negatives, type(self.student).__name__)
            self.main_terms = tuple(terms)
            if self.l2 > 0:
                terms["l2"] = self.l2 * self._penalty(out, batch)
        for source, further in added:
            for name in further:
                if name in terms:
                    raise InputError(
                        f"{type(source).__name__}.balance: found a term named {name!r}, which is one of the main loss "
                        f"({', '.join(terms)}), expected another name"
                    )
            terms |= further
        return terms

    @property
    def ranks_by_margins(self) -> bool:
        """Whether the main loss is BPR, a function of margins alone; if not, it is a softmax or the backbone's own."""
        return self.student.pairwise and self.shared_negatives is None

    def main_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weight of every triple in the main loss, for a :meth:`balance` that changes its gradient.

        These are the weights of the sampler, of :meth:`triple_weights` and of the wrappers around the objective,
        multiplied. They are found once in a step.

        Args:
            out: The output of every view in :attr:`views`.
            batch: The triples.

        Returns:
            Weights without gradient, ``[B]``, or :obj:`None` if all are 1.
        """
        step = StepWeights(out) if self._in_step is None else self._in_step  # Outside of a step nothing is around.
        if not step.found:
            given = [
                ("the sampler", batch.weight),
                (f"{type(self).__name__}.triple_weights", self.triple_weights(out, batch)),
            ]
            for x in self.around:
                with named_views(x, step.out, FURTHER):
                    given.append((f"{type(x).__name__}.weigh", x.weigh(step.out, batch)))
            weights = [self._noted(checked_weights(source, w, batch)) for source, w in given if w is not None]
            step.found, step.weight = True, math.prod(weights[1:], start=weights[0]) if weights else None
        return step.weight

    def read(self, out: Mapping[View, Output], batch: TripletBatch, features: Mapping[str, Tensor]) -> None:
        """Read all margins and norms that a step needs, before it uses any.

        It is called only where processes have some columns of the tables each, so that they exchange everything at
        once. What is not read here is exchanged when it is asked for. A strategy whose :meth:`balance` reads more than
        the trained view reads that first, with and without gradient as it will.

        Args:
            out: The output of every view in :attr:`views`.
            batch: The triples.
            features: From modality to feature matrix ``[I, d_m]``.
        """
        view = next(iter(out))
        self.student.losses(out[view], batch, features, view, self.bpr_eps)
        if self.l2 > 0:
            self._penalty(out, batch)

    def _penalty(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor:
        penalties = [w * self.student.penalty(out[view], batch) for view, w in self.ranked(out).items()]
        return sum(penalties, start=self.student.penalty(next(iter(out.values())), batch))

    def column_dims(self) -> dict[str, int | None]:
        """Return where the columns of parameters and buffers lie, by name, see :attr:`Backbone.column_dims`."""
        given = self.student.column_dims
        names = [name for name, _ in self.student.named_parameters()]
        return {f"student.{name}": given[own] for name in names if (own := name.split(".")[0]) in given}

    def _noted(self, weights: Tensor) -> Tensor:
        bad = (~(weights >= 0) | weights.isinf()).any()  # Read after the epoch: a step never waits for its own numbers.
        self._bad_weights = bad if self._bad_weights is None else self._bad_weights.logical_or_(bad)
        return weights

    def begin_fit(self) -> None:
        """Begin a training: forget what an earlier one has left, perhaps broken off.

        What was added with :meth:`register_state` gets its first values. The trainer calls it before anything else, and
        before it reads a checkpoint.
        """
        self._bad_weights, self.progress = None, Progress()
        for part in self.modules():
            if isinstance(part, FitState):
                part.reset_state()

    def end_fit(self) -> None:
        """End a training, perhaps broken off: let go of what only its steps need; here there is nothing.

        A trained model goes to the CPU with its parameters and buffers. What else it holds stays on the device of the
        training, and is copied with the model.
        """

    def check_epoch(self) -> None:
        """Refuse weights of triples that were negative or not finite in the finished epoch.

        Raises:
            InputError: If there were any.
        """
        bad, self._bad_weights = self._bad_weights, None
        if bad is not None and bool(bad):
            raise InputError(
                f"{type(self).__name__}.triple_weights: found negative, infinite or NaN weights in the last epoch, "
                "expected finite numbers of zero or more"
            )

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the loss terms of the strategy; plain training has none.

        Args:
            out: The output of every view in :attr:`views`.
            batch: The triples.
        """
        return {}

    def ranked(self, out: Mapping[View, Output]) -> Mapping[View, float]:
        """Return weights of further ranking losses by view of ``out``; each includes the penalty of its view."""
        return {}

    def triple_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weight of every training triple in the main loss; plain training has none.

        Weights are used without gradient and multiply the loss of each triple. They are not brought to a mean of 1:
        their mean sets the size of the main loss against the penalty and all other terms. With a mean of 1, the loss
        keeps its scale.

        Args:
            out: The output of every view in :attr:`views`.
            batch: The triples.

        Returns:
            Weights of zero or more, ``[B]``, or :obj:`None` if all are 1.
        """
        return None

    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute the gradients of a step; here those of the sum of all terms.

        A strategy may call ``run`` for several losses (``retain_graph=True`` for all but the last), edit the gradients
        that have been accumulated, or set some to :obj:`None`, which leaves parameters and their moments alone; see
        :mod:`pyg_ckd.balance.gradients`. Gradients that parameters have before the call, as in a loop that makes one
        step of several batches, are set aside for the time of it and then added: what a strategy sees, edits and drops
        are those of the step alone.

        Such a loop clears gradients with ``zero_grad(set_to_none=True)``, PyTorch's default. Zeros would be gradients
        that were there before: a parameter that the strategy leaves without one would get them back, and Adam would
        move it by its moments. Under ``DistributedDataParallel``, it synchronises every batch: what ``no_sync`` has
        left is of one process alone, and adding it to sums of all makes processes differ.

        Args:
            terms: The loss terms of the step.
            run: Called with a scalar loss, accumulates its gradients as the precision of the training wants it.
        """
        run(total(terms))

    def step_sizes(self) -> Mapping[str, float]:
        """Return a factor of the learning rate for modalities, read once before every epoch; the others have 1.

        Adam divides every gradient by its own running size, so that a factor of a *gradient* does nothing; this does.
        """
        return {}

    def begin_from(self, known: Known) -> None:
        """Take note that the student has the parameters of an earlier model; here there is nothing to do.

        Args:
            known: Which users, items and modalities that model knows.
        """

    def before_training(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Prepare for the first epoch, for instance by measuring teachers; here there is nothing to do.

        It is not called without a validation part, nor again when a training goes on after a break.

        Args:
            features: As in :meth:`prepare`.
            graphs: What :meth:`prepare` returned.
            score: As in :meth:`before_validation`.
        """

    def before_validation(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Prepare for a validation, for instance by choosing weights of fused scores; here there is nothing to do.

        Args:
            features, graphs: As in :meth:`before_training`.
            score: Called with two tables, the monitored metric on the validation part; it has triples of that part too.
        """

    def given_teachers(self) -> dict[str, Embeddings]:
        """Return the teachers that the objective was built with, from modality to their tables; here there are none."""
        return {}

    def settings(self) -> dict[str, Any]:
        """Return what defines the objective beside its parameters, as plain values that can be compared and stored."""
        return self.options | {
            "objective": type(self).__name__,
            "backbone": type(self.student).__name__,
            "options": dict(self.student.options),
            "modalities": list(self.modalities),
            "view": sorted(self.view),
            "l2": self.l2,
            "bpr_eps": self.bpr_eps,
        }

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return sums over the triples of the running epoch, for several processes to add up before the next method."""
        return ()

    def epoch_statistics(self) -> dict[str, float]:
        """Return what the strategy wants in the history of the finished epoch, and start the next one."""
        return {}


def as_objective(model: nn.Module, data: HeteroData) -> Objective:
    """Return ``model`` itself if it is an objective, else plain joint training of it.

    Args:
        model: An objective, a backbone, or a module with ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph, read for its sizes.
    """
    model = unwrap(model)
    if isinstance(model, Objective):
        as_backbone(model.student, data)  # Lazy parameters get their shapes.
        return model
    return Objective(as_backbone(model, data))


def _around_objective(cls: type[Objective], found: Objective) -> InputError:
    """Return the error for a strategy that is given as the student of another."""
    others, wrappers = [Objective], set()
    for other in others:  # It grows meanwhile: subclasses of subclasses too.
        others += other.__subclasses__()
        wrappers |= {other.name} if other.wraps and other.name and other.__module__.startswith("pyg_ckd.") else set()
    return InputError(
        f"student: found the strategy {type(found).__name__} in {cls.__name__}, expected its backbone; pass its "
        f".student, or put one of the strategies that wrap others around it: {' and '.join(sorted(wrappers))}"
    )


def total(terms: Mapping[str, Tensor]) -> Tensor:
    """Return the sum of loss terms in single precision, a scalar.

    Args:
        terms: The terms by name.
    """
    return torch.stack([term.float() for term in terms.values()]).sum()
