"""The smoke test: a release is loaded by its tag, as its users will load it, and continues a text.

It is downloaded anew into a cache of its own and loaded from there by a process that has neither
token nor network: the models of a hub are what others wrote.
"""

from __future__ import annotations

import glob
import json
import shutil
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import slogpt_hf
from slogpt_hf.batch.memory import RESIDENT, available
from slogpt_hf.card.record import RECORD_FILE, has_tokenizer_in, is_record
from slogpt_hf.conversion.shipped import SHIPPED
from slogpt_hf.errors import SloGPTError
from slogpt_hf.files import sha256_of
from slogpt_hf.hub.client import Hub, readable_errors
from slogpt_hf.hub.releases import Release
from slogpt_hf.hub.tree import HubFile, files_at
from slogpt_hf.libraries import LOADING, missing
from slogpt_hf.progress import SILENT, Progress, human_bytes
from slogpt_hf.settings import Settings
from slogpt_hf.shielded import run_shielded
from slogpt_hf.verification import ReleaseError
from slogpt_hf.verification.checks import parsed
from slogpt_hf.verification.contents import commit_of_tag
from slogpt_hf.verification.results import FAILED, NOT_CHECKED, OK, Check, check

SECONDS = 1800.0
CHILD = Path(__file__).with_name("smoke_child.py")
# What from_pretrained reads, less the pickles that it reads where there are no safetensors.
ENDINGS = (".safetensors", ".json", ".py", ".model", ".txt", ".jinja")
LOAD = "load"
MOST_SHOWN = 60  # characters of a text
MOST_TRACE = 20_000  # characters


class SmokeError(SloGPTError):
    """A release that is published and tagged, and cannot be loaded.

    Attributes:
        release: what is published.
    """

    exit_code = 4

    def __init__(self, message: str, release: Release, *, hint: str) -> None:
        super().__init__(message, hint=hint)
        self.release = release


def smoke_test(
    hub: Hub, release: Release, settings: Settings, progress: Progress = SILENT
) -> Release:
    """Load what was just published; the release with what came of it.

    A release that was there before, or of which the settings say so, is returned as it is.

    Raises:
        SmokeError: it cannot be loaded, or not be read from the hub; the tag stays.
    """
    if not settings.smoke or not release.released:
        return release
    name = f"{release.repo_id}@{release.tag}"
    try:
        found = load_release(hub, release.repo_id, release.tag, release.record, progress)
    except KeyboardInterrupt:
        progress.line(f"{LOAD:>8}: interrupted; {name} is published and stays")
        raise
    except SloGPTError as error:
        where = f" --hub {settings.hub}" if settings.hub else ""
        raise SmokeError(
            f"{name} IS PUBLISHED, BUT DOES NOT LOAD: {error.message.rstrip('.')}.",
            replace(release, smoke={"status": FAILED, "detail": error.message}),
            hint=f"Its tag stays. To see more: slogpt-hf verify-release {name} --load --debug"
            f"{where}. To have an older release on the branch again: slogpt-hf rollback "
            f"{release.repo_id} VERSION{where}.",
        ) from error
    smoke = {"status": found.status, "detail": found.detail}
    progress.line(f"{LOAD:>8}: {told(**smoke)}")
    return replace(release, smoke=smoke)


def told(status: str, detail: str) -> str:
    """What came of loading, as one line."""
    return detail if status == OK else f"{status}: {detail}"


def load_release(
    hub: Hub,
    repo_id: str,
    tag: str,
    record: Mapping[str, Any] | None = None,
    progress: Progress = SILENT,
) -> Check:
    """Load tokenizer and model of a release by its tag, in a clean process, and let it go on.

    Args:
        hub: where it is; the download takes its token, the process that loads has none.
        repo_id: NAMESPACE/NAME.
        tag: of the release.
        record: that its files have to match; None for the one that lies beside them.
        progress: told of the download.

    Returns:
        Check ``load``: ``ok``, with a text and how the model continues it; or ``not checked``,
        with why it could not be loaded here.

    Raises:
        ReleaseError: files are not those of the record, or it does not load, or generates nothing.
        UsageError: there is no such tag.
        HubError: the hub refused or could not be reached.
    """
    if absent := missing(LOADING):
        return Check(LOAD, NOT_CHECKED, f"not loaded: needs {', '.join(absent)}")
    tree = files_at(hub, repo_id, commit_of_tag(hub, repo_id, tag))
    tree = {name: each for name, each in tree.items() if _is_loaded(name)}
    with tempfile.TemporaryDirectory(prefix="slogpt-hf-load-") as temporary:
        home = Path(temporary)
        if lack := _lack(tree, home):
            return Check(LOAD, NOT_CHECKED, f"not loaded: {lack}")
        # In the cache's own layout the offline process finds it by repository and tag.
        n_bytes = sum(each.n_bytes for each in tree.values())
        with progress.client_stage("download", n_bytes), readable_errors("downloading", repo_id):
            snapshot = hub.api.snapshot_download(
                repo_id,
                revision=tag,
                cache_dir=home / "hub",
                allow_patterns=list(map(glob.escape, tree)),
            )
        return _loaded(home, Path(snapshot), repo_id, tag, record)


def _is_loaded(name: str) -> bool:
    return "/" not in name and name.endswith(ENDINGS)


def _lack(tree: Mapping[str, HubFile], folder: Path) -> str:
    """What this machine has too little of; empty where it has enough."""
    n_bytes = sum(each.n_bytes for each in tree.values())
    if (free := shutil.disk_usage(folder).free) < n_bytes:
        return f"takes {human_bytes(n_bytes)} in {folder.parent}, which has {human_bytes(free)}"
    needed = RESIDENT + sum(e.n_bytes for n, e in tree.items() if n.endswith(ENDINGS[0]))
    unused = available()
    if unused is not None and unused < needed:
        return f"takes {human_bytes(needed)} of memory, and {human_bytes(unused)} are free"
    return ""


def _loaded(
    home: Path, snapshot: Path, repo_id: str, tag: str, record: Mapping[str, Any] | None
) -> Check:
    """The check of what lies in ``snapshot``, below the cache in ``home``."""
    if record is None:
        beside = snapshot / RECORD_FILE
        record = parsed(beside.read_bytes()) if beside.is_file() else {}
    if not record or not is_record(record):
        raise ReleaseError(f"there is no {RECORD_FILE} that lists its files")
    digests = {path.name: sha256_of(path) for path in snapshot.iterdir() if path.is_file()}
    files = {name: each for name, each in record["files"].items() if _is_loaded(name)}
    problems = [f"{name} is missing" for name in sorted(files.keys() - digests.keys())]
    problems += [
        f"the hub serves another {name} than was proven"
        for name in sorted(files.keys() & digests.keys())
        if digests[name] != files[name]
    ]
    if problems:
        raise ReleaseError(check(LOAD, problems, "").detail)
    code = [name for name in digests if name.endswith(".py")]
    if unknown := [name for name in sorted(code) if digests[name] not in SHIPPED]:
        detail = f"{', '.join(unknown)} is none that this version of slogpt-hf shipped"
        return Check(LOAD, NOT_CHECKED, f"not loaded: {detail}, and is not run")
    return _asked(home, repo_id, tag, code=bool(code), tokenizer=has_tokenizer_in(record))


def _asked(home: Path, repo_id: str, tag: str, *, code: bool, tokenizer: bool) -> Check:
    """What the clean process says of the release in the cache below ``home``.

    Args:
        home: folder that is its home and the Hub client's.
        repo_id: NAMESPACE/NAME.
        tag: of the release.
        code: whether it loads the modeling file, which is this package's own.
        tokenizer: whether there is one.

    Raises:
        ReleaseError: it does not load, or generates nothing.
    """
    paths = [str(Path(slogpt_hf.__file__).parents[1])]
    request = {"repo_id": repo_id, "tag": tag, "code": code, "tokenizer": tokenizer}
    (home / "request.json").write_text(json.dumps(request | {"paths": paths}), encoding="utf-8")
    environment = {"HF_HOME": str(home), "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"}
    if problem := run_shielded(CHILD, home, SECONDS, environment=environment):
        error = ReleaseError(f"loading it in a clean process: {problem}")
        with suppress(OSError):
            error.add_note((home / "stderr").read_text("utf-8", "replace")[-MOST_TRACE:])
        raise error
    try:
        answer = json.loads((home / "answer.json").read_text("utf-8"))
        detail = _words(answer)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ReleaseError("loading it in a clean process gave no answer") from error
    return Check(LOAD, OK, detail)


def _words(answer: Mapping[str, Any]) -> str:
    """One line of what was asked and generated, with nothing in it that a terminal obeys."""
    by = f"{_shown(answer['class'])[1:-1]}, transformers {_shown(answer['transformers'])[1:-1]}"
    if answer["text"] is None:
        new = ", ".join(str(int(each)) for each in answer["new"])
        return f"{by}: id {int(answer['ids'][0])} goes on with {new}"
    return f"{by}: {_shown(answer['text'])} goes on {_shown(answer['more'])}"


def _shown(text: str) -> str:
    return repr(text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}…")
