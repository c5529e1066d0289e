"""The data set of a file or folder, processed once and opened in no time from then on."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch_geometric.data import HeteroData

from pyg_ckd.datasets.cached import CachedGraph
from pyg_ckd.datasets.loading import load
from pyg_ckd.datasets.npz import Transform
from pyg_ckd.datasets.parts import find_part
from pyg_ckd.files import as_path


class MultimodalFolder(CachedGraph):
    r"""The graph of a file or folder in any format of :func:`recognise`, as a PyG dataset of length one.

    With ``root``, reading, checking and transforming happen once. The graph is kept in ``root/processed``, and is
    memory-mapped when it is opened: that takes a fraction of a second whatever its size. It is made anew when other
    options are asked for, or when a file of the source has another size or time of change or was replaced; so are
    folders that the source links to, and features above ``<k>-core``. Graphs of other sizes or times of change are then
    removed. So machines that have copies of a source under one path, each from another time, need a root each.

    Args:
        path: The file or folder.
        root: The folder for the processed graph. (default: :obj:`None`, nothing is written)
        features: The feature transform, see :func:`pyg_ckd.data.feature_transform`. (default: :obj:`"standardize"`)
        transform: Applied to the graph at every access. (default: :obj:`None`)
        pre_transform: Applied to the graph before it is kept. (default: :obj:`None`)
        force_reload: If set to :obj:`True`, make the graph anew. (default: :obj:`False`)
        **options: Further arguments of the reader of the format, *e.g.*, ``split`` of :func:`read_folder`.

    Raises:
        InputError: As :func:`load`, or if a transform is no function or the processed file cannot be read.

    Example:
        >>> data = MultimodalFolder("my_data", root="processed", split="leave-one-out")[0]  # doctest: +SKIP
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        root: str | os.PathLike[str] | None = None,
        features: Transform = "standardize",
        transform: Callable[[HeteroData], Any] | None = None,
        pre_transform: Callable[[HeteroData], HeteroData] | None = None,
        force_reload: bool = False,
        **options: Any,
    ) -> None:
        path, root = as_path(path), None if root is None else as_path(root)
        key: dict[str, Any] = {"path": str(path), "options": sorted(options.items())}
        key["features"] = repr(features) if isinstance(features, str) else features
        stamps = [] if root is None else _stamps(path, root.absolute())
        key["files"] = stamps
        # Copies that differ in nothing but their place on the disk are one state.
        source = str(path.absolute()), repr([stamp[:3] for stamp in stamps])
        super().__init__(
            lambda: load(path, transform=features, **options), key, root, transform, pre_transform, force_reload, source
        )


def _stamps(path: Path, root: Path) -> list[tuple[str, int, int, int, int]]:
    """Return what identifies every file of a source, those of the data set itself left out.

    Name, size and time of change; and, for a file that was replaced by one that has the same, its number in the file
    system and the time when that or anything else about it changed.
    """
    files = [path] if path.is_file() else sorted(_files_below(path))
    if path.is_dir() and find_part(path, "train", ".json") is not None:  # Features may lie above, see `read_lattice`.
        above = path.absolute().parent
        files += sorted(file for file in above.iterdir() if file.suffix.lower() == ".npy" and file.is_file())
    own = [file for file in files if root not in file.absolute().parents or root in path.absolute().parents]
    stats = [(file.name, file.stat()) for file in own]
    return [(name, stat.st_size, stat.st_mtime_ns, stat.st_ino, stat.st_ctime_ns) for name, stat in stats]


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of those in it, links to folders included, but no hidden ones."""
    seen: set[str] = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        real = os.path.realpath(place)
        folders[:] = [] if real in seen else [name for name in folders if not name.startswith(".")]
        if real not in seen:
            yield from (file for name in names if not name.startswith(".") and (file := Path(place, name)).is_file())
        seen.add(real)
