"""What a file really is, whatever its name says: compressed, a pointer to a file elsewhere, of another program."""

from __future__ import annotations

from pathlib import Path

from pyg_ckd.errors import InputError

_KINDS: tuple[tuple[bytes, str, str], ...] = (
    (b"\xff\xfe\x00\x00", "text in UTF-32", "save it as UTF-8"),
    (b"\x00\x00\xfe\xff", "text in UTF-32", "save it as UTF-8"),
    (b"version https://git-lfs", "a pointer of git-lfs", "fetch the file itself with 'git lfs pull'"),
    (b"/annex/objects/", "a pointer of git-annex", "fetch the file itself with 'git annex get'"),
    (b"\x1f\x8b", "compressed with gzip", "decompress it, or where it is a table, name it .csv.gz"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd", "decompress it"),
    (b"\xfd7zXZ\x00", "compressed with xz", "decompress it"),
    (b"BZh91AY&SY", "compressed with bzip2", "decompress it"),
    (b"PK\x03\x04", "a zip archive, as of Excel (.xlsx) or NumPy (.npz)", "unpack it, or export it from Excel as CSV"),
    (b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a workbook of Excel", "export it as CSV"),
    (b"PAR1", "a Parquet file", "name it .parquet"),
    (b"ARROW1", "an Arrow file", "write it with DataFrame.to_parquet"),
    (b"\x93NUMPY", "a NumPy array", "name it .npy"),
    (b"\x89HDF\r\n\x1a\n", "an HDF5 file", "write its content in the expected format"),
    (b"<!doctype html", "a web page", "download the file itself"),
    (b"<html", "a web page", "download the file itself"),
)


def what_it_is(content: bytes, *expected: bytes) -> str | None:
    """Return what a file is by its first bytes and how to mend it, or :obj:`None` if they say nothing.

    Args:
        content: The first bytes.
        expected: Those that are right, which say nothing.
    """
    if not content:
        return "it is empty; copy or write it again"
    for start, what, mend in _KINDS:
        if start not in expected and content.lower().startswith(start.lower()):
            return f"it is {what}; {mend}"
    if not expected and not content.startswith((b"\xff\xfe", b"\xfe\xff")) and _has_zeros(content):
        return "its text is UTF-16 without a byte-order mark; save it as UTF-8"
    return None


def first_bytes(file: Path) -> bytes:
    """Return the first bytes of a file, enough to tell what it is."""
    with file.open("rb") as stream:
        return stream.read(512)


def refuse_other(file: Path, problem: str, *expected: bytes) -> None:
    """Refuse a file that is something else by its first bytes.

    Args:
        file: The file; if it is not there, nothing happens.
        problem: What cannot be done with it, for the message.
        expected: The first bytes that are right.

    Raises:
        InputError: If it is something else.
    """
    try:
        found = what_it_is(first_bytes(file), *expected) if file.is_file() else None
    except OSError:
        return  # Whoever reads the file says why it cannot be opened.
    if found is not None:
        raise InputError(f"{file}: {problem}: {found}")


def _has_zeros(content: bytes) -> bool:
    """Return whether every other byte is zero but for a few, as of Latin letters in UTF-16."""
    half = len(content) // 2
    return half > 1 and any(
        content[start::2].count(0) > 0.7 * half > 7 * content[1 - start :: 2].count(0) for start in (0, 1)
    )
