"""Every hook of a strategy, as the trainer calls it."""

from __future__ import annotations

import copy
import traceback

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from pyg_ckd.balance import DifficultyCurriculum, DistillationWrapper, Objective
from pyg_ckd.balance.progress import Progress
from pyg_ckd.data.inputs import unpack
from pyg_ckd.errors import InputError
from pyg_ckd.evaluation import Evaluator, evaluate
from pyg_ckd.nn import MMGCN, VBPR, EgoGCN, LightGCN, as_backbone
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training import build
from pyg_ckd.training.groups import MODALITY, parameter_groups
from tests.nn.models.zoo import Toy
from tests.training.problem import distilled, planted_data, same_bits, trainer
from tests.training.strategies import Everything


def vbpr(data, **options) -> VBPR:
    return build(VBPR, data, 0, embedding_dim=4, **options)


def one_step(model, data, **options):
    """Train for one epoch of one step without validation being able to choose another one."""
    trainer(max_epochs=1, batch_size=10_000, optimizer=lambda groups: torch.optim.SGD(groups, lr=10.0), **options).fit(
        model, data
    )
    return model


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("stops", [[3], [2, 4, 5]], ids=str)
def test_a_strategy_goes_on_in_the_middle_of_its_schedule_with_the_same_bits(stops, sparse, precision, tmp_path):
    data = planted_data()
    options = {"precision": precision, "eval_every": 2}
    whole = Everything(vbpr(data, sparse=sparse))
    expected = trainer(max_epochs=7, **options).fit(whole, data)
    for epochs in [*stops, 7]:
        model = Everything(vbpr(data, sparse=sparse))
        history = trainer(max_epochs=epochs, checkpoint_dir=tmp_path, **options).fit(model, data)
    # Its schedule reads max_epochs nowhere, so that a break is nothing it could see.
    assert history.rows == expected.rows
    assert same_bits(model.state_dict(), whole.state_dict())
    assert float(whole.chosen) > 0
    assert expected.rows[-1]["lead/visual"] != 0


def test_progress_tells_epoch_last_epoch_and_all_rows_so_far():
    data = planted_data()
    model = Everything(vbpr(data))
    history = trainer(max_epochs=4).fit(model, data)
    assert model.seen == [(1, 4, 0), (2, 4, 1), (3, 4, 2), (4, 4, 3)]
    assert model.progress == Progress(4, 4, tuple(history.rows[:3]), "recall@5")


def test_progress_lists_the_evaluations_of_the_trained_view_and_of_every_modality():
    data = planted_data()
    model = Objective(vbpr(data))
    history = trainer(max_epochs=4, eval_every=2, track_views=True).fit(model, data)
    progress = Progress(5, 5, tuple(history.rows), "recall@5")
    validated = [row for row in history.rows if "val/recall@5" in row]
    assert len(validated) == 2
    assert progress.evaluations() == [row["val/recall@5"] for row in validated]
    assert progress.evaluations("visual") == [row["val/visual/recall@5"] for row in validated]
    assert Progress(2, 5, ({"epoch": 1, "val/recall@5": 0.5},), "recall@5").evaluations("visual") == []


def test_what_callbacks_write_into_a_row_is_no_evaluation():
    data, seen = planted_data(), []

    class Writes:
        def on_validation_end(self, row):
            row |= {"val/ndcg@20": 9.0, "val/visual/ndcg@20": 9.0, "val/a/b": 9.0}

    class Sees(Objective):
        def begin_epoch(self, features, graphs):
            seen.append((self.progress.evaluations(), self.progress.evaluations("visual")))
            return super().begin_epoch(features, graphs)

    history = trainer(max_epochs=4, callbacks=Writes()).fit(Sees(vbpr(data)), data)
    assert seen[-1] == tuple([row[f"{name}/recall@5"] for row in history.rows[:3]] for name in ("val", "val/visual"))


@pytest.mark.parametrize("backbone", [VBPR, MMGCN, EgoGCN])
def test_groups_hold_every_parameter_once_by_its_modality(backbone):
    data = planted_data()
    objective = Objective(build(backbone, data, 0))
    groups = parameter_groups(objective)
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(id(p) for p in objective.parameters())
    for m, parameters in objective.student.modality_parameters.items():
        assert [g["params"] for g in groups if g[MODALITY] == m] == [parameters]


@pytest.mark.parametrize("factor", [0.0, 0.25, 3.0])
@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_size_scales_the_step_of_its_modality_alone(factor, sparse):
    data = planted_data()

    class Slowed(Objective):
        def step_sizes(self):
            return {"visual": factor}

    start, plain = vbpr(data, sparse=sparse), one_step(vbpr(data, sparse=sparse), data)
    slowed = one_step(Slowed(vbpr(data, sparse=sparse)), data).student
    own = {id(p) for p in slowed.modality_parameters["visual"]}
    moved = 0
    for p, q, before in zip(slowed.parameters(), plain.parameters(), start.parameters(), strict=True):
        scale = factor if id(p) in own else 1.0
        torch.testing.assert_close(p - before, scale * (q - before), rtol=1e-4, atol=1e-6)
        moved += id(p) in own and bool((q != before).any())
    assert moved


@pytest.mark.parametrize("sparse", [False, True])
def test_a_step_size_of_zero_leaves_a_modality_as_it_is_under_the_usual_optimizer(sparse, tmp_path):
    data = planted_data()

    class Frozen(Objective):
        def step_sizes(self):
            return {"visual": 0.0} if self.progress.epoch > 1 else {}

    states = []
    for epochs in (1, 4):
        model = Frozen(vbpr(data, sparse=sparse))
        trainer(max_epochs=epochs, checkpoint_dir=tmp_path / str(epochs)).fit(model, data)
        states.append(torch.load(tmp_path / str(epochs) / "last.pt", weights_only=True)["run"]["model"])
    own = {id(p) for p in model.student.modality_parameters["visual"]}
    names = {name for name, p in model.named_parameters() if id(p) in own}
    assert names
    for name in states[0]:
        assert torch.equal(states[0][name], states[1][name]) == (name in names), name


def test_neutral_step_sizes_keep_the_bits_of_plain_training():
    data = planted_data()

    class Neutral(Objective):
        def step_sizes(self):
            return dict.fromkeys(self.modalities, 1.0)

    plain, neutral = vbpr(data), Neutral(vbpr(data))
    rows = trainer().fit(plain, data).rows
    assert trainer().fit(neutral, data).rows == rows
    assert same_bits(plain.state_dict(), neutral.student.state_dict())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"visaul": 1.0}, "unknown modality in Wrong.step_sizes: 'visaul': did you mean 'visual'"),
        ({"visual": -0.5}, "Wrong.step_sizes: found -0.5 for 'visual', expected a finite number of zero or more"),
        ({"visual": float("nan")}, "Wrong.step_sizes: found nan for 'visual'"),
        ({"textual": float("inf")}, "Wrong.step_sizes: found inf for 'textual'"),
        ({"textual": "fast"}, "Wrong.step_sizes: found fast for 'textual'"),
        ([1.0, 2.0], "Wrong.step_sizes: found list, expected a dict from modality to a factor"),
    ],
    ids=str,
)
def test_step_sizes_that_cannot_be_are_refused(sizes, message):
    data = planted_data()

    class Wrong(Objective):
        def step_sizes(self):
            return sizes

    with pytest.raises(InputError) as caught:
        trainer().fit(Wrong(vbpr(data)), data)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_step_size_of_a_modality_without_parameters_of_its_own_is_warned_about():
    data = planted_data()

    class Slowed(Objective):
        def step_sizes(self):
            return {"visual": 0.5, "textual": 1.0}

    with pytest.warns(UserWarning, match="step sizes: found one for 'visual', without trainable parameters of its own"):
        trainer(max_epochs=1).fit(Slowed(build(LightGCN, data, 0)), data)


def test_parameters_of_modalities_may_be_learned_while_graphs_are_prepared():
    data = planted_data()

    class Late(VBPR):
        known = False

        def prepare(self, features, edge_index_dict):
            self.known = True
            return super().prepare(features, edge_index_dict)

        @property
        def modality_parameters(self):
            return super().modality_parameters if self.known else {m: [] for m in self.modalities}

    class Frozen(Objective):
        def step_sizes(self):
            return {"visual": 0.0}

    model = build(Late, data, 0, embedding_dim=4)
    before = copy.deepcopy(model)
    trainer(max_epochs=2).fit(Frozen(model), data)
    own = {name for name, p in model.named_parameters() if any(p is q for q in model.modality_parameters["visual"])}
    assert own
    for (name, p), q in zip(model.named_parameters(), before.parameters(), strict=True):
        assert torch.equal(p, q) == (name in own), name


def test_two_passes_add_up_to_the_gradient_of_the_sum():
    data = planted_data()

    class Parts(Objective):
        def backward(self, terms, run):
            *first, last = terms.values()
            for term in first:
                run(term, retain_graph=True)
            run(last)

    for sparse in (False, True):
        plain, parts = (one_step(cls(vbpr(data, sparse=sparse)), data) for cls in (Objective, Parts))
        for p, q in zip(plain.parameters(), parts.parameters(), strict=True):
            torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)


def test_a_gradient_of_none_leaves_parameters_and_their_moments_alone(tmp_path):
    data = planted_data()

    class Frozen(Objective):
        def backward(self, terms, run):
            super().backward(terms, run)
            for p in self.student.modality_parameters["textual"]:
                p.grad = None

    model = vbpr(data)
    before = copy.deepcopy(model)
    trainer(max_epochs=2, checkpoint_dir=tmp_path).fit(Frozen(model), data)
    for p, q in zip(*(m.modality_parameters["textual"] for m in (model, before)), strict=True):
        assert torch.equal(p, q)
    optimizer = torch.load(tmp_path / "last.pt", weights_only=True)["run"]["optimizer"]
    frozen = {n for group in optimizer["param_groups"] if group[MODALITY] == "textual" for n in group["params"]}
    others = {n for group in optimizer["param_groups"] for n in group["params"]} - frozen
    assert frozen
    assert optimizer["state"].keys() == others


@pytest.mark.parametrize("value", [-1.0, float("nan"), float("inf")])
def test_weights_of_triples_that_cannot_be_are_refused_before_the_loss_they_spoil(value):
    data = planted_data()

    class Wrong(Objective):
        def triple_weights(self, out, batch):
            return torch.full((batch.user.numel(),), value)

    with pytest.raises(InputError, match=r"Wrong\.triple_weights: found negative, infinite or NaN weights"):
        trainer().fit(Wrong(vbpr(data)), data)


def test_weights_of_triples_of_another_size_are_refused():
    data = planted_data()

    class Wrong(Objective):
        def triple_weights(self, out, batch):
            return torch.ones(batch.user.numel() + 1)

    with pytest.raises(InputError, match=r"Wrong.triple_weights: found shape \[65\], expected \[64\]"):
        trainer(num_negatives=1).fit(Wrong(vbpr(data)), data)


def test_a_strategy_prepares_for_every_validation_with_the_metric_that_is_monitored():
    data = planted_data()
    scores = []

    class Chooses(Objective):
        def before_validation(self, features, graphs, score):
            assert not self.training
            assert not torch.is_grad_enabled()
            scores.append(score(self.forward_views(features, graphs, [self.view])[0]))

    history = trainer(max_epochs=6, eval_every=2).fit(Chooses(vbpr(data)), data)
    assert scores == [row["val/recall@5"] for row in history.rows if "val/recall@5" in row]
    assert len(scores) == 3


class Fixed(Objective):
    """Trains nothing; which of two tables it ranks with is chosen on the validation part."""

    trains = False

    def __init__(self, student, tables=()):
        super().__init__(student)
        self.tables = tables
        self.register_buffer("choice", torch.zeros((), dtype=torch.int64))

    def before_validation(self, features, graphs, score):
        self.choice.fill_(max(range(len(self.tables)), key=lambda n: score(self.tables[n])))

    def forward_views(self, features, edge_index_dict, views, **kw):
        return [self.tables[int(self.choice)] for _ in views]

    def epoch_statistics(self):
        return {"tables": float(len(self.tables))}


def test_a_strategy_without_anything_to_train_is_validated_once(tmp_path):
    data = planted_data()
    tables = [Embeddings(torch.randn(40, 3), torch.randn(30, 3)) for _ in range(4)]
    model = Fixed(vbpr(data).requires_grad_(False), tables)
    before = copy.deepcopy(model.student.state_dict())
    history = trainer(max_epochs=9, checkpoint_dir=tmp_path).fit(model, data)
    values = [Evaluator(data, "val", [5], ["recall"])(table)["recall@5"] for table in tables]
    assert len(history.rows) == len(history.seconds) == len(history.validation_seconds) == 1
    assert history.rows[0]["val/recall@5"] == history.best_value == max(values)
    assert history.rows[0]["tables"] == 4
    assert (history.best_epoch, history.stopped, history.converged) == (1, "nothing to train", True)
    assert int(model.choice) == values.index(max(values))
    assert same_bits(before, model.student.state_dict())
    assert list(tmp_path.iterdir()) == []  # There is nothing to go on from.


class Reads(TorchDispatchMode):
    """Notes every number that the host reads from a tensor."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
            names = [frame.name for frame in traceback.extract_stack()]
            if not {"_fused_adam", "check_ids"} & set(names):  # Kernels of a CPU that no other device runs.
                self.found.append(names[-6:])
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("kind", ["plain", "ckd", "everything"])
@pytest.mark.parametrize("negatives", ["uniform", "popularity", "hard"])
def test_a_step_reads_no_number_from_the_device(kind, negatives):
    data = planted_data()
    make = {"plain": lambda: Objective(vbpr(data)), "ckd": lambda: distilled(data)}
    model = make[kind]() if kind in make else Everything(vbpr(data))
    reads, per_epoch = Reads(), []

    class Watch:
        def on_train_batch_start(self, batch_idx):
            if batch_idx == 0:
                reads.__enter__()

        def on_train_batch_end(self, batch_idx):
            if batch_idx == 2:  # Batches two and three are drawn inside.
                reads.__exit__(None, None, None)
                per_epoch.append(list(reads.found))

    trainer(max_epochs=3, callbacks=Watch(), negatives=negatives).fit(model, data)
    assert per_epoch == [[], [], []]
    with reads:
        float(torch.ones(()))
    assert len(reads.found) == 1  # It does see what a host reads.


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("cls", [Objective, Everything])
def test_scaled_losses_change_nothing_and_a_strategy_sees_gradients_of_their_true_scale(cls, sparse, monkeypatch):
    """The path of ``16-mixed``: its scaler of gradients, beside the autocast that a CPU has."""
    from lightning_fabric.plugins.precision.amp import MixedPrecision

    data = planted_data()
    norms: list[float] = []

    class Watched(cls):
        def backward(self, terms, run):
            super().backward(terms, run)
            if cls is not Objective:
                grads = [p.grad for p in self.parameters() if p.grad is not None]
                norms.append(sum(float((g.to_dense() if g.is_sparse else g).norm()) for g in grads))

    kind = Watched if cls is Everything else Objective
    found = []
    original = MixedPrecision.__init__
    for scale in (None, 1024.0):

        def init(self, precision, device, scaler=None, scale=scale):
            original(self, precision, device)
            if scale is not None:
                self.scaler = torch.amp.GradScaler("cpu", init_scale=scale)

        monkeypatch.setattr(MixedPrecision, "__init__", init)
        norms.clear()
        model = kind(vbpr(data, sparse=sparse))
        history = trainer(max_epochs=3, precision="bf16-mixed").fit(model, data)
        found.append((history.rows, model.state_dict(), list(norms)))
    assert found[0][0] == found[1][0]
    assert same_bits(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]
    assert bool(norms) == (cls is Everything)


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_mixed_precision_is_on_where_losses_are_computed(precision):
    class Sees(Objective):
        def loss(self, *args, **kwargs):
            seen.add(torch.is_autocast_enabled("cpu"))
            return super().loss(*args, **kwargs)

    data, seen = planted_data(), set[bool]()
    trainer(max_epochs=1, precision=precision).fit(Sees(vbpr(data)), data)
    assert seen == {precision == "bf16-mixed"}


@pytest.mark.filterwarnings("ignore:You passed")
def test_half_precision_on_a_cpu_is_refused_with_what_it_has():
    data = planted_data()
    with pytest.raises(
        InputError, match=r"^precision: found '16-mixed' on the CPU, expected 'bf16-mixed' or '32-true'"
    ):
        trainer(max_epochs=1, precision="16-mixed").fit(vbpr(data), data)


def test_any_module_is_trained_by_a_strategy_with_steps_of_its_own():
    data = planted_data()

    class Parts(Objective):
        def backward(self, terms, run):
            for n, term in enumerate(terms.values(), start=1):
                run(term, retain_graph=n < len(terms))

    torch.manual_seed(0)
    toy = Toy(40, {m: data["item"][m].size(1) for m in data.modalities})
    before = copy.deepcopy(toy.state_dict())
    trainer(max_epochs=2).fit(Parts(as_backbone(toy, data)), data)
    assert not same_bits(before, toy.state_dict())


def test_prepared_graphs_and_features_reach_the_hooks():
    data = planted_data()
    features, _ = unpack(data)
    seen = []

    class Looks(DistillationWrapper):
        def before_validation(self, features, graphs, score):
            seen.append((sorted(features), list(graphs)))

    trainer(max_epochs=1).fit(Looks(vbpr(data), None), data)
    assert seen == [(sorted(features), [("user", "rates", "item")])]


@pytest.mark.parametrize("name", ["val/recall@5", "val/visual/recall@20", "val/own"])
def test_statistics_under_the_names_of_validations_are_refused(name):
    data = planted_data()

    class Mine(Objective):
        def epoch_statistics(self):
            return {name: 1.0}

    with pytest.raises(InputError, match=f"Mine.epoch_statistics: found the name '{name}', .* begin with 'val/'"):
        trainer(max_epochs=1).fit(Mine(vbpr(data)), data)


class NoReturn(Objective):
    def begin_epoch(self, features, graphs):
        super().begin_epoch(features, graphs)


class OneTable(Objective):
    def forward_views(self, features, edge_index_dict, views, **kw):
        return super().forward_views(features, edge_index_dict, views, **kw)[0]


class TooFew(Objective):
    def forward_views(self, features, edge_index_dict, views, **kw):
        return []


class NoScore(Objective):
    def before_validation(self, features, graphs):
        pass


class NoBatch(Objective):
    def balance(self, out):
        return {}


MISTAKES = {
    NoReturn: r"NoReturn.begin_epoch: found NoneType, expected a dict with the graphs of the epoch; write return super",
    OneTable: r"OneTable.forward_views: found Embeddings, expected a list with the embeddings of each of the views",
    TooFew: r"TooFew.forward_views: found list of nothing, expected a list",
    NoScore: r"NoScore.before_validation: found before_validation\(features, graphs\), expected before_validation"
    r"\(features, graphs, score\); write def before_validation\(self, features, graphs, score\)",
    NoBatch: r"NoBatch.balance: found balance\(out\), expected balance\(out, batch\)",
}


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("track_views", [False, True])
@pytest.mark.parametrize("cls", MISTAKES)
def test_a_mistake_in_a_strategy_is_named_with_class_and_method(cls, track_views, wrapped):
    data = planted_data()
    model = cls(vbpr(data))
    model = DifficultyCurriculum(model, stage_epochs=1) if wrapped else model
    with pytest.raises(InputError, match=f"^{MISTAKES[cls]}"):
        trainer(max_epochs=2, track_views=track_views).fit(model, data)


@pytest.mark.parametrize("cls", [OneTable, TooFew])
def test_a_strategy_that_ranks_wrongly_is_named_where_it_is_evaluated(cls):
    data = planted_data()
    with pytest.raises(InputError, match=rf"^{cls.__name__}\.forward_views: found"):
        evaluate(cls(vbpr(data)), data, "val", k=3)
