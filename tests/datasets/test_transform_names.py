"""Datasets have a feature transform, which has a name, and PyG's transforms, which are functions."""

from __future__ import annotations

import pytest

from pyg_ckd.datasets import MultimodalFolder, MultimodalNpz, SyntheticMultimodal, synthetic_multimodal, write_npz
from pyg_ckd.errors import InputError


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "data.npz"
    write_npz(synthetic_multimodal(num_users=50, num_items=20, num_interactions=300, dim=4), path)
    return path


MAKERS = {
    "folder": lambda file, **options: MultimodalFolder(file, **options),
    "npz": lambda file, **options: MultimodalNpz(file, **options),
    "synthetic": lambda file, **options: SyntheticMultimodal(
        num_users=50, num_items=20, num_interactions=300, **options
    ),
}


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
@pytest.mark.parametrize("name", ["transform", "pre_transform"])
def test_the_name_of_a_feature_transform_in_the_place_of_a_function_is_refused_at_once(make, name, file):
    message = f"^{name}: found 'none', expected a function; the feature transform is features='none'$"
    with pytest.raises(InputError, match=message):
        make(file, **{name: "none"})
    with pytest.raises(InputError, match=rf"^{name}: found \['l2'\], expected a function$"):
        make(file, **{name: ["l2"]})


@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_functions_are_applied_at_every_access(make, file):
    def mark(data):
        data.marked = True
        return data

    assert make(file, transform=mark, features="none")[0].marked
