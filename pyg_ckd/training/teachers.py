"""Uni-modal teachers: trained one by one, cached on disk by everything that decides about them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn
from torch_geometric import get_home_dir
from torch_geometric.data import HeteroData

from pyg_ckd.balance.base import Objective
from pyg_ckd.data.build import fingerprint
from pyg_ckd.data.embeddings import Embeddings
from pyg_ckd.errors import unknown_name
from pyg_ckd.evaluation.ranking import embed
from pyg_ckd.training.checkpoint import FORMAT, load_checkpoint, save_checkpoint, seeded
from pyg_ckd.training.history import History
from pyg_ckd.training.trainer import Trainer


@dataclass(frozen=True)
class Teacher:
    """A trained uni-modal teacher.

    Attributes:
        embeddings: Its frozen tables.
        history: The record of its training, with the best validation value.
    """

    embeddings: Embeddings
    history: History


class Teachers(dict[str, Embeddings]):
    """From modality to the frozen embeddings of its teacher, with the records of their training.

    Attributes:
        histories: From modality to the record of its teacher's training.
    """

    def __init__(self, teachers: dict[str, Teacher]) -> None:
        super().__init__({m: teacher.embeddings for m, teacher in teachers.items()})
        self.histories = {m: teacher.history for m, teacher in teachers.items()}


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

    A teacher that was trained before on the same data with the same settings is read from the cache.

    Args:
        backbone: A backbone class, or a function of ``data`` that returns a backbone.
        data: The graph.
        trainer: How to train; its seed also seeds the initial weights.
        modalities: Which teachers to train; all by default.
        l2: Weight of the backbone's penalty.
        cache_dir: Folder of the cache; by default ``pyg_ckd/teachers`` in PyG's home folder.
        use_cache: Whether to read and write the cache.
        **options: Further arguments of the backbone's constructor.

    Raises:
        InputError: If a modality is unknown or training fails.
    """
    trainer = trainer or Trainer()
    folder = Path(cache_dir) if cache_dir is not None else Path(get_home_dir()) / "pyg_ckd" / "teachers"
    names = list(data.modalities) if modalities is None else list(modalities)
    teachers = {}
    for m in names:
        if m not in data.modalities:
            raise unknown_name("modality", m, data.modalities)
        objective = Objective(build(backbone, data, trainer.seed, **options), l2=l2, view=m)
        path = folder / f"{_key(objective, trainer, data)}.pt"
        teacher = _read(path) if use_cache else None
        if teacher is None:
            history = trainer.fit(objective, data)
            teacher = Teacher(embed(objective, data, [m])[0].detach(), history)
            if use_cache:
                _write(path, teacher)
        teachers[m] = teacher
    return Teachers(teachers)


def build(backbone: Callable[..., nn.Module], data: HeteroData, seed: int, **options: Any) -> Any:
    """Build a backbone with seeded initial weights.

    Args:
        backbone: A backbone class, or a function of ``data``.
        data: The graph.
        seed: Seed of the initial weights.
        **options: Further arguments of the backbone.
    """
    with seeded(seed):
        return getattr(backbone, "from_data", backbone)(data, **options)


def _key(objective: Objective, trainer: Trainer, data: HeteroData) -> str:
    """Return a hash of all that decides about a teacher: data, settings, architecture and initial weights."""
    digest = hashlib.sha256()
    settings = {**objective.settings(), **trainer.settings(), "max_epochs": trainer.max_epochs, "format": FORMAT}
    digest.update(json.dumps(settings, sort_keys=True, default=str).encode())
    digest.update(f"{fingerprint(data)}{objective.student!r}".encode())
    for name, value in objective.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:32]


def _read(path: Path) -> Teacher | None:
    if not path.exists():
        return None
    content = load_checkpoint(path, "teacher")
    history = History(content["rows"], content["seconds"], content["best_epoch"], content["best_value"])
    return Teacher(Embeddings(content["user"], content["item"]), history)


def _write(path: Path, teacher: Teacher) -> None:
    history, (user, item) = teacher.history, teacher.embeddings
    content = {"kind": "teacher", "user": user, "item": item, "rows": history.rows, "seconds": history.seconds}
    save_checkpoint(path, content | {"best_epoch": history.best_epoch, "best_value": history.best_value})
