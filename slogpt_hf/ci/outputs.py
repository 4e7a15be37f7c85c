"""What later steps and jobs learn: ``released``, ``version`` and so on, as each CI reads it.

Nothing of it can hold what a shell would evaluate: versions, tags, commits and pages that are not
exactly that are left empty. Never written to ``GITHUB_ENV``, which changes programs of later steps.
"""

from __future__ import annotations

import json
import os
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from slogpt_hf.card.ledger import COMMIT, VERSION, is_ref
from slogpt_hf.ci.logs import AZURE
from slogpt_hf.ci.markup import is_page, visible
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.errors import GateInvalidError, ParityError, UsageError
from slogpt_hf.files import write_atomically
from slogpt_hf.parity.claims import LEVELS
from slogpt_hf.parity.stated import as_setting

PREFIX = "RELEASE_"  # of the names in a file; SLOGPT_TAG would be a setting
LARGEST_FILE = 5000  # bytes; GitLab refuses a dotenv report above 5 KB
SETTING = re.compile(r"[A-Za-z_]\w{0,99}(?:=[\w.+-]{1,99}(?: [\w.+-]{1,99}){0,9})?", re.ASCII)
UNREADABLE = "unreadable"  # of an assumption that is not as slogpt-hf writes it
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,99}")


def outputs_of(
    outcomes: Sequence[Outcome], matrix: Mapping[str, Any] | None = None
) -> dict[str, str]:
    """The outputs of a run, all of them, empty where there is nothing to say.

    Args:
        outcomes: of the run, in the order of the plan.
        matrix: job matrix of what is new.

    Returns:
        ``released``: ``true`` if anything was released in this run, else ``false``.
        ``version``, ``tag``, ``commit``, ``url``: of the last release; without one, of the last
        checkpoint that was released before.
        ``parity``: ``passed`` if all that was compared is equal, ``failed`` if anything is not (or
        rests on less than was required), ``invalid`` if the gate could not tell, ``none`` if
        nothing was compared.
        ``level``: what the proofs of this run rest on, the least of them; empty without any.
        ``assumptions``: what these proofs assume, each as ``NAME=VALUE``: JSON on one line.
        ``report``, ``artefact-path``: of the last release; without one, of the last that has one.
        ``matrix``: JSON on one line.
    """
    released = [outcome for outcome in outcomes if outcome.status == "released"]
    known = [outcome for outcome in outcomes if outcome.status == "known"]
    last = (released or known or [Outcome("", "", "known")])[-1]
    return {
        "released": "true" if released else "false",
        "version": _if_matches(VERSION, last.version),
        "tag": last.tag if last.tag and is_ref(last.tag) else "",
        "commit": _if_matches(COMMIT, last.release_commit),
        "url": last.url if last.url and is_page(last.url) else "",
        "parity": verdict(outcomes),
        "level": _level(outcomes),
        "assumptions": _assumptions(outcomes),
        "report": _last([o.report_path for o in outcomes], last.report_path),
        "artefact-path": _last([o.artefact for o in outcomes], last.artefact),
        "matrix": json.dumps(matrix) if matrix is not None else "",
    }


def verdict(outcomes: Sequence[Outcome]) -> str:
    """What the proofs of a run say together: ``failed``, ``invalid``, ``passed`` or ``none``."""
    codes = {outcome.exit_code for outcome in outcomes if outcome.status == "refused"}
    if ParityError.exit_code in codes:
        return "failed"
    if GateInvalidError.exit_code in codes:
        return "invalid"
    return "passed" if any(o.status != "refused" for o in outcomes) else "none"


def _level(outcomes: Sequence[Outcome]) -> str:
    """The least level of all proofs; empty where there are none, or one does not say it."""
    levels = [outcome.proof.level for outcome in outcomes if outcome.proof]
    return min(filter(None, levels), key=LEVELS.index, default="") if all(levels) else ""


def _assumptions(outcomes: Sequence[Outcome]) -> str:
    """What all proofs assume, each once, but for what a shell could read; empty without proofs."""
    proofs = [outcome.proof for outcome in outcomes if outcome.proof]
    if not proofs:
        return ""
    texts = (as_setting(assumption) for proof in proofs for assumption in proof.assumptions)
    safe = (text if SETTING.fullmatch(text) else UNREADABLE for text in texts)
    return json.dumps(list(dict.fromkeys(safe)))


def write_outputs(
    outputs: Mapping[str, str], environment: Mapping[str, str], file: Path | None = None
) -> tuple[str, ...]:
    """Write outputs as the CI at hand takes them.

    GitHub's go to the file that ``GITHUB_OUTPUT`` names, Azure's are commands, any other CI gets
    ``file``: Jenkins as properties, others as dotenv.

    Args:
        outputs: name to value.
        environment: of the process.
        file: for a CI that reads a file; None for none.

    Returns:
        Lines to print as they are.

    Raises:
        UsageError: the file cannot be written.
    """
    if path := environment.get("GITHUB_OUTPUT"):
        append(Path(path), github_outputs(outputs), "GITHUB_OUTPUT")
        return ()
    if environment.get("TF_BUILD"):
        return azure_outputs(outputs)
    if file is not None:
        write = properties if environment.get("JENKINS_URL") else dotenv
        write_atomically(file, write(outputs))
    return ()


def github_outputs(outputs: Mapping[str, str]) -> str:
    """Lines of ``GITHUB_OUTPUT``: ``NAME<<DELIMITER``, the value, and the delimiter.

    Source: ``FileCommandManager.cs`` of actions/runner.
    """
    return "".join(_here_document(_name(name), value) for name, value in outputs.items())


def azure_outputs(outputs: Mapping[str, str]) -> tuple[str, ...]:
    """Commands that set output variables of an Azure Pipelines step; ``-`` becomes ``_``."""
    escapes = dict(AZURE.in_data)
    return tuple(
        f"##vso[task.setvariable variable={_name(name).replace('-', '_')};isOutput=true]"
        f"{value.translate(escapes)}"
        for name, value in outputs.items()
    )


def dotenv(outputs: Mapping[str, str]) -> str:
    """Lines ``RELEASE_NAME=VALUE`` as GitLab takes them: unquoted, ASCII names, 5 KB at most.

    A value is one line; one that does not fit any more is left out.

    Source: https://docs.gitlab.com/ci/yaml/artifacts_reports/#artifactsreportsdotenv
    """
    lines, size = [], 0
    for name, value in outputs.items():
        line = f"{_variable(name)}={visible(value)}\n"
        size += len(line.encode())
        if size <= LARGEST_FILE:
            lines.append(line)
        else:
            size -= len(line.encode())
    return "".join(lines)


def properties(outputs: Mapping[str, str]) -> str:
    """Lines ``RELEASE_NAME=VALUE`` as ``java.util.Properties`` reads them, in ASCII."""
    return "".join(f"{_variable(name)}={_java(value)}\n" for name, value in outputs.items())


def append(path: Path, text: str, variable: str) -> None:
    """Add lines to a file that the CI gave, after whatever a step before left there.

    Raises:
        UsageError: it cannot be written.
    """
    try:
        with path.open("ab+") as file:
            if file.seek(0, os.SEEK_END):
                file.seek(-1, os.SEEK_END)
                text = text if file.read(1) == b"\n" else f"\n{text}"
            file.write(text.encode("utf-8", "replace"))
    except OSError as error:
        raise UsageError(
            f"{path}: cannot be written: {error.strerror}.",
            hint=f"{variable} has to name a file that this user can write.",
        ) from error


def _here_document(name: str, value: str) -> str:
    delimiter = f"end-{secrets.token_hex(16)}"
    while delimiter in value:
        delimiter = f"end-{secrets.token_hex(16)}"
    return f"{name}<<{delimiter}\n{value}\n{delimiter}\n"


def _name(name: str) -> str:
    if not NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of an output")
    return name


def _variable(name: str) -> str:
    return PREFIX + _name(name).upper().replace("-", "_")


def _java(value: str) -> str:
    text = value.encode("utf-16-be", "replace")
    units = (int.from_bytes(text[i : i + 2], "big") for i in range(0, len(text), 2))
    return "".join(
        chr(unit) if 0x21 <= unit < 0x7F and unit != 0x5C else f"\\u{unit:04x}" for unit in units
    )


def _if_matches(pattern: re.Pattern[str], text: str | None) -> str:
    return text if text and pattern.fullmatch(text) else ""


def _last(paths: Sequence[str | None], preferred: str | None) -> str:
    return preferred or next((path for path in reversed(paths) if path), "")
