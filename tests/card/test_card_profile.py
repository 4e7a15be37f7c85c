"""The fields of a ``.sou`` profile in a card, and what the card says of a quantised source."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from slogpt_hf.card import CardFacts, render_facts
from slogpt_hf.card.facts import PROFILE_LENGTH, profile_rows

URL = "https://github.com/me/x"


def shown(text: str) -> str:
    return dict(profile_rows({"description": text})).get("description", "")


def test_a_sentence_keeps_what_is_fit_for_the_public() -> None:
    text = (
        "Trained by bob@example.com on gpu-17 from /home/bob/secret/x.txt, password=hunter2, "
        f"see {URL} for details"
    )
    assert shown(text) == (
        f"Trained by [removed] on gpu-17 from [removed], [removed], see {URL} for details"
    )


@pytest.mark.parametrize(
    "text",
    [
        "bob@gpu-17",
        "mailto:bob@example.com",
        "~/bob/x",
        "~bob",
        "../../home/bob/x",
        "path=/home/bob/x",
        "gpu-17:/home/bob",
        "C:\\Users\\bob",
        "C:/Users/bob",
        "\\\\server\\bob",
        "s3://bob/x",
        "gs://bob",
        "file:///home/bob",
        "http://bob.local/x",
        "https://bob:pw@example.org/x",
        "https://bob@example.org",
        "(/home/bob/x)",
        "'/home/bob'",
        "note: password=bob",
        "password = bob",
        "api_key: 'bob smith'",
        "{'token': 'bob'}",
        "Authorization: Bearer bob",
        "Bearer bob",
        "--token bob",
        "password=token=bob",
        "hf_bobbobbob",
    ],
)
def test_what_is_private_is_removed(text: str) -> None:
    for field in ("name", "description", "lineage", "version"):
        found = dict(profile_rows({field: f"It is {text}, see {URL}."}))[field]
        assert found.startswith("It is ") and found.endswith(f", see {URL}.")
        assert "bob" not in found and "[removed]" in found
    assert shown(shown(text)) == shown(text)


@pytest.mark.parametrize(
    "text",
    ["Poems and/or plays.", "me/poems v1.2: n/a", "a < b; 3e-4 (lr=0.1)", "data/poems", f"({URL})"],
)
def test_other_text_stays(text: str) -> None:
    assert shown(text) == text


def test_a_long_field_is_cut() -> None:
    assert len(shown("ab " * 1000)) == PROFILE_LENGTH
    assert "bob" not in shown("x" * (PROFILE_LENGTH - 8) + " /home/bob/x")


def test_a_quantised_source_names_its_format(card_facts: Callable[..., CardFacts]) -> None:
    found = {"kind": "Q8_0", "group_size": 32, "max_error": 0.1}
    card = render_facts(card_facts(quantisation=found))
    row = "| Data type | Q8\\_0 (int8, groups of 32) in the checkpoint, float32 here |"
    assert row in card
    assert row not in render_facts(card_facts())
