"""The pipeline: plan, convert, verify, card, publish. Each stage hands its value to the next."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator, Sequence
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
from slogpt_hf.card.record import Record, is_artefact, read_record
from slogpt_hf.checkpoints import Checkpoint
from slogpt_hf.dataset_release import dataset_for, publish_dataset
from slogpt_hf.datasets import find_meta, read_meta
from slogpt_hf.errors import UsageError
from slogpt_hf.files import sha256_of, staged_folder
from slogpt_hf.hub.client import Hub, hub_of
from slogpt_hf.hub.preflight import repo_of_account
from slogpt_hf.hub.publish import Publication, publish_planned
from slogpt_hf.hub.releases import Release, branch_for, published_release
from slogpt_hf.hub.rounds import until_settled
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
from slogpt_hf.smoke import smoke_test
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
        SmokeError: it is published, and does not load; the error has the release.
    """
    repo_id = require_releasable(settings)
    if with_dataset:
        replace(settings, repo_id=with_dataset)  # raises where it is no name
    if settings.output and len(checkpoints) > 1:
        raise UsageError("--output takes one checkpoint at a time.", hint="Leave --output out.")
    with hub_of(settings, repo_id, progress.line) as hub:
        for path in checkpoints:
            with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
                folder = Path(settings.output or Path(temporary, "artefact"))
                found = _built(
                    hub, path, folder, settings, progress, source, event, with_dataset=with_dataset
                )
                if isinstance(found, RepoState):
                    found = _publish(hub, folder, settings, found, progress, with_dataset)
            yield smoke_test(hub, found, settings, progress)


def build_unless_released(
    checkpoint: Path,
    folder: Path,
    settings: Settings,
    progress: Progress = SILENT,
    source: Provenance | None = None,
    event: Event | None = None,
    before: Callable[[Checkpoint], None] = lambda checkpoint: None,
) -> Release | None:
    """The first half of a release: the proven artefact, for ``push``; or the release, if there is.

    Args:
        checkpoint: file that the trainer saved.
        folder: of the artefact; it appears only when whole and proven.
        settings: as for ``release_checkpoints``.
        progress: told what happens.
        source: where the checkpoint comes from; by default the git repository around it.
        event: of the CI at hand.
        before: called before the conversion.

    Raises:
        SloGPTError: as ``release_checkpoints`` does.
    """
    repo_id = require_releasable(settings)
    with hub_of(settings, repo_id, progress.line) as hub:
        found = _built(hub, checkpoint, folder, settings, progress, source, event, before)
        if isinstance(found, RepoState):
            return None
        return smoke_test(hub, found, settings, progress)


def _built(
    hub: Hub,
    path: Path,
    folder: Path,
    settings: Settings,
    progress: Progress,
    source: Provenance | None,
    event: Event | None,
    before: Callable[[Checkpoint], None] = lambda checkpoint: None,
    with_dataset: str | None = None,
) -> Release | RepoState:
    """The release of a checkpoint; or the hub's state, if there is none and ``folder`` is made."""
    checkpoint = open_checkpoint(path, settings)
    choice = tokenizer_for(checkpoint, settings)
    found = source or provenance_of(path, checkpoint.files, event)
    values = template_values(checkpoint.facts.step, found.branch, today())
    require_names(settings, values)
    digest = hash_checkpoint(checkpoint, progress)
    wanted = identity_of(digest, checkpoint, choice, settings)
    dataset = dataset_for(path, choice.dataset, settings) if with_dataset else None
    state = read_state(hub, settings.repo_id or "", revision_of(settings, values))
    tag = tag_of(settings, values)
    if published := published_release(hub, state, wanted, tag, settings.require_witness):
        return published
    require_publishable(hub, state, settings, tag)
    before(checkpoint)
    with staged_folder(folder) as work:
        build_artefact(checkpoint, choice, digest, work, settings, found, progress)
    if with_dataset and dataset is not None:
        publish_dataset(dataset, with_dataset, settings, progress)
    return state


def push(artefact: Path, settings: Settings, progress: Progress = SILENT) -> Release:
    """Publish a proven artefact that ``convert`` made, unless it was published before.

    Raises:
        UsageError: ``artefact`` is none, or a setting cannot be meant.
        ParityError: a file of it changed since it was proven, or its proof rests on less than
            ``require_witness`` asks for.
        HubError: the hub refused or could not be reached.
        TagConflictError: the tag exists with other content.
        SmokeError: it is published, and does not load; the error has the release.
    """
    repo_id = require_releasable(settings)
    record = read_record(artefact)
    require_unchanged(artefact, record, OVERLAPPED_BYTES)
    require_level(stated(record["parity"]), settings.require_witness, artefact, again=True)
    values = _record_values(record)
    require_names(settings, values)
    with hub_of(settings, repo_id, progress.line) as hub:
        state = read_state(hub, repo_id, revision_of(settings, values))
        tag, required = tag_of(settings, values), settings.require_witness
        if published := published_release(hub, state, record["identity"], tag, required):
            return smoke_test(hub, published, settings, progress)
        require_publishable(hub, state, settings, tag)
        release = _publish(hub, artefact, settings, state, progress)
        return smoke_test(hub, release, settings, progress)


def push_checkpoint(
    dataset: str,
    model: Path,
    settings: Settings,
    progress: Progress = SILENT,
    *,
    repo_name: str | None = None,
    event: Event | None = None,
) -> Release:
    """Release a checkpoint whose vocabulary is that of ``dataset``: proven, committed, tagged.

    Args:
        dataset: a name below ``datasets/``, a folder or file with ``meta.pkl``, or ``-`` for what
            the settings and the checkpoint itself say.
        model: file or folder that the trainer saved, or the artefact that was made of one.
        settings: how; ``repo_id`` is where to, unless ``repo_name`` says it.
        progress: told what happens.
        repo_name: NAMESPACE/NAME, or the name of a repository of the token's own account.
        event: of the CI at hand.

    Raises:
        SloGPTError: as ``release_checkpoints`` raises it.
    """
    artefact = is_artefact(model)
    if artefact and dataset != "-":
        _require_vocabulary(model, dataset)
    elif dataset != "-":
        settings = replace(settings, dataset=dataset)
    settings = with_repo(settings, repo_name, progress)
    if artefact:
        return push(model, settings, progress)
    return next(release_checkpoints([model], settings, progress, event=event))


def _require_vocabulary(artefact: Path, dataset: str) -> None:
    """Raise where an artefact of characters was made with another vocabulary than a dataset's."""
    record = read_record(artefact)
    if record["tokenizer"].get("kind") != "characters":
        return
    vocabulary = read_meta(find_meta(dataset, Path()))
    try:
        entries = json.loads((artefact / "vocab.json").read_bytes())
    except (OSError, ValueError, RecursionError):
        entries = None
    if not isinstance(entries, dict) or not vocabulary.ids.items() <= entries.items():
        raise UsageError(
            f"{artefact}: was not converted with the vocabulary of {vocabulary.source}.",
            hint="Name the dataset that it was converted with, or - for none.",
        )


def with_repo(settings: Settings, repo_name: str | None, progress: Progress = SILENT) -> Settings:
    """The settings with the repository that ``repo_name`` stands for, if it is given.

    Raises:
        UsageError: it cannot name a repository.
        HubError: it has no namespace, and whose the token is could not be found out.
    """
    if repo_name is None:
        return settings
    if "/" not in repo_name:
        with hub_of(settings, repo_name, progress.line) as hub:
            repo_name = repo_of_account(hub, repo_name)
    return replace(settings, repo_id=repo_name)


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
        lambda state: published_release(
            hub, state, record["identity"], tag, settings.require_witness
        ),
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
        if branch != state.revision:
            progress.line(f" publish: to {branch}; {state.revision} stays as it is.")
        publication = Publication(files, digests, tag, branch, message, settings.private, create)
        fixed = tag_of(settings, values) is not None
        commit = publish_planned(hub, publication, state, uploads, progress, tag_is_fixed=fixed)
    return Release(True, state.repo_id, version, tag, commit, branch, hub.shown_endpoint, record)


def require_releasable(settings: Settings) -> str:
    """The repository to release to; finds what cannot be meant before anything takes long.

    Raises:
        UsageError: there is no ``repo_id``, or a setting cannot be meant.
    """
    if settings.repo_id is None:
        raise UsageError("No repository is named.", hint="Pass --repo-id NAMESPACE/NAME.")
    require_card_options(settings.license, settings.languages, settings.template)
    if settings.sign:
        require_signing(settings)
    return settings.repo_id


def _record_values(record: Record) -> dict[str, Any]:
    return template_values(record["checkpoint"]["step"], record["source"]["branch"], record["date"])
