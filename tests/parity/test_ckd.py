"""Outputs and one full distillation step, array by array, against the published code of the distillation paper."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pyg_ckd.balance import DistillationWrapper
from pyg_ckd.balance.ckd import specific_loss
from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import MMGCN, VBPR, Adjacency, Backbone, bpr_loss, ranking_cross_entropy
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.scoring.views import leave_one_out_views
from tests.conftest import Golden

EPS = 1e-8  # Inside the logarithms of the published generic loss.
SHORT = {"textual": "txt", "visual": "vis"}
BLOCKS = {"conv": "lin_neighbor", "self": "lin_self", "merge": "lin_merge"}


def modalities_of(file: Golden) -> list[str]:
    return [match[1] for key in file if (match := re.fullmatch(r"(\w+)_features", key))]


def names_of(file: Golden) -> dict[str, str]:
    """Return from the reference's name of a parameter to ours."""
    names = {"user_embedding": "user_embedding", "item_embedding": "item_embedding"}
    for m in modalities_of(file):
        names[f"{m}_user_preference"] = f"preference.{m}"
        names |= {f"{m}_proj_{kind}": f"project.{m}.{kind}" for kind in ("weight", "bias")}
    for key in file:
        if match := re.fullmatch(r"param/(\w+)/(conv|self|merge)(\d+)_(weight|bias)", key):
            m, block, layer, kind = match.groups()
            names[key.removeprefix("param/")] = f"convs.{m}.{int(layer) - 1}.{BLOCKS[block]}.{kind}"
    return names


def backbone_of(file: Golden, model: str) -> Backbone:
    """Build the reference's variant of a backbone with the parameters of the file."""
    sizes = (file.integer("n_users"), file.integer("n_items"))
    dims = {m: file[f"{m}_features"].size(1) for m in modalities_of(file)}
    width = file.integer("embedding_dim")
    if model == "vbpr":
        backbone: Backbone = VBPR(*sizes, dims, width, item_bias=False)
    else:
        layers = max(int(match[1]) for key in file if (match := re.search(r"/conv(\d+)_weight", key)))
        options = {"combine": "add", "self_loops": True, "message_bias": True, "fusion": "mean"}
        backbone = MMGCN(*sizes, dims, width, layers, latent_dims=width, **options)
    backbone.to(file.device, torch.float64).load_state_dict(
        {ours: file[f"param/{theirs}"] for theirs, ours in names_of(file).items()}
    )
    return backbone


def features_of(file: Golden) -> dict[str, Tensor]:
    return {m: file[f"{m}_features"] for m in modalities_of(file)}


def graph_of(file: Golden, backbone: Backbone) -> dict:
    graph = backbone.prepare({}, {RATES: file["edges"].t()})
    sizes = (backbone.num_users, backbone.num_items)
    adjacency = Adjacency.from_interactions(
        file["edges"].t(), *sizes, normalization="mean", self_loops=True, dtype=torch.float64
    )
    file.compare("adj", adjacency.matrix.to_dense())
    if isinstance(backbone, MMGCN):
        file.compare("adj", graph[RATES].matrix.to_dense())
    return graph


@pytest.mark.parametrize("model", ["vbpr", "mmgcn"])
def test_embeddings_equal_the_published_code_in_all_settings(model: str, golden: Callable):
    file = golden(f"ckd_{model}")
    backbone = backbone_of(file, model)
    settings = {"joint": None} | {f"{m}_only": m for m in modalities_of(file)}
    outputs = backbone.forward_views(features_of(file), graph_of(file, backbone), list(settings.values()))
    for setting, out in zip(settings, outputs, strict=True):
        file.compare(f"out/{setting}/user", out.user)
        file.compare(f"out/{setting}/item", out.item)
    file.finish()


@pytest.mark.parametrize("model", ["vbpr", "mmgcn"])
def test_distillation_step_equals_the_published_code_in_every_array(model: str, golden: Callable):
    file = golden(f"ckd_step_{model}")
    student = backbone_of(file, model)
    features, graph = features_of(file), graph_of(file, student)
    modalities = student.modalities
    teachers = {m: Embeddings(file[f"teacher/{m}/user"], file[f"teacher/{m}/item"]) for m in modalities}
    batch = TripletBatch(
        *(file[f"batch/{name}"] for name in ("users", "pos_items", "neg_items", "kd_users", "kd_items_j", "kd_items_k"))
    )
    ratio, kl, tau = (file.number(f"hyper/{name}") for name in ("kd_ratio", "kl", "pred_temp"))
    wrapper = DistillationWrapper(
        student,
        teachers,
        distillation_weight=ratio,
        generic_weight=kl,
        temperature=tau,
        num_random_triples=batch.random_user.numel(),
        l2=file.number("hyper/decay"),
        log_eps=EPS,
    ).to(file.device)
    file.compare("hyper/batch_size", batch.user.numel())

    triple, random = batch[:3], batch[3:]
    with torch.no_grad():
        outputs = wrapper.forward_views(features, graph, wrapper.views)
        out = dict(zip(wrapper.views, outputs, strict=True))
        joint = out[wrapper.views[0]].margin(*triple)
        file.compare("margin/student/joint", joint)
        per_triple = torch.stack([bpr_loss(margin) for margin in joint.unsqueeze(-1)])
        file.compare("bpr_per_triple", per_triple)
        alone = {m: out[frozenset([m])] for m in modalities}
        distilled = []
        for m in modalities:
            student_margin, teacher_margin = alone[m].margin(*triple), wrapper.teacher(m).margin(*triple)
            student_random, teacher_random = alone[m].margin(*random), wrapper.teacher(m).margin(*random)
            specific = specific_loss(student_margin, teacher_margin)
            generic = ranking_cross_entropy(student_random, teacher_random, tau, EPS)
            file.compare(f"margin/student/{m}", student_margin)
            file.compare(f"margin/teacher/{m}", teacher_margin)
            file.compare(f"kd_margin/student/{m}", student_random)
            file.compare(f"kd_margin/teacher/{m}", teacher_random)
            file.compare(f"specific/{m}", specific)
            file.compare(f"generic/{m}", generic)
            distilled.append(specific + kl * generic)
            file.compare(f"distill/{m}", distilled[-1])
        without = [out[view].margin(*triple) for view in leave_one_out_views(modalities).values()]
        margins = [alone[m].margin(*triple) for m in modalities]
        effects = wrapper.effects(joint, torch.stack(without, dim=-1), torch.stack(margins, dim=-1))
        weights = wrapper.effects.weights(effects)
        for n, m in enumerate(modalities):
            others = [SHORT.get(other, other) for other in modalities if other != m]
            file.compare(f"coeff_{SHORT.get(m, m)}_given_{'_'.join(others)}", effects[:, n])
            file.compare(f"{m}_ratio", weights[:, n])
        file.compare("batch_kd_loss", ratio * (weights * torch.stack(distilled, dim=-1)).sum(dim=-1))

    terms = wrapper.loss(features, graph, batch)
    loss = sum(terms.values())
    file.compare("loss/bpr", terms["bpr"])
    file.compare("loss/emb_reg", terms.get("l2", 0.0))  # Weights may be zero.
    file.compare("loss/kd", terms["specific"] + terms["generic"])
    file.compare("loss/total", loss)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in student.named_parameters()}
    for theirs, ours in names_of(file).items():
        file.compare(f"grad/{theirs}", gradients.pop(ours))
    assert not gradients  # Every parameter has its place in the file.
    file.finish()
