"""Which strategies there are: those that the files of this folder define, and any other by its import path."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch_geometric.data import HeteroData

from pyg_ckd import balance
from pyg_ckd.balance.names import NO_OPTIONS
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.inputs import item_masks
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.embeddings import Embeddings


def strategies() -> dict[str, type[Objective]]:
    """Return every objective of the library by its name, plain training first."""
    found: dict[str, type[Objective]] = {}
    for entry in pkgutil.iter_modules(balance.__path__):
        module = importlib.import_module(f"{balance.__name__}.{entry.name}")
        for _, cls in inspect.getmembers(module, inspect.isclass):
            if issubclass(cls, Objective) and cls.__module__ == module.__name__ and cls.name:
                found[cls.name] = cls
    return dict(sorted(found.items(), key=lambda item: (item[1] is not Objective, item[0])))


def find_strategy(name: str) -> type[Objective]:
    """Return a strategy by its name or by its import path, such as ``my_package.MyStrategy``.

    Args:
        name: A name of :func:`strategies`, or a dotted path of a class that derives from
            :class:`~pyg_ckd.Objective`.

    Raises:
        InputError: If there is no such strategy, the module cannot be imported, or the class is no objective.
    """
    found = strategies()
    if name in found:
        return found[name]
    module, _, attribute = name.replace(":", ".").rpartition(".")
    if not module:
        raise unknown_name("strategy", name, found)
    try:
        cls = getattr(importlib.import_module(module), attribute)
    except ImportError as error:
        raise InputError(
            f"strategy {name}: cannot be imported ({error}), expected package.Class on Python's path, or one of "
            f"{', '.join(found)}"
        ) from None
    except AttributeError:
        raise InputError(
            f"strategy {name}: module {module} has no {attribute!r}, expected a class of that name"
        ) from None
    except Exception as error:  # What the file itself does, such as a mistake in its syntax.
        raise InputError(
            f"strategy {name}: importing {module} raised {type(error).__name__} ({error}), expected a file that can be "
            "imported"
        ) from error
    check_strategy(name, cls)
    return cls


def check_strategy(name: str, cls: Any) -> None:
    """Refuse what is not a strategy.

    Args:
        name: Its name, for the message.
        cls: The class.

    Raises:
        InputError: If it is no class, does not derive from :class:`~pyg_ckd.Objective`, or its constructor does not
            begin with ``student`` and, if it needs teachers, ``teachers``.
    """
    if not (inspect.isclass(cls) and issubclass(cls, Objective)):
        found = cls.__name__ if inspect.isclass(cls) else type(cls).__name__
        raise InputError(
            f"strategy {name}: found {found}, expected a class that derives from pyg_ckd.Objective, which has "
            "the hooks of a strategy (views, balance, ...)"
        )
    expected = ["student", "teachers"] if cls.needs_teachers else ["student"]
    arguments = list(inspect.signature(cls.__init__).parameters)[1:]
    if arguments[: len(expected)] != expected:
        raise InputError(
            f"strategy {name}: the constructor begins with ({', '.join(arguments[: len(expected)])}), expected "
            f"({', '.join(expected)})"
        )


def options_of(cls: type[Objective]) -> dict[str, inspect.Parameter]:
    """Return the arguments of a strategy's constructor that are options, by name.

    Args:
        cls: The class.
    """
    parameters = dict(list(inspect.signature(cls.__init__).parameters.items())[1:])
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {name: p for name, p in parameters.items() if name not in NO_OPTIONS and p.kind not in kinds}


def inner_strategy(cls: type[Objective], options: Mapping[str, Any] | None = None) -> type[Objective] | None:
    """Return the strategy inside a wrapper, as its options name it; None for a strategy that wraps nothing.

    Args:
        cls: The class.
        options: Its options, of which ``inner`` counts.

    Raises:
        InputError: If there is no such strategy.
    """
    return find_strategy(str((options or {}).get("inner", Objective.name))) if cls.wraps else None


def innermost(objective: Objective) -> Objective:
    """Return the objective inside all wrappers, which is what ranks.

    Args:
        objective: Any objective.
    """
    while objective.wraps:
        objective = getattr(objective, "inner")  # noqa: B009  An attribute of wrappers alone.
    return objective


def source_of(objective: Objective, method: str) -> Objective:
    """Return the objective whose method answers: a wrapper that overrides it, or the one inside.

    Args:
        objective: Any objective.
        method: Name of the method.
    """
    while objective.wraps and getattr(type(objective), method).__module__.startswith("pyg_ckd."):
        objective = getattr(objective, "inner")  # noqa: B009  An attribute of wrappers alone.
    return objective


def needs_teachers(cls: type[Objective], options: Mapping[str, Any] | None = None) -> bool:
    """Return whether a strategy with some options needs teachers; a wrapper does if what it wraps does.

    Args:
        cls: The class.
        options: Its options.
    """
    inner = inner_strategy(cls, options)
    return cls.needs_teachers if inner is None else needs_teachers(inner, (options or {}).get("inner_options"))


def needs_unimodal_views(cls: type[Objective], options: Mapping[str, Any] | None = None) -> bool:
    """Return whether a strategy with some options, or what it wraps, learns from how modalities rank alone.

    Args:
        cls: The class.
        options: Its options.
    """
    inner = inner_strategy(cls, options)
    inside = inner is not None and needs_unimodal_views(inner, (options or {}).get("inner_options"))
    return cls.needs_unimodal_views or inside


def reports_of(cls: type[Objective], options: Mapping[str, Any] | None = None) -> dict[str, str]:
    """Return what the entries of a strategy's history mean, those of what it wraps among them.

    Args:
        cls: The class.
        options: Its options.
    """
    inner = inner_strategy(cls, options)
    inside = {} if inner is None else reports_of(inner, (options or {}).get("inner_options"))
    return {**inside, **cls.reports}


def build_objective(
    cls: type[Objective],
    student: Backbone,
    data: HeteroData,
    teachers: Mapping[str, Embeddings] | None = None,
    options: Mapping[str, Any] | None = None,
) -> Objective:
    """Build a strategy around a student, with what it needs of the data.

    Args:
        cls: The class of the strategy.
        student: The backbone to train.
        data: The graph, read for the masks of modalities that items lack.
        teachers: From modality to the teacher's embeddings; only for strategies that need them.
        options: Further arguments of the constructor.

    Raises:
        InputError: If an option is unknown, one without a default is missing, or teachers are needed and not there.
    """
    return build_inner(cls, student, dict(options or {}), teachers, item_masks(data))


def build_inner(
    cls: type[Objective],
    student: Backbone,
    options: Mapping[str, Any],
    teachers: Mapping[str, Embeddings] | None = None,
    has: Mapping[str, Tensor] | None = None,
) -> Objective:
    """Build a strategy around a student; see :func:`build_objective`.

    Args:
        cls: The class of the strategy.
        student: The backbone to train.
        options: Further arguments of the constructor.
        teachers: From modality to the teacher's embeddings; only for strategies that need them.
        has: From modality to which items have it, of modalities that some items lack.

    Raises:
        InputError: If an option is unknown, one without a default is missing, or teachers are needed and not there.
    """
    chosen, known = dict(options), options_of(cls)
    for name in chosen:
        if name not in known:
            raise unknown_name(f"option of {cls.name}", name, known)
    if "has" in inspect.signature(cls.__init__).parameters:
        chosen["has"] = has
    _check_required(cls, chosen)
    if not needs_teachers(cls, options):
        return cls(student, **chosen)
    if teachers is None:
        raise InputError(
            f"{cls.name}: found no teachers, expected one for each modality; train them with train_teachers"
        )
    parameters = inspect.signature(cls.__init__).parameters
    if "teachers" not in parameters and not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        raise InputError(
            f"{cls.name}: found no argument 'teachers' in the constructor of {cls.__name__}, which needs teachers, "
            "expected it after the student; write def __init__(self, student, teachers, l2=0.01) with "
            "super().__init__(student, l2) and self.store_teachers(teachers)"
        )
    return cls(student, teachers=teachers, **chosen)  # type: ignore[call-arg]


def _check_required(cls: type[Objective], given: Mapping[str, Any]) -> None:
    """Refuse a constructor that has arguments without a default which nothing gives.

    Args:
        cls: The class of the strategy.
        given: What it gets beside the student and the teachers.

    Raises:
        InputError: If there is one.
    """
    options = options_of(cls)
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[2:]:
        if parameter.default is not parameter.empty or parameter.kind in kinds or name in given or name == "teachers":
            continue
        mend = f"give this option of {cls.name}" if name in options else f"write {name}=None in its constructor"
        raise InputError(f"{name}: found no value, expected one, for there is no default; {mend}")
