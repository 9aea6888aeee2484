"""Joins an open engine, an open output and inputs to a pipeline."""

from dataclasses import replace

from recap_fast.captioner.captioner import Captioner
from recap_fast.launch.config import RunConfig
from recap_fast.launch.what_runs import find_provenance
from recap_fast.pipeline.counters import RunCounters
from recap_fast.pipeline.pipeline import Pipeline
from recap_fast.shards.reader import open_shard
from recap_fast.write.ledger import Ledger

WINDOW_SLOTS = 4
"""Samples read and not yet written in order, in multiples of the slots: a caption of the longest kind sits in its slot
while some three of mean length come and go in each of the others."""


def make_pipeline(captioner: Captioner, ledger: Ledger, counters: RunCounters, config: RunConfig) -> Pipeline:
    """A pipeline that captions what the ledger's run selects of each shard, as `config` has it."""
    selection = ledger.wanted.inputs.selection
    return Pipeline(
        lambda shard, should_stop: open_shard(shard, selection, should_stop),
        captioner,
        replace(ledger, provenance=find_provenance(captioner)),
        counters,
        limit=config.limit,
        window=WINDOW_SLOTS * captioner.engine.free_slots + 512,
        dedup=config.dedup and captioner.config.options.sampling.is_greedy,
    )
