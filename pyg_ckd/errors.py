"""The exception for bad input and the sentence for a misspelt name, shared by every room."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

__all__ = ["InputError", "unknown_name"]


class InputError(ValueError):
    """Input from outside that cannot be used.

    The message is one line: what was wrong, where (file, column, row, key), what was expected and how to mend it.
    The command line prints it to stderr and exits with code 2.

    Attributes:
        everywhere: Whether all processes of a group raise it, so that one of them can speak for all.
    """

    everywhere = False


def unknown_name(kind: str, name: object, valid: Iterable[str]) -> InputError:
    """Return the error for a name that is not one of ``valid``, closest names first.

    Args:
        kind: What the name should have named, *e.g.*, ``"modality"``.
        name: The name that was given.
        valid: All names that would have been accepted.
    """
    names = sorted(valid)
    near = difflib.get_close_matches(str(name).lower(), [n.lower() for n in names], n=3, cutoff=0.5)
    matches = [n for close in near for n in names if n.lower() == close]
    hint = f"did you mean {' or '.join(repr(n) for n in matches)}? " if matches else ""
    shown = ", ".join(n if n.isprintable() else repr(n) for n in names) or "(none)"
    return InputError(f"unknown {kind} {str(name)!r}: {hint}valid names are {shown}")
