"""The checks of a release; each compares what was read and says what it compared."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from slogpt_hf.card.record import CARD_FILE, RECORD_FILE, REPORT_FILE, Record
from slogpt_hf.hub.tree import loaded_beside
from slogpt_hf.progress import human_bytes
from slogpt_hf.recording import FURTHER_FIELDS, VERDICT_FIELDS
from slogpt_hf.signing import SIGNATURE_FILE, SignatureError, Signer
from slogpt_hf.verification.contents import Contents
from slogpt_hf.verification.results import (
    FAILED,
    FP64_BOUND,
    NONE,
    NOT_CHECKED,
    Check,
    check,
    is_figure,
    shown,
)

BATCH_FIGURES = ("fp64_error", "fp32_error", "fp32_noise")
# What a report says that passed; and one of schema 2, whose gate plants faults.
PASSED: dict[str, Any] = {"passed": True, "failures": []}
PASSED_2: dict[str, Any] = {"verdict": "passed", "missed": []}


def own_files(record: Record) -> frozenset[str]:
    """The files of a release."""
    return frozenset({*record["files"], RECORD_FILE, CARD_FILE, SIGNATURE_FILE})


def check_record(record: Record, repo_id: str, tag: str) -> Check:
    """The record is that of the repository and the tag under which it was found."""
    said = f"{shown(record.get('repo_id'))}@{shown(record.get('tag'))}"
    problems = []
    if (record.get("repo_id"), record.get("tag")) != (repo_id, tag):
        problems.append(
            f"{RECORD_FILE} is that of {said}: a copied release, or a repository renamed since"
        )
    if not isinstance(record.get("version"), str):
        problems.append(f"{RECORD_FILE} names no version")
    by = f"version {shown(record.get('version'))}, by {shown(record.get('tool'))}"
    return check("record", problems, f"{RECORD_FILE} is that of {said}, {by}")


def check_files(record: Record, contents: Contents, *, download: bool) -> Check:
    """Every file that the record lists is there with its digest, and none is loaded besides."""
    proven, tree = record["files"], contents.tree
    problems = [f"{name} is missing" for name in sorted(proven) if name not in tree]
    problems += [
        f"{name} is not the file that {RECORD_FILE} lists"
        for name in sorted(proven.keys() & tree.keys())
        if contents.digests[name] != proven[name]
    ]
    problems += contents.faults
    problems += [
        f"{name} is not of the release, but from_pretrained would load it"
        for name in loaded_beside(tree, own_files(record))
    ]
    size = human_bytes(sum(tree[name].n_bytes for name in proven.keys() & tree.keys()))
    whose = "of the bytes" if download else "as the hub states it (--no-download)"
    detail = f"{len(proven)} files, {size}: SHA-256 {whose} is that of {RECORD_FILE}"
    return check("files", problems, detail)


def check_parity(record: Record, contents: Contents) -> Check:
    """The report says that the proof passed, within its bounds, with the record's figures."""
    report = parsed(contents.texts.get(REPORT_FILE, b""))
    if not isinstance(report, dict):
        return check("parity", [f"{REPORT_FILE} is missing or is no parity report"], "")
    problems = [] if REPORT_FILE in record["files"] else [f"{RECORD_FILE} lists no {REPORT_FILE}"]
    old = report.get("schema") == 1
    told = [f for f in FURTHER_FIELDS if not old or f in report or f in record["parity"]]
    problems += [
        f"{field} is {shown(report.get(field))} in {REPORT_FILE}, "
        f"{shown(record['parity'].get(field))} in {RECORD_FILE}"
        for field in (*VERDICT_FIELDS, *told)
        if field not in report or report[field] != record["parity"].get(field, math.nan)
    ]
    if not problems:
        problems = _report_problems(report)
    if problems:
        return check("parity", problems, "")
    figures = [
        f"{name} error {report[f'{field}_error']:.1e} (bound {report[f'{field}_bound']:.1e})"
        for name, field in (("float64", "fp64"), ("float32", "fp32"))
    ]
    return check("parity", [], f"{', '.join(figures)} in {REPORT_FILE} and {RECORD_FILE}")


def check_signature(
    record: Record,
    contents: Contents,
    signed: Mapping[str, str] | SignatureError | None,
    signer: Signer | None,
    *,
    required: bool,
) -> Check:
    """The signature is the signer's, and vouches for every file of the release as it is.

    Args:
        record: of the release.
        contents: with the digests of all its files and of all signed ones.
        signed: what ``signer`` vouches for, path to SHA-256; why nothing; None if not looked at.
        signer: whose signature it has to be; None for no one's.
        required: whether no signature, or an unchecked one, is a failure.
    """
    if isinstance(signed, SignatureError):
        return check("signature", [signed.message.rstrip(".")], "")
    if signed is None:
        absent = SIGNATURE_FILE not in contents.tree
        detail = (
            f"there is no {SIGNATURE_FILE}"
            if absent
            else f"there is {SIGNATURE_FILE}: name --public-key, or --identity and its provider"
        )
        status = NONE if absent else NOT_CHECKED
        return Check("signature", FAILED if required or signer else status, detail)
    problems = [
        f"{name} is signed, but {'was changed' if name in contents.tree else 'is missing'}"
        for name in sorted(signed)
        if contents.digests.get(name) != signed[name]
    ]
    problems += [
        f"{name} is not signed" for name in sorted({*record["files"], RECORD_FILE} - signed.keys())
    ]
    return check("signature", problems, f"{len(signed)} files, signed by {signer}")


def parsed(content: bytes) -> Any:
    """The value of JSON; None of anything else."""
    try:
        return json.loads(content)
    except (ValueError, RecursionError):
        return None


def _report_problems(report: Mapping[str, Any]) -> list[str]:
    """Why the figures of a report do not amount to a proof."""
    merge, batches = report.get("merge_error"), report.get("comparisons")
    shaken = report.get("shaken_error")  # reports of schema 1 have none
    bounds = [
        ("fp64_error", report.get("fp64_error"), report.get("fp64_bound")),
        ("fp64_bound", report.get("fp64_bound"), FP64_BOUND),
        ("fp32_error", report.get("fp32_error"), report.get("fp32_bound")),
        ("merge_error", 0.0 if merge is None else merge, report.get("fp64_bound")),
        ("shaken_error", 0.0 if shaken is None else shaken, report.get("fp64_bound")),
    ]
    problems = [
        f"{name} {shown(value)} is not within {shown(bound)}"
        for name, value, bound in bounds
        if not (is_figure(value) and is_figure(bound) and value <= bound)
    ]
    problems += [
        f"{name} is not that of the worst batch"
        for name in BATCH_FIGURES
        if report.get(name) != _worst(batches, name)
    ]
    problems += [
        f"{name} is {shown(report.get(name))}"
        for name, needed in (PASSED if report.get("schema") == 1 else PASSED | PASSED_2).items()
        if report.get(name) != needed
    ]
    if report.get("schema") != 1:
        problems += _control_problems(report)
    return [f"{REPORT_FILE}: {problem}" for problem in problems]


def _control_problems(report: Mapping[str, Any]) -> list[str]:
    found = report.get("controls")
    controls = [c for c in found if isinstance(c, dict)] if isinstance(found, list) else []
    outcomes = [control.get("outcome") for control in controls]
    problems = ["controls has a fault that was missed"] if "missed" in outcomes else []
    if report.get("caught") != outcomes.count("caught") or not isinstance(found, list):
        problems.append("caught is not the number of faults in controls")
    return problems


def _worst(batches: Any, name: str) -> float | None:
    """The largest figure of all batches; None if one has none."""
    if not isinstance(batches, list):
        return None
    figures = [batch.get(name) if isinstance(batch, dict) else None for batch in batches]
    known = [figure for figure in figures if is_figure(figure)]
    return max(known, default=None) if len(known) == len(figures) else None
