"""The checks of a release on records, reports and listings that do not fit together."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from slogpt_hf.card.record import RECORD_FILE, REPORT_FILE
from slogpt_hf.errors import UsageError
from slogpt_hf.hub.tree import HubFile, git_blob_id
from slogpt_hf.parity.report import Comparison, Control, ParityReport
from slogpt_hf.recording import FURTHER_FIELDS, VERDICT_FIELDS
from slogpt_hf.verification import checks, parse_release, results
from slogpt_hf.verification.contents import Contents

REPO, TAG = "me/model", "v1.0.0"
BATCHES = tuple(
    Comparison(name, 2, 8, 3.0, fp64, fp32, 1e-6, 1.0)
    for name, fp64, fp32 in (("prose", 1e-16, 2e-6), ("noise", 3e-15, 1e-6))
)
REPORT: dict[str, Any] = json.loads(
    json.dumps(
        ParityReport(
            oracle="o",
            dtype="float32",
            comparisons=BATCHES,
            fp64_bound=1e-10,
            fp32_bound=4e-6,
            embedding_rows=3,
            embedding_equal=True,
            covered_ids=3,
            first_divergence=None,
            failures=(),
            seconds=1.0,
            forward_seconds=0.5,
            shaken_error=2e-16,
            controls=(Control("stale row", "caught", 1.0), Control("theta", "cannot occur", None)),
        ).to_dict()
    )
)


def record_of(report: dict[str, Any], **changes: Any) -> dict[str, Any]:
    record = {
        "repo_id": REPO,
        "tag": TAG,
        "version": "1.0.0",
        "tool": "slogpt-hf 9",
        "parity": {
            name: report[name] for name in (*VERDICT_FIELDS, *FURTHER_FIELDS) if name in report
        },
        "files": {REPORT_FILE: "0", "model.safetensors": "1"},
    }
    return record | changes


def contents_of(report: Any, *faults: str, **files: str) -> Contents:
    """A commit of a report and other files, name (``_`` for ``.``) to SHA-256."""
    digests = {name.replace("_", "."): digest for name, digest in files.items()}
    tree = {name: HubFile(digest, "", 10) for name, digest in digests.items()}
    return Contents(tree, {REPORT_FILE: json.dumps(report).encode()}, digests, faults)


def parity_of(report: Any, record: dict[str, Any] | None = None) -> results.Check:
    record = record or record_of(report if isinstance(report, dict) else {})
    return checks.check_parity(record, contents_of(report))


def test_a_report_that_passed_is_a_proof() -> None:
    found = parity_of(REPORT)
    assert found.status == results.OK
    assert "float64 error 3.0e-15 (bound 1.0e-10)" in found.detail
    assert parity_of(REPORT | {"merge_error": 1e-11}).status == results.OK


def test_a_release_of_schema_1_still_verifies() -> None:
    old = {k: v for k, v in REPORT.items() if k not in (*FURTHER_FIELDS, "controls", "missed")}
    old["schema"] = 1
    assert parity_of(old).status == results.OK
    assert parity_of(old | {"failures": ["prose: far off."]}).status == results.FAILED
    assert parity_of(old | {"schema": 2}).status == results.FAILED


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "did not pass": ({"passed": False}, "passed is False"),
    "failures": ({"failures": ["prose: far off."]}, "failures is"),
    "bound": ({"fp64_bound": 1.0}, "fp64_bound 1.0 is not within 1e-10"),
    "error": ({"fp64_error": 1e-9}, "fp64_error 1e-09 is not within 1e-10"),
    "error in float32": ({"fp32_error": 1e-3}, "fp32_error 0.001 is not within 4e-06"),
    "smaller than a batch": ({"fp64_error": 0.0}, "fp64_error is not that of the worst batch"),
    "merge": ({"merge_error": 1e-3}, "merge_error 0.001 is not within"),
    "infinite bound": ({"fp32_bound": math.inf}, "is not within inf"),
    "no bound": ({"fp32_bound": None}, "is not within None"),
    "not a number": ({"fp32_error": math.nan}, "fp32_error"),
    "text": ({"fp32_error": "0"}, "fp32_error 0 is not within"),
    "true": ({"fp64_error": True}, "fp64_error True is not within"),
    "no batches": ({"comparisons": []}, "is not that of the worst batch"),
    "odd batches": ({"comparisons": [1, {"fp64_error": "x"}]}, "is not that of the worst batch"),
    "shaken": ({"shaken_error": 1e-3}, "shaken_error 0.001 is not within"),
    "gate invalid": ({"verdict": "invalid"}, "verdict is invalid"),
    "missed": ({"missed": ["stale row"]}, "missed is"),
    "a fault that was missed": (
        {"controls": [{"name": "stale row", "outcome": "missed", "error": 0.0}], "caught": 0},
        "controls has a fault that was missed",
    ),
    "more than were planted": ({"caught": 2}, "caught is not the number of faults in controls"),
    "no controls": ({"controls": None}, "caught is not the number of faults in controls"),
    "enormous": ({"fp32_bound": 10**400}, "is not within 1000"),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_report_is_none_even_where_the_record_agrees(kind: str) -> None:
    change, message = FORGED[kind]
    found = parity_of(REPORT | change)
    assert found.status == results.FAILED and message in found.detail
    assert len(found.detail) < 1000


@pytest.mark.parametrize("field", [*VERDICT_FIELDS, *FURTHER_FIELDS])
def test_every_figure_is_that_of_the_record(field: str) -> None:
    for other in (0.5, False):
        record = record_of(REPORT)
        record["parity"][field] = other
        found = parity_of(REPORT, record)
        assert found.status == results.FAILED
        assert f"{field} is {REPORT[field]} in parity.json, {other} in release.json" in found.detail
    record = record_of(REPORT)
    del record["parity"][field]
    assert parity_of(REPORT, record).status == results.FAILED
    assert parity_of({k: v for k, v in REPORT.items() if k != field}).status == results.FAILED


@pytest.mark.parametrize("report", [None, [], "x", 1, {}])
def test_what_is_no_report_is_no_proof(report: Any) -> None:
    assert parity_of(report).status == results.FAILED


def test_a_report_that_the_record_does_not_list_is_no_proof() -> None:
    found = parity_of(REPORT, record_of(REPORT, files={}))
    assert found.status == results.FAILED and "release.json lists no parity.json" in found.detail


values = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.just([])


@given(st.dictionaries(st.sampled_from(sorted(REPORT)), values), st.booleans())
def test_any_report_gets_a_verdict(change: dict[str, Any], agreeing: bool) -> None:
    report = REPORT | change
    found = parity_of(report, record_of(report if agreeing else REPORT))
    if found.status == results.OK:
        assert report["passed"] == 1 and report["failures"] == []
        assert report["fp64_error"] == REPORT["fp64_error"] <= report["fp64_bound"] <= 1e-10
        assert report["fp32_error"] == REPORT["fp32_error"] <= report["fp32_bound"] < math.inf


def test_the_bound_is_that_of_the_gate() -> None:
    from slogpt_hf.parity.gate import FP64_BOUND

    assert results.FP64_BOUND == FP64_BOUND


@pytest.mark.parametrize(
    "change",
    [
        {"repo_id": "me/other"},
        {"repo_id": None},
        {"tag": "v1.0.1"},
        {"tag": None},
        {"version": None},
        {"version": 1},
        {"repo_id": "x" * 10_000},
    ],
)
def test_a_record_of_another_release_is_named(change: dict[str, Any]) -> None:
    found = checks.check_record(record_of(REPORT, **change), REPO, TAG)
    assert found.status == results.FAILED and len(found.detail) < 400
    assert checks.check_record(record_of(REPORT), REPO, TAG).status == results.OK


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (contents_of(REPORT, parity_json="0"), "model.safetensors is missing"),
        (
            contents_of(REPORT, parity_json="0", model_safetensors="2"),
            "model.safetensors is not the file that release.json lists",
        ),
        (
            contents_of(REPORT, "x is served", parity_json="0", model_safetensors="1"),
            "x is served",
        ),
        (
            contents_of(REPORT, parity_json="0", model_safetensors="1", modeling_py="3"),
            "modeling.py is not of the release, but from_pretrained would load it",
        ),
    ],
)
def test_files_that_are_not_those_of_the_record(contents: Contents, message: str) -> None:
    found = checks.check_files(record_of(REPORT), contents, download=True)
    assert found.status == results.FAILED and message in found.detail


def test_files_beside_the_release_do_no_harm() -> None:
    contents = contents_of(REPORT, parity_json="0", model_safetensors="1", LICENSE="2", a_ipynb="3")
    assert checks.check_files(record_of(REPORT), contents, download=True).status == results.OK


def test_many_problems_are_counted() -> None:
    record = record_of(REPORT, files={f"{i:03}.json": "0" for i in range(200)})
    found = checks.check_files(record, contents_of(REPORT), download=True)
    assert "and 195 more" in found.detail and len(found.detail) < 300


@pytest.mark.parametrize(
    ("signed", "message"),
    [
        ({RECORD_FILE: "9", REPORT_FILE: "0", "model.safetensors": "1"}, None),
        ({RECORD_FILE: "9", REPORT_FILE: "0"}, "model.safetensors is not signed"),
        ({REPORT_FILE: "0", "model.safetensors": "1"}, "release.json is not signed"),
        (
            {RECORD_FILE: "9", REPORT_FILE: "0", "model.safetensors": "2"},
            "model.safetensors is signed, but was changed",
        ),
        (
            {RECORD_FILE: "9", REPORT_FILE: "0", "model.safetensors": "1", "gone": "1"},
            "gone is signed, but is missing",
        ),
    ],
)
def test_a_signature_vouches_for_the_whole_release(
    signed: dict[str, str], message: str | None
) -> None:
    contents = contents_of(REPORT, parity_json="0", model_safetensors="1", release_json="9")
    found = checks.check_signature(record_of(REPORT), contents, signed, None, required=True)
    assert found.status == (results.FAILED if message else results.OK)
    assert message is None or message in found.detail


@pytest.mark.parametrize("release", ["me/model@v1.0.0", "me/model@a/b-step3", "a/b@1"])
def test_a_release_has_a_repository_and_a_tag(release: str) -> None:
    assert "@".join(parse_release(release)) == release


@pytest.mark.parametrize(
    "release",
    ["", "@", "me/model", "me/model@", "@v1", "model@v1", "a/b@c@d", "me/model@-x", "me/model@a b"],
)
def test_what_is_no_release_is_said_so(release: str) -> None:
    with pytest.raises(UsageError):
        parse_release(release)


@pytest.mark.parametrize(
    ("content", "blob_id"),
    [
        (b"", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        (b"test content\n", "d670460b4b4aece5915caf5c68d12f560a9fe3e4"),  # of the Git book
    ],
)
def test_the_id_of_a_blob_is_that_of_git(content: bytes, blob_id: str) -> None:
    assert git_blob_id(content) == blob_id


def test_verifying_a_release_needs_neither_torch_nor_the_extra() -> None:
    code = (
        "import sys, slogpt_hf.verification, slogpt_hf.cli.verify_release\n"
        "unneeded = {'torch', 'transformers', 'model_signing', 'cryptography', 'sigstore', 'id'}\n"
        "print(unneeded & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
