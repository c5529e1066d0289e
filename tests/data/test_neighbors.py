from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from pyg_ckd.data import build_data, neighbors
from pyg_ckd.data.neighbors import co_occurrence, knn, knn_graph, laplacian, shared_counts, without_content
from pyg_ckd.errors import InputError


def features(num_rows: int, dims: int = 6, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(num_rows, dims, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def integers(num_rows: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    """Rows whose dot products are exact and often equal."""
    return torch.randint(-2, 3, (num_rows, 3), generator=torch.Generator().manual_seed(seed)).to(dtype)


def dense(edge_index: Tensor, weight: Tensor, num_nodes: int) -> Tensor:
    """Return the matrix whose row ``i`` holds what ``i`` receives."""
    out = torch.zeros(num_nodes, num_nodes, dtype=weight.dtype)
    return out.index_put((edge_index[1], edge_index[0]), weight, accumulate=True)


def first_of_equals(scores: np.ndarray, k: int) -> np.ndarray:
    """Return the columns of the ``k`` largest values of every row by sorting all of them."""
    columns = np.broadcast_to(np.arange(scores.shape[1]), scores.shape)
    return np.lexsort((columns, -scores), axis=1)[:, :k]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_size", [None, 1, 7, 1000])
@pytest.mark.parametrize(("num_rows", "k"), [(1, 1), (5, 5), (33, 4), (130, 1), (203, 3), (400, 2), (300, 300)])
def test_neighbours_are_those_of_scikit_learn(num_rows: int, k: int, block_size: int | None, dtype: torch.dtype):
    x = features(num_rows, dtype=dtype)
    value, index = knn(x, k, block_size=block_size)
    assert (value.dtype, index.dtype) == (dtype, torch.int64)
    expected = -np.sort(-cosine_similarity(x.double().numpy()), axis=1)[:, :k]
    atol = 1e-6 if dtype == torch.float32 else 1e-12
    np.testing.assert_allclose(value.numpy(), expected, atol=atol)
    _, other = NearestNeighbors(n_neighbors=k, metric="cosine").fit(x.double()).kneighbors(x.double())
    if dtype == torch.float64 and k < num_rows:
        assert index.tolist() == other.tolist()
    assert (index.sort(1).values.diff(dim=1) > 0).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("block_size", [None, 1, 13, 64])
@pytest.mark.parametrize(("num_rows", "k"), [(40, 7), (129, 1), (500, 3), (700, 2)])
def test_the_lowest_index_comes_first_among_equal_similarities(
    num_rows: int, k: int, block_size: int | None, dtype: torch.dtype
):
    x = integers(num_rows, dtype=dtype)
    scores = (x @ x.t()).numpy()
    value, index = knn(x, k, "dot", block_size)
    expected = first_of_equals(scores, k)
    assert index.tolist() == expected.tolist()
    assert value.tolist() == np.take_along_axis(scores, expected, axis=1).tolist()


@pytest.mark.parametrize("group", [2, 3])
@pytest.mark.parametrize("width", [1, 9, 64, 200, 1001])
def test_the_largest_of_a_row_survive_several_levels_of_groups(monkeypatch: pytest.MonkeyPatch, group: int, width: int):
    monkeypatch.setattr(neighbors, "_GROUP", group)
    scores = torch.randint(-50, 50, (20, width), generator=torch.Generator().manual_seed(1)).float()
    k = min(3, width)
    value, index = neighbors._largest(scores, k)
    assert index.tolist() == first_of_equals(scores.numpy(), k).tolist()
    assert torch.equal(value, scores.gather(1, index))


@pytest.mark.parametrize("width", [100, 700, 3000])
def test_rows_are_sorted_in_exported_programs_with_the_same_result(monkeypatch: pytest.MonkeyPatch, width: int):
    scores = torch.randint(-500, 500, (20, width), generator=torch.Generator().manual_seed(1)).float()
    value, index = neighbors._largest(scores, 10)
    monkeypatch.setattr(neighbors, "exporting", lambda: True)
    monkeypatch.setattr(neighbors, "_ordered", None)
    expected = neighbors._largest(scores, 10)
    assert torch.equal(value, expected[0])
    assert torch.equal(index, expected[1])


@pytest.mark.parametrize("k", [1, 3, 5, 6])
def test_equals_in_some_rows_only_do_not_change_the_others(k: int):
    scores = torch.tensor(
        [
            [0.1, 0.6, 0.3, 0.5, 0.4, 0.2],  # none
            [0.1, 0.6, 0.6, 0.5, 0.4, 0.2],  # within the largest
            [0.6, 0.1, 0.4, 0.4, 0.5, 0.4],  # at their end
            [0.2, 0.2, 0.2, 0.2, 0.2, 0.2],
            [-0.0, 0.0, 0.3, -0.3, 0.3, 0.0],
        ]
    )
    value, index = neighbors._largest(scores, k)
    assert index.tolist() == first_of_equals(scores.numpy(), k).tolist()
    assert torch.equal(value, scores.gather(1, index))


def test_blocks_have_the_size_that_memory_allows(monkeypatch: pytest.MonkeyPatch):
    x = features(200)
    expected = knn(x, 4)
    monkeypatch.setattr(neighbors, "_BLOCK_BYTES", 40 * 224 * 8)
    sizes = []
    largest = neighbors._largest
    monkeypatch.setattr(neighbors, "_largest", lambda scores, k: sizes.append(len(scores)) or largest(scores, k))
    value, index = knn(x, 4)
    assert sizes == [40] * 5
    torch.testing.assert_close(value, expected[0])
    assert torch.equal(index, expected[1])


def test_permuted_rows_have_permuted_neighbours():
    x = features(150)
    order = torch.randperm(150, generator=torch.Generator().manual_seed(3))
    value, index = knn(x, 6)
    moved_value, moved = knn(x[order], 6)
    torch.testing.assert_close(moved_value, value[order])
    assert torch.equal(order[moved], index[order])


def test_the_same_input_gives_the_same_bits():
    x = features(500, dtype=torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(knn(x, 9), knn(x.clone(), 9), strict=True))


def test_a_row_is_its_own_nearest_neighbour_with_cosine_one_and_a_zero_row_has_cosine_zero():
    x = features(30)
    x[4] = 0
    value, index = knn(x, 30)
    others = torch.arange(30) != 4
    assert torch.equal(index[others, 0], torch.arange(30)[others])
    torch.testing.assert_close(value[others, 0], torch.ones(29, dtype=x.dtype))
    assert value[4].tolist() == [0] * 30
    assert index[4].tolist() == list(range(30))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_compared_in_single(dtype: torch.dtype):
    x = features(50).to(dtype)
    for got, expected in zip(knn(x, 4), knn(x.float(), 4), strict=True):
        assert torch.equal(got, expected)


def test_automatic_mixed_precision_changes_nothing():
    x = features(50, dtype=torch.float32).requires_grad_()
    expected = knn_graph(x, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = knn_graph(x, 4)
    assert torch.equal(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_edges_run_from_the_neighbour_to_the_row_that_receives(similarity: str):
    x = features(20)
    value, index = knn(x, 5, similarity)
    for z in (x, x.clone().requires_grad_()):
        edge_index, weight = knn_graph(z, 5, similarity)
        assert edge_index.dtype == torch.int64
        assert edge_index[0].tolist() == index.flatten().tolist()
        assert edge_index[1].tolist() == [row for row in range(20) for _ in range(5)]
        torch.testing.assert_close(weight.detach(), value.flatten())
        assert weight.requires_grad == z.requires_grad


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_without_itself_a_row_has_the_nearest_other_rows(similarity: str):
    x = torch.cat([integers(60, dtype=torch.float64), torch.zeros(3, 3, dtype=torch.float64)])
    x[7] = x[8]
    y = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12) if similarity == "cosine" else x
    scores = (y @ y.t()).fill_diagonal_(-torch.inf)
    edge_index, weight = knn_graph(x, 6, similarity, include_self=False)
    source, target = edge_index
    assert (source != target).all()
    torch.testing.assert_close(weight.view(-1, 6), scores.topk(6).values)
    torch.testing.assert_close(weight, scores[target, source])
    assert (source.view(-1, 6).sort(1).values.diff(dim=1) > 0).all()
    if similarity == "dot":
        assert source.view(-1, 6).tolist() == first_of_equals(scores.numpy(), 6).tolist()


def test_weights_do_not_require_a_gradient_where_none_is_recorded():
    x = features(9).requires_grad_()
    with torch.no_grad():
        assert not knn_graph(x, 2)[1].requires_grad
    assert not knn(x, 2)[0].requires_grad


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("include_self", [True, False])
def test_weights_have_the_gradient_of_the_similarity(similarity: str, include_self: bool):
    x = features(12, 4).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: knn_graph(z, 3, similarity, include_self)[1], (x,))


def test_the_gradient_of_a_zero_row_is_finite():
    x = features(12, 4)
    x[3] = 0
    x.requires_grad_()
    knn_graph(x, 12)[1].sum().backward()
    assert torch.isfinite(x.grad).all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("shift", [0.0, 3.0])
def test_rows_of_zeros_and_rows_that_are_the_mean_say_nothing(dtype, shift):
    x = features(40) + shift
    x[[4, 5, 6]] = x[31].clone()  # Equal rows are no mean.
    x[9] = 0
    x[10] = -torch.zeros(6)
    there = torch.ones(40, dtype=torch.bool).index_fill(0, torch.tensor([3, 8, 9, 10, 21]), False)
    for _ in range(40):  # Zeros move the mean, a stand-in for what is missing is that of the others.
        x[[3, 8, 21]] = x.mean(dim=0)
    assert without_content(x).nonzero()[:, 0].tolist() == [3, 8, 9, 10, 21]
    assert not without_content(x[there].to(dtype)).any()
    assert without_content(torch.cat([x[there], x[there].mean(dim=0, keepdim=True)]).float()).nonzero().tolist() == [
        [35]
    ]


def test_categories_are_no_means():
    one_hot = F.one_hot(torch.arange(300) % 8, 8)
    standardised = (one_hot - one_hot.float().mean(dim=0)) / one_hot.float().std(dim=0)
    for x in (one_hot.float(), one_hot.double(), standardised):
        assert not without_content(x).any()


def test_what_is_filled_in_by_the_transforms_says_nothing():
    for transform in ("standardize", "l2", "none"):
        masks = {"visual": np.arange(200) % 3 != 0}
        rng = np.random.default_rng(0)
        edges = np.stack([np.arange(200) % 20, np.arange(200)])
        data = build_data(edges, {"visual": rng.normal(5, 2, (200, 7))}, has=masks, transform=transform)
        assert torch.equal(without_content(data["item"]["visual"]), ~torch.from_numpy(masks["visual"])), transform


def test_rows_without_content_must_be_features():
    with pytest.raises(InputError, match="expected floating-point features"):
        without_content(torch.zeros(3))
    assert without_content(torch.zeros(3, 0)).all()


@pytest.mark.parametrize("include_self", [True, False])
@pytest.mark.parametrize("similarity", ["cosine", "dot"])
def test_rows_that_are_alone_are_nobodys_neighbours(similarity, include_self):
    x = features(30)
    alone = torch.zeros(30, dtype=torch.bool)
    alone[[0, 7, 29]] = True
    edge_index, weight = knn_graph(x, 4, similarity, include_self, alone)
    rest = (~alone).nonzero()[:, 0]
    expected_index, expected = knn_graph(x[rest], 4, similarity, include_self)
    among = ~alone[edge_index[1]]
    assert torch.equal(edge_index[:, among], rest[expected_index])
    torch.testing.assert_close(weight[among], expected)
    assert (edge_index[1].diff() >= 0).all()
    loops = edge_index[:, ~among]
    assert loops.tolist() == ([[0, 7, 29]] * 2 if include_self else [[], []])
    if include_self:
        norm = torch.ones(3, dtype=x.dtype) if similarity == "cosine" else x[alone].square().sum(dim=1)
        torch.testing.assert_close(weight[~among], norm)


@pytest.mark.parametrize("left", [0, 1, 2])
def test_where_few_rows_are_not_alone_these_are_neighbours_of_each_other(left):
    alone = torch.arange(5) >= left
    edge_index, _ = knn_graph(features(5), 3, include_self=False, alone=alone)
    assert edge_index.tolist() == ([[1, 0], [0, 1]] if left == 2 else [[], []])
    with pytest.raises(InputError, match="found 5, expected 1 to 4"):
        knn_graph(features(5), 5, include_self=False, alone=alone)


def test_laplacian_is_the_dense_product():
    x = features(25).abs()
    edge_index, weight = knn_graph(x, 4)
    s = dense(edge_index, weight, 25)
    scale = torch.diag(s.sum(dim=1).pow(-0.5))
    got = dense(edge_index, laplacian(edge_index, weight, 25), 25)
    torch.testing.assert_close(got, scale @ s @ scale)


def test_laplacian_adds_repeated_edges_and_eps():
    edge_index = torch.tensor([[0, 0, 1], [1, 1, 0]])
    got = laplacian(edge_index, torch.tensor([1.0, 2.0, 4.0]), 2, eps=1.0)
    torch.testing.assert_close(got, torch.tensor([1.0, 2.0, 4.0]) / (4 * 5) ** 0.5)


def test_laplacian_has_the_gradient_of_its_weights_even_where_a_row_sum_is_not_positive():
    edge_index = torch.tensor([[0, 1, 2, 3, 0, 1, 2], [0, 0, 1, 1, 2, 3, 0]])
    weight = torch.tensor([1.0, 0.5, -0.7, 0.2, 0.9, 0.4, -0.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda w: laplacian(edge_index, w, 5), (weight,))
    got = laplacian(edge_index, weight, 5)
    touched = (edge_index == 1).any(dim=0)  # The row sum of node 1 is negative.
    assert (got[touched] == 0).all()
    assert (got[~touched] != 0).all()
    got.sum().backward()
    assert torch.isfinite(weight.grad).all()


def test_laplacian_of_rows_that_sum_to_zero_is_zero():
    edge_index = torch.tensor([[0, 1, 0], [0, 0, 1]])
    weight = torch.tensor([1.0, -1.0, 2.0], requires_grad=True)
    got = laplacian(edge_index, weight, 2)
    got.sum().backward()
    assert got.tolist() == [0, 0, 0]
    assert weight.grad.tolist() == [0, 0, 0]


def test_laplacian_of_no_edges_is_empty():
    assert laplacian(torch.empty(2, 0, dtype=torch.int64), torch.empty(0), 3).tolist() == []


def brute_force_partners(edges: np.ndarray, num_users: int, num_items: int) -> tuple[list[list[int]], list[list[int]]]:
    """Return neighbours and counts of every user from the dense product."""
    rates = np.zeros((num_users, num_items), dtype=np.int64)
    rates[edges[0], edges[1]] = 1
    shared = rates @ rates.T
    np.fill_diagonal(shared, 0)
    order = first_of_equals(shared, num_users)
    index = [[int(v) for v in row if shared[u, v]] for u, row in enumerate(order)]
    return index, [[int(shared[u, v]) for v in row] for u, row in enumerate(index)]


@pytest.mark.parametrize("block_pairs", [1, 50, 2**21])
@pytest.mark.parametrize("k", [None, 1, 4, 1000])
def test_co_occurrence_is_the_dense_product(monkeypatch: pytest.MonkeyPatch, k: int | None, block_pairs: int):
    monkeypatch.setattr(neighbors, "_BLOCK_PAIRS", block_pairs)
    rng = np.random.default_rng(0)
    edges = np.stack([rng.integers(0, 39, 160), rng.zipf(1.6, 160) % 30])  # Repeats some; user 39 has none.
    expected, expected_counts = brute_force_partners(edges, 40, 31)
    index, counts = co_occurrence(torch.from_numpy(edges), 40, 31, k)
    assert (index.dtype, counts.dtype) == (torch.int64, torch.int64)
    width = min(max(map(len, expected)), k or 40)
    assert index.shape == counts.shape == (40, width)
    for user in range(40):
        pad = width - len(expected[user][:width])
        assert index[user].tolist() == expected[user][:width] + [-1] * pad
        assert counts[user].tolist() == expected_counts[user][:width] + [0] * pad


def test_a_repeated_interaction_counts_once():
    edges = torch.tensor([[0, 0, 1, 1, 2], [5, 5, 5, 5, 5]])
    index, counts = co_occurrence(edges, 3, 6)
    assert index.tolist() == [[1, 2], [0, 2], [0, 1]]
    assert counts.tolist() == [[1, 1]] * 3


@pytest.mark.parametrize("edges", [torch.empty(2, 0, dtype=torch.int64), torch.tensor([[0, 1], [1, 0]])])
def test_users_who_share_nothing_have_no_neighbours(edges: Tensor):
    index, counts = co_occurrence(edges, 4, 2, k=3)
    assert index.shape == counts.shape == (4, 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: found 0, expected 1 to 8, the number of rows"),
        ({"k": 9}, "k: found 9, expected 1 to 8, the number of rows"),
        ({"similarity": "cosin"}, "unknown similarity 'cosin': did you mean 'cosine'"),
        ({"x": torch.zeros(8)}, r"x has shape \[8\] and dtype torch.float32, expected floating-point features"),
        ({"x": torch.zeros(8, 2, dtype=torch.int64)}, "dtype torch.int64, expected floating-point"),
        ({"x": torch.full((8, 2), torch.nan)}, "squared norm of row 0 is nan, expected finite numbers; 8 rows"),
        ({"x": torch.tensor([[1.0], [torch.inf]])}, "squared norm of row 1 is inf"),
        ({"x": torch.tensor([[1.0], [1e30]])}, "squared norm of row 1 is inf"),
        ({"x": torch.zeros(0, 2)}, "k: found 3, expected 1 to 0"),
    ],
)
def test_bad_features_and_sizes_are_refused(change: dict, message: str):
    arguments = {"x": features(8), "k": 3, **change}
    for function in (knn, knn_graph):
        with pytest.raises(InputError, match=message):
            function(**arguments)


def test_bad_sizes_of_one_function_are_refused():
    with pytest.raises(InputError, match="block_size: found 0, expected a positive"):
        knn(features(8), 3, block_size=0)
    with pytest.raises(InputError, match="k: found 8, expected 1 to 7, the number of other rows"):
        knn_graph(features(8), 8, include_self=False)
    with pytest.raises(InputError, match="k: found 1, expected 1 to 0, the number of other rows"):
        knn_graph(features(1), 1, include_self=False)


@pytest.mark.parametrize(
    ("edge_index", "weight", "message"),
    [
        (
            torch.zeros(3, 2, dtype=torch.int64),
            torch.ones(2),
            r"shapes \[3, 2\] and \[2\], expected \[2, E\] and \[E\]",
        ),
        (torch.zeros(2, 2, dtype=torch.int64), torch.ones(3), r"shapes \[2, 2\] and \[3\]"),
        (torch.tensor([[0, 4], [1, 0]]), torch.ones(2), "found nodes 0 to 4, expected 0 to 3"),
        (torch.tensor([[0, -1], [1, 0]]), torch.ones(2), "found nodes -1 to 1, expected 0 to 3"),
        (torch.tensor([[0, 1], [1, 0]]), torch.tensor([1.0, torch.nan]), "the sum of row 0 is nan"),
    ],
)
def test_laplacian_refuses_edges_that_do_not_fit(edge_index: Tensor, weight: Tensor, message: str):
    with pytest.raises(InputError, match=message):
        laplacian(edge_index, weight, 4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 0}, "k: found 0, expected a positive number of neighbours, or None"),
        ({"num_users": 0}, "found 0 users and 3 items, expected at least one of each"),
        ({"edge_index": torch.tensor([[0], [3]])}, "edge_index.* item.*expected 0 to 2"),
        ({"edge_index": torch.tensor([[-1], [0]])}, "edge_index.* user"),
        ({"edge_index": torch.tensor([[0.5], [0.0]])}, "edge_index"),
        ({"edge_index": torch.zeros(3, 3, dtype=torch.int64)}, r"edge_index has shape \[3, 3\], expected \[2, E\]"),
    ],
)
def test_co_occurrence_refuses_bad_interactions(change: dict, message: str):
    arguments = {"edge_index": torch.tensor([[0], [0]]), "num_users": 2, "num_items": 3, **change}
    with pytest.raises(InputError, match=message):
        co_occurrence(**arguments)


@pytest.mark.parametrize("model", ["lattice", "micro", "mgcn"])
@pytest.mark.parametrize(("key", "modality"), [("image", "visual"), ("text", "textual")])
def test_fixed_item_graphs_equal_the_published_ones(golden: Callable, model: str, key: str, modality: str):
    file = golden(model)
    size = file.integer("n_items")
    edge_index, weight = knn_graph(file[f"feat/{modality}"], file.integer("hyper/knn_k"))
    got = dense(edge_index, laplacian(edge_index, weight, size), size)
    torch.testing.assert_close(got, file[f"graph/{key}_original_adj"], atol=1e-8, rtol=0)


def test_learned_item_graphs_equal_those_of_lattice(golden: Callable):
    file = golden("lattice")
    size = file.integer("n_items")
    mixture = file["param/modal_weight"].softmax(dim=0)
    edges, weights = [], []
    for share, key in zip(mixture, ("image", "text"), strict=True):
        x = file[f"param/{key}_embedding.weight"]
        x = torch.nn.functional.linear(x, file[f"param/{key}_trs.weight"], file[f"param/{key}_trs.bias"])
        edge_index, weight = knn_graph(x.requires_grad_(), file.integer("hyper/knn_k"))
        graph = dense(edge_index, weight, size)
        torch.testing.assert_close(graph.detach(), file[f"branch/{key}_knn"], atol=1e-8, rtol=0)
        edges.append(edge_index)
        weights.append(share * weight)
    edge_index = torch.cat(edges, dim=1)
    got = dense(edge_index, laplacian(edge_index, torch.cat(weights), size), size)
    torch.testing.assert_close(got.detach(), file["branch/learned_adj"], atol=1e-8, rtol=0)


@pytest.mark.parametrize(("key", "modality"), [("image", "visual"), ("text", "textual")])
def test_unweighted_item_graphs_equal_those_of_freedom(golden: Callable, key: str, modality: str):
    file = golden("freedom")
    size = file.integer("n_items")
    edge_index, weight = knn_graph(file[f"feat/{modality}"], file.integer("hyper/knn_k"))
    got = dense(edge_index, laplacian(edge_index, torch.ones_like(weight), size, eps=1e-7), size)
    torch.testing.assert_close(got, file[f"graph/{key}_adj"], atol=1e-8, rtol=0)


def test_the_user_graph_equals_that_of_dualgnn_up_to_the_order_of_ties(golden: Callable):
    file = golden("dualgnn")
    index, counts = co_occurrence(file["edges"].t(), file.integer("n_users"), file.integer("n_items"))
    expected, expected_counts = file["graph/user_graph_neighbors"], file["graph/user_graph_counts"]
    assert torch.equal(counts, expected_counts.long())
    for ours, theirs, count in zip(index, expected, counts, strict=True):
        for number in count.unique():
            assert set(ours[count == number].tolist()) == set(theirs[count == number].tolist())


@pytest.mark.parametrize("similarity", ["cosine", "dot"])
@pytest.mark.parametrize("block_size", [None, 7])
def test_neighbours_among_other_rows_are_those_of_all_products(similarity, block_size):
    generator = torch.Generator().manual_seed(0)
    x, among = torch.randn(20, 5, generator=generator), torch.randn(300, 5, generator=generator)
    value, index = knn(x, 4, similarity, block_size, among)
    rows = [F.normalize(y, dim=1) if similarity == "cosine" else y for y in (x, among)]
    expected = (rows[0] @ rows[1].t()).topk(4, dim=1)
    torch.testing.assert_close(value, expected.values)
    assert torch.equal(index, expected.indices)


def test_candidates_of_another_width_or_fewer_than_neighbours_are_refused():
    with pytest.raises(InputError, match="among: found 2 columns, expected 3 as in x"):
        knn(torch.ones(4, 3), 1, among=torch.ones(4, 2))
    with pytest.raises(InputError, match="k: found 3, expected 1 to 2, the number of rows"):
        knn(torch.ones(4, 3), 3, among=torch.ones(2, 3))


def test_shared_counts_are_the_gram_matrix_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    edges = np.random.default_rng(0).integers(0, [[40], [31]], (2, 300))
    rates = np.zeros((40, 31), dtype=np.int64)
    rates[edges[0], edges[1]] = 1
    monkeypatch.setattr(neighbors, "_BLOCK_PAIRS", 100)
    blocks = list(shared_counts(torch.from_numpy(edges), 40, 31))
    assert len(blocks) > 3
    assert [first for first, _ in blocks] == np.cumsum([0, *(block.shape[0] for _, block in blocks[:-1])]).tolist()
    assert np.array_equal(np.concatenate([block.toarray() for _, block in blocks]), rates @ rates.T)


@pytest.mark.parametrize(
    ("x", "pattern"),
    [
        (np.eye(3), r"x: found ndarray, expected a tensor \[N, d\]; convert it with torch.as_tensor"),
        (torch.eye(3).to_sparse(), r"x: found a sparse or nested tensor, expected a dense one; call .to_dense"),
    ],
)
def test_what_is_no_dense_tensor_has_no_neighbors(x, pattern):
    for call in (lambda: knn(x, 1), lambda: knn(torch.eye(3), 1, among=x), lambda: knn_graph(x, 1)):
        with pytest.raises(InputError, match=pattern):
            call()
