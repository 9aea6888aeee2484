"""A run on a Ray cluster: what is done in the driver's process. Workers do the rest."""

from recap_fast.launch.cluster.connection import connect
from recap_fast.launch.cluster.supervisor import Supervisor
from recap_fast.launch.cluster.task import Task
from recap_fast.launch.cluster.totals import Totals
from recap_fast.launch.conclusion import conclude, conclude_drained
from recap_fast.launch.messages import announce, describe, say_held, summarize
from recap_fast.launch.observers import Observers
from recap_fast.launch.plan import Plan
from recap_fast.launch.reporter import Reporter
from recap_fast.launch.result import RunResult
from recap_fast.launch.signals import Signals
from recap_fast.write.ledger import Ledger, Pending


def caption(
    plan: Plan,
    ledger: Ledger,
    pending: list[Pending],
    reporter: Reporter,
    observers: Observers,
    signals: Signals | None,
) -> RunResult:
    """Captions these shards on the cluster that the config names. Raises as `execute.run`."""
    config = plan.config
    assert config.ray is not None
    num_rows, kept = plan.count_images(pending), plan.count_kept(ledger, pending)
    totals = Totals(len(pending), num_rows=num_rows, kept=kept, limit=config.limit)
    announce(reporter, plan.captioner, pending, len(ledger.shards))
    with observers.informed(ledger.output, [shard.name for shard in ledger.shards], totals.snapshot):
        with connect(config.ray, config.runtime_env) as cluster:
            on_gpus = config.options.device == "cuda" or (config.options.device == "auto" and cluster.has_gpus())
            decoder = plan.captioner.decoder.name
            if on_gpus and config.decoder == "auto" and decoder == "pillow":
                text = (
                    "notice   workers decode with Pillow, as this machine would; --decoder dali decodes on their GPUs"
                )
                reporter.event("notice", text)
            run = Supervisor(
                cluster=cluster,
                coordinator=cluster.start_coordinator(),
                shards=[each.shard for each in pending],
                task=Task.of(config, ledger, decoder=decoder, on_gpus=on_gpus),
                needs={"num_cpus": config.ray_worker_cpus, **({"num_gpus": 1} if on_gpus else {})},
                totals=totals,
                reporter=reporter,
                on_device=observers.found,
            )
            describe(ledger.output, plan.captioner)
            if signals is not None:
                signals.drain_with(run.drain)
            with reporter.progress(totals), observers.recording(None, lambda: run.drained):
                run.run()
        describe(ledger.output, plan.captioner)  # once more: other shards are finished now
        summarize(reporter, totals.snapshot(), plan.captioner, ledger.output, run.statistics)
        say_held(reporter, observers.work())
        reports = list(run.reports.values())
        ledger.sweep([report.shard for report in reports if report.status == "complete"])
        if run.drained:
            return conclude_drained(plan, reports, totals, reporter, run.statistics)
        return conclude(plan, ledger, reports, totals, reporter, run.statistics)
