"""Batches in a cache are those of their inputs, whatever these are, and vectors may be of any kind."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
import torch

from pyg_ckd.datasets import encode_batches, read_vectors, write_vectors
from pyg_ckd.errors import InputError


def image(value: float, place: int = 5000) -> np.ndarray:
    """Return an image that prints like any other, as only its middle differs."""
    x = np.zeros((100, 100), dtype=np.float32)
    x.ravel()[place] = value
    return x


INPUTS = {
    "arrays": (image(1.0), image(2.0)),
    "tensors": (torch.from_numpy(image(1.0)), torch.from_numpy(image(2.0))),
    "shapes": (image(1.0), image(1.0).reshape(50, 200)),
    "types": (image(1.0), image(1.0).astype(np.float64)),
    "short floats": (torch.tensor([1.0]).bfloat16(), torch.tensor([1.0])),
    "bytes": (b"ab", "b'ab'"),
    "numbers": (1, "1"),
    "scalars": (np.float32(1), 1.0),
    "lists": (["a", 1], ["a", "1"]),
    "dicts": ({"title": "a"}, {"title": "b"}),
    "pairs": ((Path("a.png"), "red"), (Path("b.png"), "red")),
    "lists of arrays": ([image(1.0), "red"], [image(2.0), "red"]),
    "dicts of arrays": ({"image": image(1.0)}, {"image": image(2.0)}),
    "dates": (date(2024, 5, 31), date(2024, 6, 1)),
    "identifiers": (UUID(int=1), UUID(int=2)),
}


@pytest.mark.parametrize(("one", "other"), INPUTS.values(), ids=INPUTS.keys())
def test_a_cache_tells_inputs_apart_and_knows_them_again(tmp_path, one, other):
    calls = []

    def encode(batch):
        calls.append(batch)
        return [[float(len(calls))]]

    for given, expected in ((one, 1.0), (other, 2.0), (one, 1.0), (other, 2.0)):
        assert encode_batches([given], encode, cache=tmp_path, progress=False).tolist() == [[expected]]


class Pixels(SimpleNamespace):
    """An input that prints what it has, abbreviated."""


@pytest.mark.parametrize("given", [object(), Pixels(x=image(1.0))], ids=["object", "own"])
def test_inputs_that_a_cache_cannot_tell_apart_are_refused_there(tmp_path, given):
    kind = type(given).__name__
    with pytest.raises(
        InputError, match=f"mine: input 1 is a {kind}, expected texts, .*; give these, .*leave out cache"
    ):
        encode_batches(["a", given], lambda batch: [[1.0]] * len(batch), cache=tmp_path, name="mine", progress=False)
    with pytest.raises(InputError, match="input 0 has dtype object"):
        encode_batches([np.array([given], dtype=object)], lambda batch: [[1.0]], cache=tmp_path, progress=False)
    assert encode_batches([given], lambda batch: [[1.0]], progress=False).tolist() == [[1.0]]


VECTORS = {
    "gradient": torch.ones(2, 3, requires_grad=True),
    "bfloat16": torch.ones(2, 3).bfloat16(),
    "list": list(torch.ones(2, 3, requires_grad=True)),
    "lists": torch.ones(2, 3).tolist(),
    "arrays": list(np.ones((2, 3), dtype=np.float16)),
}


@pytest.mark.parametrize("vectors", VECTORS.values(), ids=VECTORS.keys())
def test_vectors_of_any_kind_are_taken_and_written(tmp_path, vectors):
    x = encode_batches(["a", "b"], lambda batch: vectors, progress=False)
    assert x.dtype == np.float32
    assert x.tolist() == [[1.0] * 3] * 2
    write_vectors(tmp_path / "x.parquet", ["a", "b"], vectors)
    assert read_vectors(tmp_path / "x.parquet", ["a", "b"])[0].tolist() == [[1.0] * 3] * 2


WRONG = {
    "again": (["a", "b", "a"], np.ones((3, 2)), "item 'a' is there again in row 2; keep one"),
    "nan": (["a", "b", "c"], np.array([[1.0], [np.nan], [2.0]]), "vector of item 'b' in row 1 is not finite; repair"),
    "infinite": ([1, 2], torch.tensor([[np.inf], [1.0]]), "vector of item '1' in row 0 is not finite"),
    "complex": (["a"], np.ones((1, 2), dtype=complex), "vectors have dtype complex128, expected real numbers"),
    "ragged": (["a", "b"], [[1.0], [1.0, 2.0]], "vectors: rows of unequal length"),
    "sparse": (["a"], torch.ones(1, 2).to_sparse(), "vectors: found a sparse tensor"),
}


@pytest.mark.parametrize(("items", "vectors", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_vectors_that_could_not_be_read_again_are_not_written(tmp_path, items, vectors, pattern):
    with pytest.raises(InputError, match=f"x.parquet: .*{pattern}|x.parquet: {pattern}"):
        write_vectors(tmp_path / "x.parquet", items, vectors)
    assert not (tmp_path / "x.parquet").exists()
