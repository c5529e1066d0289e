"""What the verdict of a study says, and what it must not say."""

from __future__ import annotations

import copy

import pytest

from pyg_ckd.report import write_report
from pyg_ckd.report.sections import winner_section
from pyg_ckd.study.findings import ADVICE, WARNING, verdict
from tests.report import many
from tests.report.study import study as old_study


def study(values: dict, reach: dict | None = None, tests: dict | None = None, seeds: int = 3, val=None) -> dict:
    """Return a study of three modalities from joint values and shares of the teachers (0.05 each).

    ``tests`` holds, by pair, p-values over users and over seeds; the difference has the sign of the values.
    """
    kinds = dict.fromkeys(("popularity", "item-knn", "ease", "lightgcn"), "baseline")
    modalities = list((reach or {"plain": {"a": 1.0, "b": 1.0}})["plain"])
    runs = []
    for seed in range(seeds):
        for m in modalities:
            runs.append({"name": f"teacher:{m}", "kind": "teacher", "seed": seed, "test": {"recall@20": 0.05}})
        for name, value in values.items():
            views = {m: {"recall@20": 0.05 * share} for m, share in (reach or {}).get(name, {}).items()}
            scores = {"test": {"recall@20": value}, "val": {"recall@20": (val or values)[name]}}
            kind = kinds.get(name, "contender")
            runs.append({"name": name, "kind": kind, "seed": seed, "views": views, "converged": True, **scores})
    comparisons = []
    for (a, b), found in (tests or {}).items():
        for over, num, p in zip(("users", "seeds"), (500, seeds), found, strict=False):
            test = {"a": a, "b": b, "metric": "recall@20", "over": over, "difference": values[a] - values[b]}
            comparisons.append(test | {"p_value": p, "p_holm": p, "num": num})
    return {
        "format": 2,
        "baselines": [name for name in values if name in kinds],
        "contenders": [{"name": name} for name in values if name not in kinds],
        "runs": runs,
        "comparisons": comparisons,
    }


def advice(results: dict) -> str:
    last = verdict(results)[-1]
    assert last.startswith(ADVICE)
    assert last.endswith(".")
    return last.removeprefix(ADVICE).strip()


def test_five_contenders_are_told_in_at_most_eight_sentences_and_the_last_says_what_to_do():
    lines = verdict(many.study())
    assert 5 <= len(lines) <= 8
    assert all(line.endswith(".") and ". " not in line for line in lines)
    assert lines[0] == (
        "Warning: multitask (1 of 3 seeds) had not converged when the epochs were used up, so more of them may "
        "change the numbers."
    )
    assert lines[-1] == "What to do: deploy mine."


def test_the_starving_modality_is_named_with_what_the_winner_makes_of_it():
    reach = {"plain": {"visual": 0.97, "acoustic": 0.62, "tags": 0.8}, "mine": {"visual": 1, "acoustic": 0.91}}
    lines = verdict(study({"plain": 0.07, "mine": 0.08}, reach))
    assert lines[0] == (
        "acoustic starves: its view of plain reaches 62 % of its teacher's test recall@20 (91 % in mine); short as "
        "well: tags (80 %)."
    )


def test_if_nothing_starves_that_is_said():
    lines = verdict(study({"plain": 0.07, "mine": 0.08}, {"plain": {"a": 0.95, "b": 1.02}}))
    assert lines[0].startswith("No modality starves: every modality reaches at least 95 %")


def with_teachers(values: dict[str, float], reach: dict[str, float]) -> dict:
    results = study({"plain": 0.07, "mine": 0.08}, {"plain": reach})
    for run in results["runs"]:
        if run["kind"] == "teacher":
            run["test"]["recall@20"] = values[run["name"].removeprefix("teacher:")]
    return results


def test_modalities_whose_teachers_reach_nothing_are_unknown():
    lines = verdict(with_teachers({"a": 0.05, "b": 0.0, "c": 0.05}, {"a": 0.95, "b": 0.0, "c": 1.0}))
    assert lines[0] == "Whether b starves is unknown, for no teacher above 0 is there to compare with."
    assert lines[1].startswith("No other modality starves: every other modality reaches at least 95 %")
    lines = verdict(with_teachers({"a": 0.05, "b": 0.0, "c": 0.05}, {"a": 0.5, "b": 0.0, "c": 1.0}))
    assert lines[0].startswith("Whether b starves is unknown")
    assert lines[1].startswith("a starves: its view of plain reaches 50 %")
    lines = verdict(with_teachers({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.5}))
    assert lines[0].startswith("Whether a and b starve is unknown")
    assert not [line for line in lines if line.startswith("No")]


def test_the_winner_of_a_search_is_told_by_its_best_trial():
    results = study({"plain": 0.07, "mine": 0.08}, val={"plain": 0.09, "mine": 0.085})
    results["winner"] = {"name": "mine", "metric": "recall@20", "val": 0.085, "test": 0.08}
    results["tuning"] = {"contenders": ["plain", "mine", "third"], "best": {"mine": {"value": 0.1}}}
    (line,) = [line for line in verdict(results) if line.startswith("mine ")]
    assert line.startswith("mine has the best trial on validation (recall@20 0.1000) and 0.0800 on the test part")


def test_plain_training_that_wins_a_search_was_not_the_only_contender():
    results = study({"plain": 0.07})
    results["tuning"] = {"contenders": ["plain", "mine"], "best": {"plain": {"value": 0.1}}}
    lines = verdict(results)
    assert not [line for line in lines if "only contender" in line]
    assert advice(results) == "keep plain; balancing buys nothing here."


def test_a_single_modality_has_nothing_to_balance():
    assert "one modality only, a" in verdict(study({"plain": 0.07}, {"plain": {"a": 0.5}}))[0]


def test_the_winner_of_validation_is_told_with_what_it_is_worth_on_the_test_part():
    values = {"ease": 0.075, "plain": 0.070, "mine": 0.081, "other": 0.085}
    val = {"ease": 0.08, "plain": 0.07, "mine": 0.09, "other": 0.08}
    tests = {("mine", "plain"): (0.003, 0.02), ("mine", "ease"): (0.0001,), ("other", "plain"): (0.0001, 0.001)}
    lines = verdict(study(values, tests=tests, val=val))
    assert lines[0] == (
        "mine wins on validation (recall@20 0.0900) and has 0.0810 on the test part: +15.7 % against plain (0.0700), "
        "more than chance (p = 0.003 over 500 users, p = 0.020 over 3 seeds, after Holm's correction)."
    )
    assert lines[1] == (
        "Against EASE (0.0750), the strongest baseline on validation, that is +8.0 %, more than chance "
        "(p < 0.001 over 500 users, after Holm's correction)."
    )
    assert lines[-1] == "What to do: deploy mine."
    assert not any("other" in line for line in lines)


def test_a_difference_that_may_be_chance_or_was_not_tested_is_not_called_one():
    values = {"plain": 0.070, "mine": 0.081}
    chance = study(values, tests={("mine", "plain"): (0.3, 0.2)})
    assert "which may be chance (p = 0.30 over 500 users" in verdict(chance)[0]
    assert advice(chance).startswith("keep plain")
    untested = study(values)
    assert "not tested for chance" in verdict(untested)[0]
    assert advice(untested).startswith("keep plain")
    # A test whose difference points the other way is not about the printed numbers.
    turned = study(values, tests={("mine", "plain"): (0.001, 0.001)})
    for test in turned["comparisons"]:
        test["difference"] *= -1
    assert "which may be chance" in verdict(turned)[0]
    assert advice(turned).startswith("keep plain")


def test_a_p_value_counts_after_correction_only():
    results = study({"plain": 0.070, "mine": 0.081}, tests={("mine", "plain"): (0.03, 0.03)})
    assert advice(results) == "deploy mine."
    for test in results["comparisons"]:
        test["p_holm"] = 0.09
    assert advice(results).startswith("keep plain")


def test_seeds_that_do_not_confirm_what_users_show_are_said_and_asked_for():
    results = study({"plain": 0.070, "mine": 0.081}, tests={("mine", "plain"): (0.001, 0.2)})
    assert "more than chance over users but not for certain over seeds" in verdict(results)[0]
    assert advice(results) == "deploy mine, after further seeds have confirmed its lead over plain."


def test_one_seed_is_said_to_be_few():
    results = study({"plain": 0.070, "mine": 0.081}, tests={("mine", "plain"): (0.001,)}, seeds=1)
    assert verdict(results)[-2].startswith("One seed only")
    assert "after further seeds" in advice(results)
    assert not any("seed only" in line or "seeds only" in line for line in verdict(study({"plain": 0.1, "a": 0.2})))


def test_contenders_that_are_worse_by_a_tested_difference_stand_in_one_sentence():
    values = {"plain": 0.070, "mine": 0.081, "bad": 0.060, "worse": 0.050, "maybe": 0.069}
    tests = {(name, "plain"): (0.001, 0.01) for name in ("mine", "bad", "worse")} | {("maybe", "plain"): (0.4, 0.4)}
    lines = [line for line in verdict(study(values, tests=tests)) if line.startswith("Worse than plain")]
    assert lines == [
        "Worse than plain in test recall@20 by a tested difference: bad (−14.3 %, p = 0.001 over 500 users) and worse "
        "(−28.6 %, p = 0.001 over 500 users)."
    ]


BEHIND = {("plain", "lightgcn"): (0.001,), ("mine", "lightgcn"): (0.001,)}


@pytest.mark.parametrize("base", ["lightgcn", "item-knn"])
def test_modalities_do_not_pay_off_if_every_contender_is_behind_by_a_tested_difference(base):
    tests = {(a, base): p for (a, _), p in BEHIND.items()}
    results = study({base: 0.09, "plain": 0.07, "mine": 0.08}, tests=tests)
    title = {"lightgcn": "LightGCN", "item-knn": "Item-kNN"}[base]
    assert verdict(results)[0] == (
        f"Warning: every contender is behind {title} (0.0900) by a tested difference in test recall@20, so "
        "all modalities together do not pay off here."
    )
    assert advice(results) == f"use {title}; content does not pay here."


@pytest.mark.parametrize(
    ("values", "tests"),
    [
        ({"lightgcn": 0.09, "plain": 0.07, "mine": 0.08}, {}),
        ({"lightgcn": 0.09, "plain": 0.07, "mine": 0.08}, BEHIND | {("mine", "lightgcn"): (0.2,)}),
        ({"lightgcn": 0.09, "plain": 0.07, "mine": 0.10}, BEHIND),
        ({"lightgcn": 0.06, "plain": 0.07, "mine": 0.08}, BEHIND),
        ({"popularity": 0.01, "ease": 0.09, "plain": 0.07}, {("plain", "ease"): (0.001,)}),
    ],
    ids=["untested", "one may be chance", "one ahead", "all ahead", "no such baseline"],
)
def test_modalities_are_not_said_to_pay_nothing_otherwise(values, tests):
    assert not any("pay" in line for line in verdict(study(values, tests=tests)))


def test_a_baseline_that_is_ahead_of_the_winner_is_advised():
    results = study({"ease": 0.09, "plain": 0.07}, tests={("plain", "ease"): (0.001,)})
    assert advice(results) == "use EASE; plain is behind it."


LEVEL = "shown to beat Popularity, which is simpler: use it, or gather more test users."


@pytest.mark.parametrize("winner", ["plain", "mine"])
def test_a_baseline_that_the_winner_is_not_shown_to_beat_is_advised_or_more_users(winner):
    values = {"popularity": 0.70, "ease": 0.69, "plain": 0.50, "mine": 0.68}
    val = {"popularity": 0.88, "ease": 0.86, "plain": 0.7, "mine": 0.7} | {winner: 0.9}
    tests = {("mine", "plain"): (0.01,), ("mine", "popularity"): (0.6,), ("mine", "ease"): (0.7,)}
    tests |= {("plain", "popularity"): (0.08,), ("plain", "ease"): (0.09,)}
    assert advice(study(values, tests=tests, val=val)) == f"no contender is {LEVEL}"
    # A lead that may be chance is none, and another contender's lead does not make one.
    ahead = study(values | {"mine": 0.72}, tests=tests, val=val)
    assert advice(ahead) == f"no contender is {LEVEL}"
    clear = advice(study(values | {"mine": 0.9}, tests=tests | {("mine", "popularity"): (0.001,)}, val=val))
    deploy = "deploy mine, after further seeds have confirmed its lead over plain."
    assert clear == {"plain": f"plain is not {LEVEL}", "mine": deploy}[winner]


def test_a_baseline_that_the_winner_beats_by_a_tested_difference_changes_no_advice():
    values, val = {"popularity": 0.05, "plain": 0.07, "mine": 0.08}, {"popularity": 0.9, "plain": 0.7, "mine": 0.8}
    tests = {("mine", "plain"): (0.001, 0.01), ("mine", "popularity"): (0.001,)}
    assert advice(study(values, tests=tests, val=val)) == "deploy mine."
    del tests["mine", "popularity"]  # Older results have no such test.
    assert advice(study(values, tests=tests, val=val)) == "deploy mine."
    assert advice(study(values | {"popularity": 0.08}, tests=tests, val=val)) == f"no contender is {LEVEL}"


def test_plain_training_that_beats_the_baseline_is_kept_where_the_winner_is_not_shown_to():
    values = {"ease": 0.0715, "plain": 0.0759, "mine": 0.0763}
    tests = {("mine", "ease"): (0.2,), ("mine", "plain"): (0.5,), ("plain", "ease"): (0.01,)}
    said = advice(study(values, tests=tests))
    assert said == "keep plain; the lead of mine on validation is not confirmed by the test part."
    del tests["plain", "ease"]
    assert advice(study(values, tests=tests)).startswith("no contender is shown to beat EASE")


def with_tested_teachers(values: dict, teachers: dict, p: dict, **options) -> dict:
    """Return a study with teachers of other values, and p-values of teachers against contenders."""
    results = study(values, **options)
    results["teacher_comparisons"] = []
    for run in results["runs"]:
        if run["kind"] == "teacher":
            value = teachers[run["name"].removeprefix("teacher:")]
            run |= {part: {"recall@20": value} for part in ("val", "test")}
    for (name, m), found in p.items():
        test = {"a": name, "b": f"teacher:{m}", "metric": "recall@20", "over": "users", "num": 514}
        test |= {"difference": values[name] - teachers[m], "p_value": found, "p_holm": found}
        results["teacher_comparisons"].append(test)
    return results


def test_a_modality_alone_that_ranks_better_than_all_together_is_said_and_advised():
    values, p = {"plain": 0.20}, {("plain", "a"): 0.032, ("plain", "b"): 0.9}
    said = verdict(with_tested_teachers(values, {"a": 0.23, "b": 0.21}, p))
    assert (
        "a alone ranks better than plain with all modalities: +15.0 % in test recall@20, more than chance (p = 0.032 "
        "over 514 users, after Holm's correction)."
    ) in said
    assert said[-1] == "What to do: use a alone; it ranks better than plain with all modalities."
    said = verdict(with_tested_teachers(values, {"a": 0.23, "b": 0.24}, p | {("plain", "b"): 0.001}))
    assert any(line.startswith("b alone ranks better than plain") and line.endswith("; so does a.") for line in said)


def test_a_modality_alone_that_may_be_better_by_chance_is_not_mentioned():
    for p in (0.06, 0.9):
        said = verdict(with_tested_teachers({"plain": 0.2}, {"a": 0.23, "b": 0.1}, {("plain", "a"): p}))
        assert not any("alone" in line for line in said)
    said = verdict(with_tested_teachers({"plain": 0.2}, {"a": 0.1, "b": 0.1}, {("plain", "a"): 0.001}))
    assert not any("alone" in line for line in said)


def test_a_modality_alone_that_only_plain_training_is_behind_is_said_and_not_advised():
    values, p = {"plain": 0.20, "mine": 0.24}, {("plain", "a"): 0.01, ("mine", "a"): 0.5}
    tests = {("mine", "plain"): (0.001, 0.001)}
    results = with_tested_teachers(values, {"a": 0.23, "b": 0.1}, p, tests=tests)
    assert [line.partition(" with all")[0] for line in verdict(results) if " alone " in line] == [
        "a alone ranks better than plain"
    ]
    assert advice(results) == "deploy mine."


def test_the_better_of_a_baseline_and_a_modality_alone_is_advised():
    p, tests = {("plain", "a"): 0.01}, {("plain", "ease"): (0.01,)}
    alone = (
        "use a alone; it ranks better than plain with all modalities, and in the mean than EASE, which was not tested."
    )
    for base, expected in ((0.22, alone), (0.3, "use EASE")):
        results = with_tested_teachers({"ease": base, "plain": 0.20}, {"a": 0.23, "b": 0.1}, p, tests=tests)
        assert advice(results).startswith(expected)


def test_plain_is_kept_where_it_wins():
    results = study({"plain": 0.08, "mine": 0.07}, tests={("mine", "plain"): (0.001, 0.01)})
    assert advice(results) == "keep plain; balancing buys nothing here."
    assert verdict(results)[0] == "plain wins on validation (recall@20 0.0800) and has 0.0800 on the test part."


def late(results: dict, name: str, num: int) -> dict:
    for run in [run for run in results["runs"] if run["name"] == name][:num]:
        run["converged"] = False
    return results


def test_runs_that_had_not_converged_are_a_warning_and_decide_about_the_advice():
    tests = {("mine", "plain"): (0.001, 0.01)}
    values = {"plain": 0.07, "mine": 0.08}
    plain = late(study(values, tests=tests), "plain", 3)
    assert verdict(plain)[0].startswith("Warning: plain (3 of 3 seeds) had not converged")
    longer = "raise max_epochs or extend and run again in another folder before choosing"
    assert advice(plain) == f"{longer}, for plain had not converged."
    assert advice(late(study(values, tests=tests), "plain", 1)) == "deploy mine."
    # More epochs can only add to a lead that is there.
    winner = late(study(values, tests=tests), "mine", 3)
    assert verdict(winner)[0].startswith("Warning: mine (3 of 3 seeds)")
    assert advice(winner) == "deploy mine."
    assert "run again" in advice(late(study(values), "mine", 3))


def test_unknown_convergence_is_not_called_missing():
    results = study({"plain": 0.07, "mine": 0.08})
    for run in results["runs"]:
        run["converged"] = None
    assert not any("converged" in line for line in verdict(results))


def test_models_below_popularity_are_a_warning():
    lines = verdict(study({"popularity": 0.075, "plain": 0.07, "mine": 0.08}))
    assert lines[0] == (
        "Warning: recommending the most popular items to everybody reaches recall@20 0.0750, and the teacher of "
        "a (0.0500), the teacher of b (0.0500) and plain (0.0700) do not beat that."
    )


FULL = "at its maximum for almost every user, so that it cannot tell models apart"


@pytest.mark.parametrize(
    "values", [{"popularity": 1.0, "item-knn": 1.0, "plain": 0.95, "mine": 0.99}, {"plain": 0.99, "mine": 1.0}]
)
def test_a_metric_at_its_maximum_is_said_in_place_of_what_it_cannot_tell(values):
    said = verdict(late(study(values), "plain", 3))
    options = "(--k 5 --trainer.monitor recall@5)"
    assert said[0] == f"Warning: recall@20 is {FULL}: choose a smaller cut-off in another folder {options}."
    assert not any("most popular items" in line for line in said)
    assert said[-1] == f"What to do: choose a smaller cut-off before choosing a model {options}."


@pytest.mark.parametrize(("cutoff", "smaller"), [(6, 5), (5, 2), (2, 1), (1, None)])
def test_the_cut_off_that_is_proposed_is_smaller(cutoff, smaller):
    results = study({"popularity": 0.9, "plain": 0.995}) | {"monitor": f"ndcg@{cutoff}"}
    for run in results["runs"]:
        for part in {"val", "test"} & run.keys():
            run[part] = {f"ndcg@{cutoff}": run[part]["recall@20"]}
    first = verdict(results)[0]
    if smaller is None:
        assert first.endswith(f"ndcg@1 is {FULL}.")
    else:
        assert first.endswith(f"(--k {smaller} --trainer.monitor ndcg@{smaller}).")


def test_a_metric_without_a_maximum_and_a_baseline_that_is_ahead_are_told_as_ever():
    values = {"popularity": 0.98, "plain": 0.95, "mine": 0.985}
    assert "most popular items" in verdict(study(values))[0]
    results = study({"popularity": 3.0, "plain": 2.0}) | {"monitor": "gain@20"}
    for run in results["runs"]:
        for part in {"val", "test"} & run.keys():
            run[part] = {"gain@20": run[part]["recall@20"]}
    assert "most popular items" in verdict(results)[0]
    tests = {("plain", "popularity"): (0.001,)}
    assert advice(study({"popularity": 0.99, "plain": 0.5}, tests=tests)).startswith("use Popularity")
    assert "most popular items" in verdict(study({"popularity": 0.99, "plain": 0.97}, tests=tests))[0]


def test_a_full_metric_says_nothing_of_baselines_that_are_ahead():
    results = study({"item-knn": 0.9995, "plain": 0.992}, tests={("plain", "item-knn"): (0.001,)})
    assert not any("pay off" in line for line in verdict(results))
    assert advice(results).startswith("choose a smaller cut-off")


def test_models_of_a_search_that_are_below_popularity_on_validation_are_a_warning():
    results = study({"ease": 0.09, "plain": 0.07})
    for run in results["runs"]:
        if run["kind"] == "teacher":
            run["val"] = {"recall@20": {"teacher:a": 0.06, "teacher:b": 0.08}[run["name"]]}
    best = {"plain": {"value": 0.074}, "mine": {"value": 0.071}, "lightgcn": {"value": 0.076}}
    results["tuning"] = {
        "metric": "recall@20",
        "contenders": ["plain", "mine"],
        "best": best,
        "baselines": {"popularity": {"value": 0.075}, "ease": {"value": 0.09}},
    }
    assert verdict(results)[0] == (
        "Warning: on validation, recommending the most popular items to everybody reaches recall@20 0.0750, and plain "
        "(0.0740), mine (0.0710) and the teacher of a (0.0600) do not beat that."
    )
    del results["tuning"]["baselines"]["popularity"]
    assert not any(line.startswith("Warning: ") for line in verdict(results))
    # Where popularity was tested, the test part tells.
    results["tuning"]["baselines"]["popularity"] = {"value": 0.075}
    tested = [{**run, "name": "popularity"} if run["name"] == "ease" else run for run in results["runs"]]
    assert "on validation, recommending" not in verdict(results | {"runs": tested})[0]


def test_warnings_come_first():
    results = late(study({"popularity": 0.075, "plain": 0.07, "mine": 0.08}), "plain", 1)
    flags = [line.startswith(WARNING) for line in verdict(results)]
    assert flags == sorted(flags, reverse=True)
    assert sum(flags) == 2


def test_the_story_is_told_with_the_monitored_metric():
    results = many.study()
    for run in results["runs"]:
        for part in ("val", "test"):
            run[part]["map@5"] = 0.5 * run[part]["recall@20"]
    lines = verdict({**results, "monitor": "map@5", "winner": None})
    assert any("map@5" in line for line in lines)
    assert not any("recall@20" in line for line in lines)


def test_results_of_format_1_have_a_verdict_too():
    lines = verdict(old_study())
    assert any("ckd wins on validation" in line for line in lines)
    assert lines[-1] == "What to do: deploy ckd."


def test_verdict_changes_nothing_and_has_an_answer_without_runs():
    results = many.study()
    before = copy.deepcopy(results)
    verdict(results)
    assert results == before
    assert verdict({"runs": []}) == ["Nothing to compare yet: the study holds no run of a contender."]


def test_another_name_tells_the_same_story():
    results = many.study(contenders=("plain", "ckd"))
    renamed = many.renamed(results, {"ckd": "zebra"})
    assert [line.replace("zebra", "ckd") for line in verdict(renamed)] == verdict(results)


def alone(**recalls) -> dict:
    names = ("recall", "shuffled", "p_value", "high")
    rows = {m: dict(zip(names, found, strict=True)) for m, found in recalls.items()}
    return {"content": {"metric": "recall@20", "split": "val", "modalities": rows}}


SILENT, WORSE, TELLING = (0.01, 0.012, 0.4, 0.015), (0.01, 0.03, 0.001, 0.02), (0.05, 0.01, 0.001, 0.06)
UNKNOWN = (0.012, 0.01, 0.4, 0.02)


def test_modalities_whose_features_say_nothing_do_not_starve():
    results = study({"plain": 0.05}, {"plain": {"a": 0.5, "b": 0.8, "c": 0.97}})
    assert any(line.startswith("a starves: ") and "short as well: b (80 %)" in line for line in verdict(results))
    said = verdict(results | alone(a=SILENT, b=TELLING, c=SILENT))
    assert any(line.startswith("b starves: ") and "short as well" not in line for line in said)
    assert (
        "a (50 %) is short of its teacher, but the features alone rank no better than shuffled ones (recall@20 on "
        "validation 0.0100 against 0.0120), so there may be nothing to learn from them."
    ) in said
    said = verdict(results | alone(a=SILENT, b=WORSE, c=TELLING))
    assert any(line.startswith("No modality starves: c reaches at least 97 %") for line in said)
    assert any(line.startswith("a (50 %) and b (80 %) are short of their teachers, but") for line in said)


def test_features_that_rank_better_as_given_are_warned_of():
    def scaled(**rows) -> dict:
        names = ("given", "standardized", "p_value")
        return {
            "content": {
                "metric": "recall@20",
                "scaling": {m: dict(zip(names, x, strict=True)) for m, x in rows.items()},
            }
        }

    results = study({"plain": 0.05}, {"plain": {"a": 0.95, "b": 0.95, "c": 0.97}})
    said = verdict(results | scaled(a=(0.2355, 0.0857, 1e-9), b=(0.2, 0.1, 0.06), c=(0.12, 0.1, 1e-9)))
    assert (
        "Warning: the features of a rank better as given than standardized (alone on validation, recall@20: a 0.2355 "
        "and 0.0857): train with --transform l2 or none in another folder."
    ) in said
    for content in (scaled(b=(0.2, 0.1, 0.06)), scaled(a=(None, 0.1, 0.0)), {"content": {"scaling": ["a"]}}):
        assert not any("as given" in line for line in verdict(results | content))


def test_the_winner_is_named_where_it_feeds_what_says_nothing():
    reach = {"plain": {"a": 0.5, "b": 0.95}, "mine": {"a": 0.9, "b": 0.95}}
    said = verdict(study({"plain": 0.05, "mine": 0.06}, reach) | alone(a=SILENT, b=TELLING))
    assert any(line.startswith("a (50 %, 90 % in mine) is short of its teacher, but") for line in said)


def test_modalities_whose_features_may_be_noise_are_not_said_to_starve():
    results = study({"plain": 0.05}, {"plain": {"a": 0.45, "b": 0.8, "c": 0.97}})
    noise = (0.0675, 0.0507, 0.68, 0.0844)  # Better than shuffled rows in the mean, and maybe by chance.
    said = verdict(results | alone(a=noise, b=TELLING, c=noise))
    assert any(line.startswith("b starves: ") and "short as well" not in line for line in said)
    assert "a (45 %) is short of its teacher, but whether its features say anything cannot be told (p = 0.68)." in said
    said = verdict(results | alone(a=noise, b=UNKNOWN, c=TELLING))
    assert any(line.startswith("No other modality starves: c reaches at least 97 %") for line in said)
    assert (
        "a (45 %) and b (80 %) are short of their teachers, but whether their features say anything cannot be told "
        "(p = 0.68 and p = 0.40)."
    ) in said
    said = verdict(results | alone(a=(0.0675, 0.0507, 0.049, 0.0844), b=SILENT, c=noise))
    assert any(line.startswith("a starves: ") for line in said)


@pytest.mark.parametrize("a", [TELLING, (0.05, 0.01, None, None), (None,) * 4])
def test_features_of_which_that_is_not_known_starve_as_before(a):
    results = study({"plain": 0.05}, {"plain": {"a": 0.5, "b": 0.8, "c": 0.97}})
    said = verdict(results | alone(a=a, b=TELLING, c=UNKNOWN))
    assert any(line.startswith("a starves: ") and "short as well: b (80 %)" in line for line in said)


def test_modalities_that_nobody_measured_alone_are_judged_by_their_views():
    results = study({"plain": 0.05}, {"plain": {"a": 0.5, "b": 0.95, "c": 0.97}})
    for content in (None, {}, [1], {"modalities": {}}, {"modalities": ["a"]}, {"modalities": {"a": None}}):
        assert any(line.startswith("a starves: ") for line in verdict(results | {"content": content}))


def test_a_contender_that_is_better_on_the_test_part_alone_is_named_in_the_advice():
    values, val = {"plain": 0.07, "mine": 0.08, "other": 0.0701}, {"plain": 0.09, "mine": 0.08, "other": 0.08}
    tests = {("mine", "plain"): (0.0001, 0.2), ("other", "plain"): (0.7, 0.8)}
    results = study(values, tests=tests, val=val)
    assert advice(results) == (
        "keep plain, which validation chose; mine (+14.3 %, p < 0.001 over 500 users) is higher on the test part, so "
        "more seeds or more validation data may tell."
    )
    assert advice(study(values, tests=dict.fromkeys(tests, (0.7, 0.8)), val=val)).endswith("buys nothing here.")


def test_contenders_that_are_equal_on_validation_are_not_said_to_win():
    results = study({"plain": 0.07, "mine": 0.08}, val={"plain": 0.09, "mine": 0.09})
    assert verdict(results)[0] == (
        "plain and mine are equal on validation (recall@20 0.0900); plain, the first of them, has 0.0700 on the test "
        "part."
    )
    results["tuning"] = {"contenders": ["plain", "mine"], "best": {n: {"value": 0.1} for n in ("plain", "mine")}}
    assert verdict(results)[0].startswith("plain and mine are equal on validation (recall@20 0.1000); plain, the first")


@pytest.mark.parametrize(("num", "few"), [(1, " over 1 user"), (49, " over 49 users"), (50, ""), (None, "")])
def test_few_users_of_the_validation_part_are_named_with_the_winner(num, few):
    known = {"held_out_users": {"val": num, "test": 3}}
    results = study({"plain": 0.07, "mine": 0.08}) | known
    assert verdict(results)[0].startswith(f"mine wins on validation (recall@20 0.0800{few}) and has 0.0800 on")
    even = study({"plain": 0.07, "mine": 0.08}, val={"plain": 0.09, "mine": 0.09}) | known
    assert verdict(even)[0].startswith(f"plain and mine are equal on validation (recall@20 0.0900{few}); plain,")
    only = verdict(study({"plain": 0.07}) | known)[0]
    assert only == f"plain is the only contender: recall@20 0.0700{few} on validation, 0.0700 on the test part."
    results["tuning"] = {"contenders": ["plain", "mine"], "best": {"mine": {"value": 0.1}}}
    assert verdict(results)[0].startswith(f"mine has the best trial on validation (recall@20 0.1000{few}) and")


def test_baselines_that_are_equal_on_validation_are_named_and_ndcg_decides():
    values = {"popularity": 0.85, "ease": 0.58, "plain": 0.7}
    results = study(values, val={"popularity": 1.0, "ease": 1.0, "plain": 1.0})
    (line,) = [line for line in verdict(results) if line.startswith("Against")]
    assert line.startswith(
        "Against Popularity (0.8500), the strongest baseline on validation (equal there to EASE in recall@20; the "
        "first of them), that is"
    )
    for run in results["runs"]:
        if run["kind"] == "baseline":
            run["val"]["ndcg@20"] = {"popularity": 0.6, "ease": 0.9}[run["name"]]
    (line,) = [line for line in verdict(results) if line.startswith("Against")]
    assert line.startswith(
        "Against EASE (0.5800), the strongest baseline on validation (equal there to Popularity in recall@20; ndcg@20 "
        "is higher), that is"
    )
    assert "against EASE (0.5800), the strongest baseline on validation" in winner_section(results)
    for run in results["runs"]:
        if run["name"] == "ease":
            run["val"]["recall@20"] = 0.99
    assert any("Popularity (0.8500), the strongest baseline on validation, that" in line for line in verdict(results))


def test_the_part_that_named_the_strongest_baseline_is_said():
    results = study({"ease": 0.06, "plain": 0.07, "mine": 0.08})
    assert any("the strongest baseline on validation" in line for line in verdict(results))
    for run in results["runs"]:
        if run["kind"] == "baseline":
            run["val"] = {}
    assert any("the strongest baseline on the test part" in line for line in verdict(results))
    assert "strongest baseline on the test part" in winner_section(results)
    assert "nothing but which baseline is the strongest" in winner_section(results)


@pytest.mark.parametrize("known", [True, False])
def test_a_winner_without_a_value_on_validation_is_told(known, tmp_path):
    results = study({"ease": 0.06, "plain": 0.07, "mine": 0.08})
    for run in [] if known else results["runs"]:
        run |= {"val": {"recall@20": None}, "test": {"recall@20": None}}
    results["winner"] = {"name": "plain", "metric": "recall@20", "val": None, "test": None}
    assert any(line.startswith("plain wins on validation (recall@20 –)") for line in verdict(results))
    write_report(tmp_path, results, {})
