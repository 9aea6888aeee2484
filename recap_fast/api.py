"""`run` and `verify` as functions, with the options of the commands by the same names.

They return results, and write nothing to the terminal unless asked; what cannot be used raises ConfigError.
"""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Unpack

from recap_fast.launch.config import RunConfig, RunOptions, relocation, selection_of
from recap_fast.launch.execute import run as launch
from recap_fast.launch.reporter import Reporter, ReporterHandler
from recap_fast.launch.result import RunResult
from recap_fast.records import Selection
from recap_fast.shards.expand import expand
from recap_fast.shards.identity import identity, image_versions
from recap_fast.shards.reader import open_shard
from recap_fast.write.compare import InputsToCompare
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.run_file import read_run_file
from recap_fast.write.verify import Verdict
from recap_fast.write.verify import verify as check

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
    given = {"engine": Path(engine), "shards": _patterns(shards), "output": Path(output), **options}
    reporter, logger = Reporter(log_format), logging.getLogger("recap_fast")
    handler = ReporterHandler(reporter) if log_format else logging.NullHandler()
    logger.addHandler(handler)
    try:
        return launch(RunConfig.of(given), reporter)
    finally:
        logger.removeHandler(handler)


def verify(output: str | Path, shards: Patterns = (), *, relocate: Sequence[str] = ()) -> Verdict:
    """Proves that the output of a run is whole; with `shards`, also that each row is of the image that it names.

    `shards` are as they were given to `run`, and are read again; `relocate` names folders of them that were moved,
    each as 'OLD=NEW'. The output is proven where the verdict has no faults.
    """
    folder, patterns = OutputFolder(Path(output)), _patterns(shards)
    if not patterns:
        return check(folder)
    run = read_run_file(folder)
    selection = Selection() if run is None else selection_of(run.fingerprint)
    inputs = InputsToCompare(
        inputs=expand(patterns, selection),
        open_shard=lambda shard: open_shard(shard, selection),
        version_of=identity,
        versions_of=image_versions,
        relocate=tuple(map(relocation, relocate)),
    )
    return check(folder, inputs)


def _patterns(shards: Patterns) -> tuple[str, ...]:
    return (str(shards),) if isinstance(shards, str | Path) else tuple(map(str, shards))
