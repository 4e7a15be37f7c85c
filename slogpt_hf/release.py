"""The pipeline: plan, convert, verify, card, publish. Each stage hands its value to the next."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from slogpt_hf.build import (
    build_artefact,
    card_for,
    hash_checkpoint,
    identity_of,
    open_checkpoint,
    require_unchanged,
    today,
    tokenizer_for,
)
from slogpt_hf.card import require_card_options
from slogpt_hf.card.record import (
    CARD_FILE,
    RECORD_FILE,
    Record,
    artefact_files,
    dump_json,
    find_release,
    ledger,
    read_record,
)
from slogpt_hf.errors import UsageError
from slogpt_hf.files import staged_folder
from slogpt_hf.hub.client import Hub, open_hub, read_token
from slogpt_hf.hub.publish import (
    BranchMovedError,
    RepoState,
    create_tag,
    holds_release,
    publish_artefact,
    read_state,
    record_at,
)
from slogpt_hf.hub.versions import FIRST, next_version, require_ref, tag_from
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.settings import Settings
from slogpt_hf.watch import provenance_of

ATTEMPTS = 8  # at most so many other releases may come first


@dataclass(frozen=True)
class Release:
    """A release on the hub.

    Attributes:
        released: False if this checkpoint with these settings was released before.
        repo_id: NAMESPACE/NAME.
        version: semantic version.
        tag: of the release.
        commit: id of the Hub commit.
        endpoint: base URL of the hub.
        record: the release's ``release.json``.
    """

    released: bool
    repo_id: str
    version: str
    tag: str
    commit: str
    endpoint: str
    record: Record


def release_checkpoints(
    checkpoints: Sequence[Path], settings: Settings, progress: Progress = SILENT
) -> Iterator[Release]:
    """Release checkpoints one after the other: each is proven, then committed, then tagged.

    Args:
        checkpoints: files that the trainer saved.
        settings: where to and how; ``repo_id`` is needed.
        progress: told what happens.

    Yields:
        One Release a checkpoint, as soon as it is published.

    Raises:
        UsageError: a path or setting that cannot be meant.
        CheckpointError: a checkpoint or vocabulary that cannot be read.
        ParityError: an artefact that is not equal to its original; it is not published.
        HubError: the hub refused or could not be reached.
        TagConflictError: the tag exists with other content.
    """
    repo_id = _preflight(settings)
    if settings.output and len(checkpoints) > 1:
        raise UsageError("--output takes one checkpoint at a time.", hint="Leave --output out.")
    with _hub(settings) as hub:
        for path in checkpoints:
            checkpoint = open_checkpoint(path, settings)
            choice = tokenizer_for(checkpoint, settings)
            _tag(settings, FIRST, checkpoint.facts.step, provenance_of(path).branch, today())
            digest = hash_checkpoint(checkpoint, progress)
            state = read_state(hub, repo_id, settings.revision)
            wanted = identity_of(digest, checkpoint, choice, settings)
            if published := _published(hub, repo_id, state, wanted):
                yield published
                continue
            with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
                folder = Path(settings.output or Path(temporary, "artefact"))
                with staged_folder(folder) as work:
                    build_artefact(checkpoint, choice, digest, work, settings, progress)
                published = _publish(hub, repo_id, folder, settings, state, progress)
            yield published


def push(artefact: Path, settings: Settings, progress: Progress = SILENT) -> Release:
    """Publish a proven artefact that ``convert`` made, unless it was published before.

    Raises:
        UsageError: ``artefact`` is none, or a setting cannot be meant.
        ParityError: a file of it changed since it was proven.
        HubError: the hub refused or could not be reached.
        TagConflictError: the tag exists with other content.
    """
    repo_id = _preflight(settings)
    record = read_record(artefact)
    require_unchanged(artefact, record)
    with _hub(settings) as hub:
        state = read_state(hub, repo_id, settings.revision)
        published = _published(hub, repo_id, state, record["identity"])
        return published or _publish(hub, repo_id, artefact, settings, state, progress)


def _publish(
    hub: Hub,
    repo_id: str,
    folder: Path,
    settings: Settings,
    state: RepoState,
    progress: Progress,
) -> Release:
    """Publish a finished artefact; where other releases come first, plan again behind them."""
    record = read_record(folder)
    for _ in range(ATTEMPTS):
        try:
            return _publish_behind(state, hub, repo_id, folder, record, settings, progress)
        except BranchMovedError as error:
            moved = error
            progress.line(f" publish: {error.message} Reading the repository again.")
        state = read_state(hub, repo_id, settings.revision)
        if published := _published(hub, repo_id, state, record["identity"]):
            return published
    raise moved


def _publish_behind(
    state: RepoState,
    hub: Hub,
    repo_id: str,
    folder: Path,
    record: Record,
    settings: Settings,
    progress: Progress,
) -> Release:
    """Stamp record and card with version and tag, commit everything, tag the commit."""
    version = next_version(state.last, record["model"], state.tags)
    branch, step = record["source"]["branch"], record["checkpoint"]["step"]
    tag = _tag(settings, version, step, branch, record["date"])
    stamps = {"repo_id": repo_id, "version": version, "tag": tag, "previous": ledger(state.last)}
    record = record | stamps
    texts = {RECORD_FILE: dump_json(record), CARD_FILE: card_for(folder, record, settings)}
    files = artefact_files(folder)
    with tempfile.TemporaryDirectory() as stamped:
        for name, text in texts.items():
            files[name] = Path(stamped, name)
            files[name].write_text(text, encoding="utf-8")
        n_bytes = sum(path.stat().st_size for path in files.values())
        with progress.client_stage("upload", n_bytes):
            commit = publish_artefact(
                hub,
                repo_id,
                files,
                tag=tag,
                revision=settings.revision,
                state=state,
                message=_message(version, tag),
                private=settings.private,
            )
    return Release(True, repo_id, version, tag, commit, hub.endpoint, record)


def _published(hub: Hub, repo_id: str, state: RepoState, wanted: str) -> Release | None:
    """The release with this identity, if the hub holds it; one that lacks its tag gets it."""
    entry = find_release(state.last, wanted)
    if entry is None:
        return None
    version, tag = entry["version"], entry["tag"]
    if commit := state.tags.get(tag):
        tagged = state.record if commit == state.head else record_at(hub, repo_id, commit)
        if tagged is None or tagged["identity"] != wanted:
            return None  # the tag names something else, whatever the ledger says
        return Release(False, repo_id, version, tag, commit, hub.endpoint, tagged)
    if not (state.head and state.record and state.record["identity"] == wanted):
        return None
    if not holds_release(hub, repo_id, state.head, state.record):
        return None
    # Stopped between commit and tag: the tag is all that is missing.
    create_tag(hub, repo_id, tag, state.head, _message(version, tag))
    return Release(True, repo_id, version, tag, state.head, hub.endpoint, state.record)


def _message(version: str, tag: str) -> str:
    return f"Release {version}" if tag == f"v{version}" else f"Release {version} ({tag})"


def _preflight(settings: Settings) -> str:
    """Find what cannot be meant before anything takes long; the repository to release to."""
    if settings.repo_id is None:
        raise UsageError("No repository is named.", hint="Pass --repo-id NAMESPACE/NAME.")
    require_ref(settings.revision, "revision")
    require_card_options(settings.license, settings.languages, settings.template)
    return settings.repo_id


def _tag(settings: Settings, version: str, step: int | None, branch: str | None, date: str) -> str:
    values = {"version": version, "step": step, "branch": branch, "date": date}
    return tag_from(settings.tag, values)


@contextmanager
def _hub(settings: Settings) -> Iterator[Hub]:
    folder = Path(settings.hub) if settings.hub else None
    with open_hub(folder, read_token(settings.token_file)) as hub:
        yield hub
