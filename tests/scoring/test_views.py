"""Views as sets of modalities."""

from __future__ import annotations

import pytest

from pyg_ckd.errors import InputError
from pyg_ckd.scoring.views import EMPTY, as_view, counterfactual_views, leave_one_out_views, unimodal_views

THREE = ["visual", "textual", "acoustic"]


def test_every_way_to_name_a_view_gives_the_same_set():
    assert as_view(None, THREE) == as_view("full", THREE) == as_view(THREE, THREE) == frozenset(THREE)
    assert as_view("visual", THREE) == as_view(["visual"], THREE) == as_view(("visual", "visual"), THREE)
    assert as_view({"visual", "textual"}, THREE) == frozenset(THREE) - {"acoustic"}
    assert as_view([], THREE) == frozenset()


def test_unimodal_and_leave_one_out_views_are_complements():
    alone, without = unimodal_views(THREE), leave_one_out_views(THREE)
    assert list(alone) == list(without) == THREE
    assert all(alone[m] == {m} and alone[m] | without[m] == set(THREE) and not alone[m] & without[m] for m in THREE)


@pytest.mark.parametrize(
    ("modalities", "expected"),
    [
        (["a"], [{"a"}, set()]),
        (["a", "b"], [{"a", "b"}, {"a"}, {"b"}]),
        (["a", "b", "c"], [{"a", "b", "c"}, {"a"}, {"b"}, {"c"}, {"b", "c"}, {"a", "c"}, {"a", "b"}]),
    ],
)
def test_counterfactual_views_hold_each_needed_view_once_the_full_one_first(modalities, expected):
    assert counterfactual_views(modalities) == expected


@pytest.mark.parametrize("num", [1, 2, 3])
def test_with_the_empty_view_all_subsets_of_up_to_three_modalities_are_there_once(num):
    views = counterfactual_views(THREE[:num], empty=True)
    assert len(views) == len(set(views)) == 2**num
    assert views[0] == set(THREE[:num])
    assert EMPTY in views
    if num > 1:
        assert views == [*counterfactual_views(THREE[:num]), EMPTY]


def test_four_modalities_need_nine_views():
    assert len(counterfactual_views(["a", "b", "c", "d"])) == 1 + 4 + 4


@pytest.mark.parametrize("view", ["visul", ["textual", "visul"]])
def test_unknown_modality_is_refused_with_the_closest_name(view):
    with pytest.raises(InputError, match="unknown modality 'visul': did you mean 'visual'"):
        as_view(view, THREE)
