"""Small files in the true formats of the three editions of the Amazon reviews."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import numpy as np

USERS = [f"A{number:013d}" for number in (7, 3, 11, 5, 2, 13)]
ITEMS = ["B00000000C", "0000013714", "B00000000A", "B00000000D", "B00000000B"]
EDITIONS = ("2014", "2018", "2023")
FIELDS = dict.fromkeys(EDITIONS, ("reviewerID", "asin", "unixReviewTime"))
FIELDS["2023"] = ("user_id", "parent_asin", "timestamp")
NAMES = {
    "2014": ("reviews_Baby_5.json.gz", "meta_Baby.json.gz", "image_features_Baby.b"),
    "2018": ("Video_Games_5.json.gz", "meta_Video_Games.json.gz"),
    "2023": ("Baby_Products.jsonl.gz", "meta_Baby_Products.jsonl.gz"),
}
CATEGORY = {"2014": "baby", "2018": "Video_Games", "2023": "baby"}
WORDS = ["red stroller", "blue bottle", "green blanket", "wooden rattle", "soft teddy bear"]


def triples() -> list[tuple[str, str, int]]:
    """Return reviews of everyone about everything, one of them twice, and of a user and an item outside the 5-core."""
    rows = [(u, i, 1252800000 + 1000 * (7 * n % 30)) for n, (u, i) in enumerate((u, i) for u in USERS for i in ITEMS)]
    return [*rows, (*rows[3][:2], 5), (USERS[0], "B99999999X", 9), ("A9", ITEMS[0], 9), ("A9", ITEMS[1], 9)]


def reviews(edition: str, rows: list[tuple[str, str, int]]) -> list[dict[str, Any]]:
    """Return the records of reviews, with the other fields of their edition."""
    user, item, time = FIELDS[edition]
    if edition == "2023":
        more = {"rating": 5.0, "title": "Ok", "text": 'It "works".\n', "images": [], "asin": "B0", "verified": True}
    else:
        more = {"reviewerName": "J. \u00c5", "helpful": [2, 3], "reviewText": 'It "works".', "overall": 5.0}
    return [{**more, item: i, user: u, time: t} for u, i, t in rows]


def catalogue(edition: str) -> list[dict[str, Any]]:
    """Return the metadata; the third item has no text and no image, and one item is of no interest."""
    records = []
    for item, words in zip([*ITEMS, "B77777777Z"], [*WORDS, "other"], strict=True):
        bare = item == ITEMS[2]
        title = "" if bare else f"{words} &amp; more's"
        if edition == "2014":
            record: dict[str, Any] = {"asin": item, "related": {"also_bought": ["B00000000A"]}, "price": 3.17}
            if not bare:
                record |= {"title": title, "description": f"A {words}.", "imUrl": f"http://x/{item}.jpg"}
        elif edition == "2018":
            record = {"category": ["Games"], "description": [] if bare else [f"A {words}.", ""], "title": title}
            record |= {"asin": item, "imageURL": [] if bare else [f"http://x/{item}.jpg"], "also_buy": []}
        else:
            record = {"title": title or None, "description": [] if bare else [f"A {words}."], "details": {"Age": "3"}}
            big = [{"thumb": "http://x/t.jpg", "variant": "PT01"}]
            big += [{"large": f"http://x/{item}.jpg", "hi_res": None, "variant": "MAIN"}]
            record |= {"parent_asin": item, "images": [] if bare else big}
        records.append(record)
    return records


def write_lines(path: Path, records: list[dict[str, Any]], literal: bool = False) -> Path:
    """Write records, one per line, as JSON or as Python prints them; compressed if the name says so."""
    text = "".join((repr(record) if literal else json.dumps(record)) + "\n" for record in records).encode()
    path.write_bytes(gzip.compress(text, 1) if path.suffix == ".gz" else text)
    return path


def image_bytes(items: list[str], features: np.ndarray) -> bytes:
    """Return ids and vectors as the 2014 edition stores them."""
    return b"".join(
        item.encode().ljust(10, b"\0") + row.astype("<f4").tobytes() for item, row in zip(items, features, strict=True)
    )


def images() -> tuple[list[str], np.ndarray]:
    """Return ids and features of all items but the third, and of another, in an order of their own."""
    items = [ITEMS[4], "B77777777Z", ITEMS[0], ITEMS[1], ITEMS[3]]
    return items, np.random.default_rng(0).standard_normal((len(items), 4096)).astype(np.float32)


def write_edition(folder: Path, edition: str) -> Path:
    """Write all files of an edition into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    names = NAMES[edition]
    write_lines(folder / names[0], reviews(edition, triples()))
    write_lines(folder / names[1], catalogue(edition), literal=edition == "2014")
    if edition == "2014":
        (folder / names[2]).write_bytes(image_bytes(*images()))
    return folder
