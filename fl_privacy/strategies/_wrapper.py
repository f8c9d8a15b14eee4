"""A strategy around another strategy, in the manner of Flower's own DP wrappers: everything is passed on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy


class StrategyWrapper(Strategy):
    """Delegates all to the wrapped strategy; override where yours takes hold.

    Parameters
    ----------
    strategy : Strategy
        Any Flower strategy (Message API), wrapped ones included.
    """

    def __init__(self, strategy: Strategy) -> None:
        super().__init__()
        self.strategy = strategy

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.strategy!r})"

    def summary(self) -> None:
        """Log summary configuration of the strategy."""
        self.strategy.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate."""
        return self.strategy.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Delegate."""
        return self.strategy.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Delegate."""
        return self.strategy.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Delegate."""
        return self.strategy.aggregate_evaluate(server_round, replies)

    def start(self, *args: Any, **kwargs: Any) -> Result:
        """Run the federation; see `flwr.serverapp.strategy.Strategy.start`."""
        with ExitStack() as running:
            outside: list[Any] = []
            for wrapper in chain(self):
                if isinstance(wrapper, StrategyWrapper):
                    running.enter_context(wrapper.running(tuple(outside)))
                outside.append(wrapper)
            return super().start(*args, **kwargs)

    @contextmanager
    def running(self, outside: tuple[Any, ...]) -> Iterator[None]:
        """Surround the run, where this wrapper or one of ours outside has begun it.

        Parameters
        ----------
        outside : tuple of Strategy
            The wrappers around this one, the outermost first.
        """
        yield

    def flush(self) -> None:
        """Bring to disk what is still in memory: the run may be resumed from here."""

    def resume_after(self, server_round: int) -> None:
        """Be told, before the first round, that this run goes on behind a round of an earlier one."""


def chain(strategy: Any) -> Iterator[Any]:
    """Yield a strategy and those it wraps, from the outside in."""
    while strategy is not None:
        yield strategy
        strategy = getattr(strategy, "strategy", None)
