"""`recap-fast score`."""

import contextlib
import os
import sys
from typing import TYPE_CHECKING, Any

import click

from recap_fast.cli import options
from recap_fast.cli.command import Command, group, option
from recap_fast.cli.messages import flush_streams, outcome_with_sentence, quiet, writing
from recap_fast.cli.progress import bar
from recap_fast.cli.scorers import make_sample, make_scorer
from recap_fast.errors import ExitCode

if TYPE_CHECKING:
    from recap_fast.launch.signals import Signals

EXAMPLES = """
\b
Examples:
  recap-fast score captions --model clip-vit-large-patch14
  recap-fast score captions --model longclip --kind softmax
  recap-fast score captions --kind rating --sample 10000 \\
    --endpoint http://localhost:8000/v1 --judge Qwen/Qwen3-VL-8B-Instruct
"""


@click.command(cls=Command, short_help="Score captions by how well they fit their images.", epilog=EXAMPLES)
@click.argument("output", type=options.OUTPUT)
@group(
    "Input",
    option("--model", type=options.ANY_PATH, metavar="DIR", help="Folder of the CLIP, LongCLIP or SigLIP that scores."),
    options.inputs("Where the images are now. Repeatable.  [default: where the run found them]"),
    options.relocate,
    options.read_timeout,
)
@group(
    "Output",
    option(
        "--kind",
        type=click.Choice(["cosine", "softmax", "rating"]),
        default="cosine",
        help="Score to compute: cosine or softmax by a CLIP, rating by a judge.",
    ),
    option("--sample", type=int, metavar="N", help="Score about N images, chosen at random.  [default: all]"),
    option("--seed", type=int, default=0, metavar="N", help="Random seed for --sample."),
    option("--overwrite", is_flag=True, help="Replace scores that were made with other settings."),
)
@group(
    "Speed",
    options.device,
    option(
        "--precision",
        type=click.Choice(["float32", "bfloat16", "float16"]),
        default="float32",
        help="Precision of the model. Lower ones change scores by up to some tenths.",
    ),
    option("--batch-size", type=int, metavar="N", help="Images in a batch.  [default: 16 on a CPU, 256 on a GPU]"),
    option("--decode-threads", type=int, metavar="N", help="Decode images with N threads.  [default: half the CPUs]"),
    options.decoder,
)
@group(
    "Rating",
    option("--endpoint", metavar="URL", help="Address of an OpenAI-compatible API. OPENAI_API_KEY has its key."),
    option("--judge", metavar="NAME", help="Model at the endpoint that rates. It must accept images."),
    option("--concurrency", type=int, default=4, metavar="N", help="Number of images rated at the same time."),
    option("--price-per-million-tokens", type=float, metavar="DOLLARS", help="Price of the judge. Estimates the cost."),
    option(
        "--max-error-rate",
        type=float,
        default=0.1,
        metavar="SHARE",
        help="Exit with code 3 if a larger share of captions has no rating.",
    ),
)
def score(output: str, **given: Any) -> None:
    """Scores how well the captions in the folder OUTPUT fit their images, both the new and the original captions.

    The scores go to OUTPUT/scores, one file for each finished shard. Run the same command again to go on where it
    stopped, or after more shards are finished. SIGTERM, SIGINT (Ctrl-C) and SIGUSR1 stop it.

    --kind cosine is the cosine similarity of image and caption, times 100. softmax divides 100 between the two captions
    of an image. rating asks a judge for a number from 1 to 5, with the prompt of the paper.

    Exit codes: 0 complete; 1 a shard could not be scored; 2 usage; 3 more captions have no rating than --max-error-rate
    allows; 75 stopped by a signal.
    """
    from recap_fast.launch.signals import STOPPED, Signals, Stopped

    try:
        with Signals(0.0) as signals:
            code = outcome_with_sentence(
                lambda: _score(output, given, signals), lambda text: click.echo(text, err=True)
            )
    except Stopped:
        click.echo(STOPPED, err=True)
        flush_streams()
        os._exit(ExitCode.DRAINED)  # what hangs in a read must not keep the process
    sys.exit(code)


def _score(output: str, given: dict[str, Any], signals: "Signals") -> ExitCode:
    from recap_fast.joined import JoinedOutput
    from recap_fast.score.scoring import Scoring
    from recap_fast.score.summary import summary
    from recap_fast.shards.patience import patience
    from recap_fast.write.output_folder import OutputFolder

    joined = JoinedOutput.open(OutputFolder.at(output), given["shards"], given["relocate"])
    with (
        patience(given["read_timeout"]),
        bar("scoring") as shown,
        contextlib.closing(make_scorer(given, shown.say)) as scorer,
        quiet(),  # `run` gave its warnings when it read the same inputs
        writing("OUTPUT", output),
    ):
        scoring = Scoring(joined, scorer, shown.show, make_sample(given), signals.check)
        totals = scoring.run(given["overwrite"])
    click.echo(summary(scoring, totals))
    for shard, reason in scoring.failed.items():
        click.echo(f"shard {shard} was not scored: {reason}", err=True)
    if scoring.failed:
        return ExitCode.FAILURE
    is_too_many = scorer.error_rate > given["max_error_rate"]
    return ExitCode.ERROR_RATE if is_too_many else ExitCode.COMPLETE
