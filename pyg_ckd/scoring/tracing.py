"""Whether a pass is being recorded, so that it may not look at numbers."""

from __future__ import annotations

import torch


def exporting() -> bool:
    """Return whether :func:`torch.export.export` is recording a forward pass, also on the way to ONNX.

    What depends on values, such as a check for NaN, has to be left out then; shapes are known as ever.
    """
    found = getattr(torch.compiler, "is_exporting", torch.compiler.is_compiling)  # PyTorch 2.6 has only the latter.
    return bool(found())
