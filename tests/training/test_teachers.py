"""Teachers are trained once per data set and settings."""

from __future__ import annotations

import pytest
import torch

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn import VBPR, LightGCN
from pyg_ckd.training import Trainer, build, train_teachers
from tests.training.problem import planted_data, same_bits, trainer

WIDTH = {"embedding_dim": 4}


@pytest.fixture
def fits(monkeypatch) -> list[str]:
    """Record the view of every training."""
    seen: list[str] = []
    original = Trainer.fit

    def fit(self, model, data):
        seen.append("+".join(sorted(model.view)))
        return original(self, model, data)

    monkeypatch.setattr(Trainer, "fit", fit)
    return seen


def test_each_teacher_is_its_backbone_trained_alone_on_one_view(tmp_path, fits):
    data = planted_data()
    teachers = train_teachers(VBPR, data, trainer(max_epochs=15), cache_dir=tmp_path, **WIDTH)
    assert list(teachers) == list(data.modalities)
    assert fits == ["visual", "textual"]
    for m, history in teachers.histories.items():
        assert evaluate(teachers[m], data, "val", k=5)["recall@5"] == history.best_value
        assert not teachers[m].user.requires_grad
    DistillationWrapper(build(VBPR, data, 0), teachers)  # They fit a student of another width.


def test_cache_gives_identical_teachers_without_training(tmp_path, fits):
    data = planted_data()
    first = train_teachers(VBPR, data, trainer(), cache_dir=tmp_path, **WIDTH)
    fits.clear()
    again = train_teachers(VBPR, planted_data(), trainer(), cache_dir=tmp_path, **WIDTH)
    assert fits == []
    for m in first:
        assert same_bits(first[m]._asdict(), again[m]._asdict())
        assert first.histories[m] == again.histories[m]


def test_only_the_missing_teacher_is_trained(tmp_path, fits):
    data = planted_data()
    train_teachers(VBPR, data, trainer(), ["textual"], cache_dir=tmp_path, **WIDTH)
    assert list(train_teachers(VBPR, data, trainer(), cache_dir=tmp_path, **WIDTH)) == ["visual", "textual"]
    assert fits == ["textual", "visual"]


@pytest.mark.parametrize(
    "change",
    [
        {"trainer": {"lr": 0.03}},
        {"trainer": {"seed": 1}},
        {"trainer": {"max_epochs": 3}},
        {"trainer": {"monitor": "ndcg@5"}},
        {"l2": 0.5},
        {"options": {"embedding_dim": 5}},
        {"options": {"item_bias": False}},
        {"backbone": LightGCN},
        {"data": {"shift": 1e-3}},
        {"data": {"seed": 1}},
    ],
    ids=str,
)
def test_anything_that_decides_about_a_teacher_misses_the_cache(change, tmp_path, fits):
    train_teachers(VBPR, planted_data(), trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    fits.clear()
    options = WIDTH | change.get("options", {})
    run = trainer(**({"max_epochs": 1} | change.get("trainer", {})))
    train_teachers(
        change.get("backbone", VBPR),
        planted_data(**change.get("data", {})),
        run,
        ["visual"],
        l2=change.get("l2", 1e-2),
        cache_dir=tmp_path,
        **options,
    )
    assert fits == ["visual"]


def test_what_decides_nothing_does_not_miss_the_cache(tmp_path, fits):
    data = planted_data()
    train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    fits.clear()
    data.source = "somewhere else"
    run = trainer(max_epochs=1, progress=True, checkpoint_minutes=5)
    train_teachers(VBPR, data, run, ["visual"], cache_dir=tmp_path, **WIDTH)
    assert fits == []


def test_cache_can_be_left_alone(tmp_path, fits):
    data = planted_data()
    for _ in range(2):
        train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, use_cache=False, **WIDTH)
    assert fits == ["visual", "visual"]
    assert list(tmp_path.iterdir()) == []


def test_function_of_data_can_stand_for_a_class(tmp_path):
    data = planted_data()
    teachers = train_teachers(
        lambda data: VBPR.from_data(data, **WIDTH), data, trainer(max_epochs=1), cache_dir=tmp_path
    )
    expected = train_teachers(VBPR, data, trainer(max_epochs=1), use_cache=False, **WIDTH)
    assert all(same_bits(teachers[m]._asdict(), expected[m]._asdict()) for m in expected)


def test_damaged_cache_is_refused_by_name(tmp_path):
    data = planted_data()
    train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{path.name}: cannot be read"):
        train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)


def test_unknown_modality_is_refused_with_the_closest_name(tmp_path):
    with pytest.raises(InputError, match="unknown modality 'visul': did you mean 'visual'"):
        train_teachers(VBPR, planted_data(), trainer(), ["visul"], cache_dir=tmp_path)


def test_build_seeds_the_initial_weights_and_nothing_outside():
    data = planted_data()
    before = torch.get_rng_state()
    first, again, other = (build(VBPR, data, seed).state_dict() for seed in (0, 0, 1))
    assert same_bits(first, again)
    assert not same_bits(first, other)
    assert torch.equal(torch.get_rng_state(), before)
