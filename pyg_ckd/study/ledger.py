"""The trials of a search in an Optuna storage: claimed before they are made, written once they have ended."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from pyg_ckd.errors import InputError
from pyg_ckd.files import as_path, plain_values
from pyg_ckd.study.described import with_trainer
from pyg_ckd.study.knobs import Knob
from pyg_ckd.training.checkpoint import check_settings

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

STARTUP = 4
"""Trials before the sampler learns from them: that of the defaults, and random ones."""
LEAST = 4
"""Trials from which on the importance of knobs is estimated."""
DIGITS = 4
"""Significant digits of what is proposed within a range."""
OF_FOLDER = "folder"
"""The owner of all trials of a storage that only the calls on its folder use."""
SETTINGS, CLAIM, OUTCOME = "pyg_ckd", "claim", "outcome"
STORAGES = "a file, or the URL of an Optuna storage such as sqlite:///trials.db"
BEGIN = b'{"op_code"'
"""How every line of a journal of Optuna begins."""
COMPLETE, PRUNED, FAILED, RUNNING = "complete", "pruned", "failed", "running"


@dataclass(frozen=True)
class Trial:
    """A trial of a contender.

    Attributes:
        rank: Its place among the contender's trials, from zero; the first one has the defaults.
        id: By which the storage knows it.
        state: ``"complete"``, ``"pruned"``, ``"failed"`` or ``"running"``.
        values: From knob to what it is set to.
        bars: What it must reach, see :class:`~pyg_ckd.study.pruning.Pruning`.
        owner: Which call claimed it.
        host: On which machine.
        folder: In which folder.
        outcome: What it found: ``value`` (the best value of the monitored validation metric), ``reached``, ``epochs``,
            ``seconds`` and so on; empty while it runs.
    """

    rank: int
    id: int
    state: str
    values: dict[str, Any]
    bars: tuple[tuple[int, float], ...] = ()
    owner: str = ""
    host: str = ""
    folder: str = ""
    outcome: dict[str, Any] = field(default_factory=dict)


class Ledger:
    """The trials of all contenders of a search, each contender's in an Optuna study of its own.

    What is proposed depends on the seed, the name of the contender, the rank of the trial and the outcomes of earlier
    trials alone. A trial is claimed in one step, with all its values, so that the one that a killed call was at is
    found again as it was.

    Args:
        storage: A file, which is created if need be, or the URL of an Optuna storage, such as ``sqlite:///trials.db``.
        name: Name of the search; the Optuna study of a contender is called ``<name>/<contender>``.
        seed: Seed of the proposals.
        owner: Which call this is: trials that it left running are its own to make.
        folder: The folder of this call, for the messages of others.

    Raises:
        InputError: If Optuna is not installed or the storage cannot be opened.
    """

    def __init__(self, storage: str | os.PathLike[str], name: str, seed: int, owner: str, folder: str = "") -> None:
        self.name, self.seed, self.owner, self.folder, self.shown = name, seed, owner, folder, _shown(storage)
        self._ids: dict[str, int] = {}
        text = storage if isinstance(storage, str) else str(as_path(storage))
        if not text.strip():
            raise InputError(f"storage: found an empty text, expected {STORAGES}")
        path = None if "://" in text else as_path(text)
        file = path or _file_of(text)
        self._made = [] if file is None or file.exists() else [file, Path(f"{file}.lock")]
        with _quiet() as optuna:
            self._storage = _opened(optuna, text, path)

    def open(self, contender: str, settings: Mapping[str, Any], begin: bool = True) -> None:
        """Open the study of a contender.

        Args:
            contender: Name of the contender.
            settings: All that decides about its trials, nested plain values.
            begin: Whether to begin one if there is none.

        Raises:
            InputError: If the study that is there has other settings; the message names the first one.
        """
        title, wanted = f"{self.name}/{contender}", plain_values(settings)
        with _quiet() as optuna:
            try:
                study = self._storage.get_study_id_from_name(title)
            except KeyError:
                if not begin:
                    return
                try:
                    study = self._storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], title)
                except optuna.exceptions.DuplicatedStudyError:  # Another machine was faster.
                    study = self._storage.get_study_id_from_name(title)
            found = self._storage.get_study_user_attrs(study).get(SETTINGS)
            if found is None and not self._storage.get_all_trials(study, deepcopy=False):
                self._storage.set_study_user_attr(study, SETTINGS, wanted)
                found = wanted
        self._ids[contender] = study
        if not isinstance(found, dict):
            raise InputError(f"storage {self.shown}: found a study {title!r} of other make; choose another storage")
        try:
            check_settings(self.shown, with_trainer(found, wanted), with_trainer(wanted, found))
        except InputError as error:
            reason = str(error).partition(": ")[2].partition(";")[0]
            place = "folder" if self.owner == OF_FOLDER else "storage"
            raise InputError(
                f"storage {self.shown}: it belongs to another study: {contender}: {reason}; choose another {place}, "
                "or the same settings"
            ) from None

    def withdraw(self) -> None:
        """Remove the file of a storage that was created here, if no study has been begun in it."""
        if not self._made:
            return
        with _quiet():
            studies = self._storage.get_all_studies()
        for path in () if studies else self._made:
            path.unlink(missing_ok=True)

    def trials(self, contender: str) -> list[Trial]:
        """Return the trials of a contender in order.

        Args:
            contender: Its name.
        """
        return [_trial(rank, found) for rank, found in enumerate(self._counted(contender))]

    def propose(self, contender: str, space: Mapping[str, Knob], rank: int, known: int) -> dict[str, Any]:
        """Return what the sampler sets the knobs to in a trial.

        It is Optuna's TPE, seeded anew for every trial. Of the earlier trials, those of a rank below ``known`` count
        with what they found; the sampler keeps away from the others.

        Args:
            contender: Name of the contender.
            space: Its knobs.
            rank: Rank of the trial.
            known: See above.
        """
        found = self._counted(contender)[:rank]
        text = f"{self.seed}:{contender}:{rank}"
        with _quiet() as optuna:
            seed = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
            sampler = optuna.samplers.TPESampler(
                seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=True
            )
            scratch = optuna.create_study(direction="maximize", sampler=sampler)
            for place, trial in enumerate(found):
                if _elsewhere(trial, space):
                    continue
                state = trial.state if place < known else optuna.trial.TrialState.RUNNING
                scratch.add_trial(_frozen(optuna, trial.params, space, state, trial.value, trial.intermediate_values))
            params = scratch.ask(fixed_distributions=_distributions(optuna, space)).params
        return {name: _readable(knob, params[name]) for name, knob in space.items()}

    def claim(
        self,
        contender: str,
        space: Mapping[str, Knob],
        values: Mapping[str, Any],
        bars: Sequence[tuple[int, float]],
        most: int,
    ) -> Trial | None:
        """Claim the next trial of a contender, or none if another machine has claimed the last one.

        Args:
            contender: Name of the contender.
            space: Its knobs.
            values: What they are set to.
            bars: What the trial must reach.
            most: The number of trials of the contender.
        """
        claim = {"values": dict(values), "bars": [list(bar) for bar in bars], "owner": self.owner}
        claim |= {"host": socket.gethostname(), "folder": self.folder}
        study = self._ids[contender]
        params = {name: knob.nearest(values[name]) for name, knob in space.items()}
        with _quiet() as optuna:
            running = optuna.trial.TrialState.RUNNING
            frozen = _frozen(optuna, params, space, running, attributes={CLAIM: plain_values(claim)})
            number = self._storage.create_new_trial(study, template_trial=frozen)
            ranks = [trial._trial_id for trial in self._counted(contender)]
            if ranks.index(number) >= most:
                self._storage.set_trial_state_values(number, optuna.trial.TrialState.FAIL)
                return None
        return self.trials(contender)[ranks.index(number)]

    def finish(self, trial: Trial, state: str, outcome: Mapping[str, Any]) -> None:
        """Write what a trial found.

        Args:
            trial: The trial.
            state: ``"complete"``, ``"pruned"`` or ``"failed"``.
            outcome: What it found.
        """
        with _quiet() as optuna:
            states = optuna.trial.TrialState
            outcome = plain_values({**outcome, "state": state})
            self._storage.set_trial_user_attr(trial.id, OUTCOME, outcome)
            for steps, value in outcome.get("reached", {}).items():
                self._storage.set_trial_intermediate_value(trial.id, int(steps), value)
            values = None if outcome.get("value") is None else [outcome["value"]]
            self._storage.set_trial_state_values(
                trial.id, states.COMPLETE if state == COMPLETE else states.PRUNED, values
            )

    def importance(self, contender: str, space: Mapping[str, Knob], trials: int) -> dict[str, float]:
        """Return how much of the variance of the validation metric each knob explains, by fANOVA, the largest first.

        Pruned trials count with their best value. With few trials, or trials that are all alike, nothing is returned.

        Args:
            contender: Name of the contender.
            space: Its knobs.
            trials: The number of its first trials that count.
        """
        values = [trial.outcome.get("value") for trial in self.trials(contender)]
        pairs = list(zip(values, self._counted(contender), strict=True))[:trials]
        found = [(value, trial) for value, trial in pairs if value is not None and not _elsewhere(trial, space)]
        if not space or len(found) < LEAST or len({value for value, _ in found}) < 2:
            return {}
        with _quiet() as optuna:
            scratch = optuna.create_study(direction="maximize")
            for value, trial in found:
                scratch.add_trial(_frozen(optuna, trial.params, space, optuna.trial.TrialState.COMPLETE, value))
            evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
            try:
                shares = optuna.importance.get_param_importances(scratch, evaluator=evaluator)
            except (RuntimeError, ValueError):  # No tree has split anything.
                return {}
        return {str(name): float(share) for name, share in shares.items()}

    def _counted(self, contender: str) -> list[FrozenTrial]:
        """Return the trials that count, in the order in which they were claimed."""
        found = self._storage.get_all_trials(self._ids[contender], deepcopy=False)
        return sorted((t for t in found if t.state.name != "FAIL"), key=lambda trial: trial.number)


def _elsewhere(trial: FrozenTrial, space: Mapping[str, Knob]) -> bool:
    """Return whether a trial has :obj:`None` for a knob, as the first one may, which is near to no other value."""
    values = (trial.user_attrs.get(CLAIM) or {}).get("values") or {}
    return any(values.get(name, 0) is None and None not in (knob.values or ()) for name, knob in space.items())


def _readable(knob: Knob, value: Any) -> Any:
    """Return a value with few digits, which a person can read and write again."""
    return value if knob.values or knob.whole else knob.nearest(float(f"{value:.{DIGITS}g}"))


def require_optuna() -> ModuleType:
    """Return Optuna.

    Raises:
        InputError: If it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise InputError(
            "tune: found no Optuna, expected it beside pyg-ckd; install it with: pip install 'pyg-ckd[tune]'"
        ) from None
    return optuna


@contextmanager
def _quiet() -> Iterator[Any]:
    """Yield Optuna without the lines that it writes to stderr about studies and trials."""
    import warnings

    optuna: Any = require_optuna()
    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield optuna
    finally:
        optuna.logging.set_verbosity(level)


class _FileLock:
    """Lock of a journal that goes with the process that holds it, however that ends.

    Whoever takes it finds a journal of whole lines, also where a process was killed while it wrote.
    """

    def __init__(self, path: Path) -> None:
        from filelock import FileLock

        self._path, self._lock = path, FileLock(f"{path}.lock")

    def acquire(self) -> bool:
        self._lock.acquire()
        try:
            _mend(self._path)
        except BaseException:
            self._lock.release()
            raise
        return True

    def release(self) -> None:
        self._lock.release()


def _opened(optuna: Any, text: str, path: Path | None) -> BaseStorage:
    try:
        if path is None:
            return optuna.storages.get_storage(text)
        _check_journal(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        _check_writable(path)
        lock = _FileLock(path)
        lock.acquire()
        lock.release()
        backend = optuna.storages.journal.JournalFileBackend(str(path), lock_obj=lock)
        return optuna.storages.JournalStorage(backend)
    except InputError:
        raise
    except Exception as error:  # Whatever a data base, its driver or a damaged file raises.
        reason = " ".join(_shown(error).split())[:200]
        raise InputError(
            f"storage {_shown(text)}: cannot be opened ({type(error).__name__}: {reason}), expected {STORAGES}"
        ) from None


def _file_of(url: str) -> Path | None:
    """Return the file of an SQLite data base, nothing for other URLs."""
    found = re.fullmatch(r"sqlite(?:\+\w+)?:///([^?]+)(?:\?.*)?", url)
    return None if found is None or found[1] == ":memory:" else Path(found[1])


def _shown(storage: object) -> str:
    """Return what messages say of a storage, without the password of a URL."""
    shown = re.sub(r"(://[^/@:]*):\S*@", r"\1:***@", str(storage))
    return re.sub(r"([?&](?:password|passwd|pwd)=)[^&\s]*", r"\1***", shown)


def _check_journal(path: Path) -> None:
    """Refuse what is no journal, before anything is written in it or beside it."""
    if path.is_dir():
        raise InputError(f"storage {path}: cannot be opened (it is a folder), expected {STORAGES}")
    if not path.exists():
        return
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            whole = line.endswith(b"\n")  # What was not written to its end is taken off.
            if _is_entry(line) if whole else number > 1 or line[: len(BEGIN)] == BEGIN[: len(line)]:
                continue
            if number == 1:
                raise InputError(f"storage {path}: cannot be opened (it is no journal of Optuna), expected {STORAGES}")
            raise InputError(
                f"storage {path}: cannot be opened (line {number} is damaged); put a copy of the file in its place, or "
                "move it away: the same call then makes the trials anew and finds their finished runs again"
            )


def _check_writable(path: Path) -> None:
    """Refuse a journal that cannot be written to: its lock would be waited for without end."""
    made = [part for part in (path, Path(f"{path}.lock")) if not part.exists()]
    try:
        for part in (path, Path(f"{path}.lock")):
            part.open("ab").close()
    except OSError as error:
        for part in made:
            part.unlink(missing_ok=True)
        raise InputError(
            f"storage {path}: cannot be written to ({error.strerror}), expected {STORAGES}; choose a file in a folder "
            "of your own"
        ) from None


def _is_entry(line: bytes) -> bool:
    try:
        entry = json.loads(line)
    except ValueError:
        return False
    return isinstance(entry, dict) and "op_code" in entry


def _mend(path: Path) -> None:
    """Take off the end of a journal what a killed process has not written to its end."""
    if not path.exists() or not path.stat().st_size:
        return
    with path.open("rb+") as file:
        file.seek(-1, os.SEEK_END)
        if file.read(1) != b"\n":
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)


def _distributions(optuna: Any, space: Mapping[str, Knob]) -> dict[str, BaseDistribution]:
    kinds = optuna.distributions

    def one(knob: Knob) -> BaseDistribution:
        if knob.values:
            return kinds.CategoricalDistribution(knob.values)
        kind = kinds.IntDistribution if knob.whole else kinds.FloatDistribution
        return kind(knob.low, knob.high, log=knob.log)

    return {name: one(knob) for name, knob in space.items()}


def _frozen(
    optuna: Any,
    params: Mapping[str, Any],
    space: Mapping[str, Knob],
    state: Any,
    value: float | None = None,
    intermediate: Mapping[int, float] | None = None,
    attributes: Mapping[str, Any] | None = None,
) -> FrozenTrial:
    running = state.name == "RUNNING"
    return optuna.trial.create_trial(
        state=state,
        value=None if running else value,
        params=dict(params),
        distributions=_distributions(optuna, space),
        user_attrs=dict(attributes or {}),
        intermediate_values={} if running else dict(intermediate or {}),
    )


def _trial(rank: int, found: FrozenTrial) -> Trial:
    claim, outcome = found.user_attrs.get(CLAIM, {}), found.user_attrs.get(OUTCOME, {})
    state = outcome.get("state", RUNNING) if found.state.is_finished() else RUNNING
    bars = tuple((int(budget), float(bar)) for budget, bar in claim.get("bars", ()))
    more = {part: claim.get(part, "") for part in ("owner", "host", "folder")}
    values = claim.get("values", dict(found.params))
    return Trial(rank, found._trial_id, state, values, bars, **more, outcome=outcome if state != RUNNING else {})
