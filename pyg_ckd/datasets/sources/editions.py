"""The editions of the Amazon reviews: where their files are, and what is what in them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from pyg_ckd.errors import InputError


@dataclass(frozen=True)
class Edition:
    """Where the files of an edition are, and what is what in them.

    Args:
        url: The address that the names of files follow.
        files: The file of each kind (``reviews``, ``metadata``, ``images``) behind that address.
        fields: The names of user, item and time in a review; the second is that of the item in the metadata as well.
        rating: The name of the rating in a review.
        categories: Short names of categories.
    """

    url: str
    files: Mapping[str, str]
    fields: tuple[str, str, str]
    rating: str
    categories: Mapping[str, str] = field(default_factory=dict)


_SHARED = {"sports": "Sports_and_Outdoors", "clothing": "Clothing_Shoes_and_Jewelry"}
EDITIONS = {
    "2014": Edition(
        "https://snap.stanford.edu/data/amazon/productGraph",
        {
            "reviews": "categoryFiles/reviews_{}_5.json.gz",
            "metadata": "categoryFiles/meta_{}.json.gz",
            "images": "image_features/categoryFiles/image_features_{}.b",
        },
        ("reviewerID", "asin", "unixReviewTime"),
        "overall",
        {"baby": "Baby", "beauty": "Beauty", **_SHARED},
    ),
    "2018": Edition(
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_v2",
        {"reviews": "categoryFilesSmall/{}_5.json.gz", "metadata": "metaFiles2/meta_{}.json.gz"},
        ("reviewerID", "asin", "unixReviewTime"),
        "overall",
        {"beauty": "All_Beauty", **_SHARED},
    ),
    "2023": Edition(
        "https://mcauleylab.ucsd.edu/public_datasets/data/amazon_2023/raw",
        {"reviews": "review_categories/{}.jsonl.gz", "metadata": "meta_categories/meta_{}.jsonl.gz"},
        ("user_id", "parent_asin", "timestamp"),
        "rating",
        {"baby": "Baby_Products", "beauty": "Beauty_and_Personal_Care", **_SHARED},
    ),
}


def category_of(name: str, edition: str) -> str:
    """Return the name of a category in the files of an edition."""
    known = EDITIONS[edition].categories
    if not isinstance(name, str):
        raise InputError(f"category: found {name!r}, expected {', '.join(known)}, or a name as in the files")
    others = [other for other, value in EDITIONS.items() if name in value.categories]
    if name not in known and others:
        raise InputError(
            f"category: the edition {edition} has no {name!r}, but {' and '.join(others)} have; choose one of these"
        )
    if not re.fullmatch(r"\w+", name, flags=re.ASCII):
        raise InputError(
            f"category: found {name!r}, expected {', '.join(known)}, or a name as in the files, of letters, digits and "
            f"_, such as Video_Games"
        )
    return known.get(name, name)
