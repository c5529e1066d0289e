"""Batches of several processes, each of which draws its share from the interactions of its own users."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from pyg_ckd.data.sampler import TripletBatch, TripletSampler, check_any, num_batches
from pyg_ckd.processes import Processes
from pyg_ckd.scoring.embeddings import Embeddings
from pyg_ckd.training.layouts.rows import UserRows


class OwnBatches:
    r"""Iterates over a process's shares of the batches of an epoch, which it draws by itself.

    With :math:`E_k` interactions of the users of process :math:`k`, :math:`E = \sum_k E_k` and batches of :math:`B`, an
    epoch has :math:`n = \lceil E / B \rceil` steps, as in one process. In step :math:`s`, process :math:`k` takes

    .. math::
        b_k(s) = \left\lfloor \frac{(s + 1) E_k}{n} \right\rfloor - \left\lfloor \frac{s E_k}{n} \right\rfloor

    of its own, so that every interaction comes once in an epoch, and all processes know the size of the whole batch
    without an exchange: :math:`E / n` on average, and always less than their number more or less. Of :math:`R` random
    triples it draws :math:`\lfloor (s + 1) R_k \rfloor - \lfloor s R_k \rfloor` with its own users, where
    :math:`R_k = R\, U_k / U` for :math:`U_k` of :math:`U` users.

    A batch is spread over users evenly: the shares of two processes are in proportion to their interactions, where they
    vary by chance if one batch is drawn for all.

    Args:
        sampler: Draws from the interactions of the process's users, numbered from zero.
        rows: The users of every process.
        processes: The processes. They count interactions together once.

    Raises:
        InputError: If there is no interaction that a negative exists for.
    """

    def __init__(self, sampler: TripletSampler, rows: UserRows, processes: Processes) -> None:
        self.sampler, self.generator, self.processes = sampler, sampler.generator, processes
        self._interactions = processes.gather(sampler.num_interactions)
        self._users = [stop - start for start, stop in pairwise(rows.starts)]
        with processes.together():
            check_any(sum(self._interactions))
        popularity = sampler.popularity()
        if popularity is not None:
            processes.add_to(popularity)
            sampler.weigh(popularity)

    def __len__(self) -> int:
        """Return the number of batches in an epoch."""
        return num_batches(sum(self._interactions), self.sampler.batch_size)

    def __iter__(self) -> Iterator[TripletBatch]:
        """Yield this process's shares of the batches of one epoch."""
        steps, rank, times = range(len(self)), self.processes.rank, self.sampler.num_negatives
        sizes = (self.interactions_of(step)[rank] for step in steps)
        random = (self.random_of(step) for step in steps)
        for step, batch in enumerate(self.sampler.batches(sizes, random)):
            counts = [times * count for count in self.interactions_of(step)]
            yield batch.drawn_beside(counts, self.processes)

    def interactions_of(self, step: int) -> list[int]:
        """Return how many interactions every process takes in a step.

        Args:
            step: Number of the step in its epoch, from 0.
        """
        steps = len(self)
        return [(step + 1) * count // steps - step * count // steps for count in self._interactions]

    def random_of(self, step: int) -> int:
        """Return how many random triples this process draws in a step.

        Args:
            step: Number of the step in its epoch, from 0.
        """
        each, users = self.sampler.num_random_triples * self._users[self.processes.rank], sum(self._users)
        return (step + 1) * each // users - step * each // users

    @property
    def wants_embeddings(self) -> bool:
        """Whether :meth:`update` is to be called before every epoch."""
        return self.sampler.wants_embeddings

    def update(self, embeddings: Embeddings) -> None:
        """Take the embeddings that hard negatives are scored with from now on.

        Args:
            embeddings: The tables of own users and all items, without gradient.
        """
        self.sampler.update(embeddings)

    def states(self) -> list[Tensor]:
        """Return the states of the generators of all processes."""
        return self.processes.gather(self.generator.get_state())

    def go_on(self, states: list[Tensor]) -> None:
        """Go on from the states of generators of as many processes or another number.

        A process takes the state that the process of its number had; one without a predecessor keeps its seed.

        Args:
            states: What :meth:`states` returned.
        """
        if self.processes.rank < len(states):
            set_generator(self.generator, states[self.processes.rank])


def own_seed(seed: int, rank: int) -> int:
    """Return the seed of the generator of one of several processes.

    Args:
        seed: Seed of the training.
        rank: Number of the process.
    """
    state = np.random.SeedSequence((seed, rank)).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def stored_states(state: Tensor | list[Tensor]) -> list[Tensor]:
    """Return the states of the generators of all processes that a checkpoint holds.

    Args:
        state: The state of one generator, or those of several.
    """
    return [state] if isinstance(state, torch.Tensor) else list(state)


def set_generator(generator: torch.Generator, state: Tensor) -> None:
    """Bring a generator to where another one was.

    Generators of a CPU and of a GPU draw other numbers and have states of other sizes. One that is to go on where one
    of the other kind was gets a seed that follows from that state, so that no epoch's batches come again.

    Args:
        generator: The generator.
        state: The state of the other.
    """
    state = state.cpu()
    if state.numel() == generator.get_state().numel():
        generator.set_state(state)
    else:
        generator.manual_seed(zlib.crc32(state.numpy().tobytes()))
