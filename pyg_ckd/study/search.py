"""The search for settings: trials of every contender with equal budgets, on the validation part alone."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from pyg_ckd.errors import InputError
from pyg_ckd.study.ledger import COMPLETE, FAILED, PRUNED, RUNNING, Ledger, Trial
from pyg_ckd.study.maker import FAILED as FAILED_RECORD
from pyg_ckd.study.maker import LEFT_OUT
from pyg_ckd.study.maker import PRUNED as PRUNED_RECORD
from pyg_ckd.study.pruning import Curve, Pruning, bars_of, curve_of, reached
from pyg_ckd.study.runs import Run
from pyg_ckd.study.tuned import Tuned
from pyg_ckd.study.workshop import Workshop

POLL_SECONDS = 5.0
"""Between two looks at trials that other machines make."""
FACTS = ("best_epoch", "epochs", "stopped", "converged")


class Search:
    """Makes the trials of all contenders, round by round.

    In a round, every contender has its next ``batch`` of trials, proposed from its own earlier trials alone. So results
    do not depend on how many workers make a round, nor on who else takes part.

    Args:
        tuned: Whose knobs are turned.
        ledger: Where trials are kept.
        workshop: Where they are made.
        seed: Seed of all trials.
        batch: Trials of a contender that are proposed at once.
        prune: Whether trials are pruned.
        say: Called with a line of text at every trial.
    """

    def __init__(
        self,
        tuned: Sequence[Tuned],
        ledger: Ledger,
        workshop: Workshop,
        seed: int,
        batch: int,
        prune: bool,
        say: Callable[[str], object],
    ) -> None:
        self.tuned, self.ledger, self.workshop = list(tuned), ledger, workshop
        self.seed, self.batch, self.prune, self.say = seed, batch, prune, say

    def run(self, first: Sequence[Run] = ()) -> dict[str, dict[str, Any]]:
        """Make all trials that are not there yet, and return the records of further runs, by key.

        Args:
            first: Further runs, such as closed forms, which are made in the first round.

        Raises:
            InputError: If the first trial of a contender fails, or a process dies.
        """
        others: dict[str, dict[str, Any]] = {}
        waiting = False
        self._say_beyond()
        while True:
            jobs = self._round()
            left = [run for run in first if run.key not in others]
            if jobs or left:
                others |= self._make(jobs, left)
                continue
            running = [(t, trial) for t in self.tuned for trial in self._trials(t) if trial.state == RUNNING]
            if not running:
                return others
            if not waiting:
                tuned, trial = running[0]
                where = f"on {trial.host}" + (f" in {trial.folder}" if trial.folder else "")
                self.say(
                    f"waiting for {len(running)} trials of other calls, such as {_title(tuned, trial)} {where}; if "
                    "that call has ended, start it again in its folder, or search under another name"
                )
                waiting = True
            time.sleep(POLL_SECONDS)

    def best(self, tuned: Tuned) -> Trial:
        """Return the best finished trial, the first of equals; one that was pruned is none.

        Args:
            tuned: Whose.
        """
        finished = [trial for trial in self._trials(tuned) if trial.state == COMPLETE]
        return max(finished, key=lambda trial: float(trial.outcome["value"]))

    def _trials(self, tuned: Tuned) -> list[Trial]:
        """Return the trials that count; those beyond their number are of a call with more."""
        return self.ledger.trials(tuned.name)[: tuned.trials]

    def _say_beyond(self) -> None:
        """Say whose trials of an earlier call do not count, because there are more than this call asks for."""
        kept = [(tuned, len(self.ledger.trials(tuned.name))) for tuned in self.tuned]
        more = [f"{tuned.name} has {number}" for tuned, number in kept if number > tuned.trials]
        if more:
            trials = max(tuned.trials for tuned in self.tuned)
            self.say(f"an earlier call asked for more trials ({', '.join(more)}); the first {trials} of each count")

    def _round(self) -> dict[str, tuple[Run, list[tuple[Tuned, Trial]]]]:
        """Return the runs of the next round by key, each with the trials that it is made for."""
        jobs: dict[str, tuple[Run, list[tuple[Tuned, Trial]]]] = {}
        for tuned in self.tuned:
            found: list[tuple[Trial, Run]] = []
            while not found and (due := self._due(tuned)):
                fresh = [trial for trial in due if not self._repeated(tuned, trial)]
                found = [(trial, run) for trial in fresh if (run := self._run(tuned, trial)) is not None]
            for trial, run in found:
                jobs.setdefault(run.key, (run, []))[1].append((tuned, trial))
        return jobs

    def _due(self, tuned: Tuned) -> list[Trial]:
        """Return the trials that this call has to make, claimed if need be."""
        trials = self._trials(tuned)
        running = [trial for trial in trials if trial.state == RUNNING]
        mine = [trial for trial in running if trial.owner == self.ledger.owner]
        known = mine[0].rank // self.batch * self.batch if mine and mine == running else len(trials)
        for rank in range(len(trials), min(known + self.batch, tuned.trials)):
            claimed = self._claim(tuned, rank, known)
            if claimed is None:
                break
            mine.append(claimed)
        return mine

    def _claim(self, tuned: Tuned, rank: int, known: int) -> Trial | None:
        place = (tuned.name, tuned.space)
        if rank == 0:
            return self.ledger.claim(*place, tuned.defaults, (), tuned.trials)
        earlier = [trial for trial in self._trials(tuned)[:known] if trial.state != RUNNING]
        found = [{int(steps): v for steps, v in trial.outcome.get("reached", {}).items()} for trial in earlier]
        values = self.ledger.propose(*place, rank, known)
        return self.ledger.claim(*place, values, bars_of(found) if self.prune else (), tuned.trials)

    def _repeated(self, tuned: Tuned, trial: Trial) -> bool:
        """Give a trial the outcome of an earlier one that had the same values, if there is one."""
        for other in self._trials(tuned):
            if other.rank < trial.rank and other.state != RUNNING and other.values == trial.values:
                outcome = {**other.outcome, "seconds": 0.0, "steps": 0, "repeats": other.rank}
                self.ledger.finish(trial, other.state, outcome)
                return True
        return False

    def _run(self, tuned: Tuned, trial: Trial) -> Run | None:
        """Return the run of a trial, or :obj:`None` if the trainer refuses its values, so that it has failed."""
        try:
            run = tuned.run(trial.values, self.seed)
        except InputError as error:
            if trial.rank == 0:
                raise InputError(f"{_title(tuned, trial)}: {error}") from None
            self._fail(tuned, trial, str(error))
            return None
        return replace(run, pruning=Pruning(tuned.epoch_steps(trial.values), trial.bars))

    def _make(self, jobs: Mapping[str, tuple[Run, list[tuple[Tuned, Trial]]]], first: Sequence[Run]) -> dict[str, Any]:
        teachers = {t.key: t for run, _ in jobs.values() for t in run.teachers}
        further = {run.key: run for run in (*first, *teachers.values())}
        runs = [*further.values(), *(run for run, _ in jobs.values())]
        found: dict[str, Any] = {}
        for run, record in self.workshop.make(runs, test=False):
            if run.key in further:
                found[run.key] = record
                if run.backbone is None:
                    self._say_baseline(run, record)
                continue
            for tuned, trial in jobs[run.key][1]:
                self._finish(tuned, trial, run, record)
        return {run.key: found[run.key] for run in first}

    def _finish(self, tuned: Tuned, trial: Trial, run: Run, record: Mapping[str, Any]) -> None:
        if FAILED_RECORD in record:
            if trial.rank == 0:
                raise InputError(f"{run.title}: {record[FAILED_RECORD]}")
            self._fail(tuned, trial, str(record[FAILED_RECORD]))
            return
        assert run.pruning is not None
        pruned, monitor = record.get(PRUNED_RECORD), self.workshop.monitor
        if pruned is None:
            frame = self.workshop.stores[run.kind].history(run)
            rows: list[dict[str, float]] = [] if frame is None else frame.reset_index().to_dict("records")
            curve: Curve = curve_of(rows, monitor, run.pruning)
            value = record["val"][monitor]
        else:
            curve, value = [(int(steps), float(v)) for steps, v in pruned["curve"]], float(pruned["best"])
        outcome = {
            "value": value,
            "reached": reached(curve, tuned.budgets, ended=pruned is None),
            "steps": int(record["epochs"] or 0) * run.pruning.epoch_steps,
            "budget": tuned.whole(trial.values),
            "seconds": float(record["training_seconds"]),
            "key": run.key,
            **{fact: record[fact] for fact in FACTS},
        }
        self.ledger.finish(trial, COMPLETE if pruned is None else PRUNED, outcome)
        best = max(float(other.outcome.get("value") or value) for other in self._trials(tuned))
        ended = "" if pruned is None else f", {record['stopped'].partition(':')[0]}"
        self.say(f"  {_title(tuned, trial)}: validation {monitor} {value:.4f} (best {best:.4f}){ended}")

    def _fail(self, tuned: Tuned, trial: Trial, reason: str) -> None:
        failed = {"value": None, "seconds": 0.0, "budget": tuned.whole(trial.values), "stopped": reason}
        self.ledger.finish(trial, FAILED, failed)
        self.say(f"  {_title(tuned, trial)}: failed: {reason}")

    def _say_baseline(self, run: Run, record: Mapping[str, Any]) -> None:
        if LEFT_OUT in record:
            self.say(f"  {run.name} left out: {record[LEFT_OUT]}")
        else:
            self.say(f"  {run.name}: validation {self.workshop.monitor} {record['val'][self.workshop.monitor]:.4f}")


def best_so_far(trials: Sequence[Trial]) -> Iterator[float | None]:
    """Yield the best value after every trial, :obj:`None` before the first one.

    Args:
        trials: The trials in order.
    """
    best: float | None = None
    for trial in trials:
        value = trial.outcome.get("value") if trial.state == COMPLETE else None
        best = value if best is None else best if value is None else max(best, value)
        yield best


def _title(tuned: Tuned, trial: Trial) -> str:
    return f"{tuned.name}, trial {trial.rank + 1} of {tuned.trials}"
