"""Amazon reviews: files in the true formats become the graph that a plain loop finds, and bad ones are refused."""

from __future__ import annotations

import errno
import gzip
import json
import os
import re
import tempfile
import warnings
from pathlib import Path

import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings

from pyg_ckd.cli import main
from pyg_ckd.data import fingerprint
from pyg_ckd.datasets import AmazonReviews, read_npz, write_vectors
from pyg_ckd.datasets.amazon import EDITIONS, lattice_split
from pyg_ckd.datasets.sources import read_image_features, read_metadata, read_reviews, thin
from pyg_ckd.errors import InputError
from tests.datasets.amazon_files import (
    CATEGORY,
    FIELDS,
    ITEMS,
    NAMES,
    USERS,
    WORDS,
    image_bytes,
    images,
    reviews,
    triples,
    write_edition,
    write_lines,
)
from tests.datasets.server import Server

RATES = ("user", "rates", "item")
SPLITS = ("edge_index", "val_edge_index", "test_edge_index")
SETTINGS = settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
IDS = st.text(st.characters(exclude_categories=("C", "Z")), min_size=1, max_size=4)
TIMES = st.integers(-(2**63), 2**63 - 1)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=4),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=3), values, max_size=2),
    max_leaves=4,
)


@pytest.fixture(autouse=True, scope="module")
def _no_waiting_for_the_disk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        patch.setenv("no_proxy", "*")
        yield


@pytest.fixture
def folder(tmp_path):
    return write_edition(tmp_path / "files", "2014")


def amazon(root: Path, edition: str = "2014", **options):
    return AmazonReviews(root, CATEGORY[edition], edition, **({"k_core": 5, "dim": 3} | options))[0]


def interactions(data) -> set[tuple[str, str]]:
    """Return all interactions of a graph as ids."""
    edges = torch.cat([data[RATES][name] for name in SPLITS], dim=1).tolist()
    return {(data.user_id[u], data.item_id[i]) for u, i in zip(*edges, strict=True)}


def refuses(pattern: str, call, *args, **options) -> None:
    with pytest.raises(InputError, match=pattern) as error:
        call(*args, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("edition", EDITIONS)
def test_an_edition_becomes_the_graph_of_its_five_core(tmp_path, edition):
    files = write_edition(tmp_path / "files", edition)
    data = amazon(tmp_path, edition, files=files)
    assert data.user_id == sorted(USERS)
    assert data.item_id == sorted(ITEMS)
    assert interactions(data) == {(u, i) for u in USERS for i in ITEMS}
    assert sum(data[RATES][name].size(1) for name in SPLITS) == 30
    assert data.modalities == (["visual", "textual"] if edition == "2014" else ["textual"])
    assert data.image_url == [f"http://x/{i}.jpg" if i != ITEMS[2] else "" for i in sorted(ITEMS)]
    for m in data.modalities:
        assert data["item"][f"has_{m}"].tolist() == [i != ITEMS[2] for i in sorted(ITEMS)]


@pytest.mark.parametrize("edition", EDITIONS)
def test_reviews_of_few_stars_may_be_left_out(tmp_path, edition):
    files = write_edition(tmp_path / "files", edition)
    name = next(file for file in files.iterdir() if "5.json" in file.name or file.name.startswith("Baby_P"))
    stars = {(u, i): 1 + (n + n // 5) % 5 for n, (u, i) in enumerate((u, i) for u in USERS for i in ITEMS)}
    rows = reviews(edition, [(u, i, 1000 + n) for n, (u, i) in enumerate(stars)])
    rating = "rating" if edition == "2023" else "overall"
    write_lines(name, [{**row, rating: stars[pair]} for row, pair in zip(rows, stars, strict=True)])
    for lowest, options in ((1, {}), (3, {"min_rating": 3}), (5, {"min_rating": 4.5})):
        data = amazon(tmp_path, edition, files=files, k_core=0, **options)
        assert interactions(data) == {pair for pair, number in stars.items() if number >= lowest}
    with pytest.raises(InputError, match="min_rating=6 leaves no interaction, as 'rating' goes from 1 to 5"):
        amazon(tmp_path, edition, files=files, k_core=0, min_rating=6)
    write_lines(name, [{**row, rating: "five"} for row in rows])
    with pytest.raises(InputError, match=f"line 1: '{rating}' is 'five' .str., expected a number of stars"):
        amazon(tmp_path, edition, files=files, k_core=0, min_rating=2)
    for number in (np.nan, np.inf, 10**400):  # In a line of its own kind and in one like all others.
        for more in ({}, {"odd": "}\n{"}):
            write_lines(name, [*({**row, rating: 5} for row in rows[:3]), {**rows[3], rating: number, **more}])
            with pytest.raises(InputError, match=f"line 4: '{rating}' is .*, expected a number of stars; repair"):
                amazon(tmp_path, edition, files=files, k_core=0, min_rating=2)


def test_what_the_page_shows_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_edition(tmp_path / "downloads", "2014")
    page = Path(__file__).parents[2] / "docs" / "data" / "amazon.md"
    (snippet,) = re.findall(r"```python\n(.*?)```", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    exec(snippet, {})
    assert "['visual', 'textual'] tensor(0.8000) 0000013714 http://x/0000013714.jpg" in capsys.readouterr().out


def test_image_features_arrive_bit_for_bit(tmp_path, folder):
    data = amazon(tmp_path, files=folder, features="none", impute="given")
    for item, row in zip(*images(), strict=True):
        if item in data.item_id:
            assert np.array_equal(data["item"].visual[data.item_id.index(item)].numpy(), row)
    assert not data["item"].visual[data.item_id.index(ITEMS[2])].any()


def test_everything_is_downloaded_once_and_a_cached_graph_needs_no_files(tmp_path):
    with Server({}) as server:
        for kind, path in EDITIONS["2014"].files.items():
            source = write_edition(tmp_path / "files", "2014") / Path(path.format("Baby")).name
            server.files[path.format("Baby")] = source.read_bytes()
            assert kind in ("reviews", "metadata", "images")
        server.cuts = [200, 100]
        first = amazon(tmp_path, url=server.url())
        asked = len(server.ranges)
        amazon(tmp_path, url=server.url(), seed=1)
        assert len(server.ranges) == asked == 5
    assert sorted(file.name for file in (tmp_path / "raw" / "2014").iterdir()) == sorted(NAMES["2014"])
    for file in (tmp_path / "raw" / "2014").iterdir():
        file.unlink()
    assert fingerprint(amazon(tmp_path)) == fingerprint(first)
    assert fingerprint(amazon(tmp_path / "other", files=tmp_path / "files")) == fingerprint(first)


def test_files_may_be_named_one_by_one_or_be_there_already_and_need_no_compression(tmp_path, folder):
    expected = fingerprint(amazon(tmp_path, files=folder))
    kinds = dict(zip(("reviews", "metadata", "images"), NAMES["2014"], strict=True))
    named = {kind: (folder / name).rename(tmp_path / f"my {kind}") for kind, name in kinds.items()}
    assert fingerprint(amazon(tmp_path, files=named)) == expected
    raw = tmp_path / "other" / "raw" / "2014"
    raw.mkdir(parents=True)
    for kind, name in kinds.items():
        content = named[kind].read_bytes()
        plain = content if kind == "images" else gzip.decompress(content)
        (raw / name.removesuffix(".gz")).write_bytes(plain)
    assert fingerprint(amazon(tmp_path / "other")) == expected


def test_texts_are_those_of_the_fields_in_their_order(folder):
    found = read_metadata(folder / NAMES["2014"][1], ITEMS[:3], "asin", ("description", "title"))
    assert found.texts == [f"A {words}. {words} & more's" for words in WORDS[:2]] + [""]


@pytest.mark.parametrize("item", ['0"', "it's", "a\\b", "\u00e9", 'x", "asin": "y'])
@pytest.mark.parametrize("literal", [False, True])
def test_ids_that_need_escapes_are_found(tmp_path, item, literal):
    path = write_lines(tmp_path / "meta.json", [{"asin": "0", "title": "no"}, {"asin": item, "title": "yes"}], literal)
    assert read_metadata(path, [item], "asin", ("title",)).texts == ["yes"]


def test_of_pages_in_the_place_of_titles_nothing_is_kept(tmp_path):
    path = write_lines(tmp_path / "meta.json", [{"asin": "a", "title": "var x = new Date().getTime();", "brand": "B"}])
    assert read_metadata(path, ["a"], "asin", ("title", "brand")).texts == ["B"]


def test_parts_are_optional_and_vectors_add_modalities(tmp_path, folder):
    write_vectors(tmp_path / "clip.parquet", [*ITEMS, "B77777777Z"], np.arange(12.0).reshape(6, 2))
    vectors = {"visual": tmp_path / "clip.parquet", "acoustic": str(tmp_path / "clip.parquet")}
    (folder / NAMES["2014"][2]).unlink()
    data = amazon(tmp_path, files=folder, images=False, vectors=vectors, features="none")
    assert data.modalities == ["textual", "visual", "acoustic"]
    assert data["item"].visual[data.item_id.index(ITEMS[3])].tolist() == [6, 7]
    (folder / NAMES["2014"][1]).unlink()
    data = amazon(tmp_path, files=folder, images=False, text=(), vectors=vectors, dim=None)
    assert data.modalities == ["visual", "acoustic"]
    assert "image_url" not in data


@pytest.mark.parametrize("split", ["random", "lattice", "leave_one_out", "temporal", "cold-start", "none"])
def test_splits_share_the_interactions(tmp_path, folder, split):
    data = amazon(tmp_path, files=folder, split=split)
    assert len(interactions(data)) == sum(data[RATES][name].size(1) for name in SPLITS) == 30
    if split == "leave_one_out":
        last = {u: max((t, i) for v, i, t in triples() if v == u and i in ITEMS)[1] for u in USERS}
        edges = data[RATES].test_edge_index.t().tolist()
        assert {(data.user_id[u], data.item_id[i]) for u, i in edges} == set(last.items())
    if split == "none":
        assert data[RATES].edge_index.size(1) == 30


def test_shares_beside_no_split_are_refused(tmp_path, folder):
    refuses(
        "ratios: found .0.8, 0.2, 0.0. beside split='none'",
        amazon,
        tmp_path,
        files=folder,
        split="none",
        ratios=(0.8, 0.2, 0.0),
    )


def test_the_lattice_split_holds_out_as_many_as_the_published_code():
    users = np.repeat(np.arange(60), np.arange(60))
    pairs = np.stack([users, np.arange(users.size)])[:, np.random.default_rng(1).permutation(users.size)]
    parts = lattice_split(pairs, seed=3)
    for user in range(60):
        held = 2 if user < 10 else int(user * 0.2)  # As in the preparation of the data of LATTICE.
        test = held // 2
        expected = (user - held, held - test, test) if user > 2 else (user, 0, 0)
        assert tuple(int((part[0] == user).sum()) for part in parts) == expected
    assert np.array_equal(np.sort(np.concatenate([part[1] for part in parts])), np.arange(users.size))
    again, other = lattice_split(pairs, seed=3), lattice_split(pairs, seed=4)
    assert np.array_equal(parts[2], again[2])
    assert not np.array_equal(parts[2], other[2])


def brute_force(rows: list[tuple[str, str, int]], k: int) -> dict[tuple[str, str], int]:
    """Return the earliest time of each pair of the k-core."""
    kept: dict[tuple[str, str], int] = {}
    for user, item, time in rows:
        kept[user, item] = min(time, kept.get((user, item), time))
    while True:
        poor = [
            pair for pair in kept if sum(pair[0] == u for u, _ in kept) < k or sum(pair[1] == i for _, i in kept) < k
        ]
        if not poor:
            return kept
        for pair in poor:
            del kept[pair]


@SETTINGS
@given(
    rows=st.lists(st.tuples(st.sampled_from("abcdé"), st.sampled_from("vwxyz"), st.integers(0, 9)), min_size=1),
    k=st.integers(0, 4),
)
def test_thinning_keeps_what_a_plain_loop_keeps(rows, k):
    users, items, times = zip(*rows, strict=True)
    frame = pd.DataFrame({"user": pd.Categorical(users), "item": pd.Categorical(items), "timestamp": times})
    expected = brute_force(rows, k)
    if not expected:
        refuses("f: k-core: k=.* leaves none", thin, frame, k, Path("f"))
        return
    found = thin(frame, k, Path("f"))
    pairs = [(found.user_id[u], found.item_id[i]) for u, i in found.pairs.T]
    assert dict(zip(pairs, found.timestamps.tolist(), strict=True)) == expected
    assert len(pairs) == len(expected)
    assert found.user_id == sorted({u for u, _ in expected})
    assert found.item_id == sorted({i for _, i in expected})


@SETTINGS
@given(data=st.data(), edition=st.sampled_from(list(EDITIONS)))
def test_reviews_are_read_as_they_were_written(data, edition):
    rows = data.draw(st.lists(st.tuples(IDS, IDS, TIMES), min_size=1, max_size=6))
    more = data.draw(st.lists(st.dictionaries(st.sampled_from("xyz"), VALUES), min_size=len(rows), max_size=len(rows)))
    records = [extra | record for extra, record in zip(more, reviews(edition, rows), strict=True)]
    lines = [json.dumps(record, ensure_ascii=data.draw(st.booleans())) for record in records]
    ends = data.draw(st.lists(st.sampled_from(["\n", "\r\n", "\n\n", " \n"]), min_size=len(rows), max_size=len(rows)))
    text = (
        "".join(line + end for line, end in zip(lines, ends, strict=True)).removesuffix("\n").encode("utf-8", "replace")
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reviews"
        path.write_bytes(gzip.compress(text, 1) if data.draw(st.booleans()) else text)
        frame = read_reviews(path, FIELDS[edition])
    assert list(frame.itertuples(index=False, name=None)) == rows


@SETTINGS
@given(data=st.data())
def test_damaged_reviews_are_refused_in_one_line_or_read(data):
    content = bytearray(b"".join(json.dumps(r).encode() + b"\n" for r in reviews("2018", triples()[:3])))
    for _ in range(data.draw(st.integers(0, 3))):
        token = data.draw(
            st.sampled_from([b"null", b"{", b"}", b'"', b"\n", b"\\ud800", b"\0", b"\xff", b"1e999", b":"])
        )
        at = data.draw(st.integers(0, len(content)))
        content[at : at + data.draw(st.integers(0, 4))] = token
    file = bytes(content)
    if data.draw(st.booleans()):
        file = gzip.compress(file, 1)
    file = file[: data.draw(st.integers(0, len(file)))] if data.draw(st.booleans()) else file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "reviews"
        path.write_bytes(file)
        try:
            frame, refusal = read_reviews(path, FIELDS["2018"]), f"{path}"
        except InputError as error:
            frame, refusal = pd.DataFrame({"timestamp": [1]}), str(error)
    assert refusal.startswith(str(path))
    assert "\n" not in refusal
    assert frame.notna().all(axis=None)
    assert frame["timestamp"].dtype == np.int64


@pytest.mark.parametrize("edition", EDITIONS)
def test_undamaged_reviews_are_not_parsed_line_by_line(tmp_path, monkeypatch, edition):
    from pyg_ckd.datasets.sources import reviews as module

    path = write_lines(tmp_path / "reviews.gz", reviews(edition, triples()))
    monkeypatch.setattr(module, "parse_line", lambda *args: pytest.fail("parsed line by line"))
    assert len(read_reviews(path, FIELDS[edition])) == len(triples())


@pytest.mark.parametrize("size", [1, 7, 100, 1 << 24])
def test_blocks_of_any_size_give_the_same_reviews(tmp_path, monkeypatch, size):
    from pyg_ckd.datasets.sources import lines

    path = write_lines(tmp_path / "reviews.gz", reviews("2023", triples()))
    monkeypatch.setattr(lines.read_blocks, "__defaults__", (size,))
    frame = read_reviews(path, FIELDS["2023"])
    assert list(frame.itertuples(index=False, name=None)) == triples()


def plain_text(value) -> str:
    """Return a generated value of a field as text, by a loop of its own."""
    if isinstance(value, list):
        return " ".join(text for text in map(plain_text, value) if text)
    return "" if value is None else " ".join(str(value).split())


@SETTINGS
@given(data=st.data())
def test_metadata_is_read_as_it_was_written(data):
    words = st.text(st.characters(exclude_categories=("C",), exclude_characters="&"), max_size=5)
    field = st.none() | words | st.integers() | st.lists(words | st.lists(words, max_size=2), max_size=2)
    items = data.draw(st.lists(IDS, min_size=1, max_size=5, unique=True))
    others = data.draw(st.lists(IDS.filter(lambda item: item not in items), max_size=3, unique=True))
    records = [
        {"asin": item, "title": data.draw(field), "x": data.draw(VALUES), "description": data.draw(field)}
        for item in data.draw(st.permutations([*items, *others]))
    ]
    literal = data.draw(st.booleans())
    if literal:  # What is not finite has no literal.
        records = [{name: value for name, value in record.items() if name != "x"} for record in records]
    wanted = data.draw(st.permutations(items))
    fields = data.draw(st.permutations(["title", "description"]))
    with tempfile.TemporaryDirectory() as folder:
        path = write_lines(Path(folder) / "meta.json", records, literal)
        found = read_metadata(path, wanted, "asin", fields)
    by_item = {record["asin"]: record for record in records}
    for item, text in zip(wanted, found.texts, strict=True):
        assert text == " ".join(filter(None, (plain_text(by_item[item][name]) for name in fields)))


HOSTILE = [
    "{'asin': 'a', 'title': __import__('os').system('touch executed')}",
    "{'asin': 'a', 'title': ().__class__}",
    "{'asin': 'a', 'title': [x for x in (1,)]}",
    "{'asin': 'a', 'title': 'x' * 10 ** 10}",
    "{'asin': 'a', 'title': " + "[" * 5000 + "]" * 5000 + "}",
    "{'asin': 'a', 'title': " + "-" * 5000 + "1}",
    "{'asin': 'a', []: 1}",
    "{'asin': 'a', 'title': 'x}",
    '{"asin": "a", "title": ' + "9" * 5000 + "}",
    "{'asin': 'a', 'title': 0x" + "f" * 5000 + "}",
    "{'asin': 0x" + "f" * 5000 + "}",
    "{'a', 'asin'}",
    "{1}",
]


@pytest.mark.parametrize("line", HOSTILE)
def test_no_line_is_ever_evaluated(tmp_path, monkeypatch, line):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "meta.json"
    path.write_text("{'asin': 'b', 'title': 'x'}\n" + line + "\n")
    refuses(f"{path}: line 2: ", read_metadata, path, ["a", "b"], "asin", ["title"])
    assert not (tmp_path / "executed").exists()


@SETTINGS
@given(data=st.data())
def test_damaged_metadata_is_refused_in_one_line_or_read(data):
    content = bytearray(b"{'asin': 'a', 'title': \"it's\", 'x': ['y', 1]}\n" * 2)
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("error")
        path = Path(folder) / "meta.json"
        path.write_bytes(content)
        try:
            refusal = f"{path} has {len(read_metadata(path, ['a'], 'asin', ['title']).texts)} text"
        except InputError as error:
            refusal = str(error)
    assert refusal.startswith(str(path))
    assert "\n" not in refusal


@SETTINGS
@given(data=st.data())
def test_image_features_are_those_of_the_first_record_of_an_item(data):
    listed = data.draw(st.lists(st.sampled_from([f"B{n:09d}" for n in range(6)] + ["short"]), min_size=1, max_size=6))
    wanted = data.draw(
        st.lists(st.sampled_from([*sorted(set(listed)), "none", "much too long"]), min_size=1, unique=True)
    )
    seed = data.draw(st.integers(0, 9))
    features = np.random.default_rng(seed).standard_normal((len(listed), 4096)).astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.b"
        path.write_bytes(image_bytes(listed, features))
        if not set(listed) & set(wanted):
            refuses("lists none of the", read_image_features, path, wanted)
            return
        x, has = read_image_features(path, wanted)
    for item, row, there in zip(wanted, x, has, strict=True):
        assert there == (item in listed)
        assert np.array_equal(row, features[listed.index(item)] if there else np.zeros(4096, np.float32))


@SETTINGS
@given(content=st.binary(max_size=40), extra=st.integers(-20, 20))
def test_image_files_of_a_wrong_size_are_refused(content, extra):
    whole = image_bytes(["B000000001"], np.zeros((1, 4096)))
    file = content if extra == 0 else whole[:extra] if extra < 0 else whole + whole[:extra]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.b"
        path.write_bytes(file)
        refuses(f"{path}: has {len(file)} bytes, .*expected whole records", read_image_features, path, ["B000000001"])


def test_image_features_that_are_not_finite_are_refused_with_the_item(tmp_path):
    features = np.zeros((2, 4096))
    features[1, 7] = np.nan
    (tmp_path / "x.b").write_bytes(image_bytes(["a", "b"], features))
    refuses("vector of item 'b' in record 1 .*not finite", read_image_features, tmp_path / "x.b", ["b"])
    assert read_image_features(tmp_path / "x.b", ["a"])[1].all()


def lines(change):
    """Return a function that changes the lines of a compressed file."""

    def apply(path: Path) -> None:
        text = gzip.decompress(path.read_bytes()).decode().splitlines()
        path.write_bytes(gzip.compress("\n".join(change(text)).encode()))

    return apply


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-30])


def replace(old: str, new: str, number: int | None = None):
    def change(text: list[str]) -> list[str]:
        return [line.replace(old, new) if number in (None, row) else line for row, line in enumerate(text, start=1)]

    return lines(change)


def half(number: int):
    return lines(lambda text: [line[: len(line) // 2] if row == number else line for row, line in enumerate(text, 1)])


BAD = {
    "cut gzip": (0, cut, "reviews_Baby_5.json.gz: the file is cut short or damaged .*download it again"),
    "cut metadata": (1, cut, "meta_Baby.json.gz: the file is cut short or damaged"),
    "half a line": (0, half(4), "reviews_Baby_5.json.gz: line 4: is no JSON object .*cut short"),
    "half a record": (1, half(2), "meta_Baby.json.gz: line 2: is no object in braces"),
    "wrong field": (0, replace("reviewerID", "reviewerId"), "line 1: lacks a field; .*'reviewerID': did you mean"),
    "another edition": (0, replace('"asin"', '"parent_asin"'), "line 1: .*'asin': .*valid names are .*parent_asin"),
    "wrong key": (1, replace("'asin'", "'asni'"), "line 1: lacks a field; unknown field 'asin': did you mean 'asni'"),
    "mixed ids": (0, replace(f'"{USERS[3]}"', "12"), r"line \d+: 'reviewerID' is 12 \(int\), expected an id: text"),
    "no id": (0, replace(f'"{USERS[3]}"', '""'), r"line \d+: 'reviewerID' is '' \(str\), expected an id"),
    "null id": (0, replace(f'"{ITEMS[0]}"', "null", 6), r"line 6: 'asin' is None"),
    "id of bytes": (0, replace(ITEMS[0], "\\u0000", 6), r"line 6: 'asin' is '.x00'"),
    "mixed items": (1, replace(f"'{ITEMS[0]}', 'rel", "7, 'rel"), r"line 1: 'asin' is 7 \(int\), expected text"),
    "no time": (0, replace("125281", '"soon', 12), r"is no JSON object"),
    "date": (
        0,
        replace("1252811000", '"05 1, 2009"'),
        r"line \d+: 'unixReviewTime' is '05 1, 2009' \(str\), expected an",
    ),
    "fraction": (0, replace("1252811000", "1252811.5"), r"line \d+: 'unixReviewTime' is 1252811.5 \(float\)"),
    "truth": (0, replace("1252811000", "true"), r"line \d+: 'unixReviewTime' is True \(bool\)"),
    "huge time": (0, replace("1252811000", "9" * 20), r"line \d+: 'unixReviewTime' is 9+ \(int\)"),
    "no object": (0, lines(lambda text: [*text, "[1, 2]"]), "line 35: holds a list, expected an object"),
    "only null": (0, lines(lambda text: ["null"]), "line 1: holds a NoneType, expected an object"),
    "empty": (0, lines(lambda text: []), "reviews_Baby_5.json.gz: has no lines"),
    "small": (0, lines(lambda text: text[:4]), "k-core: k=5 leaves none of the 4 interactions; the largest k .* is 1"),
    "other category": (1, lines(lambda text: text[-1:]), "lists none of the 5 items, such as '0000013714'"),
    "no title": (
        1,
        replace("'title'", "'Title'"),
        "no item has the text asked for; unknown field 'title': did you mean",
    ),
    "image cut": (2, cut, "image_features_Baby.b: has .* bytes, 4 records of 16394 bytes and 16364 more"),
    "image other": (2, lambda path: path.write_bytes(image_bytes(["x"], np.ones((1, 4096)))), "none of the 5 items"),
    "missing": (1, lambda path: path.unlink(), r"has no meta_Baby.json.gz .*or do without: text=\(\); found image"),
}


@pytest.mark.parametrize(("file", "damage", "pattern"), BAD.values(), ids=BAD.keys())
def test_bad_files_are_refused_in_one_line_that_says_where(tmp_path, folder, file, damage, pattern):
    damage(folder / NAMES["2014"][file])
    refuses(pattern, amazon, tmp_path, files=folder)
    processed = tmp_path / "processed"
    assert not processed.exists() or list(processed.iterdir()) == []


WRONG = {
    "edition": ({"edition": "2015"}, "unknown edition '2015': did you mean .*'2014'"),
    "split": ({"split": "temprol"}, "unknown split 'temprol': did you mean 'temporal'"),
    "encoder": ({"encoder": "tfidff"}, "unknown encoder 'tfidff': did you mean 'tfidf'"),
    "transform": ({"features": "standardise"}, "unknown transform .*'standardize'"),
    "no baby": ({"edition": "2018"}, "the edition 2018 has no 'baby', but 2014 and 2023 have"),
    "category": ({"category": "Video Games"}, "found 'Video Games', expected baby, .*such as Video_Games"),
    "path": ({"category": "../x"}, "category: found '../x'"),
    "images of 2023": ({"edition": "2023", "images": True}, "addresses of images and no features; encode"),
    "nothing": ({"images": False, "text": ()}, "nothing gives the items features"),
    "visual twice": ({"vectors": {"visual": "x.npy"}}, "'visual' is there already; .*images=False"),
    "no vectors": (
        {"vectors": {"audio": "nowhere.npy"}, "url": "ftp://x"},
        "nowhere.npy of 'audio' is no file",
    ),
    "k-core": ({"k_core": -1, "url": "ftp://x"}, "k-core: k=-1, k_item=None, expected integers of at least 0"),
    "ratios": ({"ratios": (0.5, 0.1), "url": "ftp://x"}, "ratios are .0.5, 0.1., expected three shares"),
    "seed": ({"seed": -1, "url": "ftp://x"}, "seed is -1, expected an integer of at least 0"),
    "kind": ({"files": {"review": "x"}}, "unknown kind of file 'review': did you mean 'reviews'"),
    "kinds": ({"files": {"reviews": "x"}}, "files: 'metadata' is missing, expected .*meta_Baby.json.gz"),
    "folder": ({"files": "nowhere"}, "nowhere: is no folder, expected the one with reviews_Baby_5.json.gz"),
    "url": ({"url": "ftp://x"}, "expected an address that begins with http"),
}


@pytest.mark.parametrize(("options", "pattern"), WRONG.values(), ids=WRONG.keys())
def test_wrong_arguments_are_refused(tmp_path, options, pattern):
    refuses(pattern, AmazonReviews, tmp_path, **({"category": "baby"} | options))


def test_a_full_disk_leaves_no_half_written_graph(tmp_path, folder, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        refuses("No space left on device.*nothing half-written stays", amazon, tmp_path, files=folder)
    assert list((tmp_path / "processed").iterdir()) == []
    amazon(tmp_path, files=folder)


def test_a_disk_that_fills_up_under_pytorch_is_reported_as_one(tmp_path, folder):
    import resource
    import signal

    usual, action = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, usual[1]))
        refuses("cannot be written or read", amazon, tmp_path, files=folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, usual)
        signal.signal(signal.SIGXFSZ, action)
    assert list((tmp_path / "processed").iterdir()) == []


def command(folder: Path, out: Path, *more: str) -> list[str]:
    return ["data", "amazon", "baby", "--files", str(folder), "--out", str(out), "--root", str(out.parent), *more]


def test_one_command_writes_a_file_that_can_be_trained_on(tmp_path, folder, capsys):
    out = tmp_path / "baby.npz"
    assert main(command(folder, out, "--dim", "3", "--text", "title, description", "--edition", "2014")) == 0
    assert "6 users, 5 items, visual [5, 4096], textual [5, 3]" in capsys.readouterr().out
    expected = amazon(tmp_path / "other", files=folder, features="none", impute="given")
    assert fingerprint(read_npz(out, transform="none", impute="given")) == fingerprint(expected)
    assert read_npz(out).item_id == sorted(ITEMS)


def test_the_command_writes_other_formats_and_leaves_parts_out(tmp_path, folder, capsys):
    out = tmp_path / "mmrec"
    assert main(command(folder, out, "--format", "mmrec", "--images", "false", "--dim", "2", "--k_core", "2")) == 0
    assert (out / "text_feat.npy").is_file()
    assert not (out / "image_feat.npy").exists()


def fails(capsys, args: list[str]) -> str:
    assert main(args) == 2
    out, err = capsys.readouterr()
    assert err.count("\n") == 1
    assert "Traceback" not in out + err
    return err


def test_the_command_refuses_in_one_line_before_the_work(tmp_path, folder, capsys):
    out = tmp_path / "baby.npz"
    assert "unknown edition '2013'" in fails(capsys, command(folder, out, "--edition", "2013"))
    assert "unknown format 'nzp'" in fails(capsys, command(folder, out, "--format", "nzp"))
    assert "is no name of an .npz file" in fails(capsys, command(folder, tmp_path / "baby.zip"))
    out.write_bytes(b"")
    assert "baby.npz: exists" in fails(capsys, command(folder, out))
    assert "out" in fails(capsys, ["data", "amazon", "baby"])
    assert (
        fails(capsys, command(folder, folder, "--format", "lattice")).count(
            "is a folder with files in it, expected a new or empty folder"
        )
        == 1
    )


def test_the_command_leaves_no_half_written_file_on_a_full_disk(tmp_path, folder, capsys, monkeypatch):
    out = tmp_path / "out" / "baby.npz"

    def full(*args, **arrays):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez_compressed", full)
    assert "No space left on device" in fails(capsys, command(folder, out))
    assert [file.name for file in out.parent.iterdir() if file.is_file()] == []
