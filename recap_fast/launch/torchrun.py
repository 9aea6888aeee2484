"""How a process that torchrun started ends: torchrun stops all others as soon as one ends with another code than 0.

A shard that cannot be read, or too many images without a caption, is no reason to stop who has work left. So the last
process that ends has the exit code for all of them. They count themselves in the store that torchrun keeps for them.
"""

import datetime
import hashlib
import os
import socket
from collections.abc import Mapping

from recap_fast.errors import ExitCode
from recap_fast.launch.reporter import Reporter
from recap_fast.ranks import torchrun_rank

_FROM_THE_WORST = (ExitCode.FAILURE, ExitCode.ERROR_RATE)
TIMEOUT_S = 30.0
"""For the store to answer: it is in the same machine or cluster."""


def exit_code(outcome: ExitCode, output: str, reporter: Reporter, environ: Mapping[str, str] = os.environ) -> ExitCode:
    """The code to end with after a run into `output` with this outcome.

    It is the outcome itself unless torchrun started this process; then 0 while others are at work, and for the last one
    the worst outcome of all. A run that a signal stopped has not ended, and keeps its code.
    """
    if outcome == ExitCode.DRAINED or environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return outcome
    rank = torchrun_rank(environ)
    if rank is None or rank.num == 1:
        return outcome
    try:
        is_last, worst = _count(outcome, output, rank.num, environ)
    except (KeyError, ValueError, OSError, RuntimeError) as error:
        reporter.event("warning", f"torchrun's store does not answer, so this process ends with its own code: {error}")
        return outcome
    code = worst if is_last else ExitCode.COMPLETE
    if code != outcome:
        if is_last:
            text = f"Other processes of torchrun had failures: this one ends last, and with code {int(code)}."
        else:
            text = (
                f"Other processes of torchrun are at work: this one ends with code 0, the last one with {int(outcome)}."
            )
        reporter.event("exit_code", text, exit_code=int(code), outcome=outcome.name.lower())
    return code


def _count(outcome: ExitCode, output: str, num: int, environ: Mapping[str, str]) -> tuple[bool, ExitCode]:
    """Whether all have ended now, and the worst of what they came to."""
    from torch.distributed import PrefixStore, TCPStore  # type: ignore[attr-defined]

    host, port = environ["MASTER_ADDR"], int(environ["MASTER_PORT"])
    socket.create_connection((host, port), TIMEOUT_S).close()  # TCPStore tries twice as long, and shows where in C++
    store = TCPStore(
        host,
        port,
        is_master=False,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
        wait_for_workers=False,
    )
    name = hashlib.sha256(os.fsencode(output)).hexdigest()[:16]
    mine = PrefixStore(f"recap-fast/{name}/{environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
    mine.add(outcome.name, 1)  # before the process counts as ended: the last one finds the outcomes of all
    is_last = mine.add("ended", 1) >= num
    return is_last, next((each for each in _FROM_THE_WORST if mine.add(each.name, 0)), ExitCode.COMPLETE)
