"""A search for settings: equal budgets, a winner named by validation, nothing made twice, and going on after a kill."""

from __future__ import annotations

import json
import multiprocessing
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from pyg_ckd.data import build_data, held_out
from pyg_ckd.data.inputs import RATES
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator
from pyg_ckd.evaluation.ranking import Metrics
from pyg_ckd.files import read_json, write_json
from pyg_ckd.nn import VBPR, LightGCN
from pyg_ckd.study import Contender, search
from pyg_ckd.study.findings import verdict
from pyg_ckd.study.knobs import Knob
from pyg_ckd.study.ledger import COMPLETE, Ledger
from pyg_ckd.training import Trainer
from tests.study.search_problem import KNOBS, MOMENTS, PLAIN, TRAINER, disturbed, killed, searches, small, untimed
from tests.training.problem import planted_data


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder of a finished search."""
    path = tmp_path_factory.mktemp("tune") / "finished"
    small(path, trials=2).run()
    return path


@pytest.fixture(scope="module")
def results(folder) -> dict[str, Any]:
    return read_json(folder / "results.json")


def test_contenders_and_lightgcn_have_as_many_trials_and_begin_with_their_defaults(results):
    found = searches(results)
    assert {name: len(one["trials"]) for name, one in found.items()} == {"plain": 2, "ckd": 2, "lightgcn": 2}
    assert found["plain"]["trials"][0]["values"] == {"trainer.lr": 0.02, "strategy.l2": 0.01}
    weight = found["ckd"]["trials"][0]["values"]["strategy.distillation_weight"]
    assert weight == 0.01
    recommended = LightGCN.recommended
    expected = {"trainer.lr": recommended["trainer"]["lr"], "strategy.l2": recommended["plain"]["l2"]}
    assert found["lightgcn"]["trials"][0]["values"] == expected
    assert found["ckd"]["space"]["strategy.distillation_weight"] == "0.001:1 (log)"
    for one in found.values():
        for trial in one["trials"][1:]:
            assert 1e-3 <= trial["values"]["trainer.lr"] <= 1e-1
            assert 1e-4 <= trial["values"]["strategy.l2"] <= 1e-1


def test_winner_and_strongest_baseline_are_the_best_on_validation_and_are_tested(folder, results):
    tuning, found = results["tuning"], searches(results)
    best = {name: max(trial["value"] for trial in one["trials"]) for name, one in found.items()}
    assert tuning["winner"] == max(("plain", "ckd"), key=best.__getitem__)
    rivals = {"lightgcn": best["lightgcn"], "popularity": tuning["baselines"]["popularity"]["value"]}
    assert tuning["baseline"] == max(rivals, key=rivals.__getitem__)
    names = {run["name"] for run in results["runs"]}
    assert names >= {"plain", tuning["winner"], tuning["baseline"]}
    assert results["winner"]["name"] == tuning["winner"]
    assert read_json(folder / "chosen.json")["winner"] == tuning["winner"]
    pairs = {(test["a"], test["b"]) for test in results["comparisons"]}
    assert (tuning["winner"], tuning["baseline"]) in pairs


def test_the_best_trial_is_the_run_of_its_seed_and_is_not_trained_again(folder, results):
    winner = results["tuning"]["winner"]
    best = searches(results)[winner]
    trial = best["trials"][best["best"]]
    run = next(run for run in results["runs"] if (run["name"], run["seed"]) == (winner, 0))
    assert run["key"] == trial["key"]
    assert run["val"]["ndcg@5"] == trial["value"]
    others = [path for path in folder.glob("runs/*/run.json") if "test" in read_json(path)]
    untested = [path for path in others if not read_json(path)["test"]]
    assert len(untested) == 4  # Of eight: three pairs of trials, of which each had a better one, and popularity.
    assert not [path for path in untested if list(path.parent.glob("per_user*.csv"))]


def test_the_test_part_decides_nothing(tmp_path, monkeypatch, results):
    """Until the winner is fixed the test part is poisoned: whatever is measured on it is NaN."""
    original, built, measure = Evaluator.__init__, [], Evaluator.__call__

    def init(self, data, split="val", *args, **options):
        original(self, data, split, *args, **options)
        self.poisoned = split == "test" and not (tmp_path / "out" / "chosen.json").exists()
        built.append(self.poisoned)

    def call(self, *args, **options):
        found = measure(self, *args, **options)
        return Metrics({name: float("nan") for name in found}) if self.poisoned else found

    monkeypatch.setattr(Evaluator, "__init__", init)
    monkeypatch.setattr(Evaluator, "__call__", call)
    again = small(tmp_path / "out", trials=2).run()
    assert built
    assert not any(built)  # Not even prepared.
    assert untimed(again) == untimed(results)


def test_two_workers_find_what_one_finds(tmp_path, results):
    again = small(tmp_path / "out", trials=2, workers=2).run()
    assert untimed(again) == untimed(results)


def test_a_search_killed_at_any_moment_goes_on_to_the_result_of_an_undisturbed_one(tmp_path):
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.study.search_problem"])
    for moment in MOMENTS:
        process = context.Process(target=killed, args=(tmp_path / "out", moment))
        process.start()
        process.join()
        assert process.exitcode == -signal.SIGKILL, moment
        assert (tmp_path / "out" / "chosen.json").exists() == (moment in MOMENTS[-2:])
        if moment == MOMENTS[1]:
            with (tmp_path / "out" / "trials.log").open("ab") as file:
                file.write(b'{"op_code": 4, "wor')  # What a process leaves that is killed while it writes.
    results = disturbed(tmp_path / "out").run()
    expected = disturbed(tmp_path / "other").run()
    assert untimed(results) == untimed(expected)
    states = [trial["state"] for one in results["tuning"]["searches"] for trial in one["trials"]]
    assert len(states) == 10
    assert "pruned" in states
    assert not list(tmp_path.rglob("last.pt"))


def test_settings_that_come_again_cost_nothing(tmp_path, monkeypatch):
    fits, fit = [], Trainer.fit
    monkeypatch.setattr(Trainer, "fit", lambda *args: fits.append(1) or fit(*args))
    results = small(tmp_path, **{**PLAIN, "knobs": {"model.embedding_dim": [4, 8]}}, trials=5).run()
    trials = searches(results)["plain"]["trials"]
    assert len(trials) == 5
    assert len({trial["values"]["model.embedding_dim"] for trial in trials}) == 2
    assert len(fits) == 2 + 2  # The study of the winner has two teachers.
    assert len({(trial["values"]["model.embedding_dim"], trial["value"]) for trial in trials}) == 2


def test_a_contender_without_a_knob_has_one_trial(tmp_path):
    knobs = {"ckd.distillation_weight": (0.01, 0.1)}
    found = searches(small(tmp_path, baselines=[], knobs=knobs).run())
    assert {name: len(one["trials"]) for name, one in found.items()} == {"plain": 1, "ckd": 2}


@pytest.mark.parametrize("strategy", ["mi-balance", "odsw"])
def test_a_strategy_that_learns_from_how_modalities_rank_alone_is_searched_with_their_evaluations(strategy, tmp_path):
    options = {"pretrain_epochs": 1, "num_random_triples": 20}
    if strategy == "odsw":
        options = {"inner": "mi-balance", "inner_options": options, "stage_epochs": 2}
    contenders = {"x": Contender(strategy, options)}
    results = small(tmp_path, contenders=contenders, trials=1, baselines=[], knobs={"trainer.lr": (1e-3, 1e-1)}).run()
    assert results["tuning"]["best"]["x"]["value"] > 0


@pytest.mark.parametrize("kind", ["file", "sqlite"])
def test_calls_on_one_storage_share_its_trials(kind, tmp_path, monkeypatch):
    storage = tmp_path / "t.log" if kind == "file" else f"sqlite:///{tmp_path}/t.db"
    options: dict[str, Any] = {**PLAIN, "trials": 2, "storage": storage}
    first = small(tmp_path / "a", **options).run()
    made = []
    monkeypatch.setattr(Ledger, "finish", lambda *args: made.append(1))
    second = small(tmp_path / "b", **options, runs=tmp_path / "a" / "runs").run()
    assert not made
    assert untimed(second["tuning"]) == untimed(first["tuning"])


def test_trials_of_other_calls_are_waited_for_and_count(tmp_path, monkeypatch):
    storage, said = tmp_path / "trials.log", []
    options: dict[str, Any] = {**PLAIN, "trials": 2, "storage": storage}
    mine = small(tmp_path / "a", **options, say=said.append)
    other = small(tmp_path / "b", **options).ledger
    space = mine.tuned["plain"].space
    taken = other.claim("plain", space, {"trainer.lr": 0.02, "strategy.l2": 0.01}, (), 2)
    assert taken is not None

    def sleep(seconds: float) -> None:
        other.finish(taken, COMPLETE, {"value": 0.9, "seconds": 1.0, "stopped": "", "reached": {}})

    monkeypatch.setattr(search.time, "sleep", sleep)
    results = mine.run()
    (line,) = [line for line in said if line.startswith("waiting")]
    assert line.startswith("waiting for 1 trials of other calls, such as plain, trial 1 of 2 on ")
    assert line.endswith(
        f" in {(tmp_path / 'b').resolve()}; if that call has ended, start it again in its folder, or search under "
        "another name"
    )
    assert searches(results)["plain"]["trials"][0]["value"] == 0.9
    assert results["tuning"]["best"]["plain"]["trial"] == 0
    assert other.claim("plain", space, {"trainer.lr": 0.03, "strategy.l2": 0.01}, (), 2) is None  # All are taken.


def test_a_search_of_another_length_is_refused_with_the_one_that_the_folder_has(folder, tmp_path):
    before = (folder / "settings.json").read_text()
    for place, options in (("folder", {}), ("storage", {"storage": folder / "trials.log"})):
        with pytest.raises(
            InputError,
            match=rf"plain: found trainer\.extend = 1, expected 3 as in this run; choose another {place}, or the same",
        ):
            small(tmp_path if options else folder, settings={"trainer": {**TRAINER, "extend": 3}}, **options)
    assert (folder / "settings.json").read_text() == before


def test_best_trials_say_whether_they_had_converged(results):
    assert all(one["trials"][one["best"]]["converged"] is False for one in searches(results).values())  # Of 4 epochs.
    assert verdict(results)[-1].startswith("What to do: search again with a larger max_epochs in another folder before")


def test_a_search_of_a_backbone_from_outside_has_no_line(tmp_path):
    results = small(tmp_path, **PLAIN, backbone=type("Own", (VBPR,), {})).run()
    assert results["tuning"]["command"] == ""


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"data": planted_data(seed=1)}, "plain: it was trained on other data"),
        ({"seed": 1}, r"search.seed = 0, expected 1"),
        ({"knobs": KNOBS | {"trainer.lr": (1e-3, 1e-2)}}, r"space.trainer.lr = '0.001:0.1 \(log\)', expected"),
        ({"settings": {"model": {"embedding_dim": 5}}}, r"backbone.options.embedding_dim = 4, expected 5"),
        ({"warmup": 6}, r"search.warmup = 5, expected 6"),
        ({"settings": {"trainer": {**TRAINER, "max_epochs": 5}}}, r"trainer.max_epochs = 4, expected 5"),
    ],
    ids=["data", "seed", "knobs", "model", "warm-up", "epochs"],
)
def test_a_storage_of_another_search_is_refused_by_name(change, name, folder, tmp_path):
    with pytest.raises(InputError, match=rf"trials\.log: it belongs to another study: .*{name}"):
        small(tmp_path / "out", storage=folder / "trials.log", **change)
    if "data" not in change:
        with pytest.raises(InputError, match=r"settings\.json"):
            small(folder, **change)


@pytest.mark.parametrize(
    ("storage", "message"),
    [
        ("notes.txt", r"cannot be opened \(it is no journal of Optuna\)"),
        ("list.json", r"cannot be opened \(it is no journal of Optuna\)"),
        ("place", r"cannot be opened \(it is a folder\)"),
        ("no-such-dialect://me:secret@host/name", r"storage no-such-dialect://me:\*\*\*@host/name: cannot be opened"),
        ("no-such-dialect://me:se/cr@et@host/name", r"storage no-such-dialect://me:\*\*\*@host/name: cannot be opened"),
        (
            "no-such-dialect://host/name?password=secret&a=b",
            r"storage no-such-dialect://host/name\?password=\*\*\*&a=b",
        ),
        ("", "storage: found an empty text"),
        (" ", "storage: found an empty text"),
        (Path(" "), "storage: found an empty text"),
        (5, "path: found 5"),
    ],
)
def test_a_storage_that_is_none_is_refused_in_one_line(storage, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # A name without a folder is one of the current folder.
    (tmp_path / "notes.txt").write_text("no journal\n")
    (tmp_path / "list.json").write_text("[1, 2]")
    (tmp_path / "place").mkdir()
    before = sorted(tmp_path.rglob("*"))
    here = isinstance(storage, str) and storage != "" and (tmp_path / storage).exists()
    with pytest.raises(InputError, match=message) as error:
        small(tmp_path / "out", storage=tmp_path / storage if here else storage)
    assert "\n" not in str(error.value)
    assert "secret" not in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before  # No lock beside it either.
    assert (tmp_path / "list.json").read_text() == "[1, 2]"


def test_a_storage_that_cannot_be_written_to_is_refused_instead_of_waited_for(tmp_path):
    (tmp_path / "trials.log.lock").mkdir()
    with pytest.raises(InputError, match=r"storage .*trials\.log: cannot be written to \(.*\), expected a file"):
        small(tmp_path / "out", storage=tmp_path / "trials.log")
    assert not (tmp_path / "trials.log").exists()


@pytest.mark.parametrize("url", ["", "sqlite:///", "sqlite+pysqlite:///"])
def test_a_storage_beside_a_file_in_the_place_of_the_runs_is_not_begun(url, tmp_path):
    place, runs = tmp_path / "trials.db", tmp_path / "runs"
    runs.write_text("a file")
    with pytest.raises(InputError, match=r"runs"):
        small(tmp_path / "out", storage=f"{url}{place}" if url else place, runs=runs)
    assert list(tmp_path.iterdir()) == [runs]


def test_a_storage_beside_a_folder_of_another_search_is_not_begun(folder, tmp_path):
    with pytest.raises(InputError, match=r"settings\.json"):
        small(folder, storage=tmp_path / "trials.log", seed=1)
    assert not list(tmp_path.iterdir())


def test_a_damaged_line_of_a_storage_is_named_with_what_to_do(folder, tmp_path):
    lines = (folder / "trials.log").read_bytes().split(b"\n")
    lines[4] = lines[4][:20] + bytes(9)
    (tmp_path / "trials.log").write_bytes(b"\n".join(lines))
    with pytest.raises(InputError, match=r"\(line 5 is damaged\); put a copy .* or move it away"):
        small(tmp_path / "out", storage=tmp_path / "trials.log")


def test_a_contender_that_was_left_out_once_comes_back_with_the_settings_of_its_trials_only(tmp_path):
    options: dict[str, Any] = {"baselines": [], "knobs": {"trainer.lr": (1e-3, 1e-1)}}
    small(tmp_path, **options)
    small(tmp_path, **options, contenders=[])
    with pytest.raises(
        InputError, match=r"settings\.json: found contenders\.ckd\.options\.generic = None, expected False"
    ):
        small(tmp_path, **options, contenders={"ckd": Contender("ckd", {"generic": False})})
    small(tmp_path, **options)


@pytest.mark.parametrize("lost", ["all", "the last"])
def test_results_stay_when_the_storage_has_lost_the_trials_that_they_come_from(lost, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    log, before = tmp_path / "out" / "trials.log", (folder / "results.json").read_text()
    found = log.read_bytes().splitlines(keepends=True)
    claims = [number for number, line in enumerate(found) if b'"op_code":4' in line]
    log.write_bytes(b"" if lost == "all" else b"".join(found[: claims[-1]]))
    number = 0 if lost == "all" else 1
    with pytest.raises(
        InputError, match=rf"found {number} trials of \w+, expected the 2 that .*chosen\.json was"
    ) as error:
        small(tmp_path / "out", trials=2).run()
    assert "\n" not in str(error.value)
    assert (tmp_path / "out" / "results.json").read_text() == before


def test_trials_are_written_after_what_a_killed_call_has_not_written_to_its_end(tmp_path):
    options: dict[str, Any] = {**PLAIN, "trials": 2, "storage": tmp_path / "trials.log"}
    mine, other = small(tmp_path / "a", **options).ledger, small(tmp_path / "b", **options).ledger
    space = {"trainer.lr": Knob("trainer.lr", 1e-3, 1e-1, log=True), "strategy.l2": Knob("strategy.l2", 1e-4, 1e-1)}
    with (tmp_path / "trials.log").open("ab") as file:
        file.write(b'{"op_code": 4, "wor')
    mine.claim("plain", space, {"trainer.lr": 0.02, "strategy.l2": 0.01}, (), 2)
    assert [trial.values["trainer.lr"] for trial in other.trials("plain")] == [0.02]


def test_once_the_test_part_was_read_nothing_else_can_be_chosen(folder):
    with pytest.raises(InputError, match=r"trials: found 3, expected 2 as in the search whose winner"):
        small(folder, trials=3).run()
    with pytest.raises(InputError, match="contenders: found plain, ckd, multitask, expected plain, ckd"):
        small(folder, contenders=["ckd", "multitask"]).run()


def test_further_trials_go_on_from_the_first_ones_before_the_test_part_is_read(tmp_path, results, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("pyg_ckd.study.tune.Tuning._chosen", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            small(tmp_path, trials=1).run()
    small(tmp_path, trials=1)._search()
    (tmp_path / "chosen.json").unlink()  # As if it had been killed just before.
    assert untimed(small(tmp_path, trials=2).run()) == untimed(results)


def test_a_choice_of_an_earlier_version_among_more_trials_is_shown(tmp_path, folder):
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    chosen = read_json(copied / "chosen.json")
    trials = small(copied).ledger.trials
    chosen["trials"] = 1
    for name, one in chosen["best"].items():
        if one.get("trial") is not None:
            one |= {"trial": 1, "value": trials(name)[1].outcome["value"], "values": trials(name)[1].values}
    write_json(copied / "chosen.json", chosen)
    shutil.rmtree(copied / "study")
    found = small(copied, trials=1).run()
    assert {name: (one["best"], len(one["trials"])) for name, one in searches(found).items()} == dict.fromkeys(
        ("plain", "ckd", "lightgcn"), (1, 2)
    )
    assert verdict(found)


def test_a_file_of_the_choice_that_lacks_a_part_is_named(tmp_path, folder):
    copied = Path(shutil.copytree(folder, tmp_path / "copy"))
    chosen = read_json(copied / "chosen.json")
    del chosen["best"]
    write_json(copied / "chosen.json", chosen)
    with pytest.raises(InputError, match=r"chosen\.json: found no 'best', expected what .* remove the file"):
        small(copied).run()
    (copied / "chosen.json").unlink()
    assert untimed(small(copied).run()) == untimed(read_json(folder / "results.json"))


def without(part: str):
    data = planted_data()
    if part in ("val", "test"):
        data[RATES][f"{part}_edge_index"] = torch.zeros(2, 0, dtype=torch.int64)
        return data
    features = {m: torch.ones(30, 3) for m in ("visual", "textual")}
    edges = {name: data[RATES][f"{name}_edge_index"] for name in ("val", "test")}
    return build_data(data[RATES].edge_index, features, **edges, num_users=40, transform="none")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"trials": 0}, "trials: found 0, expected at least 1"),
        ({"batch": 0}, "batch: found 0"),
        ({"prune": "false"}, "prune: found 'false', expected true or false"),
        ({"warmup": 0}, "warmup: found 0, expected at least 1"),
        ({"warmup": 17}, "warmup: found 17 steps, expected at most 16, the whole budget of plain"),
        ({"settings": {"trainer": {**TRAINER, "max_epochs": 0}}}, "max_epochs: found 0"),
        ({"knobs": {}}, "knobs: found none"),
        ({"knobs": {"trainer.learning_rate": (0.1, 1.0)}}, r"unknown knob 'trainer.learning_rate': .*trainer\.lr,"),
        ({"knobs": {"trainer.max_epochs": (1, 5)}}, "unknown knob 'trainer.max_epochs'"),
        ({"knobs": {"ckd.weight": (0.1, 1.0)}}, r"unknown knob 'ckd.weight': .*ckd.distillation_weight"),
        ({"knobs": {"trainer.lr": (0.0, 1.0)}}, r"plain: knob trainer.lr at 0.0: lr: found 0.0"),
        ({"knobs": {"model.embedding_dim": [4, 0]}}, r"plain: knob model.embedding_dim at 0: embedding_dim"),
        (
            {"settings": {"trainer": {**TRAINER, "warmup_steps": 16}}},
            "warmup_steps: found 16, expected fewer than the 16",
        ),
        (
            {"knobs": {"trainer.warmup_steps": (0, 30)}},
            r"plain: knob trainer\.warmup_steps at 30: warmup_steps: found 30",
        ),
        ({"settings": {"teacher": {"warmup_steps": 16}}}, "warmup_steps: found 16"),
        ({"data": without("val")}, "data: found no validation part"),
        ({"data": without("test")}, "data: found no test part"),
        ({"data": without("content")}, r"features: found no content .*visual: 0 items, textual: 0 items"),
        ({"contenders": ["ckd", "ckd"]}, "found two of that name"),
        ({"baselines": ["ease2"]}, "unknown baseline 'ease2'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "-".join(value),
)
def test_bad_input_is_one_line_before_anything_is_written(options, message, tmp_path):
    with pytest.raises(InputError, match=message) as error:
        small(tmp_path / "out", **options)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "out").exists()


def test_without_optuna_it_says_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(InputError, match=r"pip install 'pyg-ckd\[tune\]'"):
        small(tmp_path / "out")


def test_the_journal_holds_curves_at_budgets_for_optunas_own_tools(folder, results):
    import optuna

    backend = optuna.storages.journal.JournalFileBackend(str(folder / "trials.log"))
    study = optuna.load_study(study_name="tune/plain", storage=optuna.storages.JournalStorage(backend))
    trials = searches(results)["plain"]["trials"]
    assert [trial.value for trial in study.trials] == [trial["value"] for trial in trials]
    assert study.trials[1].params == trials[1]["values"]
    assert list(study.trials[0].intermediate_values) == [5, 10]
    assert json.loads(json.dumps(study.trials[0].intermediate_values)) == trials[0]["reached"]


def test_no_trial_takes_more_than_its_own_budget_whatever_its_batches(tmp_path):
    trainer = {**TRAINER, "max_epochs": 2}
    knobs = {"trainer.batch_size": [8, 64]}
    options = {**PLAIN, "trials": 3, "knobs": knobs, "settings": {"trainer": trainer}}
    (search,) = small(tmp_path, warmup=None, **options).run()["tuning"]["searches"]
    number = held_out(planted_data(), "train").size(1)
    for trial in search["trials"]:
        assert trial["budget"] == 2 * -(-number // trial["values"]["trainer.batch_size"]) >= trial["steps"]
    assert {trial["values"]["trainer.batch_size"] for trial in search["trials"]} == {8, 64}


def test_a_search_that_was_killed_while_settings_were_written_goes_on(folder, tmp_path, results, monkeypatch):
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    shutil.rmtree(again / "study")
    (again / "study").mkdir()
    for place in (again, again / "study"):
        (place / ".settings.json.partial-7i6o4r91.json").touch()
    monkeypatch.setattr("pyg_ckd.training.Trainer.fit", lambda *args, **options: pytest.fail("it was trained again"))
    found = small(again, trials=2).run()
    assert found["winner"] == results["winner"]
    empty = tmp_path / "empty"
    empty.mkdir()
    (empty / ".settings.json.partial-7i6o4r91.json").touch()
    small(empty, trials=2)
    assert (empty / "settings.json").exists()
