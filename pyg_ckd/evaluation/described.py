"""Add to the description of a data set what its features tell about taste."""

from __future__ import annotations

from dataclasses import replace

from torch_geometric.data import HeteroData

from pyg_ckd.data.describe import DataDescription
from pyg_ckd.evaluation.content import silent_modalities, validated_ranking
from pyg_ckd.evaluation.scaling import better_as_given, compare_scaling


def with_content(description: DataDescription, data: HeteroData, k: int = 20, seed: int = 0) -> DataDescription:
    """Return the description of a data set with the ranking by each modality alone, and warnings of what it shows.

    There are warnings of features that rank no better than shuffled ones, and of those that rank better as they were
    given than standardized.

    Args:
        description: The description, as of :func:`~pyg_ckd.data.describe_data`.
        data: The graph.
        k: The cut-off.
        seed: As of :func:`content_ranking`.
    """
    ranking = validated_ranking(data, k, seed)
    if ranking is None:
        return description
    found = [
        f"silent features: {m}: rank no better than shuffled ones ({ranking.attrs['metric']} on validation "
        f"{ranking.loc[m, 'recall']:.4f}, shuffled {ranking.loc[m, 'shuffled']:.4f}), as noise does; check that row i "
        "belongs to item i"
        for m in silent_modalities(ranking)
    ]
    scaling = compare_scaling(data, ranking.index, min(k, data["item"].num_nodes), seed).to_dict("index")
    found += [
        f"scaling: {m}: rank better as given than standardized, the default ({ranking.attrs['metric']} on validation "
        f"{row['given']:.4f} and {row['standardized']:.4f}), as where most values are zero; "
        "use --transform l2 or none (transform= in Python)"
        for m, row in better_as_given(scaling).items()
    ]
    return replace(description, content=ranking, warnings=[*description.warnings, *found])
