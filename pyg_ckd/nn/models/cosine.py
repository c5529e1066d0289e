"""Rows of one length: branches whose scores are cosines."""

from __future__ import annotations

import torch.nn.functional as F

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import DetailedEmbeddings, Embeddings


def cosine_rows(branch: Embeddings, scale: float) -> Embeddings:
    r"""Return a branch whose rows all have the same length, so that its scores are cosines, from -s to s.

    From `"MMCosine: Multi-Modal Cosine Loss Towards Balanced Audio-Visual Fine-Grained Learning"
    <https://arxiv.org/abs/2303.05338>`_: no modality can outweigh another by the size of its rows.

    Args:
        branch: The branch of a modality.
        scale: The scale :math:`s`.
    """
    root = scale**0.5
    user, item = root * F.normalize(branch.user), root * F.normalize(branch.item)
    return (
        DetailedEmbeddings(user, item, branch.parts)
        if isinstance(branch, DetailedEmbeddings)
        else Embeddings(user, item)
    )


def check_cosine(cosine: float | None) -> None:
    """Raise an InputError unless a scale of cosines is :obj:`None` or a positive number."""
    if cosine is not None and not 0 < cosine < float("inf"):
        raise InputError(f"cosine: found {cosine}, expected a positive number, or none for dot products")
