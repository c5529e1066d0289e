"""The command ``pyg-ckd``."""

from typing import Any

from pyg_ckd.cli.app import DESCRIPTIONS, main

__all__ = ["DESCRIPTIONS", "main"]


def __getattr__(name: str) -> Any:
    if name in ("backbones", "fusion_of"):  # Where they used to be; not imported for a plain --help.
        from pyg_ckd.nn.models import discovery

        return getattr(discovery, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
