"""What the Hub would refuse is found offline."""

from __future__ import annotations

import pytest

from slogpt_hf.card import validate_card

RESULT = "task: {type: text-generation}, dataset: {type: text, name: x}"
INDEX = "model-index: [{{name: m, results: [{{{}}}]}}]"


@pytest.mark.parametrize(
    "block",
    [
        "",
        "language: [en, pt-BR, code]",
        "language: en",
        "datasets: [me/poems, wikitext]",
        "tags: [a, b]",
        "library_name: transformers\npipeline_tag: text-generation",
        INDEX.format(f"{RESULT}, metrics: [{{type: loss, value: 1.5}}]"),
    ],
)
def test_valid(block: str) -> None:
    assert validate_card(f"---\nlicense: apache-2.0\n{block}\n---\ntext") == []


@pytest.mark.parametrize(
    ("block", "field"),
    [
        ("license: Apache-2.0", "license"),
        ("license: [mit, 3]", "license"),
        ("license: unknown\nlanguage: no", "language"),
        ("license: unknown\nlanguage: english", "language"),
        ("license: unknown\ndatasets: [null]", "datasets"),
        ("license: unknown\ndatasets: ['my data']", "datasets"),
        ("license: unknown\npipeline_tag: chat", "pipeline_tag"),
        ("license: unknown\npipeline_tag: [text-generation]", "pipeline_tag"),
        ("license: unknown\ntags: slogpt", "tags"),
        ("license: unknown\ntags: [a, 1.5]", "tags"),
        ("license: unknown\nlibrary_name: 3", "library_name"),
        ("license: unknown\nmodel-index: not correct", "model-index"),
        ("license: unknown\nmodel-index: []", "model-index"),
        ("license: unknown\nmodel-index: [{name: m}]", "model-index"),
        (f"license: unknown\n{INDEX.format(RESULT)}", "model-index"),
        (f"license: unknown\n{INDEX.format(RESULT + ', metrics: [{type: loss}]')}", "model-index"),
        ("license: unknown\n3: 4", "metadata"),
        ("- license", "metadata"),
        ("license: [", "metadata"),
        ("tags: [a]", "license"),
    ],
)
def test_each_problem_begins_with_its_field(block: str, field: str) -> None:
    problems = validate_card(f"---\n{block}\n---\ntext")
    assert problems
    assert {problem.split(":")[0] for problem in problems} == {field}


@pytest.mark.parametrize(
    "text", ["", "# Title", "text\n---\nlicense: mit\n---\n", "---\nlicense: mit"]
)
def test_a_card_without_metadata(text: str) -> None:
    assert [problem.split(":")[0] for problem in validate_card(text)] == ["metadata"]
