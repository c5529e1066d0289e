"""On data whose truth is known, effects rank the modalities as planted and distillation feeds the weak one."""

from __future__ import annotations

import pytest

from examples import planted
from pyg_ckd import DistillationWrapper, Objective, Trainer, estimate_effects, evaluate, train_teachers
from pyg_ckd.datasets import synthetic_multimodal
from pyg_ckd.nn import VBPR
from pyg_ckd.training import build

pytestmark = pytest.mark.slow


def test_the_estimator_ranks_the_modalities_as_planted_in_19_of_20_seeds() -> None:
    right = 0
    for seed in range(20):
        data = synthetic_multimodal(num_users=500, num_items=300, num_interactions=10000, seed=seed)
        model = Objective(build(VBPR, data, seed), l2=0.03)
        Trainer(max_epochs=15, lr=5e-3, seed=seed, track_views=False, progress=False).fit(model, data)
        found = list(estimate_effects(model, data, num_bootstrap=10).table.index)
        right += found == sorted(data.planted, key=data.planted.__getitem__)
    assert right >= 19


def test_distillation_closes_half_of_the_weak_modalitys_gap_to_its_teacher() -> None:
    data = synthetic_multimodal(seed=0)
    weak = min(data.planted, key=data.planted.__getitem__)
    trainer = Trainer(max_epochs=60, lr=5e-3, patience=100, track_views=False, progress=False)
    teachers = train_teachers(VBPR, data, trainer, modalities=None, l2=0.03, use_cache=False)
    plain = Objective(build(VBPR, data, 0), l2=0.03)
    ckd = DistillationWrapper(build(VBPR, data, 0), teachers, l2=0.03, distillation_weight=0.5)
    for model in (plain, ckd):
        trainer.fit(model, data)

    def recall(model: object, view: str | None = None) -> float:
        return evaluate(model, data, "test", k=20, metrics=["recall"], view=view)["recall@20"]  # type: ignore[arg-type]

    gap_before = recall(teachers[weak]) - recall(plain, weak)
    gap_after = recall(teachers[weak]) - recall(ckd, weak)
    assert gap_before > 0.02
    assert gap_after <= 0.5 * gap_before


def test_what_ranks_or_teaches_a_starving_view_lifts_it_and_slower_steps_of_the_strong_one_do_not(tmp_path) -> None:
    lifting, others = ("arm", "g2d", "mla", "multitask", "umurl"), ("agm", "amss", "pmr")
    closed: dict[str, list[float]] = {}
    for seed in (0, 3):
        data = planted.catalogue(seed)
        views = {
            name: planted.make(data, name, seed, "test", tmp_path)["views"][planted.WEAK]
            for name in (planted.TEACHER, "plain", *lifting, *others)
        }
        gap = views[planted.TEACHER] - views["plain"]
        assert gap >= 0.2 * views[planted.TEACHER]
        for name in (*lifting, *others):
            closed.setdefault(name, []).append((views[name] - views["plain"]) / gap)
    mean = {name: sum(shares) / len(shares) for name, shares in closed.items()}
    assert all(mean[name] >= 0.5 for name in lifting), mean
    assert all(mean[name] < 0.3 for name in others), mean
