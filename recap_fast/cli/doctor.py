"""`recap-fast doctor`."""

import dataclasses
import json

import click

from recap_fast.cli.command import Command, group, option


@click.command(cls=Command, short_help="Say what this machine can do, and what to install.")
@group("Output", option("--json", "as_json", is_flag=True, help="Print JSON instead of lines."))
def doctor(as_json: bool) -> None:
    """Says what this machine can do, and what to install for the rest.

    Exits with 1 if no engine can run here.
    """
    from recap_fast.doctor import examine

    findings = examine()
    if as_json:
        click.echo(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            click.echo(f"{finding.name:<12}{finding.text}")
        if missing := sorted(item for finding in findings for item in finding.install.items()):
            click.echo("\nTo add what is missing, run those of these lines that you need:")
            for package, what in missing:
                click.echo(f"  pip install {package:<20}  # {what}")
    if any(finding.is_fatal for finding in findings):
        raise SystemExit(1)
