"""The pipeline: plan, convert, verify, card, publish. Each stage hands its value to the next."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from slogpt_hf.build import (
    build_artefact,
    hash_checkpoint,
    identity_of,
    open_checkpoint,
    today,
    tokenizer_for,
)
from slogpt_hf.card import require_card_options
from slogpt_hf.card.record import Record, read_record
from slogpt_hf.dataset_release import dataset_for, publish_dataset
from slogpt_hf.errors import UsageError
from slogpt_hf.files import sha256_of, staged_folder
from slogpt_hf.hub.client import Hub, hub_of
from slogpt_hf.hub.publish import (
    Publication,
    TagTakenError,
    publish_artefact,
)
from slogpt_hf.hub.releases import Release, branch_for, published_release
from slogpt_hf.hub.rounds import BranchMovedError, until_settled
from slogpt_hf.hub.state import RepoState, read_state
from slogpt_hf.hub.uploads import Uploads
from slogpt_hf.hub.versions import next_version, ref_from
from slogpt_hf.naming import (
    message_of,
    require_names,
    require_publishable,
    revision_of,
    tag_of,
    template_values,
)
from slogpt_hf.parity.stated import stated
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.publishable import require_level, require_unchanged
from slogpt_hf.settings import Settings
from slogpt_hf.signing import require_signing
from slogpt_hf.stamping import stamped
from slogpt_hf.watch import Provenance, provenance_of
from slogpt_hf.watch.event import Event

__all__ = ["Release", "push", "release_checkpoints"]

OVERLAPPED_BYTES = 64 * 1024 * 1024  # larger files of an artefact are hashed while they are sent


def release_checkpoints(
    checkpoints: Sequence[Path],
    settings: Settings,
    progress: Progress = SILENT,
    source: Provenance | None = None,
    event: Event | None = None,
    with_dataset: str | None = None,
) -> Iterator[Release]:
    """Release checkpoints one after the other: each is proven, then committed, then tagged.

    Args:
        checkpoints: files that the trainer saved.
        settings: where to and how; ``repo_id`` is needed.
        progress: told what happens.
        source: where the checkpoints come from; by default the git repository around each.
        event: of the CI at hand.
        with_dataset: NAMESPACE/NAME that the dataset of each checkpoint is published as, before
            the model, whose card names it; where nothing is released, neither is the dataset.

    Yields:
        One Release a checkpoint, as soon as it is published.

    Raises:
        UsageError: a path or setting that cannot be meant.
        CheckpointError: a checkpoint or vocabulary that cannot be read.
        ParityError: an artefact that is not equal to its original, or whose proof rests on less
            than ``require_witness`` asks for; it is not published.
        HubError: the hub refused or could not be reached.
        TagConflictError: the tag exists with other content.
    """
    repo_id = _preflight(settings)
    if with_dataset:
        replace(settings, repo_id=with_dataset)  # raises where it is no name
    if settings.output and len(checkpoints) > 1:
        raise UsageError("--output takes one checkpoint at a time.", hint="Leave --output out.")
    with hub_of(settings, repo_id, progress.line) as hub:
        for path in checkpoints:
            checkpoint = open_checkpoint(path, settings)
            choice = tokenizer_for(checkpoint, settings)
            found = source or provenance_of(path, checkpoint.files, event)
            values = template_values(checkpoint.facts.step, found.branch, today())
            require_names(settings, values)
            digest = hash_checkpoint(checkpoint, progress)
            wanted = identity_of(digest, checkpoint, choice, settings)
            if with_dataset:
                dataset = dataset_for(path, choice.dataset, settings)
            state = read_state(hub, repo_id, revision_of(settings, values))
            if published := published_release(hub, state, wanted, tag_of(settings, values)):
                yield published
                continue
            require_publishable(hub, state, settings, tag_of(settings, values))
            with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
                folder = Path(settings.output or Path(temporary, "artefact"))
                with staged_folder(folder) as work:
                    build_artefact(checkpoint, choice, digest, work, settings, found, progress)
                if with_dataset:
                    publish_dataset(dataset, with_dataset, settings, progress)
                published = _publish(hub, folder, settings, state, progress, with_dataset)
            yield published


def push(artefact: Path, settings: Settings, progress: Progress = SILENT) -> Release:
    """Publish a proven artefact that ``convert`` made, unless it was published before.

    Raises:
        UsageError: ``artefact`` is none, or a setting cannot be meant.
        ParityError: a file of it changed since it was proven, or its proof rests on less than
            ``require_witness`` asks for.
        HubError: the hub refused or could not be reached.
        TagConflictError: the tag exists with other content.
    """
    repo_id = _preflight(settings)
    record = read_record(artefact)
    require_unchanged(artefact, record, OVERLAPPED_BYTES)
    require_level(stated(record["parity"]), settings.require_witness, artefact, again=True)
    values = _record_values(record)
    require_names(settings, values)
    with hub_of(settings, repo_id, progress.line) as hub:
        state = read_state(hub, repo_id, revision_of(settings, values))
        if published := published_release(hub, state, record["identity"], tag_of(settings, values)):
            return published
        require_publishable(hub, state, settings, tag_of(settings, values))
        return _publish(hub, artefact, settings, state, progress)


def _publish(
    hub: Hub,
    folder: Path,
    settings: Settings,
    state: RepoState,
    progress: Progress,
    dataset_id: str | None = None,
) -> Release:
    """Publish a finished artefact; where other releases come first, plan again behind them."""
    record = read_record(folder)
    if dataset_id:
        record |= {"dataset_id": dataset_id}
    tag = tag_of(settings, _record_values(record))
    uploads = Uploads(hub, state.repo_id, settings.transfer)
    # A repository that was there and vanished meanwhile is not made again: it might become public.
    create = settings.create and not state.exists
    return until_settled(
        hub,
        state,
        lambda state: _publish_behind(
            state, hub, folder, record, settings, progress, uploads, create
        ),
        lambda state: published_release(hub, state, record["identity"], tag),
    )


def _publish_behind(
    state: RepoState,
    hub: Hub,
    folder: Path,
    record: Record,
    settings: Settings,
    progress: Progress,
    uploads: Uploads,
    create: bool,
) -> Release:
    """Stamp record and card with version and tag, sign, commit everything, tag the commit."""
    version = next_version(state.last, record["model"], state.tags, settings.tag)
    values = _record_values(record) | {"version": version}
    tag = ref_from(settings.tag, values)
    branch = branch_for(settings.promote, record, state)
    message = message_of(settings, values, tag)
    stamps = {
        "repo_id": state.repo_id,
        "version": version,
        "tag": tag,
        "previous": list(state.ledger),
    }
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
        files, record = stamped(folder, record | stamps, Path(temporary), settings)
        digests = record["files"] | {
            name: sha256_of(files[name]) for name in files.keys() - record["files"].keys()
        }
        n_bytes = sum(path.stat().st_size for path in files.values())
        if branch != state.revision:
            progress.line(f" publish: to {branch}; {state.revision} stays as it is.")
        publication = Publication(files, digests, tag, branch, message, settings.private, create)
        with progress.client_stage("upload", n_bytes):
            try:
                commit = publish_artefact(hub, publication, state, uploads)
            except TagTakenError as error:
                if tag_of(settings, values) is not None:
                    raise
                # Another branch's release took the version: the next one is free.
                raise BranchMovedError(error.message) from error
    return Release(True, state.repo_id, version, tag, commit, branch, hub.shown_endpoint, record)


def _preflight(settings: Settings) -> str:
    """Find what cannot be meant before anything takes long; the repository to release to."""
    if settings.repo_id is None:
        raise UsageError("No repository is named.", hint="Pass --repo-id NAMESPACE/NAME.")
    require_card_options(settings.license, settings.languages, settings.template)
    if settings.sign:
        require_signing(settings)
    return settings.repo_id


def _record_values(record: Record) -> dict[str, Any]:
    return template_values(record["checkpoint"]["step"], record["source"]["branch"], record["date"])
