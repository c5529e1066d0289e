"""A graph in another order is brought to the model's; another graph is refused by the name of a user or item."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from torch_geometric.data import HeteroData

from pyg_ckd.data import RATES, build_data, fingerprint
from pyg_ckd.data.matching import graph_record, ids_of, lost, matched, matched_newer
from pyg_ckd.data.prepared import begin, keep
from pyg_ckd.errors import InputError

USERS, ITEMS = 14, 10
EDGES = ("edge_index", "val_edge_index", "test_edge_index")


def raw(seed: int = 0) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    rng = np.random.default_rng(seed)
    keys = rng.permutation(USERS * ITEMS)[:70]
    pairs = np.stack([keys // ITEMS, keys % ITEMS])
    features = {"visual": rng.normal(3.0, 2.0, (ITEMS, 4)), "text": rng.normal(size=(ITEMS, 3))}
    return {"train": pairs[:, :50], "val": pairs[:, 50:60], "test": pairs[:, 60:]}, features, np.arange(ITEMS) % 4 > 0


def built(
    user: np.ndarray | None = None, item: np.ndarray | None = None, ids: bool = True, transform: str = "standardize"
) -> HeteroData:
    """Return the same data set with rows in the order given: row ``r`` is what was row ``user[r]`` or ``item[r]``."""
    user = np.arange(USERS) if user is None else user
    item = np.arange(ITEMS) if item is None else item
    edges, features, has = raw()
    place = np.argsort(user), np.argsort(item)
    parts = {name: np.stack([place[0][e[0]], place[1][e[1]]]) for name, e in edges.items()}
    more = {"user_id": [f"u{n}" for n in user], "item_id": item * 10 + 5} if ids else {}
    return build_data(
        parts["train"],
        {m: x[item] for m, x in features.items()},
        val=parts["val"],
        test=parts["test"],
        num_users=USERS,
        num_items=ITEMS,
        has={"text": has[item]},
        transform=transform,
        **more,
    )


def match(data: HeteroData, other: HeteroData) -> HeteroData | None:
    return matched(other, fingerprint(data), graph_record(data), "model.pt")


def shuffled(seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.permutation(USERS), rng.permutation(ITEMS)


def test_the_same_graph_stays_itself() -> None:
    data, again = built(), built()
    assert match(data, again) is again
    assert match(built(ids=False), again) is again  # Without ids on one side, rows are all there is.


@pytest.mark.parametrize("transform", ["standardize", "none", "pca"])
@pytest.mark.parametrize("seed", [1, 2])
def test_rows_in_another_order_are_matched_by_id(transform: str, seed: int) -> None:
    data, other = built(transform=transform), built(*shuffled(seed), transform=transform)
    out = match(data, other)
    assert out is not None
    assert out is not other
    assert ids_of(out, "user") == ids_of(data, "user")
    assert torch.equal(out.item_id, data.item_id)
    for m in data.modalities:
        torch.testing.assert_close(out["item"][m], data["item"][m], atol=1e-5, rtol=0)
    assert torch.equal(out["item"].has_text, data["item"].has_text)
    for name in EDGES:
        ours, theirs = ({tuple(p) for p in g[RATES][name].t().tolist()} for g in (out, data))
        assert ours == theirs
    assert match(data, out) is not None


def test_ids_that_are_text_in_one_place_and_numbers_in_the_other_are_the_same() -> None:
    data, other = built(), built(*shuffled(3))
    other.item_id = [str(n) for n in other.item_id.tolist()]
    out = match(data, other)
    assert out is not None
    torch.testing.assert_close(out["item"].visual, data["item"].visual, atol=1e-5, rtol=0)


def test_raw_features_are_brought_to_the_scale_of_the_model() -> None:
    data, other = built(), built(transform="none")
    out = match(data, other)
    assert out is not None
    for m in data.modalities:
        torch.testing.assert_close(out["item"][m], data["item"][m], atol=1e-5, rtol=0)


def reverse(data: HeteroData, *kinds: str) -> HeteroData:
    out = copy.copy(data)
    for kind in kinds:
        ids = data[f"{kind}_id"]
        out[f"{kind}_id"] = ids.flip(0) if isinstance(ids, torch.Tensor) else ids[::-1]
    return out


@pytest.mark.parametrize(
    ("kinds", "words"),
    [
        (["item"], r"item 5, 15, 25 and 7 more has other features 'visual' in the graph than in training"),
        (["user", "item"], r"has other features 'visual'"),
        (["user"], r"other training interactions .* user 'u\d+', item \d+\) not there any more"),
    ],
    ids=["items", "both", "users"],
)
def test_reversed_ids_are_refused(kinds: list[str], words: str) -> None:
    data = built()
    with pytest.raises(InputError, match=words):
        match(data, reverse(built(), *kinds))
    with pytest.raises(InputError, match=r"has other features|other training interactions"):
        matched_newer(reverse(built(), *kinds), graph_record(data), "model.pt")


def test_what_is_missing_new_or_changed_is_named() -> None:
    data, other = built(), built(*shuffled(4))
    other.user_id = ["new" if name == "u3" else name for name in other.user_id]
    with pytest.raises(InputError, match=r"model\.pt: the graph lacks user 'u3', expected every user"):
        match(data, other)
    other = built(*shuffled(4))
    other["item"].visual[int((other.item_id == 35).nonzero()), 1] += 0.5
    with pytest.raises(InputError, match=r"item 35 has other features 'visual'"):
        match(data, other)
    other = built(*shuffled(4))
    other[RATES].edge_index = other[RATES].edge_index[:, 1:]
    with pytest.raises(InputError, match=r"1 interaction is \(first: user 'u\d+', item \d+\) not there any more"):
        match(data, other)
    other = built(*shuffled(4))
    other[RATES].test_edge_index = other[RATES].test_edge_index[:, 1:]
    with pytest.raises(InputError, match="another test part"):
        match(data, other)
    other = built(*shuffled(4))
    other.user_id = ["u1", *other.user_id[1:]] if other.user_id[0] != "u1" else ["u2", *other.user_id[1:]]
    with pytest.raises(InputError, match=r"user_id: found 'u\d' twice"):
        match(data, other)


def test_other_widths_are_said_before_anything_else() -> None:
    data, other = built(), built(*shuffled(4), transform="none")
    other["item"].visual = torch.cat([other["item"].visual, torch.ones(ITEMS, 2)], dim=1)
    record = begin(other["item"].visual, None, False)
    keep(other, "visual", record)
    for check in (match, lambda one, two: matched_newer(two, graph_record(one), "model.pt")):
        with pytest.raises(InputError, match=r"features 'visual' have 6 columns in the graph and had 4 in training"):
            check(data, other)


def with_more(transform: str) -> HeteroData:
    """Return the graph with two more items behind the others, whose features are far from theirs."""
    edges, features, has = raw()
    rng = np.random.default_rng(9)
    return build_data(
        edges["train"],
        {m: np.concatenate([x, rng.normal(8.0, 1.0, (2, x.shape[1]))]) for m, x in features.items()},
        num_users=USERS,
        num_items=ITEMS + 2,
        has={"text": np.concatenate([has, [True, True]])},
        user_id=[f"u{n}" for n in range(USERS)],
        item_id=np.arange(ITEMS + 2) * 10 + 5,
        transform=transform,
    )


@pytest.mark.filterwarnings("ignore:.*of training not in the graph any more")
def test_components_that_were_fitted_anew_are_named_and_raw_features_are_served() -> None:
    data = built(transform="pca")
    words = r"model.pt: the principal components of 'visual' were fitted anew, .*give features as they are read, with "
    with pytest.raises(InputError, match=words + r"--transform none \(transform='none' in Python\)"):
        matched_newer(with_more("pca"), graph_record(data), "model.pt")
    known, _ = matched_newer(with_more("none"), graph_record(data), "model.pt")
    for m in data.modalities:
        torch.testing.assert_close(known["item"][m], data["item"][m], atol=1e-5, rtol=0)


def test_without_ids_another_order_is_another_graph() -> None:
    assert match(built(ids=False), built(*shuffled(5), ids=False)) is None
    with pytest.raises(InputError, match="no ids to match its users and items by"):
        matched_newer(built(ids=False), graph_record(built(ids=False)), "model.pt")


def test_interactions_that_one_has_and_the_other_lacks() -> None:
    first, second = torch.tensor([[0, 1, 2], [5, 0, 5]]), torch.tensor([[2, 1], [5, 3]])
    assert lost(first, second).tolist() == [[0, 1], [5, 0]]
    assert lost(first[:, :0], second).shape == (2, 0)
    assert lost(second, first[:, :0]).tolist() == second.tolist()


def test_a_newer_graph_has_the_model_s_part_in_its_order_and_on_its_scale() -> None:
    data = built()
    edges, features, has = raw()
    rng = np.random.default_rng(9)
    order = rng.permutation(ITEMS + 2)
    wide = {m: np.concatenate([x, rng.normal(8.0, 1.0, (2, x.shape[1]))])[order] for m, x in features.items()}
    place = np.argsort(order)
    train = np.stack([edges["train"][0], place[edges["train"][1]]])
    train = np.concatenate([train, [[USERS, 0, 1], place[[3, ITEMS, ITEMS + 1]]]], axis=1)
    newer = build_data(
        train,
        wide,
        num_users=USERS + 1,
        num_items=ITEMS + 2,
        has={"text": np.concatenate([has, [True, True]])[order]},
        user_id=[f"u{n}" for n in range(USERS + 1)],
        item_id=order * 10 + 5,
    )
    known, whole = matched_newer(newer, graph_record(data), "model.pt")
    assert torch.equal(known.item_id, data.item_id)
    for m in data.modalities:
        torch.testing.assert_close(known["item"][m], data["item"][m], atol=1e-5, rtol=0)
    assert whole["item"].num_nodes == ITEMS + 2
    mean, deviation = features["visual"].mean(0), features["visual"].std(0)
    expected = (wide["visual"] - mean) / deviation / 2  # Four columns: rows have a norm of about one.
    torch.testing.assert_close(whole["item"].visual.double(), torch.from_numpy(expected), atol=1e-5, rtol=0)
    fewer = copy.copy(newer)
    fewer[RATES].edge_index = newer[RATES].edge_index[:, 5:]
    with pytest.warns(UserWarning, match=r"5 interactions are \(first: .* of training not in the graph any more"):
        matched_newer(fewer, graph_record(data), "model.pt")


def test_ids_that_cannot_be_used_are_not_kept_and_lose_no_model() -> None:
    data = built()
    data.user_id = data.user_id[:-1]
    with pytest.warns(UserWarning, match=r"user_id: found 13 ids, expected 14 .* ids of users are not stored"):
        record = graph_record(data)
    assert record["ids"]["user"] is None
    assert torch.equal(record["ids"]["item"], data.item_id)


@pytest.mark.parametrize("to", ["val_edge_index", "test_edge_index"])
def test_the_same_interactions_that_are_split_otherwise_are_told_from_others(to: str) -> None:
    data, other = built(), built()
    train, held = other[RATES].edge_index, other[RATES][to]
    other[RATES].edge_index = torch.cat([held[:, :4], train[:, 4:]], dim=1)
    other[RATES][to] = torch.cat([train[:, :4], held[:, 4:]], dim=1)
    words = r"model.pt: found the same interactions as in training, split otherwise: 4 interactions are \(first: user"
    with pytest.raises(InputError, match=words + r".* held out now, .*give its split, ratios and seed.*order"):
        match(data, other)
    other[RATES][to] = held  # Those of training are not there any more.
    with pytest.raises(InputError, match=r"4 interactions are .* not there any more"):
        match(data, other)


def test_held_out_interactions_that_are_training_ones_now_are_told_from_others() -> None:
    data, other = built(), built()
    other[RATES].edge_index = torch.cat([other[RATES][name] for name in EDGES], dim=1)
    count = sum(other[RATES].pop(name).size(1) for name in EDGES[1:])
    with pytest.raises(
        InputError, match=rf"split otherwise: {count} interactions are .* not held out any more, expect"
    ):
        match(data, other)


def test_a_record_of_interactions_of_32_bits_is_that_of_64() -> None:
    data, other = built(), built()
    for name in EDGES:
        other[RATES][name] = other[RATES][name].int()
    assert match(other, built()) is not None
    assert graph_record(other)["held_out"] == graph_record(data)["held_out"]
