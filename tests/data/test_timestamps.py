"""Moments of every type sort as they follow one another; what is none is named."""

from __future__ import annotations

import datetime
from decimal import Decimal

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch

from pyg_ckd.data import build_data, leave_one_out_split, temporal_split
from pyg_ckd.data.timestamps import as_dates
from pyg_ckd.datasets.tables import as_timestamps
from pyg_ckd.errors import InputError

ORDER = [2, 0, 1, 3]  # The second moment is the first, ...
DAYS = [datetime.datetime(2020, 1, day) for day in (2, 3, 1, 4)]
ARROW = pa.array(DAYS).cast(pa.timestamp("us"))


def arrow(kind: pa.DataType) -> pd.Series:
    return pd.Series(pd.array(ARROW.cast(kind), dtype=pd.ArrowDtype(kind)))


MOMENTS = {
    "seconds": [1_600_000_002, 1_600_000_003, 1_600_000_001, 1_600_000_004],
    "nanoseconds": np.array([2, 3, 1, 4]) + 1_600_000_000_000_000_000,
    "63 bits and more": np.array([2**63 + 2, 2**63 + 3, 5, 2**64 - 1], dtype=np.uint64),
    "beyond 64 bits": [20, 30 * 10**25, 10, 40 * 10**25],
    "negative and beyond 63 bits": pd.Series([-5, 2 * 10**18, -10, 10**19], dtype=object),
    "decimals": pd.Series([Decimal("0.2"), Decimal("0.3"), Decimal("-1"), Decimal(10**30)], dtype=object),
    "numbers and None": pd.Series([2, 3, 1, 4], dtype="Int64"),
    "numbers in text": pd.Series(["200", "1000", "30", "4000.5"]),
    "seconds in text": ["1600000002", "1600000003", "1600000001", "1600000004"],
    "large numbers in text": pd.Series([f"{digit}{'0' * 22}" for digit in "2314"]),
    "tensor": torch.tensor([2.0, 3.0, 1.0, 4.0]),
    "days of arrow": arrow(pa.date32()),
    "milliseconds of arrow": arrow(pa.date64()),
    "seconds of arrow": arrow(pa.timestamp("s")),
    "zones of arrow": arrow(pa.timestamp("us", tz="Europe/Berlin")),
    "decimals of arrow": pd.Series(
        pd.array([Decimal(n) for n in (2, 3, 1, 4)], dtype=pd.ArrowDtype(pa.decimal128(9, 2)))
    ),
    "text of arrow": pd.Series(["2020-01-02", "2020-01-03", "2020-01-01", "9999-01-04"], dtype="string[pyarrow]"),
    "categories": pd.Series(["2020-01-02", "2020-01-03", "2020-01-01", "2020-01-04"]).astype("category"),
    "units of numpy": [
        np.datetime64("2020-01-02", "s"), np.datetime64("2020-01-03", "ns"), np.datetime64("1500-01-01", "D"),
        np.datetime64("9999-01-01", "D"),
    ],
    "objects of numpy": pd.Series(
        [np.datetime64("2020-01-02", "ns"), np.datetime64("2020-01-03", "D"), np.datetime64("0001", "Y"),
         np.datetime64("9999-01-01", "D")], dtype=object,
    ),
    "far and near objects": [pd.Timestamp(DAYS[0]), pd.Timestamp(DAYS[1]), DAYS[2], datetime.date(9999, 1, 1)],
    "zones": ["2020-01-01T01:00+00:00", "2020-01-01T05:00+03:00", "2020-01-01T02:00+02:00", "9999-12-31T00:00-05:00"],
    "zone of bigquery": ["2024-05-02 10:00:00 UTC", "2024-05-02 10:00:00.25 UTC", "2024-05-02 09:59 UTC",
        "2024-05-02T11:00:00+00:00"],
    "far zone of bigquery": pd.Series(["2024-05-02 10:00:00 UTC", "2024-05-02 11:00:00 UTC", "1500-05-02 10:00:00 UTC",
        "9999-05-02 10:00:00.000001 UTC"], dtype="string"),
    "index": pd.Index(["2020-01-02", "2020-01-03", "2020-01-01", "9999-01-01"]),
}  # fmt: skip


@pytest.mark.parametrize("when", MOMENTS.values(), ids=MOMENTS.keys())
def test_the_last_moments_are_held_out(when):
    pairs = [[0] * 4, range(4)]
    _, val, test = leave_one_out_split(pairs, when)
    assert (val[1].tolist(), test[1].tolist()) == ([ORDER[2]], [ORDER[3]])
    train, val, test = temporal_split(pairs, when, (0.5, 0.25, 0.25))
    assert (set(train[1].tolist()), val[1].tolist(), test[1].tolist()) == (set(ORDER[:2]), [ORDER[2]], [ORDER[3]])


def test_moments_of_bigquery_are_those_of_pandas():
    texts = pd.Series(["2024-05-02 10:00:00 UTC", "2024-05-02 10:00:00.123456 UTC", None])
    expected = pd.to_datetime(texts, utc=True, format="mixed").dt.tz_localize(None)
    np.testing.assert_array_equal(as_dates(texts), expected.to_numpy())


def test_dates_of_numpy_within_their_range_keep_nanoseconds():
    when = [np.datetime64(3, "ns"), np.datetime64(1, "ns"), np.datetime64(2, "ns")]
    assert np.argsort(as_dates(when)).tolist() == [1, 2, 0]


BAD = {
    "a word": (["2020", "x"], "'x' in row 1"),
    "a zone alone": (["2020-01-01", "UTC"], "'UTC' in row 1"),
    "two zones": (["2020-01-01", "2020-01-01 10:00+02:00 UTC"], r"'2020-01-01 10:00\+02:00 UTC' in row 1"),
    "periods": (pd.Series(pd.period_range("2020-01", periods=2, freq="M")), "Period"),
    "truth": ([True, False], "timestamps are bool"),
    "missing": ([np.datetime64("2020"), np.datetime64("NaT")], "1 timestamps are missing, first in row 1"),
    "none": (pd.Series(["2020-01-01", None]), "1 timestamps are missing, first in row 1"),
}


@pytest.mark.parametrize(("when", "pattern"), BAD.values(), ids=BAD.keys())
def test_what_is_no_moment_is_named(when, pattern):
    with pytest.raises(InputError, match=pattern) as error:
        leave_one_out_split([[0, 0], [0, 1]], pd.Series(when) if isinstance(when[0], str) else when)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "kind", [list, tuple, np.array, pd.Index, pd.Series, lambda when: np.array(when, dtype=object)]
)
@pytest.mark.parametrize("wrong", ["31/12/2021", "soon", "2021-13-01"])
def test_texts_that_are_no_dates_are_named_in_collections_of_every_kind(kind, wrong):
    with pytest.raises(InputError, match=rf"2 timestamps are neither .*first is '{wrong}' in row 1; write dates like"):
        leave_one_out_split([[0] * 4, range(4)], kind(["2021-01-01", wrong, "2021-01-03", wrong]))


def test_a_missing_moment_beside_texts_is_missing():
    with pytest.raises(InputError, match="1 timestamps are missing, first in row 1"):
        leave_one_out_split([[0, 0], [0, 1]], ["2021-01-01", float("nan")])


def test_a_word_among_numbers_of_a_table_is_named_with_its_row():
    with pytest.raises(InputError, match=r"'when' has 1 values that are neither numbers nor dates.*'x' in row 1"):
        as_timestamps(pd.Series(["2020", "x"], name="when"))


@pytest.mark.parametrize("kind", [torch.bfloat16, torch.float16, torch.int64])
@pytest.mark.parametrize("change", [lambda when: when, list], ids=["tensor", "list"])
def test_tensors_of_every_type_are_moments(kind, change):
    when = change(torch.tensor([3, 1, 2]).to(kind))
    train, val, test = leave_one_out_split([[0, 0, 0], [0, 1, 2]], when)
    assert [part[1].tolist() for part in (train, val, test)] == [[1], [2], [0]]


def test_lists_of_unequal_length_and_sparse_tensors_are_no_moments():
    with pytest.raises(InputError, match="timestamps: found lists of unequal length, expected one number or date each"):
        leave_one_out_split([[0, 0], [0, 1]], [[1], [2, 3]])
    with pytest.raises(InputError, match="timestamps: found a sparse tensor"):
        leave_one_out_split([[0, 0], [0, 1]], torch.ones(2).to_sparse())


SECONDS = 1_700_000_000


@pytest.mark.parametrize(("factor", "unit"), [(10**3, "milliseconds"), (10**6, "microseconds"), (10**9, "nanoseconds")])
@pytest.mark.parametrize(
    "kind",
    [
        np.array,
        list,
        lambda when: np.array(when, dtype=np.float64),
        lambda when: pd.Series(map(str, when)),
        torch.tensor,
    ],
    ids=["integers", "list", "floats", "texts", "tensor"],
)
def test_a_mix_of_units_is_named_with_a_row_of_each(kind, factor, unit):
    when = kind([SECONDS, SECONDS + 60, (SECONDS + 30) * factor, SECONDS + 90])
    words = rf"seconds \({SECONDS} in row 0\), {unit} \({(SECONDS + 30) * factor} in row 2\).*one unit"
    for split in (temporal_split, leave_one_out_split):
        with pytest.warns(UserWarning, match=words) as caught:
            split([[0] * 4, range(4)], when)
        assert len(caught) == 1


@pytest.mark.parametrize(
    "when",
    [
        [1, 2, 3, 4],
        [1, 1_000, 1_000_000, 10**9],
        [1999, 2010, 2020, 2024],
        [20240101, 20240131, 20231231, 202401],
        [202401011200, 202401011300, 20240101120000, 202312312359],
        [SECONDS, SECONDS + 1, 0, -1],
        [SECONDS * 1000, SECONDS * 1000 + 1, 5, 6],
        [3 * 10**8, 5 * 10**9 - 1, 10**9, 0],
        ["2024-01-01", "2024-01-02", "2023-01-01", "2022-01-01"],
    ],
)
def test_numbers_of_one_unit_and_what_are_no_dates_call_for_no_warning(when, recwarn):
    temporal_split([[0] * 4, range(4)], when, (0.5, 0.25, 0.25))
    assert len(recwarn) == 0


@pytest.mark.parametrize("wrong", [np.inf, -np.inf])
@pytest.mark.parametrize("kind", [np.array, pd.Series, torch.tensor])
def test_infinite_moments_are_refused(wrong, kind):
    times = kind([2.0, 3.0, wrong, 4.0])
    pairs = np.array([[0, 0, 0, 0], [0, 1, 2, 3]])
    for split in (temporal_split, leave_one_out_split):
        with pytest.raises(InputError, match=rf"1 timestamps are infinite, the first is {wrong} in row 2, expected"):
            split(pairs, timestamps=times)
    with pytest.raises(
        InputError, match=rf"column 'time' has 1 infinite values, the first is {wrong} in row 12, expec"
    ):
        as_timestamps(pd.Series([2.0, 3.0, wrong], index=[10, 11, 12], name="time"))


def test_infinite_moments_of_repeated_interactions_are_refused():
    frame = pd.DataFrame({"user": ["a", "a", "b"], "item": [0, 0, 1], "timestamp": [1.0, np.inf, np.inf]})
    with pytest.raises(
        InputError, match=r"train, column 'timestamp' holds inf in row 1 .*, expected a number or a date"
    ):
        build_data(frame, {"a": np.eye(2)}, keep="last")
    assert build_data(frame[1:], {"a": np.eye(2)}, keep="last")["user", "rates", "item"].edge_index.size(1) == 2
