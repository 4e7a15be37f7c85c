"""``slogpt-hf init``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import json_option, print_json, settings_options
from slogpt_hf.errors import UsageError
from slogpt_hf.onboarding.platforms import CREDENTIALS, PLATFORMS, WITH_OIDC
from slogpt_hf.settings import Settings, load_settings

if TYPE_CHECKING:
    from slogpt_hf.onboarding.survey import Survey
    from slogpt_hf.onboarding.writing import Change

MOST_SHOWN = 5


@click.command("init", epilog="Example: slogpt-hf init --ci github --repo-id me/my-model")
@settings_options("repo_id")
@click.option("--ci", type=click.Choice(list(PLATFORMS)), help="CI to write files for.")
@settings_options("branches", "checkpoints", "dataset", "tokenizer", "license")
@click.option(
    "--credentials",
    type=click.Choice(CREDENTIALS),
    help="A stored token, or the CI's identity (trusted publishing).  [default: token]",
)
@click.option("--yes", "-y", is_flag=True, help="Ask nothing.")
@click.option("--force", is_flag=True, help="Overwrite files that differ.")
@click.option("--dry-run", is_flag=True, help="Show what would be written, and write nothing.")
@click.option("--schema", is_flag=True, help="Print the JSON Schema of .slogpt-hf.yml and end.")
@json_option
def command(
    ci: str | None,
    credentials: str | None,
    yes: bool,
    force: bool,
    dry_run: bool,
    schema: bool,
    as_json: bool,
    **flags: Any,
) -> None:
    """Look at the repository and write what its CI needs to release from it.

    Writes the CI's file and a commented .slogpt-hf.yml, and says which secret goes where. Files
    that are there already stay as they are.
    """
    if schema:
        from slogpt_hf.onboarding.schema import schema as schema_of_settings

        print_json(schema_of_settings())
        return
    from slogpt_hf.onboarding.choosing import choose, likely_ci, proposed_settings
    from slogpt_hf.onboarding.guidance import next_steps
    from slogpt_hf.onboarding.survey import look_at
    from slogpt_hf.onboarding.writing import credentials_at_hand, plan_changes, write_changes

    folder = Path()
    survey = look_at(folder)
    saved = load_settings({}, {}, folder)
    settings = proposed_settings(survey, saved, flags)
    asks = sys.stdin.isatty() and not yes and not as_json
    if not as_json:
        _show_survey(survey, settings)
    if asks:
        found = likely_ci(survey)
        ci = ci or (found[0] if len(found) == 1 else _ask_ci(found))
        settings = _ask_settings(settings, survey.slug, flags["license"] or saved.repo_id)
    choices = choose(survey, settings, ci, credentials)
    if credentials is None:
        found_credentials = credentials_at_hand(folder, choices)
        if found_credentials is None and asks and choices.ci in WITH_OIDC:
            found_credentials = _ask_credentials()
        choices = replace(choices, credentials=found_credentials or choices.credentials)
    changes = plan_changes(folder, choices)
    statuses = {change.path: change.status for change in changes}
    pending = [change for change in changes if change.status in ("new", "differs")]
    if not as_json:
        _show_changes(changes, dry_run, force)
    if not dry_run:
        if asks and pending and (force or "differs" not in statuses.values()):
            click.confirm("Write this?", default=True, abort=True, err=True)
        write_changes(folder, changes, force)
    steps = next_steps(survey, choices, changes)
    if as_json:
        print_json(
            {
                "ci": choices.ci,
                "repo_id": choices.settings.repo_id,
                "credentials": choices.credentials,
                "checkpoints": [vars(each) for each in survey.checkpoints],
                "datasets": survey.datasets,
                "branches": choices.settings.branches,
                "files": statuses,
                "written": [] if dry_run else [change.path for change in pending],
                "next": steps,
            }
        )
    elif not pending:
        click.echo("Nothing to change.")
    if not as_json and (pending or "yours" in statuses.values()):
        click.echo("\nNext:" if not dry_run else "\nNext would be:")
        for number, step in enumerate(steps, 1):
            for line in f"  {number}. {step}".splitlines():
                click.echo(printable(line))


def _ask_ci(found: tuple[str, ...]) -> str:
    known = click.Choice(list(PLATFORMS))
    answer: str = click.prompt("CI", type=known, default=(*found, None)[0], err=True)
    return answer


def _ask_settings(settings: Settings, slug: str | None, is_license_known: object) -> Settings:
    def valid(text: str) -> Settings:
        try:
            return replace(settings, repo_id=text.strip())
        except UsageError as error:
            raise click.UsageError(str(error)) from error

    if settings.repo_id is None:
        likely = slug if slug and slug.count("/") == 1 else None
        question = "Hub repository to release to, NAMESPACE/NAME"
        settings = click.prompt(question, default=likely, value_proc=valid, err=True)
    if not is_license_known:
        question = "License of the model, as the Hub spells it (mit, apache-2.0, ...)"
        answer = click.prompt(question, default=settings.license, err=True)
        settings = replace(settings, license=answer.strip())
    return settings


def _ask_credentials() -> str:
    question = "Publish with a stored token, or as a trusted publisher (oidc)"
    answer: str = click.prompt(question, type=click.Choice(CREDENTIALS), default="token", err=True)
    return answer


def _show_survey(survey: Survey, settings: Settings) -> None:
    checkpoints = [
        f"{each.path} ({each.dialect or 'not read'}, {'in git' if each.is_tracked else 'on disk'}"
        f"{', Git LFS' if each.is_lfs else ''})"
        for each in survey.checkpoints
    ]
    rows = {
        "checkpoints": checkpoints,
        "datasets": survey.datasets,
        "tokenizers": survey.tokenizers,
        "releases": [f"{' '.join(settings.checkpoints)} on {' '.join(settings.branches)}"],
    }
    for name, values in rows.items():
        more = f", and {len(values) - MOST_SHOWN} more" if len(values) > MOST_SHOWN else ""
        shown = ", ".join(values[:MOST_SHOWN]) + more
        click.echo(f"{name:<12} {printable(shown) or 'none found'}")
    for each in survey.checkpoints:
        if each.problem:
            click.echo(f"{'note':<12} {printable(each.problem)}")


def _show_changes(changes: tuple[Change, ...], dry_run: bool, force: bool) -> None:
    click.echo()
    for change in changes:
        click.echo(f"{change.status:<12} {change.path}")
    for change in changes:
        if (change.status == "differs" and not force) or (dry_run and not change.is_same):
            click.echo()
            for line in change.diff:
                click.echo(printable(line))
