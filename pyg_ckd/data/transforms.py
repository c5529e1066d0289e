"""Feature transforms.

Statistics come from the items that have the modality (``has_<m>``); the others receive the mean of the outcome,
which is the intervention do(X_m = mean), before :mod:`pyg_ckd.data.impute` has its say.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch_geometric.data import HeteroData
from torch_geometric.transforms import BaseTransform, Compose

from pyg_ckd.arguments import as_integer, as_names, as_seed
from pyg_ckd.data.impute import impute_mean
from pyg_ckd.errors import InputError, unknown_name

_BLOCK_FLOATS = 2**25  # Values held at once in double precision: 256 MiB.


class FeatureTransform(BaseTransform):
    r"""Base class of transforms of one feature matrix at a time.

    Args:
        modalities: The modalities to transform. (default: :obj:`None`, all of ``data.modalities``)
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
        item = data["item"]
        for m in data.modalities if self.modalities is None else self.modalities:
            if m not in data.modalities:
                raise unknown_name("modality", m, data.modalities)
            has = item.get(f"has_{m}")
            item[m] = self._transform(item[m], has)
        return data

    def _transform(self, x: Tensor, has: Tensor | None) -> Tensor:
        if has is None:
            return self.transform_rows(x)
        rows = self.transform_rows(x[has])
        out = rows.new_zeros(x.size(0), rows.size(1))
        out[has] = rows
        return impute_mean(out, has)


class StandardizeFeatures(FeatureTransform):
    r"""Give each column of a modality zero mean and unit variance, and rows a norm of about one in every modality.

    .. math::
        x'_{ic} = \frac{x_{ic} - \mu_c}{\sigma_c \sqrt{d_m}}

    Constant columns become zero. Applying it twice changes nothing.

    Args:
        modalities: The modalities to transform. (default: :obj:`None`, all)
        scale: If set to :obj:`False`, leave out the factor :math:`1/\sqrt{d_m}`. (default: :obj:`True`)
    """

    def __init__(self, modalities: Sequence[str] | None = None, scale: bool = True) -> None:
        super().__init__(modalities)
        self.scale = scale

    def transform_rows(self, x: Tensor) -> Tensor:
        """Standardize the rows ``x`` ``[N, d]``; statistics are taken in float64."""
        out = torch.empty_like(x)
        width = max(1, _BLOCK_FLOATS // max(x.size(0), 1))
        for start in range(0, x.size(1), width):
            columns = slice(start, start + width)
            wide = x[:, columns].double()
            largest = wide.abs().amax(dim=0)
            wide = wide - wide.mean(dim=0)
            deviation = wide.square().mean(dim=0).sqrt()
            # A column whose spread is below the resolution of its own values is constant up to rounding.
            constant = deviation <= 4 * torch.finfo(torch.float32).eps * largest
            factor = torch.where(constant, 0.0, 1 / deviation.clamp(min=torch.finfo(torch.float64).tiny))
            if self.scale:
                factor = factor / x.size(1) ** 0.5
            out[:, columns] = wide * factor
        return out

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}(modalities={self.modalities}, scale={self.scale})"


class L2NormalizeFeatures(FeatureTransform):
    r"""Give each row the Euclidean norm one; rows of zeros stay zero.

    Args:
        modalities: The modalities to transform. (default: :obj:`None`, all)
    """

    def transform_rows(self, x: Tensor) -> Tensor:
        """Normalise the rows ``x`` ``[N, d]``; norms are taken in float64."""
        out = torch.empty_like(x)
        rows = max(1, _BLOCK_FLOATS // x.size(1))
        for source, target in zip(x.split(rows), out.split(rows), strict=True):
            wide = source.double()
            norm = wide.norm(dim=1, keepdim=True)
            target.copy_(wide / norm.clamp(min=torch.finfo(torch.float64).tiny))
        return out


class PCAFeatures(FeatureTransform):
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
        num_components, seed = as_integer(num_components, "num_components"), as_seed(seed)
        if num_components < 1:
            raise InputError(f"num_components is {num_components}, expected a positive number of columns to keep")
        self.num_components = num_components
        self.whiten = whiten
        self.seed = seed

    def transform_rows(self, x: Tensor) -> Tensor:
        """Fit on and project the rows ``x`` ``[N, d]``."""
        from sklearn.decomposition import PCA

        components = min(self.num_components, x.size(0), x.size(1))
        pca = PCA(components, whiten=self.whiten, random_state=self.seed)
        return torch.from_numpy(pca.fit_transform(x.double().cpu().numpy())).to(x)

    def __repr__(self) -> str:
        return f"{self.__class__.__name__}({self.num_components}, whiten={self.whiten}, modalities={self.modalities})"


_TRANSFORMS: dict[str, Callable[[], Callable[[HeteroData], HeteroData]]] = {
    "standardize": StandardizeFeatures,
    "l2": L2NormalizeFeatures,
    "pca": lambda: Compose([StandardizeFeatures(), PCAFeatures()]),
    "none": lambda: Compose([]),
}


def feature_transform(name: str | Callable[[HeteroData], HeteroData] | None) -> Callable[[HeteroData], HeteroData]:
    r"""Return the feature transform of a name.

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
    if key not in _TRANSFORMS:
        raise unknown_name("transform", name, _TRANSFORMS)
    return _TRANSFORMS[key]()
