"""What a run tells its workers to do, and how they say that they have ended."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from recap_fast.captioner.captioner import Captioner
from recap_fast.cpus import default_decode_threads
from recap_fast.errors import ConfigError, RecapError
from recap_fast.generate.engine import Statistics
from recap_fast.launch.config import RunConfig, fingerprint
from recap_fast.launch.joining import make_pipeline
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.shards.remote.access import absolute
from recap_fast.write.ledger import Ledger
from recap_fast.write.output_folder import OutputFolder


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """What every worker of a run needs to know."""

    config: RunConfig
    """Of a worker: with absolute paths, and as many threads as it has processors for."""
    fingerprint: Mapping[str, Any]
    """The run's: a worker that would make other rows ends it."""
    ledger: Ledger
    """Opened by the driver, without the lists of inputs and shards."""

    @classmethod
    def of(cls, config: RunConfig, ledger: Ledger, *, decoder: str, on_gpus: bool) -> "Task":
        """The task of a run whose output is open, and whose images this decoder decodes."""
        wanted = ledger.wanted
        few = replace(wanted.inputs, sources=(), folders=())
        return cls(
            config=replace(_worker_config(config, on_gpus), decoder=decoder),
            fingerprint=wanted.fingerprint,
            ledger=Ledger(
                output=OutputFolder.at(absolute(str(config.output))),
                wanted=replace(wanted, inputs=few),
                retry=ledger.retry,
                redo_changed=ledger.redo_changed,
            ),
        )

    def make_pipeline(self, captioner: Captioner, counters: RunCounters) -> Pipeline:
        """What captions shards with an open engine."""
        return make_pipeline(captioner, self.ledger, counters, self.config)

    def refuse_other_rows(self, captioner: Captioner) -> None:
        """Raises ConfigError, naming what differs, where a worker would make other rows than the run."""
        mine = fingerprint(self.config, captioner.prepared.spec, captioner.decoder.name)
        names = [name for name in sorted({*mine, *self.fingerprint}) if mine.get(name) != self.fingerprint.get(name)]
        if names:
            lines = (f"  {name}: {self.fingerprint.get(name)!r} in the run, {mine.get(name)!r} here" for name in names)
            raise ConfigError(
                "a worker would make other rows than the run:\n" + "\n".join(lines) + "\nGive all nodes the same image "
                "and the same engine directory; --decoder pillow decodes alike everywhere."
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a worker ended that could still say so."""

    error: RecapError | None = None
    """An error that every other worker would have, too: it ends the run."""
    failure: str | None = None
    """Why this worker broke; another one may not."""
    statistics: Statistics = field(default_factory=Statistics)


def _worker_config(config: RunConfig, on_gpus: bool) -> RunConfig:
    """The config of a worker, which runs in another folder and on a part of a machine."""
    threads = config.decode_threads
    if threads == default_decode_threads():  # of the driver's machine
        threads = max(2, config.ray_worker_cpus) if on_gpus else max(1, config.ray_worker_cpus // 2)
    return replace(
        config,
        engine=config.engine.absolute(),
        output=absolute(str(config.output)),
        options=replace(config.options, device="cuda" if on_gpus else "cpu"),
        decode_threads=threads,
    )
