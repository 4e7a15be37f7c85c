"""``slogpt-hf doctor``."""

from __future__ import annotations

import click

from slogpt_hf.cli.options import json_option, print_json


@click.command("doctor", epilog="Example: slogpt-hf doctor")
@json_option
def command(as_json: bool) -> int:
    """Show what is installed, what is missing and what to do about it.

    Exit code 0 if everything that a release needs is there, 2 otherwise.
    """
    from slogpt_hf.doctor import examine

    findings = examine()
    if as_json:
        print_json([vars(finding) for finding in findings])
    else:
        width = max(len(finding.name) for finding in findings)
        for finding in findings:
            mark = "ok" if finding.ok else "MISSING" if finding.required else "-"
            click.echo(f"{mark:>7}  {finding.name:<{width}}  {finding.found}")
            if not finding.ok and finding.advice:
                click.echo(f"{'':>7}  {'':<{width}}  -> {finding.advice}")
    return 0 if all(finding.ok or not finding.required for finding in findings) else 2
