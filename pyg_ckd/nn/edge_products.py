"""Products with a graph whose edges have gradients themselves, or get them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from pyg_ckd.nn.pages import paged_product
from pyg_ckd.scoring.sparse import csr_matrix, inner_products


class _WeightedProduct(torch.autograd.Function):
    """Product with the pattern of a graph and weights that have gradients themselves."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, graph: Any) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(x, weight)
        matrix = graph.matrix
        return paged_product(csr_matrix(matrix.crow_indices(), matrix.col_indices(), weight, *matrix.shape), x)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        grad, graph = grads[0].contiguous(), ctx.graph
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            crow, col, order = graph.transposition()
            grad_x = paged_product(csr_matrix(crow, col, weight.index_select(0, order), *graph.transposed.shape), grad)
        if ctx.needs_input_grad[1]:
            grad_weight = inner_products(graph.matrix, grad, x)
        return grad_x, grad_weight, None


class _EdgeDot(torch.autograd.Function):
    """Inner products of the rows at both ends of every edge; the gradients are products with the graph."""

    @staticmethod
    def forward(ctx: Any, target: Tensor, source: Tensor, graph: Any) -> Tensor:
        ctx.graph = graph
        ctx.save_for_backward(target, source)
        return inner_products(graph.matrix, target, source)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        target, source = ctx.saved_tensors
        grad, graph = grads[0].contiguous(), ctx.graph
        grad_target = grad_source = None
        if ctx.needs_input_grad[0]:
            matrix = graph.matrix
            pattern = matrix.crow_indices(), matrix.col_indices()
            grad_target = paged_product(csr_matrix(*pattern, grad, *matrix.shape), source)
        if ctx.needs_input_grad[1]:
            crow, col, order = graph.transposition()
            grad_source = paged_product(
                csr_matrix(crow, col, grad.index_select(0, order), *graph.transposed.shape), target
            )
        return grad_target, grad_source, None
