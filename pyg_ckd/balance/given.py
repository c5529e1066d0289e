"""What an objective is given beside the student: frozen teachers, and which items have which modality."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from pyg_ckd.balance.gradients import check_steerable
from pyg_ckd.balance.numbers import check_several as check_several
from pyg_ckd.balance.objective import Objective
from pyg_ckd.code import bytes_of
from pyg_ckd.data.inputs import EdgeType
from pyg_ckd.data.modules import evaluating
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.rows import added_item_rows, moving_columns
from pyg_ckd.scoring.triples import Triples
from pyg_ckd.scoring.views import EMPTY, View

LEAST_COMPLETE = 0.05
"""Share of a batch's triples with all modalities from which on modalities are compared on these alone."""


class MaskedObjective(Objective):
    """Base of strategies that compare modalities on triples: knows which items have which modality.

    A subclass calls :meth:`store_masks` in its constructor. Refuses students with fewer than two modalities.
    """

    name = ""
    _reached = False

    def store_masks(self, has: Mapping[str, Tensor] | None) -> None:
        """Keep masks of modalities that some items lack.

        Args:
            has: From modality to which items have it, bool ``[num_items]``, see :func:`~pyg_ckd.data.item_masks`.

        Raises:
            InputError: If a modality is unknown, a mask does not fit, or there are fewer than two modalities.
        """
        check_several(self.modalities)
        self._masked = frozenset(has or {})
        for m, mask in (has or {}).items():
            if m not in self.modalities:
                raise unknown_name("modality of a mask", m, self.modalities)
            if mask.dtype != torch.bool or mask.shape != (self.student.num_items,):
                raise InputError(
                    f"has: the mask of {m!r} is {mask.dtype} of shape {list(mask.shape)}, expected bool of shape "
                    f"[{self.student.num_items}], one value per item"
                )
            self.register_buffer(f"item_mask_{m}", mask.clone())
        self.unchanging_state = (*self.unchanging_state, *(f"item_mask_{m}" for m in has or {}))

    def share_masks(self, inside: Objective, has: Mapping[str, Tensor] | None) -> None:
        """Use the masks of the objective inside, for a wrapper that takes part in its steps.

        They are read from it and no part of the state of the wrapper; masks that are given are, as of any objective.

        Args:
            inside: The objective inside. One that knows no masks, such as plain training, gives none.
            has: Masks as in :meth:`store_masks`. (default: :obj:`None`, those of the objective inside)

        Raises:
            InputError: If there are masks that the objective inside has not, or has otherwise, and as in
                :meth:`store_masks`.
        """
        while inside.wraps and not isinstance(inside, MaskedObjective):
            inside = getattr(inside, "inner")  # noqa: B009  An attribute of wrappers alone.
        masked = inside._masked if isinstance(inside, MaskedObjective) else frozenset()
        theirs = {m: getattr(inside, f"item_mask_{m}") for m in sorted(masked)}
        self.store_masks(has)
        if has is None:
            self._masked = masked  # A wrapper has the attributes of what is inside.
        if has is None or not isinstance(inside, MaskedObjective):
            return
        everything = torch.ones(self.student.num_items, dtype=torch.bool)
        for m in self.modalities:
            if not torch.equal(has.get(m, everything).cpu(), theirs.get(m, everything).cpu()):
                raise InputError(
                    f"has: found another mask of {m!r} than that of {type(inside).__name__} inside, expected the same; "
                    "give masks to the strategy inside alone, which are then those of both"
                )

    def available(self, first: Tensor, second: Tensor) -> Tensor | None:
        """Return which modalities both items of every triple have, bool ``[B, M]``; None if all items have all.

        In a step on a sampled subgraph, items are by its row numbers.

        Args:
            first: Items, int64 ``[B]``.
            second: Items, int64 ``[B]``.
        """
        if not self._masked:
            return None
        first, second = self.items_in_whole(first), self.items_in_whole(second)
        everything = torch.ones_like(first, dtype=torch.bool)
        masks = {m: getattr(self, f"item_mask_{m}") for m in self._masked}
        columns = [masks[m][first] & masks[m][second] if m in masks else everything for m in self.modalities]
        return torch.stack(columns, dim=-1)

    def whole(self, available: Tensor | None, view: View) -> Tensor | None:
        """Return which triples have every modality of a view, bool ``[B]``; None if all have all.

        Args:
            available: What :meth:`available` returned.
            view: The view; any triple has all of the empty one.
        """
        if available is None or not view:
            return None
        columns = [column for m, column in zip(self.modalities, available.unbind(dim=-1), strict=True) if m in view]
        return torch.stack(columns).all(dim=0)

    def complete(self, first: Tensor, second: Tensor) -> Tensor | None:
        """Return which triples have all modalities, bool ``[B, M]`` with equal columns; None if all have.

        Margins of views of several modalities say nothing about what items lack there alone.

        Args:
            first: Items, int64 ``[B]``.
            second: Items, int64 ``[B]``.
        """
        known = self.available(first, second)
        return None if known is None else known.all(dim=-1, keepdim=True).expand_as(known)

    def compared(self, first: Tensor, second: Tensor) -> Tensor | None:
        """Return on which triples modalities are compared, bool ``[B, M]``; None if all items have all.

        It is on those that have all modalities, see :meth:`complete`. Where these are a share of the batch below
        :data:`LEAST_COMPLETE`, as one rare modality can make them, it is on those that have the modality.

        Args:
            first: Items, int64 ``[B]``.
            second: Items, int64 ``[B]``.
        """
        known, complete = self.available(first, second), self.complete(first, second)
        if known is None or complete is None:
            return None
        return torch.where(complete.sum() >= LEAST_COMPLETE * complete.numel(), complete, known)

    def warn_of_gaps(self) -> None:
        """Warn if no two items have all modalities, so that no triple can compare them."""
        if self._masked:
            complete = int(torch.stack([getattr(self, f"item_mask_{m}") for m in self._masked]).all(dim=0).sum())
            if complete < 2:
                warnings.warn(
                    f"{self.name}: found {complete} of {self.student.num_items} items with all modalities, expected "
                    "some to compare modalities on; each is compared on the triples that have it, and one that no "
                    "triple has is left as it is",
                    stacklevel=3,
                )

    def margins(self, out: Mapping[View, Output], batch: TripletBatch) -> dict[View, Tensor]:
        """Return the margins of a batch in every view, ``[B]`` each, with gradient.

        Args:
            out: The output of every view.
            batch: The triples.
        """
        return {view: own.margin(batch.user, batch.positive, batch.negative) for view, own in out.items()}

    def check_reached(self, out: Mapping[View, Output], batch: TripletBatch) -> None:
        """Refuse, the first time that it is called, a backbone whose margins no parameter of a modality moves.

        It reads the margins of the trained view every time, so that the order of readings is always the same.

        Args:
            out: The output of every view, the trained one first.
            batch: The triples.

        Raises:
            InputError: See :func:`~pyg_ckd.balance.gradients.check_steerable`.
        """
        margin = next(iter(out.values())).margin(batch.user, batch.positive, batch.negative)
        if not self._reached:
            check_steerable(self.student, self.name, [margin])
            self._reached = True

    def check_views(self) -> None:
        """Refuse a backbone whose views are all alike, because it ignores features or ranks without them.

        Raises:
            InputError: If they are.
        """
        check_features(self)
        if not self.student.views_differ:
            raise InputError(
                f"{self.name}: found {type(self.student).__name__}, all of whose views rank alike because features "
                "enter its losses alone, expected a backbone whose views can be compared; choose a strategy that does "
                "not compare them, such as ckd"
            )


class TaughtObjective(MaskedObjective):
    """Base of strategies with a frozen teacher per modality.

    A subclass calls :meth:`store_teachers` in its constructor.

    Attributes:
        taught_on: Digest of the interactions that the teachers were trained on; :obj:`None` where they do not tell.
    """

    name = ""
    needs_teachers = True
    has_teachers = False
    taught_on: str | None = None

    def store_teachers(self, teachers: Mapping[str, Embeddings]) -> None:
        """Keep a copy of the teachers' tables.

        Args:
            teachers: From modality to the teacher's embeddings, one for each of the student's modalities.

        Raises:
            InputError: If a teacher is missing or unknown, or has other sizes than the student.
        """
        if not isinstance(teachers, Mapping):
            found = "no teachers" if teachers is None else type(teachers).__name__
            raise InputError(
                f"{self.name}: found {found}, expected a dict with the embeddings of one for each modality; train them "
                "with train_teachers"
            )
        for m in teachers:
            if m not in self.modalities:
                raise unknown_name("modality of a teacher", m, self.modalities)
        for m in self.modalities:
            if m not in teachers:
                raise InputError(f"teachers: found none for modality {m!r}, expected one for each of the student's")
            user, item = _tables_of(m, teachers[m])
            sizes, expected = (user.size(0), item.size(0)), (self.student.num_users, self.student.num_items)
            if sizes != expected:
                raise InputError(
                    f"teacher {m!r}: found {sizes[0]} users and {sizes[1]} items, expected {expected[0]} and "
                    f"{expected[1]} as in the student; train it on the same data"
                )
            if user.size(1) != item.size(1) or not (torch.isfinite(user).all() and torch.isfinite(item).all()):
                raise InputError(
                    f"teacher {m!r}: found user and item tables of widths {user.size(1)} and {item.size(1)}, expected "
                    "tables of one width without NaN or infinite values; train it again"
                )
            user, item = moving_columns(Embeddings(user, item))
            self.register_buffer(f"teacher_user_{m}", user)
            self.register_buffer(f"teacher_item_{m}", item)
        rows = {f"teacher_{kind}_{m}": kind for m in self.modalities for kind in ("user", "item")}
        self.own_rows, self.has_teachers = {**self.own_rows, **rows}, True
        self.unchanging_state = (*self.unchanging_state, *rows)
        self.taught_on = getattr(teachers, "trained_on", None)

    def teacher(self, modality: str) -> Embeddings:
        """Return the frozen embeddings of a modality's teacher, without columns in which all items agree.

        Such a column, as of a modality that was intervened on, changes no margin and no ranking. In a step on a sampled
        subgraph, the rows are those of its users and items.

        Args:
            modality: The modality.
        """
        user, item = getattr(self, f"teacher_user_{modality}"), getattr(self, f"teacher_item_{modality}")
        return Embeddings(self.here(user, "user"), self.here(item, "item"))

    def read_teachers(self, triples: Sequence[Triples]) -> None:
        """Read the margins of all teachers, as :meth:`read` is to.

        Args:
            triples: The lists of triples.
        """
        for m in self.modalities if self.has_teachers else ():
            self.teacher(m).margins(*triples)

    def column_dims(self) -> dict[str, int | None]:
        """Return where the columns of the student's tables and of the teachers' lie."""
        sides = ("user", "item") if self.has_teachers else ()
        return super().column_dims() | {f"teacher_{side}_{m}": 1 for side in sides for m in self.modalities}

    def given_teachers(self) -> dict[str, Embeddings]:
        """Return the teachers by modality; none if there are none."""
        return {m: self.teacher(m) for m in self.modalities} if self.has_teachers else {}

    def settings(self) -> dict[str, Any]:
        """Return what defines the objective, with a hash of the teachers' tables: a run does not go on with others."""
        digest: Any = hashlib.sha256()
        for m in self.modalities if self.has_teachers else ():
            for table in self.teacher(m):
                digest.update(bytes_of(table))
        return super().settings() | {"has_teachers": self.has_teachers, "teachers": digest.hexdigest()[:16]}


def _tables_of(modality: str, teacher: Any) -> tuple[Tensor, Tensor]:
    """Return the two tables of a teacher.

    Args:
        modality: Its modality, for the message.
        teacher: What was given.

    Raises:
        InputError: If it is no pair of tensors of floating-point numbers.
    """
    pair = teacher if isinstance(teacher, (tuple, list)) else ()
    if len(pair) == 2 and all(isinstance(x, Tensor) and x.dim() == 2 and x.is_floating_point() for x in pair):
        return pair[0], pair[1]
    kinds = " and ".join(str(x.dtype) if isinstance(x, Tensor) else type(x).__name__ for x in pair)
    raise InputError(
        f"teacher {modality!r}: found {kinds or type(teacher).__name__}, expected its embeddings, a pair of "
        "floating-point tensors (user [U, D], item [I, D]); take what train_teachers returns, "
        "pyg_ckd.data.inputs.embed(model, data)[0], or torch.as_tensor of arrays"
    )


@torch.no_grad()
def added_rows_of(
    student: Backbone,
    features: Mapping[str, Tensor],
    graphs: Mapping[EdgeType, Any],
    alone: Mapping[str, View],
    items: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return what every modality adds to the rows of items in the empty view, as it is now, ``[B, D]`` each.

    Args:
        student: The backbone.
        features: From modality to feature matrix.
        graphs: The prepared graphs.
        alone: From modality to its uni-modal view.
        items: Row numbers of the items, int64 ``[B]``. (default: :obj:`None`, the first item, to know widths)
    """
    views = [*alone.values(), EMPTY]
    if items is None:
        items = torch.zeros(1, dtype=torch.int64, device=next(iter(features.values())).device)
    with evaluating(student):
        out = dict(zip(views, student.outputs(features, graphs, views), strict=True))
        return {m: added_item_rows(out[view], out[EMPTY], items) for m, view in alone.items()}


def counted_weights(counted: Tensor) -> Tensor:
    """Return weights of triples that leave some out: zero for these, one number for all others, with a mean of one.

    Args:
        counted: Which triples count, bool ``[B]``.

    Returns:
        The weights ``[B]``; zero everywhere if none counts.
    """
    weights = counted.to(torch.get_default_dtype())
    return weights * (weights.numel() / weights.sum().clamp(min=1))


def check_features(objective: Objective) -> None:
    """Refuse a backbone that ignores features.

    Args:
        objective: The strategy, whose student it is.

    Raises:
        InputError: If there is nothing to act on.
    """
    if not objective.student.uses_features:
        raise InputError(
            f"{objective.name}: found {type(objective.student).__name__}, which ignores features, so that all its "
            "views are alike, expected a backbone that has modalities to compare"
        )
