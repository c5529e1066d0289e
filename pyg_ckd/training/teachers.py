"""Uni-modal teachers: trained one by one, cached on disk by everything that decides about them."""

from __future__ import annotations

import copy
import hashlib
import inspect
import json
import os
import warnings
import weakref
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch_geometric import get_home_dir
from torch_geometric.data import HeteroData

from pyg_ckd import code
from pyg_ckd.arguments import as_names, shown
from pyg_ckd.balance.objective import Objective
from pyg_ckd.data.build import fingerprint, training_digest
from pyg_ckd.data.inputs import check_graph, embed, unpack
from pyg_ckd.data.modules import device_of, dtype_of
from pyg_ckd.errors import InputError, unknown_name
from pyg_ckd.files import as_path, remove_leftovers, writing
from pyg_ckd.locks import held
from pyg_ckd.nn.models.adapter import AdaptedBackbone, as_backbone
from pyg_ckd.processes import Processes, apart
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.rows import moving_columns
from pyg_ckd.scoring.views import EMPTY
from pyg_ckd.training.attributes import attributes_of
from pyg_ckd.training.callbacks import classes_of, described
from pyg_ckd.training.checkpoint import load_checkpoint, save_checkpoint, seeded
from pyg_ckd.training.history import History
from pyg_ckd.training.layouts.choice import open_processes
from pyg_ckd.training.made_of import own_module
from pyg_ckd.training.run_file import CHECKPOINT_NAME, remove_checkpoint
from pyg_ckd.training.trainer import Trainer

KEY_FORMAT = 2
"""Raised whenever the same settings lead to other teachers than before."""
RECORD = ("validation_seconds", "stopped", "converged", "enough_epochs")
"""What a file of the cache holds of the record since the second version of checkpoints."""
BASE = ("base_user", "base_item")
"""Under which names it holds the tables of the empty view, if an earlier version has not written it."""


@dataclass(frozen=True)
class Teacher:
    """A trained uni-modal teacher.

    Attributes:
        embeddings: Its frozen tables.
        history: The record of its training, with the best validation value.
        base: Its tables of the empty view, in which its modality is intervened on as well: what does not depend on it,
            such as ids. Columns in which all items agree are left out. :obj:`None` for one that an earlier version
            wrote into a cache.
    """

    embeddings: Embeddings
    history: History
    base: Embeddings | None = None


class Teachers(dict[str, Embeddings]):
    """From modality to the frozen embeddings of its teacher, with the records of their training.

    Attributes:
        histories: From modality to the record of its teacher's training.
        trained_on: :func:`~pyg_ckd.data.build.training_digest` of the graph: a student of another graph warns of them.
            ``dict(teachers)`` is without it.
    """

    def __init__(self, teachers: dict[str, Teacher], trained_on: str | None = None) -> None:
        super().__init__({m: teacher.embeddings for m, teacher in teachers.items()})
        self.trained_on = trained_on
        self.histories = {m: teacher.history for m, teacher in teachers.items()}
        self._bases = {m: (teacher.embeddings, teacher.base) for m, teacher in teachers.items()}

    @property
    def bases(self) -> dict[str, Embeddings]:
        """From modality to the teacher's tables of the empty view, see :class:`Teacher`.

        A teacher of which they are not known, or that others took the place of, has none.
        """
        return {m: base for m, (of, base) in self._bases.items() if base is not None and self.get(m) is of}


def train_teachers(
    backbone: Callable[..., nn.Module],
    data: HeteroData,
    trainer: Trainer | None = None,
    modalities: Sequence[str] | None = None,
    l2: float = 1e-2,
    cache_dir: str | os.PathLike[str] | None = None,
    use_cache: bool = True,
    **options: Any,
) -> Teachers:
    """Train one teacher per modality: the backbone alone on the view in which only that modality is factual.

    Teachers that were trained before on the same data with the same settings are read from the cache. An interrupted
    training resumes from its checkpoint next to the cache, with bitwise the same result; the checkpoint is removed once
    the teacher is finished. For a damaged cache file, a warning is raised and the teacher is trained again. A file of
    an earlier version is used without :attr:`Teacher.base`, which ``mi-balance`` needs. With several processes, each
    trains some of the teachers, bitwise as in one process, and all get all of them. Where another job is training the
    same teacher in the same cache, it is waited for, and its teacher is taken.

    Args:
        backbone: A backbone class, or a function of ``data`` that returns a backbone or any module with
            ``forward(x_dict, edge_index) -> (user, item)``.
        data: The graph.
        trainer: The trainer; its seed also seeds the initial weights. Its ``checkpoint_minutes`` apply to every
            teacher, its ``checkpoint_dir`` only without a cache: each teacher has its own folder in it. (default:
            :obj:`None`, ``Trainer()``)
        modalities: Which teachers to train; all by default.
        l2: Weight of the backbone's penalty.
        cache_dir: Folder of the cache; by default ``pyg_ckd/teachers`` in PyG's home folder.
        use_cache: Whether to read and write the cache.
        **options: Further arguments of the backbone's constructor.

    Raises:
        InputError: If a modality is unknown, ``backbone`` is no class and no function of ``data`` or returns one module
            twice, the folder of the cache cannot be written to, or training fails.
    """
    check_graph(data)
    trainer = Trainer() if trainer is None else trainer
    if not isinstance(trainer, Trainer):
        raise InputError(
            f"trainer: found {type(trainer).__name__}, expected a Trainer, such as Trainer(max_epochs=10), or None"
        )
    arguments = (trainer, modalities, l2, cache_dir, use_cache)
    processes = open_processes(trainer.devices, trainer.num_nodes, trainer.device)
    if not processes.alone:
        return _one_per_process(processes, backbone, data, *arguments, **options)
    folder = as_path(cache_dir) if cache_dir is not None else Path(get_home_dir()) / "pyg_ckd" / "teachers"
    names = tuple(data.modalities) if modalities is None else as_names(modalities, "modalities")
    checkpoints = folder if use_cache else trainer.checkpoint_dir
    teachers: dict[str, Teacher] = {}
    built: dict[str, weakref.ref[nn.Module]] = {}
    for m in names:
        if m not in data.modalities:
            raise unknown_name("modality", m, data.modalities)
        student = build(backbone, data, trainer.seed, **options)
        _check_new(student, m, built)
        objective = Objective(student, l2=l2, view=m)
        if isinstance(student, AdaptedBackbone) and (trainer.optimizer is not None or trainer.scheduler is not None):
            # The groups of an optimizer are part of the key, and only a pass of the module shows them.
            objective.prepare(*unpack(data, device_of(student), dtype_of(student)))
        key = _key(objective, trainer, data)
        path = folder / f"{key}.pt"
        run = copy.copy(trainer)
        run.checkpoint_dir = None if checkpoints is None else checkpoints / key
        before = _stamp(path)
        teacher = _read(path, m, data) if use_cache else None
        if teacher is None:
            if use_cache:
                _claim(folder)
            with held(folder / key, f"teacher {m!r}") if use_cache else nullcontext():
                if use_cache and _stamp(path) != before:  # Another process has made it meanwhile.
                    teacher = _read(path, m, data)
                if teacher is None:
                    _drop_damaged(run.checkpoint_dir, m)
                    teacher = _trained(run, objective, data, m)
                    if use_cache:
                        _write(path, teacher)
        _discard(run.checkpoint_dir)
        teachers[m] = teacher
    return Teachers(teachers, training_digest(data))


def _trained(trainer: Trainer, objective: Objective, data: HeteroData, modality: str) -> Teacher:
    history = trainer.fit(objective, data)
    base = moving_columns(embed(objective, data, [EMPTY])[0])
    return Teacher(embed(objective, data, [modality])[0].detach(), history, base)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what differs when a file has been replaced; :obj:`None` if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _one_per_process(
    processes: Processes,
    backbone: Callable[..., nn.Module],
    data: HeteroData,
    trainer: Trainer,
    modalities: Sequence[str] | None,
    *arguments: Any,
    **options: Any,
) -> Teachers:
    names = tuple(data.modalities) if modalities is None else as_names(modalities, "modalities")
    own = copy.copy(trainer)
    own.devices, own.num_nodes, own.strategy = "auto", 1, "auto"
    own.progress = trainer.progress and processes.first
    with processes.together(), apart():
        mine = train_teachers(backbone, data, own, names[processes.rank :: processes.size], *arguments, **options)
    found = {m: teacher for part in processes.gather(_as_dict(mine)) for m, teacher in part.items()}
    return Teachers({m: found[m] for m in names}, mine.trained_on)


def _as_dict(teachers: Teachers) -> dict[str, Teacher]:
    return {m: Teacher(tables, teachers.histories[m], teachers.bases.get(m)) for m, tables in teachers.items()}


def build(backbone: Callable[..., nn.Module], data: HeteroData, seed: int, **options: Any) -> Any:
    """Build a backbone with seeded initial weights.

    Args:
        backbone: A backbone class, or a function of ``data``.
        data: The graph.
        seed: Seed of the initial weights.
        **options: Further arguments of the backbone.

    Raises:
        InputError: If ``backbone`` is a module that is built already, or cannot be called with these arguments.
    """
    expected = "a backbone class or a function of the data that returns a module"
    if isinstance(backbone, nn.Module):
        name = type(backbone).__name__
        mend = f"{name}, with its options beside it, or lambda data: {name}.from_data(data, ...)"
        raise InputError(f"backbone: found a {name} that is built already, expected {expected}; give {mend}")
    make = getattr(backbone, "from_data", backbone)
    if not callable(make):
        raise InputError(f"backbone: found {shown(backbone)}, expected {expected}, such as VBPR")
    try:
        signature: inspect.Signature | str = inspect.signature(make)
    except ValueError:  # Of what is code in C.
        signature = ""
    try:
        if isinstance(signature, inspect.Signature):
            signature.bind(data, **options)
    except TypeError as error:
        name = getattr(backbone, "__name__", type(backbone).__name__)
        call = ", ".join(["data", *(f"{option}=..." for option in options)])
        raise InputError(
            f"backbone: found {name}{signature}, which cannot be called as {name}({call}) ({error}), expected "
            f"{expected}; let it take these arguments"
        ) from None
    with seeded(seed):
        return as_backbone(make(data, **options), data)


def _check_new(student: Any, modality: str, built: dict[str, weakref.ref[nn.Module]]) -> None:
    """Refuse a module that another teacher has been trained in, and note this one."""
    model = own_module(student)
    for other, reference in built.items():
        if reference() is model:
            raise InputError(
                f"backbone: found one {type(model).__name__} for the teachers {other!r} and {modality!r}, expected a "
                "new module whenever it is called; build the module inside of the function"
            )
    built[modality] = weakref.ref(model)


def _key(objective: Objective, trainer: Trainer, data: HeteroData) -> str:
    """Return a hash of all that decides about a teacher: data, settings, architecture and initial weights."""
    digest: Any = hashlib.sha256()
    settings = {**objective.settings(), **trainer.settings(objective), **trainer.budget()}
    settings["format"] = KEY_FORMAT
    settings["code"] = code_of(objective.student, *_parts(trainer))
    if trainer.callbacks:  # They can end a training.
        settings["callbacks"] = described(trainer.callbacks)
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{fingerprint(data)}{objective.student!r}{_attributes(objective.student)}".encode())
    own = attributes_of(own_module(objective.student), whole=True)
    if own:
        digest.update(json.dumps(own, sort_keys=True).encode())
    for name, value in objective.state_dict().items():
        digest.update(name.encode())
        digest.update(code.bytes_of(value))
    return digest.hexdigest()[:32]


def code_of(module: nn.Module, *more: Any) -> str:
    """Return a hash of the code of a module's and its submodules' classes and hooks, without weights and attributes.

    Args:
        module: The module.
        *more: Further functions, classes and objects that count with it.
    """
    classes = {type(part) for part in module.modules()}
    own = sorted(classes, key=lambda cls: (cls.__module__, cls.__qualname__))
    return code.code_of(*own, *code.hooks_of(module), *more)


def _parts(trainer: Trainer) -> list[Any]:
    """Return what a trainer was given to call: metrics, samplers, optimizers, and the classes of its callbacks."""
    return [*classes_of(trainer.callbacks), *(value for value in vars(trainer).values() if callable(value))]


def _claim(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        reason = "" if os.access(folder, os.W_OK) else "no permission"
    except OSError as error:
        reason = str(error.strerror)
    if reason:
        raise InputError(
            f"teacher cache {folder}: cannot be written to ({reason}); choose another cache_dir, or use_cache=False"
        )


def _read(path: Path, modality: str, data: HeteroData) -> Teacher | None:
    """Return a teacher from the cache, or :obj:`None` if it is not there or damaged."""
    if not path.exists():
        return None
    try:
        content = load_checkpoint(path, "teacher")
        more = {name: content[name] for name in RECORD if name in content}
        history = History(content["rows"], content["seconds"], content["best_epoch"], content["best_value"], **more)
        embeddings = Embeddings(content["user"], content["item"])
        base = Embeddings(*(content[name] for name in BASE)) if BASE[0] in content else None  # Not of before.
        sizes = tuple(table.size(0) for table in embeddings)
    except InputError as error:
        reason = str(error)
    except (KeyError, AttributeError) as error:
        reason = f"checkpoint {path}: lacks {error}; it is damaged"
    else:
        expected = data["user"].num_nodes, data["item"].num_nodes
        if sizes == expected:
            return Teacher(embeddings, history, base)
        reason = f"checkpoint {path}: found {sizes} users and items, expected {expected}; it is damaged"
    _warn(modality, reason)
    return None


def _drop_damaged(folder: Path | None, modality: str) -> None:
    """Remove the checkpoint of a training that was broken off if it cannot be gone on from."""
    path = None if folder is None else folder / CHECKPOINT_NAME
    if path is None or not path.exists():
        return
    try:
        load_checkpoint(path, "run")
    except InputError as error:
        _warn(modality, str(error))
        path.unlink(missing_ok=True)


def _discard(folder: Path | None) -> None:
    """Remove the checkpoint of a finished teacher, and its folder if nothing else is there."""
    if folder is not None:
        with suppress(OSError):  # The folder may be gone, or hold the files of another process.
            remove_checkpoint(folder)
            folder.rmdir()


def _warn(modality: str, reason: str) -> None:
    warnings.warn(f"teacher {modality!r} is trained again: {reason}", stacklevel=4)


def _write(path: Path, teacher: Teacher) -> None:
    history, (user, item) = teacher.history, teacher.embeddings
    names = ("rows", "seconds", "best_epoch", "best_value", *RECORD)
    content = {"kind": "teacher", "user": user, "item": item, **{name: getattr(history, name) for name in names}}
    if teacher.base is not None:
        content |= dict(zip(BASE, teacher.base, strict=True))
    remove_leftovers(path)
    with writing(path, "teacher"):
        save_checkpoint(path, content)


def _attributes(model: nn.Module) -> list[tuple[str, str, str]]:
    """Return the plain public attributes of a module and its parts, which an adapted module need not show otherwise."""
    plain = (bool, int, float, str, type(None), tuple, list)
    return [
        (path, name, repr(value))
        for path, module in model.named_modules()
        for name, value in sorted(vars(module).items())
        if isinstance(value, plain) and not name.startswith("_") and name != "training"
    ]
