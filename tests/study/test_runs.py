"""Runs are made once: by what they are found again, and what studies share."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyg_ckd.balance import Objective
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation.baselines import fit
from pyg_ckd.evaluation.content import content_ranking
from pyg_ckd.evaluation.effects import estimate_effects
from pyg_ckd.evaluation.ranking import evaluate
from pyg_ckd.evaluation.scaling import compare_scaling, is_standardized
from pyg_ckd.files import read_json
from pyg_ckd.nn import VBPR
from pyg_ckd.study import Contender, Study, StudySettings
from pyg_ckd.study.runs import identity
from pyg_ckd.study.tables import LATE, escape, write_tex
from pyg_ckd.training.model import load_model
from tests.report import many
from tests.study.problem import FAST, TRAINER, Gentle, keys, numbers, small
from tests.training.problem import planted_data

STRANGER = '''
from pyg_ckd.balance import Objective

class Stranger(Objective):
    """A strategy in a file outside the package."""
'''
MAKERS = """
KINDS = frozenset({"a", "b", "c", "d"})

def make(weight):
    class Made(Stranger):
        def balance(self, out, batch):
            return {"x": weight} if self.name in {"e", "f", "g"} or KINDS else {}
    return Made
"""
SCRIPT = """
import importlib
import sys

from a_strangers_other_file import Stranger as OfAFile
from a_strangers_other_file import make
from pyg_ckd.study.runs import identity

for name in sys.argv[1:]:
    importlib.import_module(name)
print([identity(cls) for cls in (Stranger, OfAFile, make(1.0), make(2.0))])
"""


def test_keys_do_not_depend_on_what_does_not_decide(tmp_path):
    expected = keys(small(tmp_path / "a"))
    same = {
        "device and times": {"settings": {"trainer": {**TRAINER, "device": "auto", "checkpoint_minutes": 9.0}}},
        "cut-offs": {"k": (1, 2, 7)},
        "defaults that are spelled out": {"settings": {"plain": {"l2": 0.01}, "teacher": {"l2": 0.01}}},
        "numbers of NumPy": {"settings": {"trainer": {**TRAINER, "max_epochs": np.int64(2)}}},
        "whole numbers": {"settings": {"distillation": {"num_random_triples": 20, "generic_weight": 5}}},
        "other contenders": {"contenders": {"mine": Gentle, "ckd": Contender("ckd", {"num_random_triples": 20})}},
    }
    for name, options in same.items():
        found = keys(small(tmp_path / name, **options))
        assert {run: found[run] for run in expected} == expected, name
    assert len(set(expected.values())) == len(expected)


@pytest.mark.parametrize(
    ("settings", "same"),
    [
        ({"plain": {"l2": 0.5}}, {"popularity", "lightgcn", "ckd", "teacher:visual", "teacher:textual"}),
        ({"teacher": {"l2": 0.5}}, {"popularity", "lightgcn", "plain"}),
        (
            {"distillation": {"temperature": 0.5}},
            {"popularity", "lightgcn", "plain", "teacher:visual", "teacher:textual"},
        ),
        ({"model": {"embedding_dim": 5}}, {"popularity", "lightgcn"}),
        ({"lightgcn": {"num_layers": 1}}, {"popularity", "plain", "ckd", "teacher:visual", "teacher:textual"}),
        ({"teacher": {"lr": 0.5, "embedding_dim": 3}}, {"popularity", "lightgcn", "plain"}),
        ({"lightgcn": {"batch_size": 7}}, {"popularity", "plain", "ckd", "teacher:visual", "teacher:textual"}),
        ({"trainer": {**TRAINER, "lr": 0.5}}, {"popularity", "lightgcn"}),
        ({"trainer": {**TRAINER, "max_epochs": 3}}, {"popularity"}),
        ({"trainer": {**TRAINER, "extend": 2}}, {"popularity"}),
    ],
    ids=[
        "plain",
        "teacher",
        "distillation",
        "model",
        "lightgcn",
        "teacher-trainer",
        "lightgcn-trainer",
        "lr",
        "max_epochs",
        "extend",
    ],
)
def test_keys_depend_on_every_option_and_on_those_of_the_teachers(settings, same, tmp_path):
    before, after = keys(small(tmp_path / "a")), keys(small(tmp_path / "b", settings=settings))
    assert {name for name in before if before[name] == after[name]} == same


def test_what_a_contender_has_of_its_own_takes_the_place_of_the_studys(tmp_path):
    own = Contender("ckd", {"num_random_triples": 20}, model={"embedding_dim": 5}, trainer={"lr": 0.5})
    mixed = keys(small(tmp_path / "a", contenders={"ckd": own}))
    before = keys(small(tmp_path / "b"))
    assert {name for name in before if mixed[name] == before[name]} == before.keys() - {"ckd"}
    same = {"model": {"embedding_dim": 5}, "trainer": {**TRAINER, "lr": 0.5}}
    teacher = {"teacher": {"embedding_dim": 4, "lr": 0.02}}
    assert keys(small(tmp_path / "c", settings=same | teacher))["ckd"] == mixed["ckd"]


def test_keys_depend_on_seed_and_data(tmp_path):
    study = small(tmp_path / "a")
    before, other = keys(study), keys(study, seed=1)
    assert {name for name in before if before[name] == other[name]} == {"popularity"}
    settings = StudySettings(model={"embedding_dim": 4}, trainer=dict(TRAINER), k=(3,))
    after = keys(Study(planted_data(seed=1), VBPR, tmp_path / "b", settings, baselines=FAST))
    assert not {name for name in before if before[name] == after[name]}


def test_a_key_depends_on_the_code_of_its_strategy_and_of_no_other(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    file = tmp_path / "a_strangers_file.py"
    file.write_text(STRANGER)
    before = keys(small(tmp_path / "a", contenders={"ckd": "ckd", "mine": "a_strangers_file.Stranger"}))
    file.write_text(STRANGER + "\n# A change.\n")
    importlib.reload(sys.modules["a_strangers_file"])
    after = keys(small(tmp_path / "b", contenders={"ckd": "ckd", "mine": "a_strangers_file.Stranger"}))
    assert {name for name in before if before[name] != after[name]} == {"mine"}
    monkeypatch.delitem(sys.modules, "a_strangers_file")


def pushed(weight: float) -> type[Objective]:
    """Return a strategy whose code is the same for every weight."""

    class Pushed(Objective):
        """Plain training and a term of a weight."""

        def balance(self, out, batch):
            return {"x": weight * out[self.view].margin(batch.user, batch.positive, batch.negative).mean()}

    return Pushed


def test_contenders_that_one_function_made_are_two_runs(tmp_path):
    results = small(tmp_path, contenders={"weak": pushed(0.01), "strong": pushed(50.0)}).run()
    weak, strong = (run for run in results["runs"] if run["name"] in ("weak", "strong"))
    assert weak["key"] != strong["key"]
    assert weak["val"] != strong["val"]
    assert identity(pushed(0.01)) == identity(pushed(0.01))


def test_a_class_without_a_file_is_another_once_it_is_defined_anew():
    source = (
        "from pyg_ckd import Objective\nclass Mine(Objective):\n    def balance(self, out, batch):\n        return {}\n"
    )
    one, again, other = ({"__name__": "a_session"} for _ in range(3))
    for text, space in ((source, one), (source, again), (source.replace("{}", "{'x': 1}"), other)):
        exec(text, space)
    assert identity(one["Mine"]) == identity(again["Mine"]) != identity(other["Mine"])


def test_a_class_has_one_key_in_every_process(tmp_path):
    (tmp_path / "a_strangers_other_file.py").write_text(STRANGER + MAKERS)
    script = tmp_path / "script.py"
    script.write_text(STRANGER + SCRIPT)
    found = set()
    for seed, more in (("1", []), ("2", ["optuna", "pyg_ckd.serving", "pyg_ckd.cli"])):
        command = [sys.executable, str(script), *more]
        place = os.pathsep.join([str(tmp_path), *sys.path])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": place}
        found.add(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    assert len(found) == 1


def test_the_keys_of_the_packages_own_classes_are_those_of_their_files_alone(monkeypatch):
    monkeypatch.setattr("pyg_ckd.study.runs.code_of", None)
    own = [part for part in VBPR.__mro__ if part.__module__.startswith("pyg_ckd.")]
    files = "".join(f"{part.__qualname__}:{Path(inspect.getfile(part)).read_text('utf-8')}" for part in own)
    assert identity(VBPR)["code"] == hashlib.sha256(files.encode()).hexdigest()[:16]


def test_a_second_study_trains_only_what_differs(tmp_path):
    said: list[str] = []
    options = {"runs": tmp_path / "runs", "say": said.append}
    first = small(tmp_path / "first", **options).run([0, 1])
    said.clear()
    more = {"settings": {"distillation": {"num_random_triples": 20, "distillation_weight": 0.5}}}
    second = small(tmp_path / "second", **options, **more).run([0, 1])
    assert [line for line in said if line.startswith("seed")] == ["seed 0: ckd", "seed 1: ckd"]
    own = [[run for run in numbers(found)["runs"] if run["name"] != "ckd"] for found in (first, second)]
    assert own[0] == own[1]
    alone = small(tmp_path / "third", **more).run([0, 1])
    assert numbers(second) == numbers(alone)
    assert not (tmp_path / "second" / "runs").exists()


def test_two_names_of_one_contender_are_one_run(tmp_path):
    results = small(tmp_path, contenders={"a": Contender(Gentle), "b": Contender(Gentle), "c": Gentle}).run()
    by_name = {run["name"]: run for run in results["runs"]}
    assert by_name["a"]["key"] == by_name["b"]["key"] == by_name["c"]["key"]
    assert len(list((tmp_path / "runs").glob("*/model.pt"))) == 3  # LightGCN, plain training and this one.
    assert by_name["a"]["test"] == by_name["b"]["test"]


def test_other_cut_offs_are_measured_without_training_and_earlier_ones_kept(tmp_path, monkeypatch):
    runs = {"runs": tmp_path / "runs", "baselines": (*FAST, "item-knn")}
    first = small(tmp_path / "first", **runs).run()
    said: list[str] = []
    second = small(tmp_path / "second", k=(2, 7), say=said.append, **runs).run()
    assert not [line for line in said if line.startswith("seed")]
    assert numbers(second) == numbers(small(tmp_path / "fresh", k=(2, 7), baselines=runs["baselines"]).run())
    assert not any(name.endswith("@3") for name in second["runs"][-1]["test"])
    monkeypatch.setattr("pyg_ckd.study.maker.estimate_effects", None)  # Nothing is measured again.
    assert numbers(small(tmp_path / "first", **runs).run()) == numbers(first)


def test_results_hold_what_the_kept_models_rank(tmp_path):
    results = small(tmp_path, contenders={"mine": Gentle}).run()
    data = planted_data()
    run = next(run for run in results["runs"] if run["name"] == "mine")
    model = load_model(next(tmp_path.glob(f"runs/mine-{run['key']}/model.pt")), data)
    test = evaluate(model, data, k=[3, 5])
    assert run["test"]["recall@3"] == pytest.approx(test["recall@3"], abs=1e-12)
    assert run["val"]["ndcg@5"] == pytest.approx(evaluate(model, data, "val", k=5)["ndcg@5"], abs=1e-12)
    for m in data.modalities:
        expected = evaluate(model, data, k=5, view=[m])["recall@5"]
        assert run["views"][m]["recall@5"] == pytest.approx(expected, abs=1e-12)
    expected = content_ranking(data, "val", 5).to_dict("index")
    standardized = [m for m in data.modalities if is_standardized(data, m)]
    scaling = compare_scaling(data, standardized, 5).to_dict("index")
    assert results["content"] == {"metric": "recall@5", "split": "val", "modalities": expected, "scaling": scaling}
    assert results["effects_split"] == "val"
    table = estimate_effects(model, data, "val", k=5).table
    for m, row in results["effects"]["mine"].items():
        assert row["mean"] == pytest.approx(table.loc[m, "effect"], abs=1e-9)
        assert row["recall_alone"] == pytest.approx(table.loc[m, "recall_alone"], abs=1e-9)


def test_results_have_the_layout_that_readers_expect(tmp_path):
    results = small(tmp_path, contenders={"mine": Contender(Gentle, {"share": 0.1})}).run([0, 1])
    written = read_json(tmp_path / "results.json")
    assert (written["format"], written["monitor"], written["baselines"]) == (2, "ndcg@5", list(FAST))
    same = {"needs_teachers": False, "reports": {}}
    assert written["contenders"] == [
        {"name": "plain", "strategy": "pyg_ckd.balance.objective.Objective", "options": {}} | same,
        {"name": "mine", "strategy": "tests.study.problem.Gentle", "options": {"share": 0.1}} | same,
    ]
    kinds = {"popularity": "baseline", "lightgcn": "baseline", "plain": "contender", "mine": "contender"}
    kinds |= {"teacher:visual": "teacher", "teacher:textual": "teacher"}
    assert {run["name"]: run["kind"] for run in written["runs"]} == kinds
    names = {"name", "kind", "backbone", "seed", "key", "best_epoch", "epochs", "stopped", "converged"}
    names |= {"enough_epochs"}
    names |= {"seconds_per_epoch", "training_seconds", "settings", "val", "test", "views"}
    for run in written["runs"]:
        assert run.keys() == names
        assert bool(run["views"]) == (run["kind"] == "contender")
        assert run["epochs"] == (None if run["name"] == "popularity" else 2)
    assert written["effects"].keys() == {"plain", "mine"}
    assert written["winner"]["name"] in ("plain", "mine")
    val = {n: [r["val"]["ndcg@5"] for r in written["runs"] if r["name"] == n] for n in ("plain", "mine")}
    assert written["winner"]["val"] == pytest.approx(max(sum(v) / 2 for v in val.values()))
    assert results["settings"]["seeds"] == [0, 1]
    histories = small(tmp_path, contenders={"mine": Contender(Gentle, {"share": 0.1})}).histories([0, 1])
    assert histories.keys() == {(n, s) for n in kinds if n != "popularity" for s in (0, 1)}


def test_a_baseline_that_does_not_fit_is_left_out_with_its_reason(tmp_path, monkeypatch):
    def refuse(data, value):
        raise InputError("ease: found 30 items, expected at most 20; use item-knn")

    monkeypatch.setitem(fit._FITS, "ease", refuse)
    said: list[str] = []
    options = {"baselines": {"popularity": {}, "item-knn": {}, "ease": {}, "lightgcn": {"num_layers": 1}}}
    results = small(tmp_path, **options, say=said.append).run([0, 1])
    assert results["baselines"] == ["popularity", "item-knn", "lightgcn"]
    assert results["left_out"] == {"ease": "ease: found 30 items, expected at most 20; use item-knn"}
    expected = fit.fit_baseline("item-knn", planted_data(), "ndcg@5")
    knn = [run for run in results["runs"] if run["name"] == "item-knn"]
    assert [(run["seed"], run["settings"]) for run in knn] == [(0, expected.settings)]
    test = evaluate(expected.embeddings, planted_data(), k=[3, 5])
    assert knn[0]["test"]["recall@3"] == pytest.approx(test["recall@3"], abs=1e-12)
    assert not any(run["name"] == "ease" for run in results["runs"])
    assert any(line.startswith("  ease ") and "left out" in line for line in said)
    over = {(item["b"], item["over"]) for item in results["comparisons"]}
    once = {("popularity", "users"), ("item-knn", "users")}
    assert over == {(b, over) for b in ("plain", "lightgcn") for over in ("users", "seeds")} | once


def test_the_table_of_numbers_holds_every_number_once(tmp_path):
    results = small(tmp_path).run([0, 1])
    table = pd.read_csv(tmp_path / "results.csv", keep_default_na=False, na_values=[""])
    assert list(table.columns) == ["run", "kind", "seed", "part", "view", "metric", "value", "converged"]
    found = {tuple(row[:6]): row[6] for row in table.itertuples(index=False)}
    assert len(found) == len(table)
    expected = {}
    for run in results["runs"]:
        for part, view, metrics in [("val", "full", run["val"]), ("test", "full", run["test"])] + [
            ("test", m, view) for m, view in run["views"].items()
        ]:
            for metric, value in metrics.items():
                expected[run["name"], run["kind"], run["seed"], part, view, metric] = value
    assert found.keys() == expected.keys()
    for key, value in expected.items():
        assert found[key] == pytest.approx(value, abs=1e-15, nan_ok=True)
    late = {(run["name"], run["seed"]): run["converged"] for run in results["runs"]}
    assert set(late.values()) == {None, False}  # Of a closed form, and of two epochs.
    for name, seed, converged in zip(table["run"], table["seed"], table["converged"], strict=True):
        assert converged is late[name, seed] or (late[name, seed] is None and np.isnan(converged))


def test_the_latex_tables_have_a_cell_for_every_number_and_bold_for_the_best(tmp_path):
    results = small(tmp_path, contenders={"ckd": "ckd", "my_own": Gentle}).run([0, 1])
    text = (tmp_path / "table.tex").read_text()
    tables = re.findall(r"\\begin\{tabular\}\{(l[r]+)\}(.*?)\\end\{tabular\}", text, re.DOTALL)
    assert len(tables) == 2
    rows = []
    for columns, body in tables:
        lines = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert {line.count("&") for line in lines} == {len(columns) - 1}
        marked = [line.removesuffix(r" \\").split(" & ") for line in lines]
        rows.append({name.removesuffix(LATE): [cell.removesuffix(LATE) for cell in cells] for name, *cells in marked})
    assert list(rows[0]) == ["run", *FAST, "teacher:visual", "teacher:textual", "plain", r"my\_own", "ckd"] or list(
        rows[0]
    ) == ["run", *FAST, "teacher:visual", "teacher:textual", "plain", "ckd", r"my\_own"]
    head = rows[0].pop("run")
    assert head == ["ndcg@5", "recall@3", "recall@5", "ndcg@3"]

    def values(name: str, metric: str, view: str | None = None) -> list[float]:
        runs = [run for run in results["runs"] if run["name"] == name]
        return [(run["test"] if view is None else run["views"][view])[metric] for run in runs]

    for number, metric in enumerate(head):
        mean = {
            name: sum(values(name.replace("\\", ""), metric)) / len(values(name.replace("\\", ""), metric))
            for name in rows[0]
        }
        best = max(round(value, 4) for name, value in mean.items() if not name.startswith("teacher"))
        for name, cells in rows[0].items():
            assert f"{mean[name]:.4f}" in cells[number]
            bold = not name.startswith("teacher") and round(mean[name], 4) == best
            assert (r"\textbf" in cells[number]) == bold
            assert (r"\pm" in cells[number]) == (name != "popularity")
    rows[1].pop("model")
    assert list(rows[1]) == ["teachers", "plain", "ckd", r"my\_own"]
    for name in ("plain", "ckd"):
        for number, m in enumerate(planted_data().modalities):
            view = sum(values(name, "ndcg@5", m)) / 2
            gap = sum(values(f"teacher:{m}", "ndcg@5")) / 2 - view
            assert rows[1][name][2 * number].startswith(f"{view:.4f}")
            assert rows[1][name][2 * number + 1] == (f"{gap:.4f}" if gap >= 0 else f"$-${-gap:.4f}")


@pytest.mark.parametrize("seeds", [(0, 1), (0,)])
def test_the_latex_tables_mark_the_runs_that_had_not_converged(seeds, tmp_path):
    results = many.study(seeds=seeds)
    for late in ((), ("mine", "teacher:textual"), ("lightgcn",)):
        for run in results["runs"]:
            run["converged"] = not (run["name"] in late and run["seed"] == 0)
        write_tex(tmp_path / "table.tex", results, ["recall@20"])
        tables = (tmp_path / "table.tex").read_text().split(r"\end{table}")[:2]
        notes = [
            rf"{LATE}: not converged{' under at least one seed' if len(seeds) > 1 else ''}.}}" in t for t in tables
        ]
        assert notes == [bool(late), "mine" in late]
        rows = [line.split(" & ") for text in tables for line in text.splitlines() if " & " in line]
        marked = {cells[0] for cells in rows if cells[0].endswith(LATE)}
        assert marked == {name + LATE for name in late}
        (teachers,) = (cells for cells in rows if cells[0] == "teachers")
        assert [cell.endswith(LATE) for cell in teachers] == [False] * 3 + ["mine" in late] + [False] * 3


def test_stars_follow_the_corrected_p_value():
    from pyg_ckd.study.tables import _stars

    item = {"a": "x", "b": "plain", "metric": "recall@5", "over": "users", "p_value": 1e-9}
    for p_holm, expected in ((0.2, ""), (0.04, "*"), (0.004, "**"), (0.0004, "***")):
        assert _stars({"comparisons": [{**item, "p_holm": p_holm}]}, "x", "recall@5") == expected
    assert _stars({"comparisons": [{**item, "over": "seeds", "p_holm": 0.0}]}, "x", "recall@5") == ""


def test_latex_prints_names_as_they_are():
    assert escape(r"a_b & 50% #1 {x} ~ ^ \ $") == (
        r"a\_b \& 50\% \#1 \{x\} \textasciitilde{} \textasciicircum{} \textbackslash{} \$"
    )
    assert escape('<a> | "b"') == r"\textless{}a\textgreater{} \textbar{} {\ttfamily\char34}b{\ttfamily\char34}"
    assert [escape(name) for name in ("[a]", "*a", "a[*]")] == ["{}[a]", "{}*a", "a[*]"]  # No arguments of \\\\.


def test_a_folder_of_runs_that_cannot_be_written_to_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"folder of runs .*file: cannot be written to"):
        small(tmp_path / "out", runs=tmp_path / "file")


def test_a_study_needs_a_seed(tmp_path):
    with pytest.raises(InputError, match="seeds: found none"):
        small(tmp_path).run([])
    with pytest.raises(InputError, match=r"seeds: found 5, expected several seeds such as range\(5\), or one as"):
        small(tmp_path).run(5)
