"""The record of a run."""

from __future__ import annotations

import math

from pyg_ckd.training import History


def test_rows_become_a_table_indexed_by_epoch():
    history = History([{"epoch": 1, "loss/bpr": 0.7}, {"epoch": 2, "loss/bpr": 0.6, "val/recall@20": 0.1}])
    assert history.frame.index.tolist() == [1, 2]
    assert history.frame["loss/bpr"].tolist() == [0.7, 0.6]
    assert math.isnan(history.frame.loc[1, "val/recall@20"])


def test_best_row_is_that_of_the_best_epoch():
    rows = [{"epoch": 1, "x": 3.0}, {"epoch": 2, "x": 5.0}]
    assert History(rows, best_epoch=2).best_row is rows[1]


def test_seconds_per_epoch_is_the_median():
    assert History(seconds=[9.0, 1.0, 2.0]).seconds_per_epoch == 2.0


def test_empty_record_has_an_empty_table_and_no_duration():
    assert History().frame.empty
    assert math.isnan(History().seconds_per_epoch)
