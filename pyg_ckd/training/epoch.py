"""One epoch of training: the steps, and what the record says about them."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from pyg_ckd.balance.discovery import source_of
from pyg_ckd.balance.objective import Objective
from pyg_ckd.balance.progress import Progress
from pyg_ckd.data.checks import check_finite
from pyg_ckd.data.mapped import check_squares
from pyg_ckd.data.modules import checked_outputs, evaluating
from pyg_ckd.errors import InputError
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.backward import backward, clip_gradients
from pyg_ckd.training.callbacks import Hooks
from pyg_ckd.training.groups import read_step_sizes, scaled_rates
from pyg_ckd.training.history import as_plain_number
from pyg_ckd.training.run import Run, Steps
from pyg_ckd.training.sampled import step_loss
from pyg_ckd.training.schedule import scheduled_rates

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def train_epoch(
    fabric: Fabric, hooks: Hooks, run: Run, features: dict[str, Tensor], graph: dict[Any, Any], progress: Progress
) -> dict[str, float]:
    """Train for one epoch and return its row of the record, without validation.

    Args:
        fabric: Runs the steps.
        hooks: Calls the callbacks.
        run: The training.
        features: From modality to feature matrix.
        graph: The prepared graphs.
        progress: What the objective is told of the training.

    Raises:
        InputError: If the loss is not finite any more, or the objective asks for something that cannot be.
    """
    assert run.steps is not None
    objective, steps, epoch, start = run.objective, run.steps, progress.epoch, time.perf_counter()
    objective.progress = progress
    hooks("on_train_epoch_start", epoch=epoch)
    current = checked_graphs(source_of(objective, "begin_epoch"), objective.begin_epoch(features, graph))
    run.begin_epoch()
    if getattr(steps.sampler, "wants_embeddings", False):
        tables = trained_view(objective, features, graph)
        steps.sampler.update(tables if steps.draws_apart else steps.layout.whole_tables(tables))
    totals: dict[str, Tensor] = {}
    count, processes = 0, steps.layout.processes
    drawn: Tensor | int = 0
    with (
        scaled_rates(steps.optimizer, read_step_sizes(objective)),
        scheduled_rates(steps.optimizer, steps.schedule, run.taken) as set_rates,
    ):
        step = partial(_step, fabric, hooks, objective, steps, features, current)
        take = step if steps.captured is None else steps.captured.epoch(step)
        for batch in steps.sampler:
            set_rates(run.taken + count)
            hooks("on_train_batch_start", epoch=epoch, batch=batch, batch_idx=count)
            terms = take(batch)
            if not processes.alone and not steps.draws_apart:
                drawn = drawn + batch.user.sum() + 3 * batch.positive.sum() + 5 * batch.negative.sum()
            for name, term in terms.items():  # Stays on the device: a step never waits for its own loss.
                totals[name] = totals.get(name, 0) + term.detach()
            hooks("on_train_batch_end", epoch=epoch, batch=batch, batch_idx=count, outputs=terms)
            count += 1
        settle = getattr(steps.optimizer, "settle", None)
        if settle is not None:  # At the rates of the steps.
            settle()
    totals = steps.layout.add_up(totals)
    row: dict[str, float] = {"epoch": epoch}
    row |= {f"loss/{name}": float(total) / count for name, total in totals.items()}
    run.taken += count
    run.history.seconds.append(time.perf_counter() - start)
    with processes.together():
        objective.check_epoch()
    if not processes.alone:
        processes.agree("batches of an epoch, drawn by the sampler,", int(drawn))
        processes.agree("random numbers of the model after an epoch", torch.get_rng_state().sum())
        steps.layout.check_parameters(objective, epoch)
    steps.layout.add_up_epoch(objective)
    if steps.subgraphs is not None:
        steps.layout.average_buffers(objective.student)
    broken = [name for name, value in row.items() if not math.isfinite(value)]
    if broken:
        for modality, matrix in features.items() if processes.alone else ():
            check_finite(matrix, None, modality, "graph")
            check_squares(matrix, modality)
        raise _diverged(steps, epoch, f"{broken[0]} is {row[broken[0]]}")
    return row | read_statistics(objective, row)


def checked_graphs(source: object, graphs: Any) -> dict[Any, Any]:
    """Return the graphs of an epoch.

    Args:
        source: The strategy that they are of.
        graphs: What its ``begin_epoch`` returned.

    Raises:
        InputError: If they are no dict.
    """
    if not isinstance(graphs, dict):
        raise InputError(
            f"{type(source).__name__}.begin_epoch: found {type(graphs).__name__}, expected a dict with the graphs of "
            "the epoch; write return super().begin_epoch(features, graphs)"
        )
    return graphs


def check_weights(run: Run) -> None:
    """Refuse weights that the last step has made useless, where no validation shows it.

    Args:
        run: The training, after its last step; all processes call it together.

    Raises:
        InputError: If a trained parameter is not finite.
    """
    if run.steps is None:
        return
    trained = {name: p for name, p in run.objective.named_parameters() if p.requires_grad}
    with run.steps.layout.processes.together():
        finite = torch.stack([p.detach().isfinite().all() for p in trained.values()]).tolist()
        broken = [name for name, whole in zip(trained, finite, strict=True) if not whole]
        if broken:
            raise _diverged(run.steps, run.epoch, f"{broken[0]} has values that are not finite")


def _diverged(steps: Steps, epoch: int, reason: str) -> InputError:
    rate = max(float(group["lr"]) for group in steps.optimizer.param_groups)
    return InputError(f"training diverged in epoch {epoch}: {reason}; lower lr (now {rate}) or the weights of the loss")


def read_statistics(objective: Objective, row: Mapping[str, float]) -> dict[str, float]:
    """Return what an objective wants in the history of the finished epoch.

    Args:
        objective: The objective.
        row: What is in the row of the epoch already.

    Raises:
        InputError: If it is no mapping from names to numbers, a name is taken, or one is of a validation.
    """
    found: Any = objective.epoch_statistics()
    where = f"{type(objective).__name__}.epoch_statistics"
    if not isinstance(found, Mapping):
        raise InputError(f"{where}: found {type(found).__name__}, expected a dict from name to number, {{}} for none")
    for name in found:
        if not isinstance(name, str) or name in row:
            raise InputError(f"{where}: found the name {name!r}, expected a text that is none of {', '.join(row)}")
        if name.startswith("val/"):
            raise InputError(
                f"{where}: found the name {name!r}, expected one that does not begin with 'val/', under which the "
                "trainer notes its validations; name it otherwise, such as 'own/...'"
            )
    return {name: as_plain_number(value, where, name) for name, value in found.items()}


def _step(
    fabric: Fabric,
    hooks: Hooks,
    objective: Objective,
    steps: Steps,
    features: dict[str, Tensor],
    graph: dict[Any, Any],
    batch: Any,
) -> dict[str, Tensor]:
    steps.wrapped.zero_grad(set_to_none=True)
    share, factor = steps.layout.share(batch)
    with steps.layout.step(), fabric.autocast():  # Fabric sets the precision in forward alone.
        terms = step_loss(steps.module, steps.subgraphs, features, graph, share)
    if factor != 1.0:
        terms = {name: factor * term for name, term in terms.items()}
    backward(fabric, objective, terms, lambda loss: hooks("on_before_backward", loss=loss))
    if steps.subgraphs is not None and steps.subgraphs.empty:
        steps.wrapped.zero_grad(set_to_none=True)  # Zeros of rows that stand in for those of a triple.
    steps.layout.sum_gradients(objective, unlike=steps.subgraphs is not None)
    hooks("on_before_optimizer_step", optimizer=steps.optimizer)
    if all(p.grad is None for group in steps.optimizer.param_groups for p in group["params"]):
        return terms  # A scaler of gradients takes no step without any.
    if steps.clip_norm is not None:
        clip_gradients(fabric, steps.optimizer, steps.clip_norm, partial(steps.layout.whole_norm, objective))
    try:
        steps.wrapped.step()
    except RuntimeError as error:
        if "sparse" not in str(error).lower():
            raise
        name = type(steps.optimizer).__name__
        raise InputError(
            f"optimizer: {name} takes no sparse gradients ({' '.join(str(error).split())[:120]}); choose another, such "
            "as RowAdam, or a backbone with sparse=False"
        ) from None
    if steps.average is not None:
        steps.average.update()
    return terms


@torch.no_grad()
def trained_view(objective: Objective, features: dict[str, Tensor], graph: dict[Any, Any]) -> Embeddings:
    """Return the present embeddings of the view that is trained, as a validation would rank with them.

    Args:
        objective: The objective; its modules stay in the modes that they are in.
        features: From modality to feature matrix.
        graph: The prepared graphs.
    """
    with evaluating(objective):
        outputs = objective.forward_views(features, graph, [objective.view])
        found: Embeddings = checked_outputs(type(source_of(objective, "forward_views")).__name__, outputs, 1)[0]
        return found
