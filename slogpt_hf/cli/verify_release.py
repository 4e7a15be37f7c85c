"""``slogpt-hf verify-release``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from slogpt_hf.cli import printable
from slogpt_hf.cli.options import (
    json_option,
    merged,
    print_json,
    progress_for,
    quiet_option,
    settings_options,
)

if TYPE_CHECKING:
    from slogpt_hf.hub.client import Hub
    from slogpt_hf.progress import Progress
    from slogpt_hf.verification import Verification

RENAMED = (
    "Was the repository renamed, verify and load the release by its old name. Else do not load it; "
    "ask its owner."
)


@click.command(
    "verify-release",
    epilog="Example: slogpt-hf verify-release me/my-model@v1.0.0 --public-key signing.pub",
)
@click.argument("release", metavar="REPO@TAG")
@settings_options("hub", "token_file", "oidc")
@click.option("--public-key", metavar="FILE", help="Public key that the release is signed with.")
@click.option(
    "--identity", metavar="NAME", help="Identity that it is signed with: an address or a URL."
)
@click.option(
    "--identity-provider", metavar="URL", help="OIDC provider that vouches for the identity."
)
@click.option(
    "--require-signature", is_flag=True, help="Fail where no signature was found and checked."
)
@click.option(
    "--download/--no-download",
    default=True,
    help="Download large files and hash them, or believe the hub's own digests.",
)
@click.option(
    "--load",
    is_flag=True,
    help="Load it as well, in a clean process without token and network, and continue a text.",
)
@json_option
@quiet_option
def command(
    release: str,
    public_key: str | None,
    identity: str | None,
    identity_provider: str | None,
    require_signature: bool,
    download: bool,
    load: bool,
    as_json: bool,
    quiet: bool,
    **flags: Any,
) -> None:
    """Check the published release REPO@TAG: its files, its proof, what it rests on, its signature.

    Every file is downloaded and hashed. Naming a key or an identity requires its signature. Exit
    code 0: all is as it was proven and signed; 4: something is not.
    """
    from slogpt_hf.hub.client import hub_of, require_hub_folder
    from slogpt_hf.libraries import LOADING, require_installed
    from slogpt_hf.signing import Signer
    from slogpt_hf.verification import ReleaseError, parse_release, verify_release

    if load:
        require_installed("--load", LOADING)
    repo_id, tag = parse_release(release)
    settings = merged(flags)
    require_hub_folder(settings)
    progress = progress_for(quiet or as_json)
    reason: Exception | None = None
    named = public_key or identity or identity_provider
    key = Path(public_key) if public_key else None
    with hub_of(settings, repo_id) as hub:
        result = verify_release(
            hub,
            repo_id,
            tag,
            signer=Signer(key, identity, identity_provider) if named else None,
            require_signature=require_signature,
            download=download,
            progress=progress,
        )
        if load:
            result, reason = _with_load(hub, result, progress)
    if as_json:
        print_json(result.to_dict())
    else:
        _print(result, settings.hub or result.endpoint)
    if result.failed:
        raise ReleaseError(
            f"{release} is not what was proven: {', '.join(result.failed)} failed.",
            hint=RENAMED if result.failed == ("record",) else "Do not load it; ask its owner.",
        ) from reason


def _with_load(
    hub: Hub, result: Verification, progress: Progress
) -> tuple[Verification, Exception | None]:
    """A verification with the check ``load``, and why that failed; what failed is not loaded."""
    from dataclasses import replace

    from slogpt_hf.smoke import LOAD, load_release
    from slogpt_hf.verification import Check, ReleaseError
    from slogpt_hf.verification.results import FAILED, NOT_CHECKED

    reason: Exception | None = None
    try:
        if result.failed:
            loaded = Check(LOAD, NOT_CHECKED, "what failed is not loaded")
        else:
            loaded = load_release(hub, result.repo_id, result.tag, progress=progress)
    except ReleaseError as error:
        loaded, reason = Check(LOAD, FAILED, error.message), error
    return replace(result, checks=(*result.checks, loaded)), reason


def _print(result: Verification, where: str) -> None:
    rows = [(check.name, check.status, check.detail) for check in result.checks]
    names, statuses = (max(len(row[column]) for row in rows) for column in (0, 1))
    click.echo(f"{result.repo_id}@{result.tag} on {where}, commit {result.commit}\n")
    for name, status, detail in rows:
        click.echo(f"{name:<{names}}  {status:<{statuses}}  {printable(detail)}")
    if result.others:
        click.echo(f"\nNot of the release: {printable(', '.join(result.others))}")
