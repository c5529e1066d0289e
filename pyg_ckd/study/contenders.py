"""Contenders: strategies with their options under the names that a study compares them by."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch_geometric.data import HeteroData

from pyg_ckd.arguments import shown
from pyg_ckd.balance.discovery import (
    build_inner,
    check_strategy,
    find_strategy,
    inner_strategy,
    needs_teachers,
    needs_unimodal_views,
    options_of,
)
from pyg_ckd.balance.numbers import SingleModality
from pyg_ckd.balance.objective import Objective
from pyg_ckd.balance.ranking import check_ranking
from pyg_ckd.data import held_out
from pyg_ckd.data.sampler import num_batches
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn import AdaptedBackbone, Backbone
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.study.results import TITLES
from pyg_ckd.study.settings import (
    PARTS,
    REFERENCE,
    TEACHER,
    StudySettings,
    as_options,
    check_plain,
    check_trainer,
    check_trainer_is_free,
)
from pyg_ckd.training import Pace, Trainer
from pyg_ckd.training.rebuild import recipe


@dataclass(frozen=True)
class Contender:
    """A strategy with its options, for a comparison in a study.

    Args:
        strategy: The class, or its name or import path, see :func:`~pyg_ckd.balance.find_strategy`.
        options: Further arguments of its constructor; only numbers, texts, lists and mappings, because they are part of
            the key of a run.
        model: Options of the backbone that replace the study's. Teachers use the study's.
        trainer: The same of the trainer.

    Raises:
        InputError: If there is no such strategy, it is no :class:`~pyg_ckd.Objective`, options are no mapping, one of
            the strategy is unknown, one of strategy or backbone is not plain, or the trainer is given a seed or a
            folder, which runs have of their own.
    """

    strategy: type[Objective]
    options: Mapping[str, Any] = field(default_factory=dict)
    model: Mapping[str, Any] = field(default_factory=dict)
    trainer: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        given: Any = self.strategy
        cls = find_strategy(given) if isinstance(given, str) else given
        check_strategy(str(getattr(cls, "name", cls)), cls)
        object.__setattr__(self, "strategy", cls)
        names = {
            "options": f"options of {cls.name}",
            "model": f"model of {cls.name}",
            "trainer": f"trainer of {cls.name}",
        }
        for part, name in names.items():
            object.__setattr__(self, part, as_options(getattr(self, part), name))
        known = options_of(cls)
        for name in self.options:
            if name not in known:
                raise unknown_name(f"option of {cls.name}", name, known)
        check_plain(self.options, cls.name)
        check_plain(self.model, names["model"])
        check_trainer_is_free(self.trainer, names["trainer"])
        check_trainer(self.trainer)
        inner = inner_strategy(cls, self.options)
        if inner is not None:
            Contender(inner, self.options.get("inner_options") or {})

    @property
    def needs_teachers(self) -> bool:
        """Whether teachers must be there first."""
        return needs_teachers(self.strategy, self.options)

    def with_needed_views(self) -> Contender:
        """Return the same contender with a trainer that evaluates every modality alone, if its strategy needs that."""
        needed = needs_unimodal_views(self.strategy, self.options)
        return replace(self, trainer={**self.trainer, "track_views": True}) if needed else self


AnyContender = Contender | type[Objective] | str
Contenders = Mapping[str, AnyContender] | Sequence[tuple[str, AnyContender] | AnyContender] | str


def as_contenders(
    contenders: Contenders | None, settings: StudySettings, taken: Iterable[str] = ()
) -> dict[str, Contender]:
    """Return the contenders of a study by name, plain training first.

    Args:
        contenders: From name to a :class:`Contender`, the class of a strategy, or its name or import path; also a list
            of such pairs, a list of strategies, or a text with commas between them, where the strategies' own names
            count. (default: :obj:`None`, plain training and distillation)
        settings: What the study is made of; see :func:`default_options`.
        taken: Names that other runs have.

    Raises:
        InputError: If a strategy or an option is unknown, a name is taken, empty or given twice, or plain training is
            another strategy.
    """
    found: dict[str, Contender] = {}
    for name, given in _pairs(tuple(PARTS) if contenders is None else contenders):
        _check_name(name, found, taken)
        found[name] = given if isinstance(given, Contender) else _with_defaults(given, settings)
    plain = found.pop(REFERENCE, None) or _with_defaults(REFERENCE, settings)
    if plain.strategy is not Objective:
        raise InputError(
            f"contender {REFERENCE!r}: found the strategy {plain.strategy.name}, expected plain training, which all "
            "others are compared with; give it another name"
        )
    return {REFERENCE: plain, **found}


def default_options(
    cls: type[Objective], settings: StudySettings, given: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Return the options of a strategy, those that are given and defaults of a study.

    Those of plain training and of distillation stand in the settings. Every other strategy takes over from plain
    training what it has in common with it, such as the weight of the penalty, so that the two differ in the strategy
    alone. So does the strategy inside a wrapper. What a strategy recommends is set unless it is among all these.

    Args:
        cls: The strategy.
        settings: What the study is made of.
        given: Options that are given. (default: :obj:`None`, none)
    """
    own, known = dict(given or {}), options_of(cls)
    recommended = {name: value for name, value in cls.recommended.items() if name in known}
    if cls.name in PARTS:
        return {**recommended, **getattr(settings, PARTS[cls.name]), **own}
    inner = inner_strategy(cls, own)
    if inner is not None:
        own["inner_options"] = default_options(inner, settings, own.get("inner_options"))
    common = {name: value for name, value in settings.plain.items() if name in known}
    return {**recommended, **common, **own}


def side_by_side(options: Mapping[str, Any], backbone: type[Backbone]) -> Contender:
    """Return plain training with options of its loss, of its trainer and of its backbone that stand in one mapping.

    Teachers and LightGCN have such a mapping. What is no option of the loss, nor of the backbone, nor of the trainer,
    is left to the backbone, which refuses it.

    Args:
        options: The options.
        backbone: Class of the model.
    """
    loss, own = options_of(Objective), inspect.signature(backbone).parameters
    rest = {name: value for name, value in options.items() if name not in loss}
    trainer = {n: value for n, value in rest.items() if n in inspect.signature(Trainer).parameters and n not in own}
    model = {name: value for name, value in rest.items() if name not in trainer}
    return Contender(Objective, {n: value for n, value in options.items() if n in loss}, model, trainer)


def check_options(
    backbone: type[Backbone], data: HeteroData, model: Mapping[str, Any], contender: Contender
) -> Objective | None:
    """Build a contender for a handful of users and items, so that a wrong option is found before anything is written.

    Args:
        backbone: Class of the student.
        data: The graph, read for its modalities.
        model: Options of the backbone, but for those of the contender's own.
        contender: The contender.

    Returns:
        What was built; :obj:`None` of a backbone that is not made for so few users.

    Raises:
        InputError: What the constructors raise; and if a module of one's own could not be saved after its training.
    """
    check_trainer(contender.trainer)
    model = {**model, **contender.model}
    dims = {m: data["item"][m].size(1) for m in data.modalities}
    with torch.random.fork_rng(devices=[]):
        try:
            student = backbone(2, 2, dims, **model)
        except TypeError as error:
            raise InputError(f"model: {backbone.__name__} does not take these options ({error})") from None
        except (RuntimeError, ValueError, IndexError) as error:
            if isinstance(error, InputError):
                raise
            return None  # The run itself will tell.
        if isinstance(student, AdaptedBackbone):
            recipe(student.module)  # What a study trains, it saves.
        table = torch.zeros(2, 1)
        teachers = {m: Embeddings(table, table) for m in dims} if contender.needs_teachers else None
        try:
            return build_inner(contender.strategy, student, contender.options, teachers)
        except SingleModality:
            raise single_modality(dims, contender.strategy) from None


def single_modality(modalities: Iterable[str], strategy: type[Objective]) -> InputError:
    """Return the error for data with one modality where a strategy needs several.

    Args:
        modalities: The names of the modalities.
        strategy: The strategy.
    """
    return InputError(
        f"data: found 1 modality ({', '.join(modalities)}), expected at least two for {strategy.name}; add features of "
        "another one, or train a single one plainly: --objective plain, or --contenders plain for a study"
    )


def check_teacher(
    backbone: type[Backbone],
    data: HeteroData,
    options: Mapping[str, Any],
    model: Mapping[str, Any],
    trainer: Mapping[str, Any],
) -> None:
    """Refuse options that teachers cannot be trained with, before anything is written.

    Args:
        backbone: Class of the teachers.
        data: The graph.
        options: Options of the teachers.
        model: Options of the student's backbone.
        trainer: Options of the student's trainer.

    Raises:
        InputError: If there is one.
    """
    own = side_by_side(options, backbone)
    training = {**trainer, **own.trainer}
    try:
        check_options(backbone, data, model, own)
        check_ranking(backbone, Trainer(**training).options.ranking)
        check_warmup(data, training)
    except InputError as error:
        raise InputError(f"teacher: {error}") from None


def check_warmup(data: HeteroData, options: Mapping[str, Any]) -> None:
    """Refuse a warm-up that a training is too short for, before anything is written.

    Args:
        data: The graph.
        options: Options of the trainer; the length of a sampler of one's own is known once training begins.

    Raises:
        InputError: If there is one, or what the trainer raises.
    """
    trainer, interactions = Trainer(**options), held_out(data, "train").size(1)
    if trainer.sampler is None:
        size = Pace.of(trainer.batch_size, trainer.lr, trainer.patience, interactions).batch_size
        trainer.options.schedule_of(range(num_batches(interactions, size)), trainer.max_epochs)


def _pairs(contenders: Contenders) -> list[tuple[str, AnyContender]]:
    if isinstance(contenders, Mapping):
        return list(contenders.items())
    if not isinstance(contenders, Iterable):
        name = getattr(contenders, "__name__", type(contenders).__name__)
        raise InputError(f"contenders: found {name}, expected a list, a mapping or a text with commas; write [{name}]")
    listed = _split(contenders) if isinstance(contenders, str) else list(contenders)
    for item in listed:
        if isinstance(item, tuple) and len(item) != 2:
            raise InputError(
                f"contenders: found {shown(item)}, expected a pair of a name and a strategy, such as ('a', 'ckd')"
            )
    return [item if isinstance(item, tuple) else (_own_name(item), item) for item in listed]


def _split(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _own_name(given: Any) -> str:
    if isinstance(given, Contender):
        return given.strategy.name
    cls = find_strategy(given) if isinstance(given, str) else given
    check_strategy(str(given), cls)
    return str(cls.name)


def _with_defaults(given: Any, settings: StudySettings) -> Contender:
    cls = Contender(given).strategy
    return Contender(cls, default_options(cls, settings))


def _check_name(name: Any, found: Mapping[str, Contender], taken: Iterable[str]) -> None:
    if not (isinstance(name, str) and name.strip() == name and name.isprintable() and name and "/" not in name):
        raise InputError(
            f"contender {name!r}: expected a name of printable characters without slashes around no blanks"
        )
    if name in found:
        raise InputError(
            f"contender {name!r}: found two of that name, expected each once; give one of them another name, such as "
            f"'{name}-2'"
        )
    titles = {TITLES[one].casefold(): one for one in taken if one in TITLES}
    if name.casefold() in titles and name not in titles.values():
        raise InputError(
            f"contender {name!r}: found the name that tables and reports give to the baseline "
            f"{titles[name.casefold()]!r}, expected one of its own, such as '{name}-2'"
        )
    if name in set(taken) or name.casefold().startswith(TEACHER) or name == TEACHER.rstrip(":"):
        kind = "teacher" if name.casefold().startswith(TEACHER.rstrip(":")) else "baseline"
        raise InputError(f"contender {name!r}: found the name of a {kind}, expected one of its own")
