"""Executes a plan: what is to be done is done by this process or on a cluster, and the result says how it went."""

from collections.abc import Callable
from contextlib import closing
from typing import TypeAlias

from recap_fast.errors import ConfigError
from recap_fast.launch import one_process
from recap_fast.launch.conclusion import conclude
from recap_fast.launch.config import RunConfig
from recap_fast.launch.observers import Observers
from recap_fast.launch.plan import Plan, plan, without_collections
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult
from recap_fast.launch.signals import Signals
from recap_fast.write.ledger import Ledger, Pending

Caption: TypeAlias = Callable[[Plan, Ledger, list[Pending], Reporter, Observers, Signals | None], RunResult]


def run(config: RunConfig, reporter: Reporter, signals: Signals | None = None) -> RunResult:
    """Captions what is to be captioned. Raises ConfigError, InputError, EngineError and OSError.

    `signals` that are handled drain the run; Stopped where one comes before there is anything to drain. Where they are,
    the process is the run's own, and its device counts as held since the process began.
    """
    with closing(plan(config)) as made:
        return execute(made, reporter, signals)


def execute(plan: Plan, reporter: Reporter, signals: Signals | None = None) -> RunResult:
    """Does what was planned; see `run`."""
    with closing(Observers(plan, reporter, is_own_process=signals is not None)) as observers:
        return _execute(plan, reporter, signals, observers)


def _execute(plan: Plan, reporter: Reporter, signals: Signals | None, observers: Observers) -> RunResult:
    with without_collections():
        ledger = plan.ledger.open()
    num_pruned, pending = plan.prune(ledger, ledger.pending(plan.mine(ledger.shards)))
    if num_pruned:
        rows = "1 row of an image that is gone" if num_pruned == 1 else f"{num_pruned:,} rows of images that are gone"
        reporter.event("pruned", f"pruned   {rows}", rows=num_pruned)
    if not pending:
        return conclude(plan, ledger, (), None, reporter)
    try:
        return _find_way(plan.config)(plan, ledger, pending, reporter, observers, signals)
    except ConfigError:
        ledger.forget_unused()
        raise


def _find_way(config: RunConfig) -> Caption:
    """What captions: this process, or the workers of a cluster."""
    if config.ray is None:
        return one_process.caption
    from recap_fast.launch.cluster import driver

    return driver.caption
