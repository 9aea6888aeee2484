"""`run` and `verify` as functions, with the options of the commands by the same names.

They return results, and write nothing to the terminal unless asked; what cannot be used raises ConfigError.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from recap_fast.launch.config import RunConfig, RunOptions
from recap_fast.launch.execute import run as launch
from recap_fast.launch.reporter import Reporter, ReporterHandler
from recap_fast.launch.result import RunResult
from recap_fast.launch.verification import verify as check
from recap_fast.progress import OnProgress, unwatched
from recap_fast.shards.patience import patience
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.verify import Verdict

Patterns = str | Path | Sequence[str | Path]


def run(
    engine: str | Path,
    shards: Patterns,
    output: str | Path,
    *,
    log_format: Literal["text", "json"] | None = None,
    **options: Unpack[RunOptions],
) -> RunResult:
    """Captions shards of images into the folder `output`, or goes on there where an earlier run stopped.

    `shards` are tars, Parquet files or folders of images, as for `recap-fast run`. `log_format` says how progress is
    shown on standard error; None shows nothing. Raises ConfigError, EngineError, and OSError where output cannot be
    written; what is finished by then stays.
    """
    given = {"engine": Path(engine), "shards": _patterns(shards), "output": str(output), **options}
    reporter, logger = Reporter(log_format), logging.getLogger("recap_fast")
    handler = ReporterHandler(reporter) if log_format else logging.NullHandler()
    logger.addHandler(handler)
    try:
        config = RunConfig.of(given)
        with patience(config.read_timeout):
            return launch(config, reporter)
    finally:
        logger.removeHandler(handler)


def verify(
    output: str | Path,
    shards: Patterns = (),
    *,
    relocate: Sequence[str] = (),
    read_timeout: float = 30.0,
    progress: OnProgress = unwatched,
) -> Verdict:
    """Proves that the output of a run is whole; with `shards`, also that each row is of the image that it names.

    `shards` are as they were given to `run`, and are read again; `relocate` names folders of them that were moved,
    each as 'OLD=NEW'. A read that brings nothing for `read_timeout` seconds is given up. `progress` is called with
    checks done and checks in all: one of each shard, and a second one with its input. The output is proven where the
    verdict has no faults.
    """
    return check(OutputFolder.at(output), _patterns(shards), relocate, read_timeout, progress)


def _patterns(shards: Patterns) -> tuple[str, ...]:
    return (str(shards),) if isinstance(shards, str | Path) else tuple(map(str, shards))
