import math

import numpy as np
import pandas as pd
import pytest
import torch
from scipy import stats

from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Metrics
from pyg_ckd.evaluation.statistics import holm, mean_std, paired_test


def test_per_user_recall_agrees_with_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 2, 500) * 1.0, rng.integers(0, 2, 500) * rng.choice([0.5, 1.0], 500)
    expected = stats.ttest_rel(a, b)
    interval = expected.confidence_interval(0.9)
    test = paired_test(a, b, confidence=0.9)
    assert test.p_value == pytest.approx(expected.pvalue, rel=1e-10)
    assert (test.low, test.high) == pytest.approx((interval.low, interval.high), rel=1e-10)
    assert (test.mean_a, test.mean_b, test.num) == (pytest.approx(a.mean()), pytest.approx(b.mean()), 500)


def test_three_seeds_agree_with_the_closed_form():
    # Differences 1, 2, 3: mean 2, deviation 1, t = 2 * sqrt(3); with two degrees of freedom the tail has a closed form.
    test = paired_test([1.0, 2.0, 3.0], [0.0, 0.0, 0.0])
    t = 2 * math.sqrt(3)
    assert test.difference == pytest.approx(2)
    assert test.p_value == pytest.approx(1 - t / math.sqrt(2 + t**2), rel=1e-10)
    assert test.high - test.difference == pytest.approx(4.302652729911275 / math.sqrt(3))


def test_equal_models_have_p_one_and_an_interval_of_zero():
    test = paired_test([0.0, 1.0, 1.0], [0.0, 1.0, 1.0])
    assert (test.p_value, test.low, test.high) == (1.0, 0.0, 0.0)


def test_a_constant_lead_up_to_rounding_is_finite():
    a = np.array([0.1, 0.2, 0.3])
    test = paired_test(a + 0.1, a)
    assert test.p_value == 0
    assert (test.low, test.high) == pytest.approx((0.1, 0.1))


def test_swapping_the_models_mirrors_the_test():
    a, b = np.random.default_rng(1).random((2, 40))
    one, other = paired_test(a, b), paired_test(b, a)
    assert (one.low, one.high, one.p_value) == pytest.approx((-other.high, -other.low, other.p_value))


def test_the_interval_holds_the_true_difference_as_often_as_it_says():
    rng = np.random.default_rng(2)
    recall = rng.binomial(1, [[0.35], [0.30]], (400, 2, 300)).astype(float)
    tests = [paired_test(a, b) for a, b in recall]
    covered = np.mean([test.low <= 0.05 <= test.high for test in tests])
    assert 0.92 < covered < 0.98


@pytest.mark.parametrize(
    ("a", "b", "pattern"),
    [
        ([1.0], [2.0], "two or more"),
        ([1.0, 2.0], [1.0], "found 2 and 1 values"),
        ([1.0, math.nan], [1.0, 2.0], r"a\[1\]"),
        ([[1.0, 2.0]], [1.0, 2.0], "shape"),
    ],
)
def test_bad_pairs_are_refused_in_one_line(a, b, pattern):
    with pytest.raises(InputError, match=pattern) as error:
        paired_test(a, b)
    assert "\n" not in str(error.value)


def test_a_level_outside_zero_and_one_is_refused():
    with pytest.raises(InputError, match="confidence"):
        paired_test([1.0, 2.0], [1.0, 3.0], confidence=95)


def test_mean_std_is_the_sample_deviation_and_zero_for_one_value():
    assert mean_std([1.0, 2.0, 3.0, 6.0]) == pytest.approx((3.0, math.sqrt(14 / 3)))
    assert mean_std([0.7]) == (0.7, 0.0)
    with pytest.raises(InputError, match="no value"):
        mean_std([])


def test_series_are_compared_by_their_index():
    a, b = pd.Series([1.0, 2.0, 4.0], index=[5, 7, 9]), pd.Series([1.0, 0.0, 0.5], index=[9, 5, 7])
    assert paired_test(a, b) == paired_test([1.0, 2.0, 4.0], [0.0, 0.5, 1.0])
    assert paired_test(a, b.to_numpy()) == paired_test([1.0, 2.0, 4.0], [1.0, 0.0, 0.5])


@pytest.mark.parametrize(("index", "found"), [([9, 5, 8], "1 of 3 labels in one alone, 7 first"), ([9, 9, 5], "twice")])
def test_series_of_other_users_are_refused(index, found):
    with pytest.raises(InputError, match=found):
        paired_test(pd.Series([1.0, 2.0, 4.0], index=[5, 7, 9]), pd.Series([1.0, 0.0, 0.5], index=index))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (Metrics({"recall@20": 0.5}), "found Metrics in the place of a"),
        ("0.5", r"found '0.5' \(str\)"),
        (["0.1", "0.2"], r"\(list\) in the place of a"),
        ((x for x in [1.0, 2.0]), r"\(generator\)"),
        ({1.0, 2.0}, r"\(set\)"),
        ([[1.0, 2.0], [3.0]], r"found \[\[1.0, 2.0\], \[3.0\]\] \(list\)"),
        (np.array([1 + 1j, 2]), r"\(ndarray\)"),
    ],
    ids=["metrics", "text", "texts", "generator", "set", "ragged", "complex"],
)
def test_what_is_no_list_of_numbers_is_refused_with_where_they_are(values, found):
    with pytest.raises(InputError, match=rf"^paired test: .*{found}.*metrics\.per_user\['recall@20'\]") as error:
        paired_test(values, [1.0, 2.0])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_tensors_of_every_type_are_compared_with_or_without_a_gradient(dtype):
    a = torch.tensor([1.0, 2.0, 4.0], dtype=dtype, requires_grad=True)
    assert paired_test(a, torch.tensor([0, 1, 1])) == paired_test([1.0, 2.0, 4.0], [0.0, 1.0, 1.0])


@pytest.mark.parametrize("level", ["0.95", None, True])
def test_a_level_that_is_no_number_is_refused(level):
    with pytest.raises(InputError, match=f"^confidence: found {level!r}, expected a number"):
        paired_test([1.0, 2.0], [1.0, 3.0], confidence=level)


@pytest.mark.parametrize("large", [1e308, 1e200])
def test_differences_that_overflow_are_refused(large):
    with pytest.raises(InputError, match=r"whose differences overflow.*divide both by the largest"):
        paired_test([large, -large], [-large, large])


def test_corrected_p_values_come_in_the_order_given_whatever_they_are_in():
    for given in (pd.Series([0.02, 0.01], index=["b", "a"]), np.array([0.02, 0.01]), iter([0.02, 0.01])):
        assert holm(given) == [0.02, 0.02]
    for given, found in ((None, "found None"), (["a"], r"p_values\[0\]: found 'a', expected a number")):
        with pytest.raises(InputError, match=f"^Holm's correction.*{found}"):
            holm(given)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        (None, r"found None \(NoneType\)"),
        ("0.5", r"found '0.5' \(str\)"),
        (["a"], r"found \['a'\] \(list\)"),
        ((x for x in [1.0]), r"\(generator\)"),
        ({"a": 1.0}, "found dict"),
        (1.0, r"found 1.0 \(float\)"),
        ([[1.0]], r"found values of shape \(1, 1\)"),
        ([], "found no value"),
    ],
)
def test_what_has_no_mean_is_refused(values, found):
    with pytest.raises(InputError, match=rf"^mean and deviation: .*{found}.*, expected .*one"):
        mean_std(values)


def test_tensors_and_series_have_a_mean_and_missing_values_none():
    for values in (torch.tensor([1.0, 3.0], requires_grad=True), pd.Series([1.0, 3.0], index=["a", "b"])):
        assert mean_std(values) == pytest.approx((2.0, math.sqrt(2)))
    assert all(map(math.isnan, mean_std([1.0, math.nan])))


def test_sums_in_another_order_are_no_difference():
    a, b = [0.5, 0.3, 0.0, (0.1 + 0.2 + 0.3) / 3], [0.5, 0.3, 0.0, (0.3 + 0.2 + 0.1) / 3]
    assert a != b
    found = paired_test(a, b)
    assert (found.difference, found.low, found.high, found.p_value) == (0.0, 0.0, 0.0, 1.0)
    assert paired_test([1.0, 2.0], [1.0 - 1e-12, 2.0 - 1e-12]).p_value == 0.0
