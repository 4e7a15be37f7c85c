"""What became of a checkpoint in a run: what outputs, summary, annotations and comment tell."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from slogpt_hf.parity.stated import Stated, stated

Status = Literal["released", "known", "proven", "refused", "unpublished"]


@dataclass(frozen=True)
class Outcome:
    """One checkpoint of a run. Text in it is of anyone who can push: shown, never believed.

    Attributes:
        key: of the checkpoint in this run's plan, short, of ``[0-9a-z-]``.
        name: path or URL of the checkpoint.
        status: ``released``, which with an exit code does not load; ``known``, it was released
            before; ``proven``, and not to be published in this run; ``refused``, it could not be
            converted or is not equal; ``unpublished``, it is proven and the hub refused it.
        branch: of the training repository.
        commit: of the training repository, 40 hex digits.
        message: why it was refused or not published, one line.
        exit_code: that this alone would end with; 0 unless refused, unpublished or not loading.
        tensor: where the models first differ.
        record: content of ``release.json``; None if there is no artefact.
        report: content of ``parity.json``; None if nothing was compared.
        repo_id: of the release, NAMESPACE/NAME.
        version: of the release.
        tag: of the release.
        release_commit: id of the commit on the hub.
        url: page of the release on the hub.
        smoke: what came of loading it by its tag, one line; None where that was not tried.
        artefact: folder of the proven artefact, absolute; None if there is none.
        report_path: file of the parity report, absolute; None if there is none.
    """

    key: str
    name: str
    status: Status
    branch: str | None = None
    commit: str | None = None
    message: str = ""
    exit_code: int = 0
    tensor: str | None = None
    record: Mapping[str, Any] | None = None
    report: Mapping[str, Any] | None = None
    repo_id: str | None = None
    version: str | None = None
    tag: str | None = None
    release_commit: str | None = None
    url: str | None = None
    smoke: str | None = None
    artefact: str | None = None
    report_path: str | None = None

    @property
    def is_broken(self) -> bool:
        """Whether it is published and does not load."""
        return self.status == "released" and self.exit_code != 0

    @property
    def proof(self) -> Stated | None:
        """What report or record state of a proof that passed; None where there is none."""
        parity = self.report or (self.record or {}).get("parity")
        found = stated(parity) if isinstance(parity, Mapping) else None
        return found if found and found.verdict == "passed" else None
