"""Strategies around other strategies: what they wrap trains as before, and they add to its steps."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pyg_ckd.arguments import shown
from pyg_ckd.balance.accumulating import delegating
from pyg_ckd.balance.discovery import build_inner, find_strategy
from pyg_ckd.balance.given import MaskedObjective, check_several
from pyg_ckd.balance.objective import Objective
from pyg_ckd.balance.progress import Progress, Score
from pyg_ckd.data.identity import Known
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.negatives import SharedNegatives
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.models.base import AnyView, Backbone, Graph
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import View
from pyg_ckd.wrappers import unwrap

INNER = ("inner", "inner_options")


class ObjectiveWrapper(Objective):
    """Base of strategies that take any objective as their first argument and change how it trains.

    It delegates everything to the wrapped objective: views, losses, gradients, step sizes, teachers, and the scores for
    ranking. A subclass adds to it by overriding one or more of these methods.

    ======================= ===========================================================================
    method                  what it is for
    ======================= ===========================================================================
    :meth:`further_views`   views that it wants beside those of the objective inside
    :meth:`weigh`           weights of the triples in the main loss, times those of the objective inside
    :meth:`add_terms`       further loss terms
    :meth:`begin`           what happens before an epoch
    :meth:`statistics`      what it wants in the history
    ======================= ===========================================================================

    Attributes of the wrapped objective, such as ``effects`` of a distillation, can be read from the wrapper; they are
    set on its attribute ``inner``. Set on the wrapper, one is the wrapper's own from then on, of which a warning tells.
    A saved model is that of the wrapped objective. The objective may be a wrapper itself.

    Args:
        student: The objective; or a backbone, for which an objective is built by its name.
        inner: Name or import path of the strategy to build.
        inner_options: Options of that strategy.
        teachers: Teachers of that strategy, if it needs any.
        has: For that strategy, which items have modalities that some lack, bool ``[num_items]``.

    Raises:
        InputError: If there are fewer than two modalities, the objective trains nothing, the strategy cannot be built,
            or one is named beside an objective, or is given teachers or masks there, which nothing would use.
    """

    name = ""
    wraps = True

    def __init__(
        self,
        student: Backbone | Objective,
        inner: str = "plain",
        inner_options: Mapping[str, Any] | None = None,
        teachers: Mapping[str, Embeddings] | None = None,
        has: Mapping[str, Tensor] | None = None,
    ) -> None:
        nn.Module.__init__(self)  # Student, view and penalty are those of the objective inside.
        self.options: dict[str, Any] = {}
        student = unwrap(student)
        if not isinstance(inner_options or {}, Mapping):
            raise InputError(f"inner_options: found {shown(inner_options)}, expected a mapping from option to value")
        if not isinstance(student, Objective):
            student = build_inner(find_strategy(inner), student, dict(inner_options or {}), teachers, has)
        elif inner != "plain" or inner_options:
            raise InputError(f"inner: found {shown(inner)} beside an objective, expected a backbone or no such option")
        elif teachers is not None or (has and not isinstance(self, MaskedObjective)):
            found = "has" if teachers is None else "teachers"
            raise InputError(
                f"{found}: found some beside an objective, which {self.name or type(self).__name__} would not use, "
                f"expected a backbone or no such argument; give them to {type(student).__name__} inside"
            )
        check_several(student.modalities)
        if not student.trains:
            raise InputError(f"{self.name}: found {student.name} inside, which trains nothing, expected one that does")
        self.inner = student
        self.num_random_triples = student.num_random_triples
        self.needs_validation = self.needs_validation or student.needs_validation
        self.needs_unimodal_views = self.needs_unimodal_views or student.needs_unimodal_views
        self.needs_whole = self.needs_whole or student.needs_whole

    def __getattr__(self, name: str) -> Any:
        """Return what the objective inside has and the wrapper has not."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "inner":
                raise
            return getattr(self.inner, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the wrapper; once it is built, warn of one that only the objective inside had so far."""
        if not name.startswith("_") and self.__dict__.get("_is_built") and not self._has(name):
            place, path = self.inner, "inner"
            while isinstance(place, ObjectiveWrapper) and not place._has(name):
                place, path = place.inner, f"{path}.inner"
            if hasattr(place, name):
                own, other = type(self).__name__, type(place).__name__
                warnings.warn(
                    f"{name}: found it set on {own}, but it is an attribute of {other} inside too, which does not see "
                    f"it; set model.{path}.{name}, or give {own} one of its own in its class or constructor",
                    stacklevel=2,
                )
        super().__setattr__(name, value)
        if name == "options" and "inner" in self._modules:  # The last that constructors do, see record_options.
            self.__dict__["_is_built"] = True

    def _has(self, name: str) -> bool:
        places = (self.__dict__, self._parameters, self._buffers, self._modules)
        return hasattr(type(self), name) or any(name in place for place in places)

    def register_buffer(self, name: str, tensor: Tensor | None, persistent: bool = True) -> None:
        """Add a buffer of the wrapper, which may be called like one of the objective inside."""
        self._buffers.setdefault(name, None)  # PyTorch refuses a name that it finds, and would find that one.
        super().register_buffer(name, tensor, persistent)

    @property
    def stages_left(self) -> int:  # type: ignore[override]
        """Stages of the objective inside that are still to come."""
        return self.inner.stages_left

    @property
    def stage_of_best(self) -> int:  # type: ignore[override]
        """Number of the stage inside whose epochs the best one is chosen from."""
        return self.inner.stage_of_best

    @property
    def main_terms(self) -> Sequence[str]:
        """Names of the terms that the main loss inside had in the last step, without the penalty."""
        return self.inner.main_terms

    @main_terms.setter
    def main_terms(self, names: Sequence[str]) -> None:
        self.inner.main_terms = names

    @property
    def progress(self) -> Progress:
        """How far the training is."""
        return self.inner.progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self.inner.progress = progress

    @property
    def shared_negatives(self) -> SharedNegatives | None:
        """What draws the items of a softmax, of the objective inside, which has the main loss."""
        return self.inner.shared_negatives

    @shared_negatives.setter
    def shared_negatives(self, shared: SharedNegatives | None) -> None:
        self.inner.shared_negatives = shared

    def read_of_batch(self, batch: TripletBatch) -> tuple[Tensor, Tensor]:
        """Return the items that the wrapper or the objective inside reads, by rows and by masks."""
        pairs = zip(super().read_of_batch(batch), self.inner.read_of_batch(batch), strict=True)
        rows, masked = (max(pair, key=Tensor.numel) for pair in pairs)
        return rows, masked

    def further_views(self) -> Sequence[View]:
        """Return views that it wants beside those of the objective inside; here none."""
        return []

    def add_terms(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return further loss terms by name; here none.

        Args:
            out: The output of all views of the step.
            batch: The triples.
        """
        return {}

    def weigh(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return weights of the triples with a mean of one; here all are one.

        Args:
            out: The output of all views of the step.
            batch: The triples.
        """
        return None

    def begin(self) -> None:
        """Prepare for the next epoch, about which :attr:`progress` knows."""

    def statistics(self) -> dict[str, float]:
        """Return what the wrapper wants in the history of the finished epoch; here nothing."""
        return {}

    @property
    def views(self) -> Sequence[View]:
        """The views of the objective inside, and further ones."""
        return list(dict.fromkeys([*self.inner.views, *self.further_views()]))

    def loss(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        batch: TripletBatch,
        n_id_dict: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the loss terms of the objective inside, with what is added to them."""
        self.inner.around = (*self.around, self)
        try:
            return self.inner.loss(features, edge_index_dict, batch, n_id_dict)
        finally:
            self.inner.around = ()

    def prepare(self, features: Mapping[str, Tensor], edge_index_dict: Mapping[EdgeType, Graph]) -> dict[EdgeType, Any]:
        """Prepare the graphs as the objective inside does."""
        return self.inner.prepare(features, edge_index_dict)

    def begin_epoch(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any]) -> dict[EdgeType, Any]:
        """Begin an epoch."""
        self.begin()
        return self.inner.begin_epoch(features, graphs)

    def balance(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[str, Tensor]:
        """Return the terms of the objective inside."""
        return self.inner.balance(out, batch)

    def triple_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weights of the objective inside."""
        return self.inner.triple_weights(out, batch)

    def main_weights(self, out: Mapping[View, Output], batch: TripletBatch) -> Tensor | None:
        """Return the weights of the main loss inside, with those of the wrappers in a step."""
        return self.inner.main_weights(out, batch)

    @delegating
    def backward(self, terms: Mapping[str, Tensor], run: Callable[..., None]) -> None:
        """Compute gradients as the objective inside does."""
        self.inner.backward(terms, run)

    def step_sizes(self) -> Mapping[str, float]:
        """Return the step sizes of the objective inside."""
        return self.inner.step_sizes()

    def begin_fit(self) -> None:
        """Begin a training with the objective inside."""
        super().begin_fit()
        self.inner.begin_fit()

    def end_fit(self) -> None:
        """End a training with the objective inside."""
        self.inner.end_fit()

    def check_epoch(self) -> None:
        """Refuse weights of triples that were negative or not finite, the wrapper's among them."""
        self.inner.check_epoch()

    def begin_from(self, known: Known) -> None:
        """Let the objective inside take note of an earlier model."""
        self.inner.begin_from(known)
        self.num_random_triples = self.inner.num_random_triples

    def before_training(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Let the objective inside prepare for the first epoch."""
        self.inner.before_training(features, graphs, score)

    def before_validation(self, features: Mapping[str, Tensor], graphs: Mapping[EdgeType, Any], score: Score) -> None:
        """Let the objective inside prepare for a validation."""
        self.inner.before_validation(features, graphs, score)

    def forward_views(
        self,
        features: Mapping[str, Tensor],
        edge_index_dict: Mapping[EdgeType, Graph],
        views: Sequence[AnyView],
        **kw: Any,
    ) -> list[Embeddings]:
        """Return what the objective inside ranks with."""
        return self.inner.forward_views(features, edge_index_dict, views, **kw)

    def given_teachers(self) -> dict[str, Embeddings]:
        """Return the teachers of the objective inside."""
        return self.inner.given_teachers()

    def settings(self) -> dict[str, Any]:
        """Return what defines the wrapper and the objective inside."""
        own = {name: value for name, value in self.options.items() if name not in INNER}
        return {**self.inner.settings(), **own, "objective": type(self).__name__, "inside": self.inner.settings()}

    def epoch_sums(self) -> Sequence[Tensor]:
        """Return the sums of the objective inside."""
        return self.inner.epoch_sums()

    def epoch_statistics(self) -> dict[str, float]:
        """Return what the objective inside and the wrapper want in the history."""
        return self.inner.epoch_statistics() | self.statistics()
