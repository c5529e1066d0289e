"""MICRO: its fusion and its contrastive loss against plain loops."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.testing import assert_close

from pyg_ckd.errors import InputError
from pyg_ckd.nn.models import micro
from pyg_ckd.nn.models.micro import MICRO, contrast
from tests.nn.models.test_base import all_views
from tests.nn.models.test_lattice import batch_of, collaborative, dense_graph
from tests.nn.models.zoo import built, doubled


def contrast_by_loops(x: Tensor, y: Tensor, tau: float, anchors: list[int] | None = None) -> float:
    x, y = x.detach(), y.detach()

    def e(a: Tensor, b: Tensor) -> float:
        return math.exp(float(a @ b / (a.norm() * b.norm())) / tau)

    anchors = list(range(len(x))) if anchors is None else anchors
    total = 0.0
    for i in anchors:
        others = sum(e(x[i], y[j]) + e(x[i], x[j]) for j in range(len(x)) if j != i)
        total -= math.log(e(x[i], y[i]) / (e(x[i], y[i]) + others))
    return total / len(anchors)


def pair(size: int = 6, width: int = 4) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, size, width, dtype=torch.float64, generator=generator)
    return x, y


@pytest.mark.parametrize("tau", [0.05, 0.5, 2.0])
@pytest.mark.parametrize("anchors", [None, [3, 0, 5]])
@pytest.mark.parametrize("block_size", [1, 2, None])
def test_contrast_equals_its_definition_for_any_block_size(tau, anchors, block_size):
    x, y = pair()
    index = None if anchors is None else torch.tensor(anchors)
    value = contrast(x, y, tau, index, block_size)
    assert value.item() == pytest.approx(contrast_by_loops(x, y, tau, anchors), abs=1e-12)


@pytest.mark.parametrize("block_size", [4, None])
def test_gradient_of_contrast_is_that_of_finite_differences(block_size):
    x, y = (t.requires_grad_() for t in pair())
    assert torch.autograd.gradcheck(lambda x, y: contrast(x, y, 0.3, None, block_size), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: 3 * contrast(x, y, 0.3, torch.tensor([1, 4, 2]), block_size), (x, y))
    assert torch.autograd.gradcheck(lambda x: contrast(x, x, 0.3, None, block_size), (x,))


def test_mean_over_single_anchors_is_the_loss_of_all_items():
    """So that items drawn at random give the right loss and gradient on average."""
    x, y = pair()
    single = torch.stack([contrast(x, y, 0.5, torch.tensor([i])) for i in range(len(x))])
    assert_close(single.mean(), contrast(x, y, 0.5), atol=1e-12, rtol=0)


def test_contrast_holds_no_more_similarities_than_a_block_has(monkeypatch):
    sizes = []
    mm = torch.mm
    monkeypatch.setattr(
        torch, "mm", lambda a, b, out: sizes.append(out.numel() * out.element_size()) or mm(a, b, out=out)
    )
    monkeypatch.setattr(micro, "_BLOCK_BYTES", 2**16)
    contrast(torch.randn(700, 4), torch.randn(700, 4), 0.5)
    assert len(sizes) > 10
    assert max(sizes) <= 2**16


def test_contrast_is_computed_in_single_precision_under_autocast():
    x, y = (t.float() for t in pair())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert_close(contrast(x.bfloat16(), y, 0.5), contrast(x.bfloat16().float(), y, 0.5), atol=0, rtol=0)


@pytest.mark.parametrize("num_modalities", [1, 3])
@pytest.mark.parametrize("num_item_layers", [0, 1, 2])
def test_every_view_equals_its_dense_definition(num_modalities, num_item_layers, make_data):
    data = make_data(modalities=num_modalities)
    options = {"num_neighbors": 4, "skip_weight": 0.6, "embedding_dim": 5, "num_item_layers": num_item_layers}
    model = built(lambda data: MICRO.from_data(data, **options), data)
    features, graph = doubled(data)
    z, q = collaborative(model, features, graph), model.item_embedding
    for view in all_views(model.modalities):
        rows = {}
        for m in model.modalities:
            dense = dense_graph(model, m, features, keep_negative=False)
            dense = dense if m in view else torch.full_like(dense, 1 / model.num_items)
            rows[m] = torch.linalg.matrix_power(dense, num_item_layers) @ q
        out = model(features, graph, view)
        assert_close(out.user, z.user, atol=1e-10, rtol=0)
        for i in range(model.num_items):
            score = [model.query[2].weight[0] @ torch.tanh(model.query[0](h[i])) for h in rows.values()]
            alpha = torch.stack(score).softmax(dim=0)
            h = sum(a * x[i] for a, x in zip(alpha, rows.values(), strict=True))
            assert_close(out.item[i], z.item[i] + h / h.norm(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("symmetric", [False, True])
def test_losses_are_bpr_and_a_term_for_every_factual_modality(symmetric, make_data):
    data = make_data(modalities=3)
    options = {"contrast_weight": 0.2, "temperature": 0.4, "symmetric": symmetric, "num_neighbors": 3}
    model = built(lambda data: MICRO.from_data(data, **options), data)
    features, graph = doubled(data)
    batch = batch_of(model.num_users, model.num_items)
    for view in all_views(model.modalities):
        out = model.outputs(features, graph, [view])[0]
        terms = model.losses(out, batch, features, view)
        margin = out.margin(batch.user, batch.positive, batch.negative)
        assert terms.pop("bpr").item() == pytest.approx(F.softplus(-margin).mean().item())
        assert set(terms) == {f"contrast/{m}" for m in view}
        for m in view:
            x, h = out.parts[f"h/{m}"], out.parts["h"]
            expected = contrast_by_loops(x, h, 0.4)
            if symmetric:
                expected = (expected + contrast_by_loops(h, x, 0.4)) / 2
            assert terms[f"contrast/{m}"].item() == pytest.approx(0.2 * expected, abs=1e-10)


def test_contrast_of_some_items_draws_them_anew_and_repeats_under_a_seed(make_data):
    data = make_data(modalities=2)
    model = built(lambda data: MICRO.from_data(data, contrast_items=4, num_neighbors=3), data)
    features, graph = doubled(data)
    batch, view = batch_of(model.num_users, model.num_items), frozenset(model.modalities)
    out = model.outputs(features, graph, [view])[0]

    def drawn(seed: int, times: int) -> list[float]:
        torch.manual_seed(seed)
        return [model.losses(out, batch, features, view)["contrast/mod0"].item() for _ in range(times)]

    assert len(set(drawn(0, 5))) > 3
    assert drawn(1, 3) == drawn(1, 3)
    model.contrast_items = model.num_items
    every = drawn(0, 2)
    model.contrast_items = None
    assert drawn(1, 2) == every


def test_weight_of_zero_leaves_the_contrast_out(make_data):
    data = make_data(modalities=2)
    model = built(lambda data: MICRO.from_data(data, contrast_weight=0), data)
    features, graph = doubled(data)
    out = model.outputs(features, graph, [None])[0]
    assert set(model.losses(out, batch_of(12, 9), features, frozenset(model.modalities))) == {"bpr"}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"contrast_weight": -1}, "contrast_weight: found -1, expected a number of zero or more"),
        ({"contrast_weight": float("nan")}, "contrast_weight: found nan"),
        ({"temperature": 0}, "temperature: found 0, expected a positive number"),
        ({"contrast_items": 0}, "contrast_items: found 0, expected at least 1"),
    ],
    ids=str,
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        MICRO(2, 2, {"visual": 3}, **options)


def test_a_temperature_that_single_precision_cannot_hold_spoils_the_gradient_and_raises_nothing():
    x, y = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0)).unbind()
    contrast(x.requires_grad_(), y, 1e-50).backward()
    assert x.grad is not None
    assert not x.grad.isfinite().all()  # The trainer finds that its loss is not finite.
