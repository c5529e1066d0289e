"""A PyG dataset of one graph, cached on disk without ever executing a pickle."""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch_geometric.data import HeteroData, InMemoryDataset

from pyg_ckd.code import code_of
from pyg_ckd.data.cut import keep_whole
from pyg_ckd.data.mapped import register
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path
from pyg_ckd.options import is_plain


class CachedGraph(InMemoryDataset):
    r"""Base class of datasets that make one graph and keep it in ``root/processed``.

    PyG's own caching falls back to full unpickling and compares transforms with a warning; here the file is read with
    ``weights_only=True``, replaced atomically, and named after everything that it depends on.

    Args:
        make: Makes the graph.
        key: The arguments that the graph depends on; their hash is part of the file name.
        source: What the graph is read from and its state, as texts. Once a graph is kept, those of the same source in
            other states are removed. Where another process still reads one, it lives on in its memory. (default:
            :obj:`None`, nothing is removed)
        root: The folder for the cached file. (default: :obj:`None`, nothing is written)
        transform: Applied to the graph at every access. (default: :obj:`None`)
        pre_transform: Applied to the graph before it is cached. (default: :obj:`None`)
        force_reload: If set to :obj:`True`, rebuild the graph. (default: :obj:`False`)

    Raises:
        InputError: If a transform is no function, or gives the graph something other than tensors and plain values of
            Python, the cached file cannot be read or written, or ``root`` is a file.
    """

    def __init__(
        self,
        make: Callable[[], HeteroData],
        key: Mapping[str, Any],
        root: str | os.PathLike[str] | None = None,
        transform: Callable[[HeteroData], Any] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
        source: tuple[str, str] | None = None,
    ) -> None:
        check_functions(transform=transform, pre_transform=pre_transform)
        super().__init__(
            None if root is None else str(as_path(root)), transform, pre_transform, force_reload=force_reload
        )
        file = None if root is None else self._file(dict(key), source)
        if file is not None:
            _check_root(as_path(str(root)))
        data = None if file is None or force_reload else _read_if_there(file)
        if data is None:
            data = make() if pre_transform is None else pre_transform(make())
            if file is not None:
                _write(data, file)
                if source is not None:
                    _remove_earlier(file)
        self.data, self.slices = self.collate([data])

    def _file(self, key: dict[str, Any], source: tuple[str, str] | None) -> Path:
        before = self.pre_transform
        text = repr((_named(key), None if before is None else repr(_named(before))))
        parts = [_short(one, 12) for one in source or ()]
        return Path(self.processed_dir) / "-".join([type(self).__name__.lower(), *parts, f"{_short(text, 16)}.pt"])


def _short(text: str, size: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:size]


def _read_if_there(file: Path) -> HeteroData | None:
    """Return a cached graph, or nothing if there is none, as when another process has just removed it."""
    try:
        return _read(file) if file.exists() else None
    except InputError:
        if file.exists():
            raise
        return None


def _remove_earlier(file: Path) -> None:
    """Remove the graphs of the same source in other states; what cannot be removed stays."""
    name, source, state, _ = file.stem.rsplit("-", 3)
    for other in file.parent.glob(f"{name}-{source}-*-*.pt"):
        if other.stem.rsplit("-", 3)[2] != state:
            with suppress(OSError):
                other.unlink()


def check_functions(**transforms: Any) -> None:
    """Refuse transforms of a dataset that are no functions, such as the name of a feature transform.

    Args:
        **transforms: By argument what is applied to the graph, or :obj:`None`.

    Raises:
        InputError: If one is neither.
    """
    for name, transform in transforms.items():
        if transform is not None and not callable(transform):
            mend = f"; the feature transform is features={transform!r}" if isinstance(transform, str) else ""
            raise InputError(f"{name}: found {transform!r}, expected a function{mend}")


def _named(value: Any) -> Any:
    """Return arguments as values that print alike in every process: functions and objects as a hash of their code."""
    if isinstance(value, Mapping):
        return {name: _named(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_named, value))
    return value if isinstance(value, np.generic) or is_plain(value) else code_of(value)


def _check_root(root: Path) -> None:
    """Refuse a file where a folder is needed, before the work that fills it."""
    first = next((place for place in (root, *root.parents) if place.exists()), root)
    if first.exists() and not first.is_dir():
        raise InputError(f"root: {first} is a file, expected a folder for the processed graph; choose another one")


def _write(data: HeteroData, file: Path) -> None:
    try:
        with atomic_path(file) as temporary:
            try:
                torch.save(data.to_dict(), temporary)
                torch.load(temporary, weights_only=True, mmap=True)
            except (pickle.PickleError, AttributeError, TypeError):
                raise _unreadable(data, file) from None
    except OSError as error:
        raise InputError(
            f"{file}: cannot be written ({error.strerror or error}), nothing half-written stays; make room "
            f"or choose another root"
        ) from None


def _unreadable(data: HeteroData, file: Path) -> InputError:
    """Return the error for a graph with values that only a pickle could hold, with the name of the first of them."""
    values = ((store, name, value) for store in data.stores for name, value in store.items())
    store, name, value = next((one for one in values if not _is_readable(one[2])), (data.stores[0], "...", data))
    place = "data" if store._key is None else f"data[{store._key!r}]"
    return InputError(
        f"{file}: {place}.{name} holds a value of the type {type(value).__name__}, which could not be read again, "
        "expected tensors, numbers and texts of Python, or lists and dicts of them; let pre_transform (or another "
        "transform of the data set) convert it, as int(...) or torch.as_tensor(...) do"
    )


def _is_readable(value: Any) -> bool:
    """Return whether a value can be written, and read without executing a pickle."""
    content = BytesIO()
    try:
        torch.save(value, content)
        content.seek(0)
        torch.load(content, weights_only=True)
    except (pickle.PickleError, AttributeError, TypeError):
        return False
    return True


def _read(file: Path) -> HeteroData:
    if not zipfile.is_zipfile(file):  # Nothing but a zip file was written by this torch.save.
        raise InputError(f"{file}: not a cached graph (no archive, or cut short); delete it or pass force_reload=True")
    try:
        data = keep_whole(HeteroData.from_dict(torch.load(file, weights_only=True, mmap=True)))
        for m in data.modalities:
            register(data["item"][m], file)
        return data
    except Exception as error:  # The restricted unpickler fails in many ways on bytes that are no graph.
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise InputError(f"{file}: not a cached graph ({reason}); delete it or pass force_reload=True") from None
