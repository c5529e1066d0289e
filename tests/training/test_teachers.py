"""Teachers are trained once per data set and settings."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from pyg_ckd.balance import DistillationWrapper, DynamicCurriculum, Objective
from pyg_ckd.data.build import training_digest
from pyg_ckd.data.inputs import RATES, embed
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import evaluate
from pyg_ckd.nn import FREEDOM, VBPR, EarlyFusionLightGCN, LightGCN, as_backbone
from pyg_ckd.training import Trainer, build, train_teachers
from pyg_ckd.training.attributes import attributes_of
from pyg_ckd.training.teachers import code_of
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


def test_teachers_of_other_interactions_are_warned_of(tmp_path):
    data, other, shuffled = planted_data(), planted_data(), planted_data()
    edges = data[RATES].edge_index
    other[RATES].edge_index = torch.stack([edges[0], edges[1].roll(1)])
    shuffled[RATES].edge_index = edges.flip(1).int()
    assert training_digest(shuffled) == training_digest(data) != training_digest(other)
    once = trainer(max_epochs=1)
    teachers = train_teachers(VBPR, other, once, use_cache=False, **WIDTH)
    for wrap in (Objective, DynamicCurriculum):
        ckd = DistillationWrapper(build(VBPR, data, 0), teachers)
        with pytest.warns(UserWarning, match="of the same size with other training interactions"):
            once.fit(ckd if wrap is Objective else wrap(ckd), data)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once.fit(DistillationWrapper(build(VBPR, data, 0), dict(teachers)), data)  # Tables of any origin.
        once.fit(DistillationWrapper(build(VBPR, other, 0), teachers), other)


def test_cache_gives_identical_teachers_without_training(tmp_path, fits):
    data = planted_data()
    first = train_teachers(VBPR, data, trainer(), cache_dir=tmp_path, **WIDTH)
    fits.clear()
    again = train_teachers(VBPR, planted_data(), trainer(), cache_dir=tmp_path, **WIDTH)
    assert fits == []
    for m in first:
        assert same_bits(first[m]._asdict(), again[m]._asdict())
        assert first.histories[m] == again.histories[m]


@pytest.mark.parametrize("backbone", [VBPR, EarlyFusionLightGCN])
def test_a_teacher_comes_with_what_it_ranks_with_where_its_modality_is_intervened_on(backbone, tmp_path, fits):
    data, models = planted_data(), []

    def make(data):
        models.append(backbone.from_data(data, **WIDTH))
        return models[-1]

    teachers = train_teachers(make, data, trainer(max_epochs=2), cache_dir=tmp_path)
    triples = tuple(torch.randint(30, (50,), generator=torch.Generator().manual_seed(n)) for n in range(3))
    for (m, base), model in zip(teachers.bases.items(), models, strict=True):
        expected = embed(model, data, [[]])[0].margin(*triples)
        assert torch.allclose(base.margin(*triples), expected, rtol=0, atol=1e-6)
        assert not torch.allclose(teachers[m].margin(*triples), expected, rtol=0, atol=1e-3)
        assert not base.item.requires_grad
    fits.clear()
    again = train_teachers(make, data, trainer(max_epochs=2), cache_dir=tmp_path)
    assert fits == []
    assert all(same_bits(again.bases[m]._asdict(), base._asdict()) for m, base in teachers.bases.items())
    copied = copy.deepcopy(again)
    assert copied.bases.keys() == again.bases.keys() == set(data.modalities)
    again["visual"] = teachers["visual"]  # Another teacher takes its place, of which the tables are not known.
    assert again.bases.keys() == set(data.modalities) - {"visual"}


def test_a_teacher_that_an_earlier_version_cached_is_taken_without_them(tmp_path, fits):
    data = planted_data()
    first = train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    (path,) = tmp_path.iterdir()
    content = torch.load(path, weights_only=True)
    torch.save({k: v for k, v in content.items() if not k.startswith("base_")}, path)
    fits.clear()
    again = train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    assert (fits, again.bases) == ([], {})
    assert same_bits(first["visual"]._asdict(), again["visual"]._asdict())


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


@pytest.mark.parametrize("damage", ["cut off", "no table", "other sizes"])
def test_teacher_of_a_damaged_cache_is_trained_again_with_a_warning(damage, tmp_path, fits):
    data = planted_data()
    first = train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    (path,) = tmp_path.iterdir()
    content = torch.load(path, weights_only=True)
    if damage == "cut off":
        path.write_bytes(path.read_bytes()[:100])
    elif damage == "no table":
        torch.save({k: v for k, v in content.items() if k != "user"}, path)
    else:
        torch.save(content | {"user": content["user"][1:]}, path)
    fits.clear()
    with pytest.warns(UserWarning, match=f"teacher 'visual' is trained again: .*{path.name}.*damaged"):
        again = train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    assert fits == ["visual"]
    assert same_bits(first["visual"]._asdict(), again["visual"]._asdict())
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    fits.clear()
    train_teachers(VBPR, data, trainer(max_epochs=1), ["visual"], cache_dir=tmp_path, **WIDTH)
    assert fits == []  # The damaged file was replaced.


@pytest.fixture
def epochs(monkeypatch) -> dict[str, int]:
    """Count epochs under ``done``; the one that makes it reach ``stop`` is broken off."""
    count = {"done": 0, "stop": -1}
    original = Objective.epoch_statistics

    def epoch_statistics(self):
        count["done"] += 1
        if count["done"] == count["stop"]:
            raise KeyboardInterrupt
        return original(self)

    monkeypatch.setattr(Objective, "epoch_statistics", epoch_statistics)
    return count


def broken_off(data, epochs, run, **options) -> None:
    """Train teachers of six epochs each and break off in the fourth epoch of the second one."""
    epochs["stop"] = 10
    with pytest.raises(KeyboardInterrupt):
        train_teachers(VBPR, data, run, **options, **WIDTH)
    epochs.update(done=0, stop=-1)


def test_teacher_that_was_broken_off_goes_on_with_the_same_bits(tmp_path, epochs):
    data = planted_data()
    expected = train_teachers(VBPR, data, trainer(), cache_dir=tmp_path / "undisturbed", **WIDTH)
    epochs["done"] = 0
    broken_off(data, epochs, trainer(), cache_dir=tmp_path / "cache")
    teachers = train_teachers(VBPR, data, trainer(), cache_dir=tmp_path / "cache", **WIDTH)
    assert epochs["done"] == 3  # The first teacher is in the cache, the second one had finished three epochs.
    for m in expected:
        assert same_bits(teachers[m]._asdict(), expected[m]._asdict())
        assert teachers.histories[m].rows == expected.histories[m].rows
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".pt", ".pt"]


def test_checkpoint_of_a_finished_teacher_is_removed_by_the_next_call(tmp_path, epochs):
    data = planted_data()
    broken_off(data, epochs, trainer(), cache_dir=tmp_path)
    (left,) = tmp_path.glob("*/last.pt")
    content = left.read_bytes()
    train_teachers(VBPR, data, trainer(), cache_dir=tmp_path, **WIDTH)
    left.parent.mkdir()
    left.write_bytes(content)  # As if the process had been killed before it could remove the checkpoint.
    (left.parent / ".last.pt.partial-abcd_123.pt").write_bytes(content[:100])  # And another one while it wrote it.
    train_teachers(VBPR, data, trainer(), cache_dir=tmp_path, **WIDTH)
    assert not left.parent.exists()


def test_damaged_checkpoint_of_a_teacher_is_reported_and_not_gone_on_from(tmp_path, epochs):
    data = planted_data()
    broken_off(data, epochs, trainer(), cache_dir=tmp_path)
    (left,) = tmp_path.glob("*/last.pt")
    left.write_bytes(left.read_bytes()[:100])
    with pytest.warns(UserWarning, match=r"teacher 'textual' is trained again: .*last\.pt: cannot be read"):
        train_teachers(VBPR, data, trainer(), cache_dir=tmp_path, **WIDTH)
    assert epochs["done"] == 6


def test_without_a_cache_every_teacher_has_its_own_folder_below_that_of_the_trainer(tmp_path, epochs):
    data = planted_data()
    options = {"use_cache": False}
    broken_off(data, epochs, trainer(checkpoint_dir=tmp_path), **options)
    assert len(list(tmp_path.glob("*/last.pt"))) == 1
    train_teachers(VBPR, data, trainer(checkpoint_dir=tmp_path), **options, **WIDTH)
    assert epochs["done"] == 6 + 3
    assert list(tmp_path.iterdir()) == []


def test_cache_that_cannot_be_written_to_is_refused_before_training(tmp_path, fits):
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=r"teacher cache .*file.*: cannot be written to .*use_cache=False"):
        train_teachers(VBPR, planted_data(), trainer(), cache_dir=tmp_path / "file" / "cache", **WIDTH)
    assert fits == []


def test_unknown_modality_is_refused_with_the_closest_name(tmp_path):
    with pytest.raises(InputError, match="unknown modality 'visul': did you mean 'visual'"):
        train_teachers(VBPR, planted_data(), trainer(), ["visul"], cache_dir=tmp_path)


@pytest.mark.parametrize(
    ("backbone", "words"),
    [
        (
            VBPR.from_data(planted_data(), **WIDTH),
            r"found a VBPR that is built already, .* lambda data: VBPR\.from_data",
        ),
        (torch.nn.Linear(2, 2), "found a Linear that is built already"),
        ("VBPR", "found 'VBPR', expected a backbone class or a function of the data"),
        (None, "found None, expected a backbone class"),
        (lambda: None, r"found <lambda>\(\), which cannot be called as <lambda>\(data\)"),
    ],
    ids=["backbone", "module", "name", "none", "without-arguments"],
)
def test_what_builds_no_teacher_is_refused(backbone, words, fits):
    with pytest.raises(InputError, match=f"backbone: {words}"):
        train_teachers(backbone, planted_data(), trainer(max_epochs=1), use_cache=False)
    assert fits == []


def test_a_function_without_an_option_that_is_given_is_refused_by_its_name(fits):
    with pytest.raises(InputError, match=r"called as <lambda>\(data, width=\.\.\.\) \(got an unexpected .*'width'"):
        train_teachers(lambda data: None, planted_data(), trainer(), use_cache=False, width=3)


def test_a_trainers_options_are_no_trainer():
    for found in ({"max_epochs": 1}, {}):
        with pytest.raises(InputError, match=r"trainer: found dict, expected a Trainer, such as Trainer\("):
            train_teachers(VBPR, planted_data(), found, use_cache=False)


@pytest.mark.parametrize("adapted", [False, True])
def test_one_module_for_two_teachers_is_refused(adapted, tmp_path):
    data = planted_data()
    model = Plain(data) if adapted else VBPR.from_data(data, **WIDTH)
    with pytest.raises(InputError, match="for the teachers 'visual' and 'textual', expected a new module"):
        train_teachers(lambda data: model, data, trainer(max_epochs=1), cache_dir=tmp_path)


class Plain(torch.nn.Module):
    """Two tables."""

    def __init__(self, data):
        super().__init__()
        self.user = torch.nn.Embedding(data["user"].num_nodes, 4)
        self.item = torch.nn.Embedding(data["item"].num_nodes, 4)

    def forward(self, x_dict, edge_index):
        return self.user.weight, self.item.weight


def test_build_seeds_the_initial_weights_and_nothing_outside():
    data = planted_data()
    before = torch.get_rng_state()
    first, again, other = (build(VBPR, data, seed).state_dict() for seed in (0, 0, 1))
    assert same_bits(first, again)
    assert not same_bits(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_teachers_of_another_option_or_another_graph_are_others(tmp_path, fits):
    data = planted_data()
    dims = {m: data["item"][m].size(1) for m in data.modalities}

    def freedom(**options):
        return lambda data: FREEDOM(data["user"].num_nodes, data["item"].num_nodes, dims, 4, **options)

    quick = trainer(max_epochs=1)
    train_teachers(freedom(dropout=0.0), data, quick, cache_dir=tmp_path)
    train_teachers(freedom(dropout=0.5), data, quick, cache_dir=tmp_path)
    assert len(fits) == 4  # What no parameter shows still decides.
    own = copy.copy(data)
    own["item", "visual", "item"].edge_index = torch.tensor([[0, 1, 2], [1, 2, 0]])
    train_teachers(freedom(dropout=0.0), own, quick, cache_dir=tmp_path)
    assert len(fits) == 6
    train_teachers(freedom(dropout=0.0), data, quick, cache_dir=tmp_path)
    assert len(fits) == 6


class Scaled(torch.nn.Module):
    """A module with a number that neither its repr nor its parameters show."""

    def __init__(self, users: int, items: int, scale: float) -> None:
        super().__init__()
        self.user, self.item = torch.nn.Parameter(torch.ones(users, 4)), torch.nn.Parameter(torch.ones(items, 4))
        self.scale = scale

    def forward(self, x_dict, edge_index):
        return self.user, self.item * self.scale + torch.cat(list(x_dict.values()), dim=1)[:, :4]


def test_numbers_of_an_adapted_module_are_part_of_what_decides(tmp_path, fits):
    data = planted_data()
    sizes = data["user"].num_nodes, data["item"].num_nodes
    for scale in (1.0, 2.0, 1.0):
        train_teachers(
            lambda data, s=scale: as_backbone(Scaled(*sizes, s), data), data, trainer(max_epochs=1), cache_dir=tmp_path
        )
    assert len(fits) == 2 * len(data.modalities)


def test_an_edited_helper_or_metric_misses_the_cache(tmp_path, fits):
    def make(factor: float) -> type[VBPR]:
        space: dict = {"__name__": "mine"}
        source = f"""
def scaled(x):
    return {factor} * x

def penalty(self, out, batch):
    return scaled(sum(p.square().sum() for p in self.parameters()))
"""
        exec(source, space)
        return type("Edited", (VBPR,), {"penalty": space["penalty"]})

    def callback(body: str) -> object:
        space: dict = {}
        exec(f"def on_train_epoch_end(self, **_):\n    {body}", space)
        return type("Watch", (), space)()

    data = planted_data()
    for factor, body in ((1.0, "pass"), (2.0, "pass"), (2.0, "pass"), (2.0, "self.seen = 1"), (1.0, "pass")):
        run = trainer(max_epochs=1, callbacks=[callback(body)])
        train_teachers(make(factor), data, run, ["visual"], cache_dir=tmp_path, **WIDTH)
    assert len(fits) == 3


def test_teachers_under_callbacks_of_other_options_are_trained_again(tmp_path, fits):
    class Ends:
        def __init__(self, after: int, seen: list) -> None:
            self.after, self.seen = after, seen

        def on_train_epoch_end(self, history, epoch) -> None:
            self.seen.append(epoch)
            if epoch >= self.after:
                history.stopped = "enough"

    data = planted_data()
    for after in (1, 1, 2):
        run = trainer(max_epochs=3, callbacks=Ends(after, []))
        train_teachers(VBPR, data, run, ["visual"], cache_dir=tmp_path, **WIDTH)
    assert len(fits) == 2


def test_code_tells_apart_backbones_of_one_name_with_another_body():
    def make(body: str) -> type[VBPR]:
        space: dict = {}
        exec(f"def penalty(self, out, batch):\n    return {body}", space)
        return type("Edited", (VBPR,), {"penalty": space["penalty"]})

    data = planted_data()
    bodies = ("1.0 * out.user.sum()", "1.0 * out.user.sum()", "2.0 * out.user.sum()")
    one, again, other = (code_of(make(body).from_data(data, embedding_dim=4)) for body in bodies)
    assert one == again
    assert one != other


class Keeps(torch.nn.Module):
    """A module that holds something that neither its repr nor its code shows, in an attribute of a name."""

    def __init__(self, name: str, value) -> None:
        super().__init__()
        self.user, self.item = torch.nn.Parameter(torch.ones(40, 4)), torch.nn.Parameter(torch.ones(30, 4))
        self.inner = torch.nn.ReLU()
        setattr(self, name, value)

    def forward(self, x_dict, edge_index):
        return self.user, self.inner(self.item)


class Options:
    """Options of a class of one's own."""

    def __init__(self, scale: float) -> None:
        self.scale, self.again = scale, [self]


@pytest.mark.parametrize(
    ("name", "one", "other"),
    [
        ("_scale", 1.0, 100.0),
        ("act", torch.relu, torch.tanh),
        ("act", lambda x: x, lambda x: 2 * x),
        ("act", torch.nn.functional.relu, torch.nn.functional.gelu),
        ("options", {"a": {"scale": 1.0}}, {"a": {"scale": 2.0}}),
        ("options", Options(1.0), Options(2.0)),
        ("weights", torch.ones(3), torch.zeros(3)),
        ("layers", [torch.nn.Dropout(0.1)], [torch.nn.Dropout(0.2)]),
    ],
    ids=["private", "builtin", "lambda", "function", "dict", "object", "tensor", "modules"],
)
def test_whatever_a_module_of_the_users_holds_is_part_of_what_decides(name, one, other, tmp_path, fits):
    data = planted_data()
    for value in (one, other, copy.deepcopy(one)):
        train_teachers(
            lambda data, v=value: as_backbone(Keeps(name, v), data),
            data,
            trainer(max_epochs=1),
            ["visual"],
            cache_dir=tmp_path,
        )
    assert fits == ["visual", "visual"]


def test_the_attributes_of_the_packages_own_models_are_their_options():
    for backbone in (VBPR, LightGCN):
        assert attributes_of(build(backbone, planted_data(), 0), whole=True) == {}


def test_teachers_of_half_the_precision_are_cached(tmp_path, fits):
    more = (planted_data(), trainer(max_epochs=1), None, 1e-2, tmp_path)
    for _ in range(2):
        teachers = train_teachers(lambda data: VBPR.from_data(data, **WIDTH).bfloat16(), *more)
    assert teachers["visual"].user.dtype == torch.bfloat16
    assert fits == ["visual", "textual"]
