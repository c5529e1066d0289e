"""A trained model as a program that runs without this package: :mod:`torch.export` and ONNX."""

from __future__ import annotations

import copy
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch_geometric.data import HeteroData

from pyg_ckd import __version__
from pyg_ckd.data.inputs import RATES, as_tables, check_graph, initialise_lazy, unpack
from pyg_ckd.data.modules import check_forward, dtype_of, module_views
from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, atomic_path
from pyg_ckd.scoring.views import as_views
from pyg_ckd.serving.export import check_format, writing
from pyg_ckd.wrappers import unwrap

FORMATS = (".onnx", ".pt2")
EDGES = "edge_index"
TALKATIVE = ("torch.onnx", "torch.fx.experimental.symbolic_shapes", "torch.export", "onnxscript", "onnx_ir")
LIMIT = 2**31
"""Bytes that an ONNX file can hold."""


class EmbeddingProgram(nn.Module):
    r"""The embeddings of a trained model as a function of features and interactions, for compilers.

    The number of interactions may differ from call to call. Graphs between items or between users, such as nearest
    neighbours by content, are those of ``data`` and stay what they are; the weights that a model computes from features
    on their edges are computed anew. Nothing in it looks at values while it is recorded, so that what is wrong with an
    input is found by whoever makes it: ids of rows must exist and features be finite.

    Args:
        model: A backbone, an objective, or a module with ``forward(x_dict, edge_index) -> (user, item)``. It is copied
            to the CPU and stays as it is.
        data: The graph that the model was trained on.
        view: The modalities that stay factual. (default: :obj:`None`, all)

    Raises:
        InputError: If it is no such model, ``data`` is no graph, or the two do not fit.

    Example:
        >>> program = EmbeddingProgram(model, data)
        >>> user, item = program(*program.inputs)
        >>> recorded = torch.export.export(program, program.inputs, dynamic_shapes=program.dynamic_shapes)
    """

    def __init__(self, model: nn.Module, data: HeteroData, view: Any = None) -> None:
        super().__init__()
        check_graph(data)
        model = unwrap(model)
        if not isinstance(model, nn.Module):
            as_tables(model, data)  # Says what a model is, if it is none at all.
            raise InputError(f"model: found {type(model).__name__}, expected a model: tables are no function of inputs")
        if not hasattr(model, "forward_views"):
            check_forward(model)
        initialise_lazy(model, data)
        self.model = copy.deepcopy(model).cpu().eval().requires_grad_(False)
        self.view = next(iter(as_views([view], data.modalities)))
        self._sizes = (data["user"].num_nodes, data["item"].num_nodes)
        features, graph = unpack(data, "cpu", dtype_of(self.model))
        whole: Any = self.model
        backbone = whole
        while hasattr(backbone, "student"):
            _freeze(backbone)
            backbone = backbone.student
        self._graphs: Mapping[Any, Any] = {}
        if hasattr(backbone, "fixed_graphs"):
            with torch.no_grad():
                self._graphs = backbone.fixed_graphs(
                    features, graph, lambda graphs: whole.forward_views(features, graphs, [self.view])
                )
        self.inputs: tuple[dict[str, Tensor], Tensor] = (features, graph[RATES])

    @property
    def dynamic_shapes(self) -> tuple[dict[str, None], dict[int, Any]]:
        """Which sizes of the inputs may change, as :func:`torch.export.export` takes it: the number of interactions."""
        return dict.fromkeys(self.inputs[0]), {1: torch.export.Dim("num_interactions", min=2)}

    def forward(self, features: Mapping[str, Tensor], edge_index: Tensor) -> tuple[Tensor, Tensor]:
        """Return the embeddings of users ``[U, D]`` and of items ``[I, D]``.

        Args:
            features: From modality to features ``[I, d_m]``, transformed as those of the graph are.
            edge_index: Interactions (user row, item row), int64 ``[2, E]``, at least two.
        """
        if hasattr(self.model, "forward_views"):
            graphs = {**self._graphs, RATES: edge_index}
            out = cast(Any, self.model).forward_views(features, graphs, [self.view])[0]
        else:
            out = module_views(self.model, features, edge_index, [self.view], self._sizes)[0]
        return out.user, out.item


def record(model: nn.Module, data: HeteroData, view: Any = None) -> torch.export.ExportedProgram:
    """Record the embeddings of a model with :func:`torch.export.export`.

    Args:
        model: As in :class:`EmbeddingProgram`.
        data: As in :class:`EmbeddingProgram`.
        view: As in :class:`EmbeddingProgram`.

    Returns:
        The program, called as ``program.module()(features, edge_index)``.

    Raises:
        InputError: As :class:`EmbeddingProgram`, and if the model does what cannot be recorded, as a module of your own
            that looks at values.
    """
    program = EmbeddingProgram(model, data, view)
    try:
        with torch.no_grad(), _quiet():
            return torch.export.export(program, program.inputs, dynamic_shapes=program.dynamic_shapes)
    except InputError:
        raise
    except Exception as error:  # PyTorch has no common class for what it cannot record.
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise InputError(
            f"export: {type(unwrap(model)).__name__} cannot be recorded ({reason[:200]}); expected a forward pass that "
            "looks at no value of a tensor; Recommender.export_embeddings writes the tables of any model"
        ) from error


def export_program(model: nn.Module, data: HeteroData, path: str | os.PathLike[str], view: Any = None) -> Path:
    """Write the embeddings of a model as a program: ``.onnx`` for ONNX, ``.pt2`` for :func:`torch.export.load`.

    The ONNX file has an input ``features/NAME`` for every modality, float ``[I, d_m]``, the input ``edge_index``, int64
    ``[2, num_interactions]``, and the outputs ``user`` and ``item``. Both files hold the number of users and items, the
    modalities and the versions as metadata. Rows are numbered as in ``data``.

    Args:
        model: As in :class:`EmbeddingProgram`.
        data: As in :class:`EmbeddingProgram`.
        path: The file; ONNX needs the extra ``onnx``.
        view: As in :class:`EmbeddingProgram`.

    Returns:
        The path.

    Raises:
        InputError: As :func:`record`, and if the ending is neither of the two, the file cannot be written, a package is
            missing, or a model for ONNX has more than 2 GiB.
    """
    path = check_program_path(path)
    program = record(model, data, view)
    about = {
        "pyg_ckd": __version__,
        "torch": torch.__version__,
        "model": type(unwrap(model)).__name__,
        "num_users": str(data["user"].num_nodes),
        "num_items": str(data["item"].num_nodes),
        "modalities": ",".join(data.modalities),
    }
    if path.suffix.lower() == ".pt2":
        content = io.BytesIO()  # A file that cannot be written whole would abort the process.
        torch.export.save(program, content, extra_files={"pyg_ckd.txt": "\n".join(map("=".join, about.items()))})
        with writing(path), atomic_path(path) as temporary:
            temporary.write_bytes(content.getbuffer())
        return path
    names = [*(f"features/{m}" for m in data.modalities), EDGES]
    with _quiet():
        recorded = torch.onnx.export(
            program, dynamo=True, verbose=False, input_names=names, output_names=["user", "item"]
        )
    assert recorded is not None  # There is always one with dynamo=True.
    size = sum(value.const_value.nbytes for value in recorded.model.graph.initializers.values() if value.const_value)
    if size >= LIMIT:
        raise InputError(
            f"out {path}: found {size / 2**30:.1f} GiB of weights, an ONNX file holds 2; write a .pt2 file"
        )
    edges = recorded.model.graph.inputs[-1]
    edges.shape = cast(Any, type(edges.shape))([2, "num_interactions"])  # Else a name that PyTorch has given.
    recorded.model.metadata_props.update(about)
    with writing(path), atomic_path(path) as temporary:
        recorded.save(temporary, external_data=False)
    return path


def _freeze(module: Any) -> None:
    """Take buffers for constants: strategies look at what they have learnt, as at a weight that is zero."""
    for name, buffer in list(module._buffers.items()):
        del module._buffers[name]
        setattr(module, name, buffer)


def check_program_path(path: str | os.PathLike[str]) -> Path:
    """Return the path of a program, if it can be written.

    Args:
        path: The file.

    Raises:
        InputError: If the ending is neither ``.onnx`` nor ``.pt2``, it is a folder, or packages for ONNX are missing.
    """
    path = check_format(as_path(path), FORMATS)
    if path.suffix.lower() != ".onnx":
        return path
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise InputError(
            f"out {path}: found no package {error.name}; install it with pip install 'pyg-ckd[onnx]', or write a .pt2 "
            "file"
        ) from None
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep back what PyTorch and ONNX say about themselves on the way."""
    loggers = [logging.getLogger(name) for name in TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
