"""Full ranking against a ranking of plain Python lists."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from pyg_ckd.data import build_data, cold_start_split
from pyg_ckd.data.inputs import RATES, held_out
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, embed, evaluate, item_knn, popularity, ranking, unimodal_gap
from pyg_ckd.nn import VBPR
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import Trainer

METRICS = ("recall", "precision", "ndcg", "map", "mrr", "hit")
MASK = ("train", "val")


def pairs(data, split: str) -> set[tuple[int, int]]:
    return set(map(tuple, held_out(data, split).t().tolist()))


def dense_data(make_data, **sizes):
    """Give a third of the users several test items, so that cut-offs below their number matter."""
    data = make_data(**({"num_users": 30, "num_items": 25} | sizes))
    taken = pairs(data, "train") | pairs(data, "val") | pairs(data, "test")
    more = [(u, i) for u in range(0, 30, 3) for i in range(24) if (u, i) not in taken][::3]
    data[RATES].test_edge_index = torch.cat([data[RATES].test_edge_index, torch.tensor(more).t()], dim=1)
    return data


def random_embeddings(data, seed: int = 0) -> Embeddings:
    generator = torch.Generator().manual_seed(seed)
    sizes = (data["user"].num_nodes, data["item"].num_nodes)
    return Embeddings(*(torch.randn(n, 4, generator=generator, dtype=torch.float64) for n in sizes))


def ranked_list(out: Embeddings, user: int, seen: set[tuple[int, int]]) -> list[int]:
    score = {i: float(out.user[user] @ out.item[i]) for i in range(out.item.size(0)) if (user, i) not in seen}
    return sorted(score, key=lambda i: -score[i])


def metrics_of(ranked: list[int], positives: set[int], k: int) -> dict[str, float]:
    hit = [item in positives for item in ranked[:k]]
    best = min(k, len(positives))
    precision = [sum(hit[: r + 1]) / (r + 1) for r in range(len(hit))]
    return {
        f"recall@{k}": sum(hit) / len(positives),
        f"precision@{k}": sum(hit) / k,
        f"ndcg@{k}": sum(h / math.log2(r + 2) for r, h in enumerate(hit))
        / sum(1 / math.log2(r + 2) for r in range(best)),
        f"map@{k}": sum(p for p, h in zip(precision, hit, strict=True) if h) / best,
        f"mrr@{k}": next((1 / (r + 1) for r, h in enumerate(hit) if h), 0.0),
        f"hit@{k}": float(any(hit)),
    }


def by_hand(data, out: Embeddings, split: str, cuts, mask=("train",), items=None) -> dict[int, dict[str, float]]:
    """Return the metrics of every user with a positive among ``items``."""
    seen = set().union(*(pairs(data, name) for name in mask))
    result = {}
    for user in range(data["user"].num_nodes):
        positives = {i for u, i in pairs(data, split) if u == user and (items is None or i in items)}
        if positives:
            ranked = ranked_list(out, user, seen)
            result[user] = {name: v for k in cuts for name, v in metrics_of(ranked, positives, k).items()}
    return result


def mean(per_user: dict[int, dict[str, float]], name: str) -> float:
    return sum(values[name] for values in per_user.values()) / len(per_user)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("split", "mask"),
    [("val", ("train",)), ("val", ()), ("test", ("train",)), ("test", ("train", "val")), ("test", ())],
    ids=str,
)
def test_all_metrics_equal_those_of_sorted_lists(split, mask, make_data):
    data = dense_data(make_data)
    cuts = (1, 3, 10, 20)
    for seed in range(3):
        out = random_embeddings(data, seed)
        expected = by_hand(data, out, split, cuts, mask)
        result = evaluate(out, data, split, k=cuts, metrics=METRICS, mask=mask, per_user=True)
        assert result.per_user.index.tolist() == list(expected)
        for name in result:
            assert result[name] == pytest.approx(mean(expected, name), abs=1e-12)
            by_user = [values[name] for values in expected.values()]
            assert result.per_user[name].tolist() == pytest.approx(by_user, abs=1e-12)


def test_ranked_items_are_the_best_unseen_ones_in_order(make_data):
    data = dense_data(make_data)
    out = random_embeddings(data)
    evaluator = Evaluator(data, "test", k=[7])
    seen = pairs(data, "train")
    for user, ranked in zip(evaluator.users.tolist(), evaluator.rank(out).tolist(), strict=True):
        expected = ranked_list(out, user, seen)[:7]
        assert ranked == expected + [-1] * (7 - len(expected))


def test_small_blocks_of_users_change_nothing(make_data, monkeypatch):
    data = dense_data(make_data)
    out = random_embeddings(data)
    whole = Evaluator(data, "test", k=[7]).rank(out)
    monkeypatch.setattr(ranking, "BLOCK_BYTES", 4 * 8 * data["item"].num_nodes)
    assert torch.equal(Evaluator(data, "test", k=[7]).rank(out), whole)


@pytest.mark.parametrize("mask", [(), ("train",), ("train", "val")])
def test_small_blocks_of_interactions_mask_the_same_items(mask, make_data, monkeypatch):
    data = dense_data(make_data)
    whole = Evaluator(data, "test", [3], mask=mask, eval_users=4)
    monkeypatch.setattr(ranking, "BLOCK", 7)
    blocks = Evaluator(data, "test", [3], mask=mask, eval_users=4)
    assert torch.equal(blocks._seen_ptr, whole._seen_ptr)
    assert torch.equal(blocks._seen_item, whole._seen_item)
    for n, user in enumerate(blocks.users.tolist()):
        seen = blocks._seen_item[int(blocks._seen_ptr[n]) : int(blocks._seen_ptr[n + 1])].tolist()
        assert seen == [i for split in mask for u, i in held_out(data, split).t().tolist() if u == user]


@pytest.mark.usefixtures("double")
def test_cold_and_warm_items_are_averaged_over_the_users_who_have_some(make_data):
    data = dense_data(make_data)
    train = data[RATES].edge_index
    data[RATES].edge_index = train[:, train[1] > 7]  # Items 0 to 7 have no training interaction.
    warm = set(data[RATES].edge_index[1].tolist())
    cold = set(range(data["item"].num_nodes)) - warm
    out = random_embeddings(data)
    result = evaluate(out, data, "test", k=[5], cold=True)
    for group, items in (("cold", cold), ("warm", warm)):
        expected = by_hand(data, out, "test", [5], items=items)
        assert 0 < len(expected) < 30
        for metric in METRICS:
            assert result[f"{group}/{metric}@5"] == pytest.approx(mean(expected, f"{metric}@5"), abs=1e-12)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("candidates", ["cold", "warm"])
def test_on_request_only_cold_or_only_warm_items_are_ranked(candidates, make_data):
    data = dense_data(make_data)
    train = data[RATES].edge_index
    data[RATES].edge_index = train[:, train[1] > 7]
    cold = set(range(data["item"].num_nodes)) - set(data[RATES].edge_index[1].tolist())
    others = [i for i in range(data["item"].num_nodes) if (i in cold) != (candidates == "cold")]
    out = random_embeddings(data)
    chosen = set(range(data["item"].num_nodes)) - set(others)
    result = evaluate(out, data, "test", k=[5], candidates=candidates, metrics=[*METRICS, "coverage"])
    nowhere = {(user, item) for user in range(30) for item in others}
    seen, expected, lists = pairs(data, "train") | nowhere, {}, []
    for user in range(30):
        positives = {i for u, i in pairs(data, "test") if u == user and i in chosen}
        if positives:
            lists.append(ranked_list(out, user, seen))
            expected[user] = metrics_of(lists[-1], positives, 5)
    for metric in METRICS:
        assert result[f"{metric}@5"] == pytest.approx(mean(expected, f"{metric}@5"), abs=1e-12)
    assert result["coverage@5"] == pytest.approx(len({i for ranked in lists for i in ranked[:5]}) / len(chosen))


def test_items_held_out_by_a_cold_start_split_are_found_by_their_features_alone():
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 2, 60)  # Users like the items of their kind, and the features show it.
    pairs = np.array([(u, i) for u in range(40) for i in range(60) if kind[i] == u % 2 and rng.random() < 0.5]).T
    train, val, test = cold_start_split(pairs, cold_share=0.3)
    data = build_data(train, {"visual": np.eye(2)[kind]}, val=val, test=test, num_items=60, transform="none")
    taste = torch.zeros(40, 60)
    taste[tuple(data[RATES].edge_index)] = 1
    out = Embeddings(taste @ data["item"].visual, data["item"].visual)
    mixed = evaluate(out, data, "test", k=10, cold=True)
    alone = evaluate(out, data, "test", k=5, candidates="cold")
    assert 0 < mixed["cold/recall@10"] < evaluate(out, data, "test", k=10, candidates="cold")["recall@10"]
    random = evaluate(random_embeddings(data), data, "test", k=5, candidates="cold")
    assert alone["precision@5"] > 1.5 * random["precision@5"]


def test_group_that_nobody_has_is_nan(make_data):
    data = make_data()
    warm = torch.bincount(data[RATES].edge_index[1], minlength=9) > 0
    test = data[RATES].test_edge_index
    data[RATES].test_edge_index = test[:, warm[test[1]]]
    result = evaluate(random_embeddings(data), data, k=3, cold=True)
    assert math.isnan(result["cold/recall@3"])
    assert result["warm/recall@3"] == result["recall@3"]


def test_coverage_and_personalization_equal_their_definitions(make_data):
    data = dense_data(make_data)
    out = random_embeddings(data)
    result = evaluate(out, data, k=[4], metrics=["coverage", "personalization"])
    seen = pairs(data, "train")
    users = sorted({user for user, _ in pairs(data, "test")})
    lists = [set(ranked_list(out, user, seen)[:4]) for user in users]
    assert result["coverage@4"] == pytest.approx(len(set().union(*lists)) / 25)
    overlap = [len(a & b) / 4 for n, a in enumerate(lists) for b in lists[n + 1 :]]
    assert result["personalization@4"] == pytest.approx(1 - sum(overlap) / len(overlap), abs=1e-5)


def test_user_with_fewer_candidates_than_k_is_ranked_without_error(make_data):
    data = make_data()
    out = random_embeddings(data)
    result = evaluate(out, data, "test", k=[9], metrics=["recall", "hit"])
    assert result == {"recall@9": 1.0, "hit@9": 1.0}  # With all items on the list, every test item is found.


@pytest.mark.usefixtures("double")
def test_all_metrics_of_users_with_fewer_candidates_than_k_equal_those_of_sorted_lists(make_data):
    data = make_data(num_users=30, num_items=12)
    for seed in range(3):
        out = random_embeddings(data, seed)
        evaluator = Evaluator(data, "test", k=[12], metrics=(*METRICS, "coverage", "personalization"), mask=MASK)
        ranked = evaluator.rank(out)
        seen = set().union(*(pairs(data, name) for name in MASK))
        lists = [ranked_list(out, user, seen) for user in range(30)]
        assert min(map(len, lists)) < max(map(len, lists)) < 12
        assert ranked.tolist() == [items + [-1] * (12 - len(items)) for items in lists]
        result, expected = evaluator(out), by_hand(data, out, "test", [12], MASK)
        for metric in METRICS:
            assert result[f"{metric}@12"] == pytest.approx(mean(expected, f"{metric}@12"), abs=1e-12)
        assert result["coverage@12"] == pytest.approx(len(set().union(*lists)) / 12)
        similar = [
            len(set(a) & set(b)) / math.sqrt(len(a) * len(b)) for n, a in enumerate(lists) for b in lists[n + 1 :]
        ]
        assert result["personalization@12"] == pytest.approx(1 - sum(similar) / len(similar), abs=1e-12)


def test_items_that_only_masked_slots_held_are_not_covered(make_data):
    data = make_data()
    popular = torch.zeros(12, dtype=torch.long), torch.arange(12)
    assert popular[0].numel() == data["user"].num_nodes
    train = data[RATES].edge_index
    data[RATES].edge_index = torch.cat([train[:, train[1] != 8], torch.stack([popular[1], popular[0] + 8])], dim=1)
    result = evaluate(random_embeddings(data), data, "test", k=[9], metrics=["coverage"])
    assert result["coverage@9"] == pytest.approx(8 / 9)  # Item 8 is seen by everybody and so recommended to nobody.


def test_perfect_and_worst_scores_have_the_metrics_one_and_zero(make_data):
    data = make_data()
    score = torch.zeros(12, 9)
    score[tuple(data[RATES].test_edge_index)] = 1.0
    perfect = evaluate(Embeddings(score, torch.eye(9)), data, k=1)
    worst = evaluate(Embeddings(-score, torch.eye(9)), data, k=1)
    assert perfect == pytest.approx(dict.fromkeys(perfect, 1.0), abs=1e-6)
    assert set(worst.values()) == {0.0}


def test_model_is_ranked_in_evaluation_mode_in_the_view_that_was_asked_for(make_data):
    data = make_data()
    torch.manual_seed(0)
    model = VBPR.from_data(data)
    model.train()
    for view in (None, "mod1"):
        (out,) = embed(model, data, [view])
        assert evaluate(model, data, k=3, view=view) == evaluate(out, data, k=3)
        assert not out.user.requires_grad
    assert model.training


def test_empty_view_is_the_one_without_any_factual_modality(make_data):
    data = make_data()
    torch.manual_seed(0)
    model = VBPR.from_data(data)
    none = make_data()
    for m in none.modalities:
        none["item"][m] = none["item"][m].mean(dim=0, keepdim=True).expand_as(none["item"][m])
    with torch.no_grad():
        for m in none.modalities:
            preference = model.preference[m]
            preference.copy_(preference.mean(dim=0, keepdim=True).expand_as(preference))
    # Once features and preferences are their means, intervening changes nothing.
    assert evaluate(model, none, k=3, view=[]) == evaluate(model, none, k=3)


def test_mode_is_restored_when_a_model_fails(make_data):
    data = make_data()
    model = VBPR.from_data(data)
    with pytest.raises(InputError):
        embed(model, data, ["mod9"])
    assert model.training


def test_popularity_ranks_by_the_number_of_training_interactions(make_data):
    data = make_data()
    count = [sum(item == i for _, i in pairs(data, "train")) for item in range(9)]
    out = popularity(data)
    assert (out.user @ out.item.t()).tolist() == [pytest.approx(count)] * 12


def test_gap_is_teacher_minus_student_for_every_modality():
    gap = unimodal_gap({"a": 0.25, "b": 0.5}, {"a": 0.5, "b": 0.25})
    assert gap == {"a": 0.25, "b": -0.25}


def test_results_print_as_aligned_lines(make_data):
    text = str(evaluate(random_embeddings(make_data()), make_data(), k=3, metrics=["recall", "precision"]))
    first, second = text.splitlines()
    assert first.startswith("recall@3     0.")
    assert second.startswith("precision@3  0.")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": 10}, "k: found 10, expected a number between 1 and 9"),
        ({"k": 0}, "k: found 0"),
        ({"k": [3, -1]}, "k: found -1"),
        ({"metrics": ["recal"]}, "unknown metric 'recal': did you mean 'recall'"),
        ({"split": "tset"}, "unknown split 'tset': did you mean 'test'"),
        ({"split": "train"}, "found 'train', expected 'val' or 'test'"),
        ({"mask": ["trian"]}, "unknown split 'trian': did you mean 'train'"),
        ({"mask": ["train", "test"]}, "mask: found 'test', the split that is evaluated"),
        ({"split": "val", "mask": ["val"]}, "mask: found 'val', the split that is evaluated"),
        ({"candidates": "colt"}, "unknown kind of candidates 'colt': did you mean 'cold'"),
        ({"candidates": "cold"}, "k: found 3, expected a number between 1 and 1, the number of cold items"),
        ({"candidates": "cold", "split": "val", "k": 1}, "split 'val': found no interaction with cold items"),
    ],
    ids=str,
)
def test_bad_arguments_are_refused(arguments, message, make_data):
    data = make_data()
    with pytest.raises(InputError, match=message):
        evaluate(random_embeddings(data), data, **({"k": 3} | arguments))


def test_empty_list_of_cutoffs_is_refused(make_data):
    data = make_data()
    with pytest.raises(InputError, match="k: found none"):
        evaluate(random_embeddings(data), data, k=[])


def test_empty_split_is_refused(make_data):
    data = make_data()
    data[RATES].val_edge_index = data[RATES].val_edge_index[:, :0]
    with pytest.raises(InputError, match="split 'val': found no interaction"):
        evaluate(random_embeddings(data), data, "val", k=3)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("table", ["user", "item"])
def test_embeddings_that_are_not_finite_are_refused(table, value, make_data):
    data = make_data()
    out = random_embeddings(data)
    getattr(out, table)[2, 1] = value
    with pytest.raises(InputError, match=f"{table} embeddings: found NaN or infinite values"):
        evaluate(out, data, k=3)


@pytest.mark.parametrize("dtype", [torch.int64, torch.bool, torch.complex64])
def test_tables_of_no_floating_point_numbers_are_refused(dtype, make_data):
    data = make_data()
    tables = [torch.ones(data[kind].num_nodes, 2, dtype=dtype) for kind in ("user", "item")]
    with pytest.raises(InputError, match=f"found {dtype} for users.*floating-point"):
        evaluate(tuple(tables), data, k=3)


def test_embeddings_of_two_types_are_refused(make_data):
    data = make_data()
    tables = Embeddings(torch.ones(data["user"].num_nodes, 2), torch.ones(data["item"].num_nodes, 2).double())
    with pytest.raises(InputError, match=r"found torch\.float32 for users and torch\.float64 for items"):
        evaluate(tables, data, k=3)


@pytest.mark.parametrize(("given", "plain"), [(np.int64(5), 5), (np.float32(0.5), 0.5), (torch.tensor(5), 5)])
def test_a_number_of_users_can_be_one_of_numpy(given, plain, make_data):
    data = make_data()
    found, expected = (Evaluator(data, k=[3], eval_users=value, seed=1) for value in (given, plain))
    assert torch.equal(found.users, expected.users)
    trainer = Trainer(eval_users=given)
    assert trainer.settings()["eval_users"] == plain
    assert type(trainer.eval_users) is type(plain)


def overflowing(data, sign: int) -> Embeddings:
    """Return finite tables whose scores are all infinite in single precision."""
    return Embeddings(*(torch.full((data[kind].num_nodes, 4), 1e30) for kind in ("user", "item")))._replace(
        item=torch.full((data["item"].num_nodes, 4), sign * 1e30)
    )


@pytest.mark.parametrize("candidates", ["all", "warm"])
@pytest.mark.parametrize("sign", [1, -1])
def test_scores_that_overflow_are_refused(sign, candidates, make_data):
    data = make_data()
    with pytest.raises(InputError, match=r"scores: found NaN or infinite values.*too large for torch\.float32"):
        evaluate(overflowing(data, sign), data, k=3, candidates=candidates)
    mixed = overflowing(data, sign)
    mixed.item[:, 1] *= -1
    with pytest.raises(InputError, match="scores: found NaN or infinite values"):
        evaluate(mixed, data, k=3, candidates=candidates)
    double = Embeddings(*(table.double() for table in overflowing(data, sign)))
    assert all(math.isfinite(value) for value in evaluate(double, data, k=3, candidates=candidates).values())


@pytest.mark.filterwarnings("ignore:split")
def test_empty_slots_of_users_with_few_candidates_are_no_overflow(make_data):
    data = make_data()
    user = torch.arange(data["user"].num_nodes)
    twice = torch.stack([user.repeat(2), torch.zeros_like(user).repeat(2)])  # Seen in two parts: masked twice.
    data[RATES].val_edge_index = torch.cat([data[RATES].val_edge_index, data[RATES].edge_index, twice], dim=1)
    metrics = evaluate(random_embeddings(data), data, k=7, mask=MASK, candidates="warm")
    assert all(math.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("view", [["mod0"], [], "mod1", ["mod0", "mod1"]])
def test_tables_and_scores_have_no_views(view, make_data):
    data = make_data()
    for model in (random_embeddings(data), tuple(random_embeddings(data)), item_knn(data)):
        with pytest.raises(InputError, match=r"view: found .* of .*, expected a model: tables have no views"):
            evaluate(model, data, k=3, view=view)


@pytest.mark.parametrize("metrics", [None, 5])
def test_metrics_that_are_no_names_are_refused(metrics, make_data):
    data = make_data()
    with pytest.raises(InputError, match=rf"^metrics: found {metrics}, expected names such as"):
        evaluate(random_embeddings(data), data, k=3, metrics=metrics)


@pytest.mark.parametrize(("kind", "count"), [(list, 2), (iter, 2), (set, 1), (frozenset, 1)])
def test_views_may_be_given_as_any_collection(kind, count, make_data):
    data = make_data()
    views = list(data.modalities)[:2]
    assert len(embed(VBPR.from_data(data), data, kind(views))) == count
