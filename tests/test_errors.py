"""The sentence for a misspelt name."""

from __future__ import annotations

import pytest

from pyg_ckd.errors import InputError, unknown_name

NAMES = ["recall", "precision", "NDCG", "map"]


@pytest.mark.parametrize(
    ("given", "hint"),
    [
        ("recal", "did you mean 'recall'? "),
        ("ndcg", "did you mean 'NDCG'? "),  # Case does not matter.
        ("qqqq", ""),
        (None, ""),
    ],
)
def test_closest_names_come_before_all_valid_ones(given, hint):
    error = unknown_name("metric", given, NAMES)
    assert isinstance(error, InputError)
    assert isinstance(error, ValueError)
    assert str(error) == f"unknown metric {str(given)!r}: {hint}valid names are NDCG, map, precision, recall"


def test_empty_list_of_names_is_said_so():
    assert str(unknown_name("modality", "x", [])) == "unknown modality 'x': valid names are (none)"


def test_names_that_hold_a_line_break_stay_on_one_line():
    assert str(unknown_name("field", "title", ["a\nb", "x"])) == "unknown field 'title': valid names are 'a\\nb', x"
