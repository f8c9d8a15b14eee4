"""Going on inside a federation that was killed, on the local engine."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from logging import INFO, WARNING
from pathlib import Path

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import FedAvg, Result, Strategy

from fl_privacy import _flower
from fl_privacy.errors import UserError
from fl_privacy.sims.local import LocalGrid
from fl_privacy.strategies import CaptureUpdates, FedSGD, Reproducible
from fl_privacy.strategies._wrapper import StrategyWrapper, chain
from fl_privacy.updates.protocol import digest

_TRAIN, _EVALUATE, _SERVER = "train-metrics", "evaluate-metrics", "server-metrics"

EvaluateFn = Callable[[int, ArrayRecord], MetricRecord | None]


class Resumable(StrategyWrapper):
    """Save how far a federation has come, and go on from there when it is started again: to the same bytes.

    What is saved is the model, the round, the metrics so far, and each client's state. That is all there is for FedAvg
    and FedSGD under `Reproducible` on the local engine; for strategies that remember more (FedAdam, adaptive
    clipping, ...), and on engines that keep clients' states to themselves, a killed run starts again from round 1, and
    the log says so.

    Parameters
    ----------
    strategy : Strategy
        Put this wrapper outermost: ``Resumable(Reproducible(CaptureUpdates(FedAvg(), store), seed), path)``.
    path : str or Path
        File of the checkpoint; replaced as the run goes on.
    every_seconds : float
        At most so often.

    Raises
    ------
    UserError
        At the start, if the checkpoint is of a run from another initial model or seed, or cannot be read.
    """

    def __init__(self, strategy: Strategy, path: str | Path, *, every_seconds: float = 10.0) -> None:
        super().__init__(strategy)
        self.path = Path(path)
        self.every_seconds = every_seconds
        self._grid: LocalGrid | None = None
        self._initial = 0
        self._done = 0
        self._held = ArrayRecord()
        self._metrics: dict[str, dict[int, MetricRecord]] = {}
        self._saved_at = 0.0

    def start(
        self,
        grid: Grid,
        initial_arrays: ArrayRecord,
        num_rounds: int = 3,
        timeout: float = 3600,
        train_config: ConfigRecord | None = None,
        evaluate_config: ConfigRecord | None = None,
        evaluate_fn: EvaluateFn | None = None,
    ) -> Result:
        """Run the federation, or what is left of it."""
        reason = why_not(self.strategy, grid)
        self._grid = grid if isinstance(grid, LocalGrid) and not reason else None
        if reason:
            log(WARNING, "Resumable: a run that is cut off here starts again from round 1: %s", reason)
        seeds = [str(part.seed).encode() for part in chain(self.strategy) if isinstance(part, Reproducible)]
        self._initial = digest([*(array.data for array in initial_arrays.values()), *seeds])
        self._done, self._metrics = 0, {_TRAIN: {}, _EVALUATE: {}, _SERVER: {}}
        if self.path.exists():
            self._load()
            log(INFO, "Resumable: going on behind round %d", self._done)
            # The checkpoint shows that what the wrappers have kept is of this run.
            for wrapper in self._wrappers():
                wrapper.resume_after(self._done)
        else:
            self._save(0, initial_arrays)
        self._saved_at = time.monotonic()

        def evaluate(server_round: int, arrays: ArrayRecord) -> MetricRecord | None:
            known = self._metrics[_SERVER]
            if (server_round > self._done or self._done == 0) and evaluate_fn is not None:
                scores = evaluate_fn(server_round, arrays)
                if scores is not None:
                    known[server_round] = scores
            return known.get(server_round)

        return super().start(
            grid,
            initial_arrays,
            num_rounds,
            timeout,
            train_config,
            evaluate_config,
            evaluate if evaluate_fn is not None else None,
        )

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate, unless the round is done."""
        if server_round <= self._done:
            return []
        if self._grid is not None and time.monotonic() - self._saved_at >= self.every_seconds and server_round > 1:
            self._save(server_round - 1, arrays)
            self._saved_at = time.monotonic()
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Delegate, or return what came out when the round was done."""
        if server_round <= self._done:
            return self._held if server_round == self._done else None, self._metrics[_TRAIN].get(server_round)
        arrays, metrics = self.strategy.aggregate_train(server_round, replies)
        if metrics is not None:
            self._metrics[_TRAIN][server_round] = metrics
        return arrays, metrics

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate, unless the round is done."""
        if server_round <= self._done:
            return []
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Delegate, or return what came out when the round was done."""
        if server_round <= self._done:
            return self._metrics[_EVALUATE].get(server_round)
        metrics = self.strategy.aggregate_evaluate(server_round, replies)
        if metrics is not None:
            self._metrics[_EVALUATE][server_round] = metrics
        return metrics

    def _wrappers(self) -> list[StrategyWrapper]:
        return [wrapper for wrapper in chain(self.strategy) if isinstance(wrapper, StrategyWrapper)]

    def _save(self, server_round: int, arrays: ArrayRecord) -> None:
        for wrapper in self._wrappers():
            wrapper.flush()
        records = RecordDict({"arrays": arrays})
        records["progress"] = ConfigRecord({"round": server_round, "initial": self._initial})
        for kind, by_round in self._metrics.items():
            for number, metrics in by_round.items():
                records[f"{kind}/{number}"] = metrics
        if self._grid is not None:
            for key, record in self._grid.snapshot().items():
                records[f"grid/{key}"] = record
        temporary = self.path.with_name(f".{self.path.name}.part")
        temporary.write_bytes(_flower.dump_records(records))
        os.replace(temporary, self.path)

    def _load(self) -> None:
        try:
            records = _flower.load_records(self.path.read_bytes())
            progress = records.config_records["progress"]
        except Exception as error:  # whatever a file that is no checkpoint makes the parser raise
            raise UserError(f"{self.path} is no checkpoint ({error}); delete it to start again") from error
        if progress["initial"] != self._initial:
            raise UserError(f"{self.path} is of a run from another initial model or seed; delete it to start again")
        if self._grid is None:
            return  # from round 1
        self._done, self._held = int(progress["round"]), records.array_records["arrays"]  # type: ignore[arg-type]
        state = RecordDict()
        for key, record in records.items():
            head, _, rest = key.partition("/")
            if head == "grid":
                state[rest] = record
            elif head in self._metrics and isinstance(record, MetricRecord):
                self._metrics[head][int(rest)] = record
        if self._done:
            self._grid.restore(state)


def why_not(strategy: Strategy, grid: Grid) -> str:
    """Say why a federation could not be resumed; empty if it can be."""
    if not isinstance(grid, LocalGrid):
        return "only the local engine can hand out its clients' states"
    parts = list(chain(strategy))
    strange = [type(part).__name__ for part in parts[:-1] if type(part) not in (CaptureUpdates, Reproducible)]
    if type(parts[-1]) not in (FedAvg, FedSGD):
        strange.append(type(parts[-1]).__name__)
    if strange:
        return f"{strange[0]} may remember more than the model from round to round"
    if not any(isinstance(part, Reproducible) for part in parts):
        return "without Reproducible the server's randomness is not told by the round"
    return ""
