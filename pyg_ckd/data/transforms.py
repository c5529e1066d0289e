"""Feature transforms.

Statistics come from the items that have the modality (``has_<m>``); the others receive the mean of the result, which is
the intervention do(X_m = mean), before :mod:`pyg_ckd.data.impute` is applied. Features of other types than float32 and
float64, such as integers, are transformed in float32; of what :func:`~pyg_ckd.data.build_data` is given, see
:mod:`pyg_ckd.data.precision`.
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from pyg_ckd.arguments import as_integer, as_names, as_seed
from pyg_ckd.data import prepared
from pyg_ckd.data.arrays import as_floats
from pyg_ckd.data.columns import COLUMN_LABELS, check_labels, labels_of, places
from pyg_ckd.data.impute import impute_mean
from pyg_ckd.data.inputs import check_features, check_graph, check_kind
from pyg_ckd.data.mapped import file_of, row_blocks
from pyg_ckd.data.precision import ROUNDING
from pyg_ckd.errors import InputError, unknown_name

SINGLE = 4 * torch.finfo(torch.float32).eps
"""Deviation of a column of single precision, as a share of its largest number, that is rounding."""
_BLOCK_FLOATS = 2**25  # Values held at once in double precision: 256 MiB.


class FeatureTransform(BaseTransform):
    r"""Base class of transforms of one feature matrix at a time.

    Args:
        modalities: The modalities to transform, a list of names or one. (default: :obj:`None`, all of
            ``data.modalities``)
    """

    def __init__(self, modalities: Sequence[str] | None = None) -> None:
        self.modalities = None if modalities is None else list(as_names(modalities, "modalities"))

    @abstractmethod
    def transform_rows(self, x: Tensor) -> Tensor:
        r"""Return the new features ``[N, d']`` for the rows ``x`` ``[N, d]`` of the items that have the modality."""

    def forward(self, data: HeteroData) -> HeteroData:
        """Transform a shallow copy of ``data``; the matrices of the given graph stay as they are.

        Raises:
            InputError: If a modality is not one of ``data.modalities``.
        """
        check_kind(data)
        item = data["item"]
        names = [self.modalities] if isinstance(self.modalities, str) else self.modalities
        for m in data.modalities if names is None else names:
            if m not in data.modalities:
                raise unknown_name("modality", m, data.modalities)
            check_features(data, [m])
            has = item.get(f"has_{m}")
            record = prepared.current(data, m) or prepared.begin(item[m], has, False)
            item[m], fitted = self._transform(item[m], has)
            step = prepared.step_of(self, fitted)
            mean = {"name": "MeanImputation"}
            steps = [*record["steps"], step]
            prepared.keep(data, m, None if step is None else {**record, "steps": steps, "imputation": mean})
        return data

    def _transform(self, x: Tensor, has: Tensor | None) -> tuple[Tensor, dict[str, Tensor]]:
        x = as_floats(x)
        if has is None:
            return self._learn(x)
        rows, fitted = self._learn(x[has])
        return _whole(rows, has), fitted

    def _learn(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        return self.transform_rows(x), {}


class FittedTransform(FeatureTransform):
    r"""Base class of transforms that learn from the rows of a graph and can be applied to other rows."""

    @abstractmethod
    def fit_rows(self, x: Tensor) -> dict[str, Tensor]:
        r"""Return what is learnt from the rows ``x`` ``[N, d]``."""

    @abstractmethod
    def apply_rows(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        r"""Return the new features ``[n, d']`` of any rows ``x`` ``[n, d]``."""

    def transform_rows(self, x: Tensor) -> Tensor:
        """Fit on and transform the rows ``x`` ``[N, d]``."""
        return self._learn(as_floats(x))[0]

    def _learn(self, x: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        fitted = self.fit_rows(x)
        return self.apply_rows(x, fitted), fitted


class StandardizeFeatures(FittedTransform):
    r"""Standardize each column of a modality, and scale its rows to a norm of about one.

    .. math::
        x'_{ic} = \frac{x_{ic} - \mu_c}{\sigma_c \sqrt{d_m}}

    Constant columns become zero: those that vary by no more than rounding, in single precision where float32 holds all
    of their numbers. Applying it twice changes nothing.

    Args:
        modalities: The modalities to transform. (default: :obj:`None`, all)
        scale: If set to :obj:`False`, leave out the factor :math:`1/\sqrt{d_m}`. (default: :obj:`True`)
    """

    def __init__(self, modalities: Sequence[str] | None = None, scale: bool = True) -> None:
        super().__init__(modalities)
        self.scale = bool(scale)

    def fit_rows(self, x: Tensor) -> dict[str, Tensor]:
        """Return mean and factor of each column ``[d]``, in float64."""
        if file_of(x) is not None:
            return self.fit_blocks(lambda: (block for _, block in row_blocks(x)), x.size(1))
        mean, factors = x.new_empty(x.size(1), dtype=torch.float64), x.new_empty(x.size(1), dtype=torch.float64)
        for columns in _blocks(x):
            wide = x[:, columns].double()
            largest = wide.abs().amax(dim=0)
            mean[columns] = wide.mean(dim=0)
            deviation = (wide - mean[columns]).square().mean(dim=0).sqrt()
            single = (wide.float() == wide).all(dim=0) if x.dtype == torch.float64 else torch.tensor(True)
            resolution = torch.where(single.to(x.device), SINGLE, ROUNDING)
            factors[columns] = self._factor(deviation, largest, x.size(1), resolution)
        return {"mean": mean, "factor": factors}

    def fit_blocks(self, blocks: Callable[[], Iterator[Tensor]], width: int) -> dict[str, Tensor]:
        """Return what :meth:`fit_rows` does, up to rounding in float64, from blocks of rows that are read twice.

        Args:
            blocks: Returns an iterator over blocks ``[n, d]`` of all rows, the same at every call.
            width: Number of columns ``d``.
        """
        count, largest = 0, torch.zeros(width, dtype=torch.float64)
        mean, square = torch.zeros_like(largest), torch.zeros_like(largest)
        for block in blocks():
            count += block.size(0)
            if block.size(0):
                mean += block.sum(dim=0, dtype=torch.float64)
                largest = torch.maximum(largest, block.abs().amax(dim=0).double())
        mean /= max(count, 1)
        for block in blocks():
            square += (block.double() - mean).square_().sum(dim=0)
        return {"mean": mean, "factor": self._factor((square / max(count, 1)).sqrt(), largest, width, SINGLE)}

    def _factor(self, deviation: Tensor, largest: Tensor, width: int, resolution: Tensor | float) -> Tensor:
        # A column whose spread is below the resolution of its own values is constant up to rounding.
        constant = deviation <= resolution * largest
        factor = torch.where(constant, 0.0, 1 / deviation.clamp(min=torch.finfo(torch.float64).tiny))
        return factor / width**0.5 if self.scale else factor

    def apply_rows(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """Standardize the rows ``x`` ``[n, d]``."""
        mean, factor, out = fitted["mean"].to(x.device), fitted["factor"].to(x.device), torch.empty_like(x)
        for columns in _blocks(x):
            out[:, columns] = (x[:, columns].double() - mean[columns]) * factor[columns]
        return out

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(modalities={self.modalities}, scale={self.scale})"


class HalfFeatures(FittedTransform):
    r"""Round features to half precision (float16: 11 bits, numbers up to 65,504), in half the memory of float32.

    It is meant for features in files, whose rows are cast when they are read, see
    :func:`pyg_ckd.datasets.write_folder`; in memory, models convert the whole matrix.

    Args:
        modalities: The modalities to transform. (default: :obj:`None`, all)
    """

    def fit_rows(self, x: Tensor) -> dict[str, Tensor]:
        """Return nothing, as there is nothing to learn."""
        return {}

    def apply_rows(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """Round the rows ``x`` ``[n, d]``."""
        return x.half()


class L2NormalizeFeatures(FittedTransform):
    r"""Give each row the Euclidean norm one; rows of zeros stay zero.

    Args:
        modalities: The modalities to transform. (default: :obj:`None`, all)
    """

    def fit_rows(self, x: Tensor) -> dict[str, Tensor]:
        """Return nothing, as there is nothing to learn."""
        return {}

    def apply_rows(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """Normalise the rows ``x`` ``[n, d]``; norms are taken in float64."""
        out = torch.empty_like(x)
        rows = max(1, _BLOCK_FLOATS // x.size(1))
        for source, target in zip(x.split(rows), out.split(rows), strict=True):
            wide = source.double()
            norm = wide.norm(dim=1, keepdim=True)
            target.copy_(wide / norm.clamp(min=torch.finfo(torch.float64).tiny))
        return out


class PCAFeatures(FittedTransform):
    r"""Project each modality onto its principal components with :class:`sklearn.decomposition.PCA`.

    A modality with fewer columns (or fewer items that have it) than ``num_components`` keeps as many as there are.

    Args:
        num_components: The largest number of columns to keep. (default: :obj:`64`)
        whiten: If set to :obj:`True`, give every component unit variance. (default: :obj:`False`)
        seed: Seeds the randomised solver, used for large matrices. (default: :obj:`0`)
        modalities: The modalities to transform. (default: :obj:`None`, all)

    Raises:
        InputError: If ``num_components`` is not positive.
    """

    def __init__(
        self,
        num_components: int = 64,
        whiten: bool = False,
        seed: int = 0,
        modalities: Sequence[str] | None = None,
    ) -> None:
        super().__init__(modalities)
        expected = "a positive number of columns to keep"
        num_components, seed = as_integer(num_components, "num_components"), as_seed(seed)
        if num_components < 1:
            raise InputError(f"num_components is {num_components}, expected {expected}")
        self.num_components = num_components
        self.whiten = bool(whiten)
        self.seed = as_integer(seed, "seed")

    def fit_rows(self, x: Tensor) -> dict[str, Tensor]:
        """Return the mean ``[d]`` and the components ``[d', d]``, in float64; without variance, a component is zero."""
        from sklearn.decomposition import PCA

        components = min(self.num_components, x.size(0), x.size(1))
        pca = PCA(components, whiten=self.whiten, random_state=self.seed)
        with np.errstate(divide="ignore", invalid="ignore"):  # Shares of a variance of zero, which are not used.
            pca.fit(x.double().cpu().numpy())
        variance = np.asarray(pca.explained_variance_)
        some = variance > 1e-12 * variance.max(initial=0)
        scale = np.divide(1, np.sqrt(variance), out=np.zeros_like(variance), where=some) if self.whiten else 1.0 * some
        weight = scale[:, None] * pca.components_
        return {"mean": torch.from_numpy(pca.mean_), "components": torch.from_numpy(weight)}

    def apply_rows(self, x: Tensor, fitted: Mapping[str, Tensor]) -> Tensor:
        """Project the rows ``x`` ``[n, d]``."""
        mean, components = fitted["mean"].to(x.device), fitted["components"].to(x.device)
        return ((x.double() - mean) @ components.t()).to(x.dtype)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.num_components}, whiten={self.whiten}, modalities={self.modalities})"


class RecordedTransform(FeatureTransform):
    r"""Apply the transforms of an earlier graph, with its means, deviations and components.

    Use it for a new graph on which an earlier model is trained further: its features then have the same meaning as
    before.

    Columns of frames that have the names of the earlier ones in another order are brought to the earlier order.

    Args:
        earlier: The earlier graph, or its ``data.prepared``.
        new: Name or callable of the transform of modalities that the earlier graph lacks, see
            :func:`feature_transform`. (default: :obj:`"standardize"`)

    Raises:
        InputError: If ``earlier`` is neither, or no transform is called ``new``; and when it is applied, if the earlier
            graph does not know how a modality was prepared, or columns have other names than there.
    """

    def __init__(
        self,
        earlier: HeteroData | Mapping[str, Any],
        new: str | Callable[[HeteroData], HeteroData] | None = "standardize",
    ) -> None:
        super().__init__()
        if not isinstance(earlier, (HeteroData, Mapping)):
            check_graph(earlier)
        self.records = dict(getattr(earlier, prepared.KEY, None) or {}) if isinstance(earlier, HeteroData) else earlier
        self.known = {*self.records, *(getattr(earlier, "modalities", ()) if isinstance(earlier, HeteroData) else ())}
        self.new = feature_transform(new)

    def transform_rows(self, x: Tensor) -> Tensor:
        """Return the rows as they are: what is done depends on the modality."""
        return x

    def forward(self, data: HeteroData) -> HeteroData:
        """Transform a shallow copy of ``data``."""
        check_kind(data)
        item = data["item"]
        check_features(data, data.modalities)
        if self.known.isdisjoint(data.modalities):
            raise InputError(
                f"RecordedTransform: the earlier graph does not know how any of the modalities "
                f"{', '.join(data.modalities)} was prepared, only {', '.join(sorted(self.known)) or 'none'}, expected "
                "one of build_data with transforms of pyg_ckd.data and a modality of that name"
            )
        for m in (m for m in data.modalities if m in self.known):
            record, has, x = self.records.get(m), item.get(f"has_{m}"), item[m]
            if record is None or record["bits"] is None:
                raise InputError(
                    f"modality {m!r}: the earlier graph does not know how its features were prepared, expected one of "
                    "build_data with transforms of pyg_ckd.data"
                )
            if x.size(1) != record["dim"]:
                raise InputError(
                    f"modality {m!r}: found features of width {x.size(1)}, expected {record['dim']} as in the earlier "
                    "graph"
                )
            now = prepared.current(data, m) or prepared.begin(x, has, False)
            check_labels(labels_of(now), labels_of(record), f"modality {m!r}")
            order = places(labels_of(now), labels_of(record))
            if order is not None:
                if now["steps"]:
                    raise InputError(
                        f"modality {m!r}: found features that were transformed with columns in another order than in "
                        "the earlier graph, expected those that were read; apply RecordedTransform alone"
                    )
                x = x[:, order]
                now = {**prepared.begin(x, has, False), COLUMN_LABELS: record[COLUMN_LABELS]}
            item[m] = _whole(prepare_rows(x if has is None else x[has], record), has)
            # What was learnt depends on the earlier graph, which a fingerprint must tell apart.
            steps = [*now["steps"], *({"from": record["read"], **step} for step in record["steps"])]
            prepared.keep(data, m, {**now, "steps": steps, "imputation": {"name": "MeanImputation"}})
        return self._with_new(data, [m for m in data.modalities if m not in self.known])

    def _with_new(self, data: HeteroData, modalities: list[str]) -> HeteroData:
        """Transform, in place, the modalities that the earlier graph lacks, and keep the records of that."""
        if not modalities:
            return data
        part = copy.copy(data)
        part.modalities = modalities
        part = self.new(part)
        for m in modalities:
            data["item"][m] = part["item"][m]
            record = (getattr(part, prepared.KEY, None) or {}).get(m)
            setattr(data, prepared.KEY, {**(getattr(data, prepared.KEY, None) or {}), m: record})
        return data


def prepare_rows(x: Tensor, record: Mapping[str, Any]) -> Tensor:
    """Apply the transforms of a graph to features of other items.

    Args:
        x: Features as they were read, ``[n, d]``; what is given in double precision is returned in it.
        record: What was done to the features of the graph, see :mod:`pyg_ckd.data.prepared`.

    Raises:
        InputError: If a transform is unknown.
    """
    known = {cls.__name__: cls for cls in (StandardizeFeatures, L2NormalizeFeatures, PCAFeatures, HalfFeatures)}
    for step in record["steps"]:
        if step["name"] not in known:
            raise unknown_name("transform", step["name"], known)
        x = known[step["name"]](**step.get("settings", {})).apply_rows(as_floats(x), step["fitted"])
    return x


def _whole(rows: Tensor, has: Tensor | None) -> Tensor:
    """Return a row for every item, the mean where an item lacks the modality."""
    if has is None:
        return rows
    out = rows.new_zeros(has.numel(), rows.size(1))
    out[has] = rows
    return impute_mean(out, has)


def _blocks(x: Tensor) -> list[slice]:
    width = max(1, _BLOCK_FLOATS // max(x.size(0), 1))
    return [slice(start, start + width) for start in range(0, x.size(1), width)]


_TRANSFORMS: dict[str, Callable[[], Callable[[HeteroData], HeteroData]]] = {
    "standardize": StandardizeFeatures,
    "l2": L2NormalizeFeatures,
    "pca": lambda: Compose([StandardizeFeatures(), PCAFeatures()]),
    "none": lambda: Compose([]),
}


def feature_transform(name: str | Callable[[HeteroData], HeteroData] | None) -> Callable[[HeteroData], HeteroData]:
    r"""Return a feature transform by its name.

    Args:
        name: ``"standardize"`` (:class:`StandardizeFeatures`), ``"l2"`` (:class:`L2NormalizeFeatures`), ``"pca"``
            (standardized, then 64 principal components), ``"none"`` or :obj:`None` (features as given). A callable
            is returned as it is.

    Raises:
        InputError: If no transform has that name.
    """
    if callable(name):
        return name
    key: Any = "none" if name is None else name
    if not isinstance(key, str) or key not in _TRANSFORMS:
        raise unknown_name("transform", name, _TRANSFORMS)
    return _TRANSFORMS[key]()
