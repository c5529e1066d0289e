"""BM3 against the MMRec toolbox."""

from __future__ import annotations

from collections.abc import Callable

import torch

from pyg_ckd.data.inputs import RATES
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.nn import Adjacency
from pyg_ckd.nn.models.bm3 import BM3

THEIRS = {"visual": "image", "textual": "text"}


def test_bm3_equals_mmrec_in_every_array(golden: Callable):
    file = golden("bm3")
    sizes = (file.integer("n_users"), file.integer("n_items"))
    modalities = [key.removeprefix("feat/") for key in file if key.startswith("feat/")]
    features = {}
    for m in modalities:  # The reference trains a copy of the features.
        features[m] = file[f"param/{THEIRS[m]}_embedding.weight"].clone().requires_grad_()
        assert torch.equal(features[m], file[f"feat/{m}"])
    model = BM3(
        *sizes,
        {m: x.size(1) for m, x in features.items()},
        embedding_dim=file.integer("hyper/embedding_size"),
        num_layers=file.integer("hyper/n_layers"),
        dropout=file.number("hyper/dropout"),
        modality_loss_weight=file.number("hyper/cl_weight"),
    ).to(file.device, torch.float64)
    names = {"user_embedding": "user_embedding.weight", "item_embedding": "item_id_embedding.weight"}
    for kind in ("weight", "bias"):
        names[f"predictor.{kind}"] = f"predictor.{kind}"
        names |= {f"project.{m}.{kind}": f"{THEIRS[m]}_trs.{kind}" for m in modalities}
    model.load_state_dict({ours: file[f"param/{theirs}"] for ours, theirs in names.items()})

    adjacency = Adjacency.from_interactions(file["edges"].t(), *sizes, eps=1e-7, dtype=torch.float64)
    file.compare("graph/norm_adj", adjacency.matrix.to_dense())
    (out,) = model.outputs(features, {RATES: adjacency}, [None])
    tables = out.dense()
    file.compare("out/user", tables.user)
    file.compare("out/item", tables.item)
    file.compare("out/scores", tables.user @ tables.item.t())
    file.compare("branch/user_online", out.online.user)
    file.compare("branch/item_online", out.online.item)
    for m in modalities:
        file.compare(f"branch/{m}", model.project[m](features[m]))

    triples = [file[f"batch/{name}"] for name in ("users", "pos", "neg")]
    batch = TripletBatch(*triples, *3 * [triples[0][:0]])
    terms = model.losses(out, batch, features, frozenset(modalities))
    file.compare("loss/loss_ui", terms["ui"])
    file.compare("loss/loss_iu", terms["iu"])
    model.modality_loss_weight = 1.0  # Theirs come before the weight, which may be zero.
    alone = model.losses(out, batch, features, frozenset(modalities))
    for m in modalities:
        file.compare(f"loss/loss_{m[0]}", alone[f"align/{m}"])
        intra = "vt" if m == "visual" else "tv"  # The second letter means nothing.
        file.compare(f"loss/loss_{intra}", alone[f"mask/{m}"])
    norms = sum(table.norm() for table in out.online) / sizes[1]  # Unsquared, over all rows: a quirk.
    file.compare("loss/reg", norms)
    loss = sum(terms.values()) + file.number("hyper/reg_weight") * norms
    file.compare("loss/total", loss)
    loss.backward()
    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    for ours, theirs in names.items():
        file.compare(f"grad/{theirs}", gradients.pop(ours))
    assert not gradients  # Every parameter has its place in the file.
    for m in modalities:
        file.compare(f"grad/{THEIRS[m]}_embedding.weight", features[m].grad)
    file.finish()
