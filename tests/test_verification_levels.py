"""A release's level is what its report has the evidence for; an old one's is not known."""

from __future__ import annotations

from typing import Any

import pytest

from slogpt_hf.verification import results
from slogpt_hf.verification.levels import check_level

WITNESS: dict[str, Any] = {
    "name": "model.py:GPT",
    "agrees": True,
    "error": 2e-6,
    "built_in_error": 1e-6,
    "bound": 2e-6,
    "fp64_error": 1e-15,
    "batch": 2,
    "length": 256,
    "rounding": 1e-6,
}
LOSS: dict[str, Any] = {"recorded": 1.47, "computed": 1.48, "bound": 0.05, "agrees": True}
GELU = {"name": "activation", "value": "gelu", "why": "no file records it", "text": "exact GELU"}
CLAIM = "proven equal to nanoGPT as slogpt-hf knows it"


def report_of(level: str | None = "assumed", **changes: Any) -> dict[str, Any]:
    report: dict[str, Any] = {
        "schema": 3,
        "verdict": "passed",
        "passed": True,
        "level": level,
        "family": "nanoGPT",
        "assumptions": [] if level == "witnessed" else [GELU],
        "witnesses": [WITNESS] if level == "witnessed" else [],
        "loss": LOSS if level == "corroborated" else None,
    }
    return report | changes


def level_of(report: Any, *, block_size: int = 256, **recorded: Any) -> results.Check:
    parity = {name: report[name] for name in ("level", "family") if name in report}
    if "assumptions" in report:
        told = ("name", "value", "text")
        parity["assumptions"] = [{k: a[k] for k in told} for a in report["assumptions"]]
    record = {"parity": parity | recorded, "model": {"spec": {"block_size": block_size}}}
    return check_level(record, report)


@pytest.mark.parametrize(
    ("level", "detail"),
    [
        ("witnessed", "witnessed: proven equal to the trainer's own model"),
        ("corroborated", f"corroborated: {CLAIM}, which reproduces the recorded validation loss; "),
        ("assumed", f"assumed: {CLAIM}; assumed: exact GELU"),
    ],
)
def test_a_level_with_its_evidence(level: str, detail: str) -> None:
    found = level_of(report_of(level))
    assert found.status == results.OK and found.detail.startswith(detail)


@pytest.mark.parametrize("schema", [1, 2])
def test_of_an_earlier_version_the_level_is_not_known(schema: int) -> None:
    found = level_of({"schema": schema, "passed": True, "verdict": "passed", "witnesses": []})
    assert found.status == results.NOT_CHECKED
    assert found.detail == "level not known (proven by an earlier version)"


def test_a_witness_confirms_what_it_was_not_told() -> None:
    told = [WITNESS | {"told": ["n_head"]}]
    left = [{"name": "n_head", "value": 8, "why": "given by hand", "text": "8 heads"}]
    found = level_of(report_of("witnessed", witnesses=told, confirmed=[GELU], assumptions=left))
    assert found.status == results.OK
    assert found.detail.startswith("witnessed: proven equal to the trainer's own model")


FORGED: dict[str, tuple[dict[str, Any], str]] = {
    "no witness": ({"witnesses": []}, "no witness agrees within its bounds on 256 positions"),
    "one that disagrees": ({"witnesses": [WITNESS | {"agrees": False}]}, "a witness disagrees"),
    "one of two": ({"witnesses": [WITNESS, WITNESS | {"agrees": 1}]}, "a witness disagrees"),
    "too short": ({"witnesses": [WITNESS | {"length": 8}]}, "no witness agrees"),
    "far off": ({"witnesses": [WITNESS | {"error": 1e-5}]}, "no witness agrees"),
    "built-in model far off": (
        {"witnesses": [WITNESS | {"built_in_error": 2.5e-6}]},
        "no witness agrees",
    ),
    "float64 far off": ({"witnesses": [WITNESS | {"fp64_error": 1e-4}]}, "no witness agrees"),
    "no figures": ({"witnesses": [{"agrees": True}]}, "no witness agrees"),
    "text for figures": ({"witnesses": [WITNESS | {"bound": "2"}]}, "no witness agrees"),
    "no list": ({"witnesses": "model.py:GPT"}, "no witness agrees"),
    "confirmed by one that was told": (
        {"witnesses": [WITNESS | {"told": ["activation"]}], "confirmed": [GELU]},
        "activation is confirmed, but no witness that agrees knew it by itself",
    ),
    "confirmed by one that cannot tell": (
        {"witnesses": [WITNESS | {"untold": ["activation"]}], "confirmed": [GELU]},
        "activation is confirmed, but no witness that agrees knew it by itself",
    ),
    "one that takes no notice": (
        {"witnesses": [WITNESS | {"not_taken": ["model_args.softmax1"]}]},
        "no witness agrees",
    ),
    "confirmed by nobody": (
        {"level": "assumed", "witnesses": [], "confirmed": [GELU]},
        "activation is confirmed, but",
    ),
    "a loss that is off": ({"loss": LOSS | {"agrees": False}}, "the recorded loss is not"),
    "no such level": ({"level": "certain"}, "level certain is none of"),
    "no text": ({"level": ["witnessed"]}, "is none of"),
    "corroborated without a loss": ({"level": "corroborated"}, "not reproduced within its bound"),
    "corroborated by another": (
        {"level": "corroborated", "loss": LOSS | {"computed": 3.9}},
        "not reproduced within its bound",
    ),
}


@pytest.mark.parametrize("kind", FORGED)
def test_a_forged_level_is_found(kind: str) -> None:
    change, message = FORGED[kind]
    found = level_of(report_of("witnessed") | change)
    assert found.status == results.FAILED and message in found.detail


def test_a_longer_context_needs_512_positions() -> None:
    assert level_of(report_of("witnessed"), block_size=1024).status == results.FAILED
    longer = report_of("witnessed", witnesses=[WITNESS | {"length": 512}])
    assert level_of(longer, block_size=1024).status == results.OK


@pytest.mark.parametrize(
    ("recorded", "message"),
    [
        ({"level": "witnessed"}, "level is assumed in parity.json, witnessed in release.json"),
        ({"family": "Slo"}, "family is nanoGPT in parity.json, Slo in release.json"),
        ({"assumptions": []}, "assumptions differ"),
        ({"assumptions": [GELU | {"value": "gelu_tanh"}]}, "assumptions differ"),
    ],
)
def test_the_record_says_what_the_report_says(recorded: dict[str, Any], message: str) -> None:
    found = level_of(report_of(), **recorded)
    assert found.status == results.FAILED and message in found.detail


@pytest.mark.parametrize("report", [None, [], "x"])
def test_what_is_no_report_has_no_level(report: Any) -> None:
    assert check_level({"parity": {}}, report).status == results.FAILED
