"""What of the inputs is left to do, and what is done, by the records of an output folder. No engine need be there.

In go inputs and a folder, out come the shards as a run would name them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from recap_fast.addresses import public_url
from recap_fast.inputs import Inputs
from recap_fast.records import Shard, ShardReport
from recap_fast.shards.identity import identity, image_versions
from recap_fast.write.ledger import Ledger
from recap_fast.write.opening import Wanted
from recap_fast.write.output_folder import OutputFolder
from recap_fast.write.register import Register, Registration
from recap_fast.write.run_file import read_run_file


@dataclass(frozen=True, slots=True)
class Done:
    """What an output folder has in finished shards."""

    shards: int = 0
    rows: int = 0
    size_bytes: int = 0
    """Of the files with their captions."""


def find_remaining(inputs: Inputs, output: str | None) -> tuple[Sequence[Shard], Done]:
    """The shards that a run into a folder would do, and what it would find done.

    It would do all where there is no folder. Raises ConfigError where the folder is not as a run wrote it.
    """
    run = None if output is None else read_run_file(OutputFolder.at(output))
    if run is None or output is None:
        return Registration(Register(public_url(inputs.root)), image_versions).add(inputs), Done()
    wanted = Wanted(fingerprint=run.fingerprint, inputs=inputs, version_of=identity, versions_of=image_versions)
    ledger = Ledger(OutputFolder.at(output), wanted).find()
    pending = [each.shard for each in ledger.pending()]
    names = {shard.name for shard in pending}
    found = ledger.records([shard for shard in ledger.shards if shard.name not in names])
    records = [record for record in found if record is not None]
    return pending, Done(len(records), sum(record.rows for record in records), sum(map(_output_bytes, records)))


def _output_bytes(record: ShardReport) -> int:
    return 0 if record.output is None else record.output.size_bytes
