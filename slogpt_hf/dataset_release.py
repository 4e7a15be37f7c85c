"""A dataset to the Hub: one commit, one tag, exactly once, as a model's release."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from slogpt_hf.card.record import CARD_FILE, RECORD_FILE, Record, artefact_files, dump_json
from slogpt_hf.dataset_build import convert_dataset
from slogpt_hf.datasets.ids import find_id_files
from slogpt_hf.errors import CheckpointError, HubError, ParityError, UsageError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub.client import DATASET, Hub, hub_of, readable_errors, request
from slogpt_hf.hub.publish import Publication, publish_planned
from slogpt_hf.hub.releases import Release, published_release
from slogpt_hf.hub.rounds import until_settled
from slogpt_hf.hub.state import RepoState, read_file, read_state
from slogpt_hf.hub.tree import files_at
from slogpt_hf.hub.uploads import Uploads
from slogpt_hf.hub.versions import next_dataset_version, ref_from
from slogpt_hf.naming import (
    message_of,
    require_names,
    require_publishable,
    revision_of,
    tag_of,
    template_values,
)
from slogpt_hf.parquet.back import needed_files
from slogpt_hf.parquet.card import render_dataset_card
from slogpt_hf.parquet.record import published_dataset, read_dataset_record
from slogpt_hf.parquet.spelling import require_pyarrow
from slogpt_hf.progress import SILENT, Progress
from slogpt_hf.publishable import changed_files
from slogpt_hf.settings import Settings

OVERLAPPED_BYTES = 64 * 1024 * 1024  # larger files are hashed while they are sent


def push_dataset(folder: Path, settings: Settings, progress: Progress = SILENT) -> Release:
    """Publish a dataset that ``convert_dataset`` made, unless it was published before.

    Args:
        folder: the dataset.
        settings: where to and how; ``repo_id`` is needed.
        progress: told what happens.

    Raises:
        UsageError: ``folder`` is none, or a setting cannot be meant.
        CheckpointError: its record cannot be read.
        ParityError: a file of it changed since it was proven.
        HubError: the hub refused or could not be reached.
        TagConflictError: the tag exists with other content.
    """
    if settings.repo_id is None:
        raise UsageError("No repository is named.", hint="Pass --repo-id NAMESPACE/NAME.")
    record = read_dataset_record(folder)
    _require_unchanged(folder, record)
    values = _values(record)
    require_names(settings, values)
    with hub_of(settings, settings.repo_id, progress.line, DATASET) as hub:
        state = read_state(hub, settings.repo_id, revision_of(settings, values))
        tag = tag_of(settings, values)
        if published := published_release(hub, state, record["identity"], tag):
            return published
        require_publishable(hub, state, settings, tag)
        uploads = Uploads(hub, state.repo_id, settings.transfer)
        # A repository that was there and vanished is not made again: it might become public.
        create = settings.create and not state.exists
        return until_settled(
            hub,
            state,
            lambda state: _publish(state, hub, folder, record, settings, progress, uploads, create),
            lambda state: published_release(hub, state, record["identity"], tag),
        )


def dataset_for(checkpoint: Path, folder: Path | None, settings: Settings) -> str:
    """The dataset that goes with a checkpoint, found before anything takes long.

    Args:
        checkpoint: for the message.
        folder: of the vocabulary that the checkpoint has.
        settings: ``dataset`` counts where there is none.

    Raises:
        UsageError: there is none with ids, or pyarrow is missing.
        CheckpointError: its files cannot be read.
    """
    require_pyarrow()
    dataset = str(folder) if folder else settings.dataset
    if dataset is None:
        raise UsageError(
            f"{checkpoint}: --with-dataset, but no dataset is known.",
            hint="Name the folder with its train.bin with --dataset.",
        )
    find_id_files(dataset, Path(), "uint16")
    return dataset


def publish_dataset(
    dataset: str, repo_id: str, settings: Settings, progress: Progress = SILENT
) -> Release:
    """Convert a dataset and publish it, as ``convert_dataset`` and ``push_dataset`` do.

    Of the settings those of the hub count, and not the names of a model's tag and branch.
    """
    names = {name: getattr(Settings, name) for name in ("tag", "revision", "message")}
    own = replace(settings, repo_id=repo_id, **names)
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
        folder = Path(temporary, "dataset")
        convert_dataset(dataset, folder, own, progress)
        return push_dataset(folder, own, progress)


@contextmanager
def downloaded_dataset(
    hub: Hub, repo_id: str, revision: str, beside: Path, progress: Progress = SILENT
) -> Iterator[Path]:
    """What the way back needs of a dataset on the hub, in a folder, for the time of the block.

    Args:
        hub: of datasets.
        repo_id: NAMESPACE/NAME.
        revision: branch, tag or commit.
        beside: a path; the files lie on its disk meanwhile.
        progress: told of the download.

    Raises:
        HubError: the hub refused or could not be reached, or has no such dataset or revision.
        CheckpointError: slogpt-hf did not make it.
    """
    commit = _commit_of(hub, repo_id, revision)
    content = read_file(hub, repo_id, RECORD_FILE, commit)
    beside.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".slogpt-hf-", dir=beside.parent) as temporary:
        folder = Path(temporary) / repo_id.rpartition("/")[2]
        folder.mkdir()
        if content is None:
            raise CheckpointError(
                f"{repo_id}@{revision}: holds no {RECORD_FILE}, so slogpt-hf did not make it.",
                hint="Name a dataset that slogpt-hf push-dataset published.",
            )
        (folder / RECORD_FILE).write_bytes(content)
        names = needed_files(read_dataset_record(folder))
        found = files_at(hub, repo_id, commit)
        n_bytes = sum(found[name].n_bytes for name in names if name in found)
        with progress.client_stage("download", n_bytes), readable_errors("downloading", repo_id):
            hub.api.snapshot_download(
                repo_id,
                repo_type=DATASET,
                revision=commit,
                local_dir=folder,
                allow_patterns=names,
            )
        yield folder


def _commit_of(hub: Hub, repo_id: str, revision: str) -> str:
    from huggingface_hub.errors import RepositoryNotFoundError

    def read() -> str:
        return hub.api.dataset_info(repo_id, revision=revision).sha or revision

    try:
        return request(hub, "reading the repository", repo_id, read)
    except HubError as error:
        if isinstance(error.__cause__, RepositoryNotFoundError) and hub.api.repo_exists(repo_id):
            raise HubError(
                f"{repo_id}: is a model's repository, and there is no dataset of this name.",
                hint="Name the dataset, or load the model with from_pretrained.",
            ) from error
        raise


def _publish(
    state: RepoState,
    hub: Hub,
    folder: Path,
    record: Record,
    settings: Settings,
    progress: Progress,
    uploads: Uploads,
    create: bool,
) -> Release:
    """Stamp record and card with version and tag, commit everything, tag the commit."""
    version = next_dataset_version(state.last, record, state.tags, settings.tag)
    values = _values(record) | {"version": version}
    tag, branch = ref_from(settings.tag, values), state.revision
    stamps = {"repo_id": state.repo_id, "version": version, "tag": tag}
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-") as temporary:
        stamped = record | stamps | {"previous": list(state.ledger)}
        files, stamped = _stamped(folder, stamped, Path(temporary))
        digests = stamped["files"] | {RECORD_FILE: sha256_of(files[RECORD_FILE])}
        publication = Publication(
            files,
            digests,
            tag,
            branch,
            message_of(settings, values, tag),
            settings.private,
            create,
        )
        fixed = tag_of(settings, values) is not None
        commit = publish_planned(hub, publication, state, uploads, progress, tag_is_fixed=fixed)
    return Release(True, state.repo_id, version, tag, commit, branch, hub.shown_endpoint, stamped)


def _stamped(folder: Path, record: Record, work: Path) -> tuple[dict[str, Path], Record]:
    """The files of a release, card and record written anew into ``work``, and the record."""
    another = CheckpointError(
        f"{folder / RECORD_FILE}: is not as this version writes it.",
        hint="Convert the dataset again.",
    )
    if published_dataset(record) is None:
        raise another
    try:
        text = render_dataset_card(record)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise another from error  # a field that only the card tells is missing or of another type
    card = work / CARD_FILE
    card.write_text(text, encoding="utf-8")
    record = record | {"files": record["files"] | {CARD_FILE: sha256_of(card)}}
    (work / RECORD_FILE).write_text(dump_json(record), encoding="utf-8")
    files = artefact_files(folder) | {CARD_FILE: card, RECORD_FILE: work / RECORD_FILE}
    return files, record


def _values(record: Record) -> dict[str, Any]:
    return template_values(None, record["source"].get("branch"), record["date"])


def _require_unchanged(folder: Path, record: Record) -> None:
    if record["proof"].get("passed") is not True:
        raise ParityError(f"{folder}: was never proven.", hint="Convert the dataset again.")
    if changed := changed_files(folder, record, OVERLAPPED_BYTES):
        raise ParityError(
            f"{folder}: {', '.join(changed[:6])} changed since the dataset was proven.",
            hint="Convert it again; what is published is what was proven.",
        )
