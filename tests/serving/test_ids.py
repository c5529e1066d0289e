"""Ids of any type go in and come out; an unknown one is named with those that are near."""

from __future__ import annotations

from uuid import UUID

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pyg_ckd.errors import InputError
from pyg_ckd.serving.ids import Ids

INTEGERS = torch.tensor([70, 10, 40, -5])
STRINGS = ["ann", "bob", "cid", "dörte"]


@pytest.mark.parametrize("ids", [[40, 70], np.array([40, 70], dtype=np.int32), torch.tensor([40, 70]), (40, 70)])
def test_integers_of_any_kind_of_sequence_become_rows_and_ids_again(ids) -> None:
    known = Ids("user", INTEGERS, 4)
    rows = known.rows(ids)
    assert rows.tolist() == [2, 0]
    assert known.take(rows.numpy()).tolist() == [40, 70]
    assert known.arrow(rows.numpy()).to_pylist() == [40, 70]


def test_one_id_is_a_batch_of_one_and_none_means_all() -> None:
    assert Ids("user", STRINGS, 4).rows("cid").tolist() == [2]
    assert Ids("user", INTEGERS, 4).rows(np.int64(-5)).tolist() == [3]
    assert Ids("user", None, 4).rows(None).tolist() == [0, 1, 2, 3]
    assert Ids("user", STRINGS, 4).rows([]).numel() == 0


def test_empty_slots_have_no_id() -> None:
    rows = np.array([[1, -1], [0, -1]])
    assert Ids("item", STRINGS, 4).take(rows).tolist() == [["bob", None], ["ann", None]]
    assert Ids("item", INTEGERS, 4).take(rows).tolist() == [[10, -1], [70, -1]]
    assert Ids("item", None, 4).take(rows).tolist() == rows.tolist()


@pytest.mark.parametrize(
    ("values", "asked", "words"),
    [
        (STRINGS, "dorte", ["unknown user 'dorte'", "did you mean 'dörte'"]),
        (STRINGS, 3, ["unknown user 3", "4 user ids"]),
        (INTEGERS, 42, ["unknown user 42", "did you mean 40", "from -5 to 70"]),
        (INTEGERS, [10, 41, 42], ["unknown user 41 (2 such ids)"]),
        (INTEGERS, [10, "x"], ["unknown user 'x'"]),
        (INTEGERS, [10, 40.0], ["unknown user 40.0"]),
        (INTEGERS, [True], ["unknown user True"]),
        (INTEGERS, [2**70], ["unknown user"]),
        (None, -1, ["unknown user -1", "did you mean 0"]),
        (None, 4, ["unknown user 4", "did you mean 3"]),
        (STRINGS, 1.5, ["unknown user 1.5"]),
        (STRINGS, [["ann", "bob"]], ["unknown user ['ann', 'bob']"]),
        (STRINGS, b"ann", ["unknown user b'ann'"]),
        (INTEGERS, 1.5, ["unknown user 1.5"]),
        (None, [0.5], ["unknown user 0.5"]),
    ],
)
def test_an_unknown_id_gives_one_line_with_the_closest(values, asked, words) -> None:
    with pytest.raises(InputError) as caught:
        Ids("user", values, 4).rows(asked)
    assert "\n" not in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_the_closest_of_very_many_strings_is_found_near_its_place() -> None:
    names = [f"user{n:06d}" for n in range(50_000)]
    with pytest.raises(InputError, match="did you mean 'user0"):
        Ids("user", names, 50_000).rows("user03000x")


def test_typed_ids_become_integers_where_the_graph_has_integers() -> None:
    assert Ids("user", INTEGERS, 4).parse(["10", "-5", "x", "010"]) == [10, -5, "x", "010"]
    assert Ids("user", STRINGS, 4).parse(["10"]) == ["10"]


PADDED = ["01001", "1001", "7", "x", "00000000-0000-0000-0000-000000000005"]


@pytest.mark.parametrize(
    ("values", "asked", "rows"),
    [
        (INTEGERS, "40", [2]),
        (INTEGERS, ["40", 70], [2, 0]),
        (INTEGERS, np.array(["-5", "10"]), [3, 1]),
        (INTEGERS, pd.Series(["40", "70"], dtype="string"), [2, 0]),
        (None, "2", [2]),
        (PADDED, 1001, [1]),
        (PADDED, torch.tensor([7, 1001]), [2, 1]),
        (PADDED, ["x", 7], [3, 2]),
        (PADDED, ["01001", 1001], [0, 1]),
        (PADDED, UUID(int=5), [4]),
    ],
)
def test_ids_that_are_text_here_and_numbers_there_are_compared_as_text(values, asked, rows) -> None:
    assert Ids("user", values, 4 if values is None else len(values)).rows(asked).tolist() == rows


@pytest.mark.parametrize(
    ("values", "asked"),
    [(INTEGERS, "040"), (INTEGERS, "+40"), (INTEGERS, " 40"), (PADDED, 1.0), (PADDED, True), (PADDED, [None, "x"])],
)
def test_what_is_written_otherwise_is_another_id(values, asked) -> None:
    with pytest.raises(InputError, match="unknown user"):
        Ids("user", values, len(values)).rows(asked)


def test_ids_with_a_fraction_are_refused_with_the_way_to_mend_them() -> None:
    for values in (INTEGERS, PADDED):
        with pytest.raises(InputError, match=r"write 7 without a fraction, as .astype\('int64'\) does"):
            Ids("user", values, len(values)).rows(np.array([7.0]))


def test_ids_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="found 4 ids, expected 5"):
        Ids("item", STRINGS, 5)
    with pytest.raises(InputError, match="'ann' more than once"):
        Ids("item", ["ann", "ann"], 2)


def test_new_ids_must_be_new_and_of_the_same_type() -> None:
    known = Ids("item", STRINGS, 4)
    assert known.extended(["eve"], 1).rows(["eve", "ann"]).tolist() == [4, 0]
    assert Ids("item", None, 4).extended(None, 2).rows([5]).tolist() == [5]
    for ids, count, words in ((None, 1, "no ids"), (["x"], 2, "1 ids for 2"), ([7], 1, "7"), (["bob"], 1, "'bob' is")):
        with pytest.raises(InputError, match=words):
            known.extended(ids, count)


@pytest.mark.parametrize("bad", [["x", 7], ["x", None], ["x", 1.5], [7, "x"]])
def test_ids_of_mixed_types_are_refused(bad) -> None:
    with pytest.raises(InputError, match=r"item_id: found id .* expected a string as the others are"):
        Ids("item", bad, 2)
    with pytest.raises(InputError, match=r"new items: found id .* expected a string as the others are"):
        Ids("item", STRINGS, 4).extended(bad, 2)
    with pytest.raises(InputError, match=r"new items: found id 'x' .str. at position . expected|expected an integer"):
        Ids("item", INTEGERS, 4).extended(["x", 7], 2)


def test_one_new_id_is_a_batch_of_one() -> None:
    assert Ids("item", STRINGS, 4).extended("eve", 1).rows("eve").tolist() == [4]


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True) | st.lists(st.text(), min_size=1, unique=True)
)
def test_any_ids_are_rows_and_ids_again(values: list[int] | list[str]) -> None:
    known = Ids("item", torch.tensor(values) if isinstance(values[0], int) else values, len(values))
    rows = known.rows(values[::-1])
    assert rows.tolist() == list(range(len(values)))[::-1]
    assert known.take(rows.numpy()).tolist() == values[::-1]
    assert known.arrow(rows.numpy()).to_pylist() == values[::-1]


def test_an_array_without_dimensions_is_one_id() -> None:
    assert Ids("user", ["u0", "u1"], 2).rows(np.array("u1")).tolist() == [1]


@pytest.mark.parametrize("one", [None, float("nan"), pd.NA, pd.NaT, [1, 2], True, 1.5, b"ann"], ids=repr)
@pytest.mark.parametrize("values", [INTEGERS, STRINGS], ids=["integers", "strings"])
def test_what_is_missing_or_no_id_is_nobody_new(values, one) -> None:
    known = Ids("user", values, 4)
    first = "ann" if values is STRINGS else 70
    with pytest.raises(InputError, match=r"^user ids: found .* at position 1, expected text or an integer"):
        known.find([first, one])
    with pytest.raises(InputError, match=r"^unknown user"):
        known.rows([first, one])


def test_unsigned_integers_are_the_same_ids_and_larger_ones_are_refused() -> None:
    known = Ids("item", torch.tensor([5, 6]), 2)
    more = known.extended(np.array([7, 8], dtype=np.uint64), 2)
    assert more.take(np.arange(4)).tolist() == [5, 6, 7, 8]
    assert more.rows(np.array([8], dtype=np.uint64)).tolist() == [3]
    with pytest.raises(
        InputError, match=r"^new items: found id 9223372036854775808 at position 1, expected integers from"
    ):
        known.extended(np.array([7, 2**63], dtype=np.uint64), 2)
    with pytest.raises(InputError, match=r"^unknown item 9223372036854775808"):
        known.rows(np.array([2**63], dtype=np.uint64))


def test_a_frame_is_no_list_of_ids() -> None:
    with pytest.raises(
        InputError, match=r"^user ids: found a DataFrame, expected .* take the column .* frame\['user'\]"
    ):
        Ids("user", STRINGS, 4).rows(pd.DataFrame({"user": ["ann"]}))


def test_text_that_is_no_unicode_is_unknown() -> None:
    for asked in ("\ud800", ["ann", "\ud800"], ["ann", "\ud800", 3]):
        with pytest.raises(InputError, match=r"^unknown user '\\ud800'"):
            Ids("user", STRINGS, 4).rows(asked)
    assert Ids("user", ["\ud800", "ann"], 2).rows(["ann", "\ud800"]).tolist() == [1, 0]


@pytest.mark.parametrize(
    "wrap",
    [pa.array, lambda x: pa.chunked_array([x[:1], x[1:]]), lambda x: list(pa.array(x))],
    ids=["one", "two", "list"],
)
@pytest.mark.parametrize("values", [INTEGERS.tolist(), STRINGS], ids=["integers", "strings"])
def test_ids_of_arrow_are_those_of_python(values, wrap) -> None:
    for known in (Ids("user", wrap(values), 4), Ids("user", values, 4)):
        assert known.rows(wrap(values[::-1])).tolist() == [3, 2, 1, 0]
        assert known.rows(pa.scalar(values[2])).tolist() == [2]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        (torch.tensor([[70, 10]]), r"an array of shape \[1, 2\]"),
        (np.array([[70], [10]]), r"an array of shape \[2, 1\]"),
        (np.array([["ann", "bob"]]), r"an array of shape \[1, 2\]"),
        ({70: 1}, "a dict"),
    ],
)
def test_what_holds_more_than_a_list_of_ids_is_refused(asked, found: str) -> None:
    known = Ids("user", INTEGERS, 4)
    for call in (known.rows, known.find, lambda ids: known.rows_of_each([[10], ids], lambda n: f"list {n}")):
        with pytest.raises(InputError, match=rf"user ids: found {found}, expected one id or a list of ids; take"):
            call(asked)
    with pytest.raises(InputError, match=rf"^new users: found {found}"):
        known.extended(asked, 2)
    with pytest.raises(InputError, match=rf"^user_id: found {found}"):
        Ids("user", asked, 2)


@pytest.mark.parametrize("values", [INTEGERS.tolist(), STRINGS], ids=["integers", "strings"])
def test_several_lists_are_looked_up_as_each_alone(values) -> None:
    known = Ids("user", values, 4)
    lists = [
        values[2:],
        None,
        [],
        values[0],
        np.array(values[:1], dtype=object),
        list(map(str, values)),
        values[:1] * 2,
    ]
    place, rows = known.rows_of_each(lists, str)
    alone = [known.rows([] if one is None else one) for one in lists]
    assert rows.tolist() == torch.cat(alone).tolist()
    assert place.tolist() == [n for n, one in enumerate(alone) for _ in one]
    assert [x.tolist() for x in known.rows_of_each([], str)] == [[], []]


def test_of_several_lists_the_first_with_an_unknown_id_is_named() -> None:
    lists = [["ann"], ["bob", "dorte", 3], ["eve"]]
    with pytest.raises(InputError, match=r"^list 1: unknown user 'dorte' \(2 such ids\): did you mean 'dörte'"):
        Ids("user", STRINGS, 4).rows_of_each(lists, lambda n: f"list {n}")


def test_digits_of_other_scripts_are_no_integers() -> None:
    others = ["1\u0663", "-\u0661", "\uff11"]
    assert Ids("user", INTEGERS, 4).parse(others) == others
    assert Ids("user", INTEGERS, 4).find(["1\u0660"])[1].tolist() == [-1]  # Not 10.


def test_types_are_asked_once_and_texts_are_taken_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    texts, numbers, asked = Ids("user", STRINGS, 4), Ids("user", INTEGERS, 4), []
    known = pd.api.types.is_integer_dtype
    monkeypatch.setattr(pd.api.types, "is_integer_dtype", lambda x: asked.append(x) or known(x))
    monkeypatch.setattr(Ids, "_alike", lambda self, one: pytest.fail("asked") if one in STRINGS else int(one))
    assert texts.rows(STRINGS * 100).tolist() == [0, 1, 2, 3] * 100
    assert numbers.parse(["10", "40"] * 100) == [10, 40] * 100
    assert len(asked) <= 2
