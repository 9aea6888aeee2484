"""The commands for captions that are written: look at them, score them, hand them on, make one again."""

from recap_fast.cli.export import export
from recap_fast.cli.replay import replay
from recap_fast.cli.report import report
from recap_fast.cli.score import score

COMMANDS = report, score, export, replay
