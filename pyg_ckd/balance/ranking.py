"""The softmax over items that a step shares, instead of BPR."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from pyg_ckd.data.negatives import SharedNegatives
from pyg_ckd.data.sampler import TripletBatch
from pyg_ckd.errors import InputError
from pyg_ckd.nn.loss import softmax_loss
from pyg_ckd.nn.models.base import Backbone
from pyg_ckd.scoring.blocks import Output


def check_ranking(backbone: type[Backbone], ranking: str) -> None:
    """Refuse the softmax for a backbone without BPR, before anything is trained.

    Args:
        backbone: Class of the model; one that does not say that it trains with other losses is found out in the first
            step.
        ranking: The main loss, as the trainer takes it.

    Raises:
        InputError: If the backbone has no term ``bpr`` to replace.
    """
    if ranking == "softmax" and not backbone.pairwise:
        raise _without_bpr(backbone.__name__)


def with_softmax(
    terms: Mapping[str, Tensor], out: Output, batch: TripletBatch, shared: SharedNegatives, backbone: str
) -> dict[str, Tensor]:
    """Return the loss terms of a backbone with the softmax of the positives instead of BPR.

    Args:
        terms: The terms by name.
        out: The output of the trained view.
        batch: The triples.
        shared: Draws the items that all triples are compared with.
        backbone: Name of the backbone, for the message.

    Raises:
        InputError: If there is no term ``bpr``.
    """
    if "bpr" not in terms:
        raise _without_bpr(backbone, f" ({', '.join(terms)})")
    user, item = out.dense()
    n_id_dict: Mapping[str, Tensor] = getattr(out, "n_id_dict", {})
    drawn, log_q = shared.draw(item.size(0), item.device, n_id_dict.get("item")) or (None, None)
    rows = user.index_select(0, batch.user)
    loss = softmax_loss(rows, item, batch.positive, drawn, batch.weight, log_q)
    return {"softmax": loss} | {name: term for name, term in terms.items() if name != "bpr"}


def _without_bpr(backbone: str, terms: str = "") -> InputError:
    return InputError(
        f"ranking: found 'softmax' for {backbone}, which trains with losses of its own{terms} and has no term 'bpr' to "
        "replace, expected ranking='bpr'"
    )
