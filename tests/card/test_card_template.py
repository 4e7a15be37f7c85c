"""Templates of users: what they can do, and what they are told when they go wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from slogpt_hf.card import CardFacts, render_facts
from slogpt_hf.errors import UsageError

Make = Callable[..., CardFacts]


@pytest.fixture
def template(tmp_path: Path) -> Callable[[str], Path]:
    """Writes a template file."""

    def write(text: str) -> Path:
        path = tmp_path / "card.md.jinja"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def test_metadata_is_put_before_a_template_without_any(
    card_facts: Make, template: Callable[[str], Path]
) -> None:
    card = render_facts(card_facts(), template("# Mine\n{{ tag }}\n"))
    assert ModelCard(card).data.license == "mit"
    assert card.endswith("---\n\n# Mine\nv1.4.0\n")


@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_a_template_may_bring_its_own_metadata(
    card_facts: Make, template: Callable[[str], Path], mark: str
) -> None:
    text = f"{mark}---\n{{{{ card_data }}}}\nbase_model: me/base\n---\nText\n"
    data = ModelCard(render_facts(card_facts(), template(text))).data
    assert (data.base_model, data.license) == ("me/base", "mit")


def test_a_template_may_replace_one_block_of_the_built_in_one(
    card_facts: Make, template: Callable[[str], Path]
) -> None:
    extended = (
        '{% extends "slogpt-hf/template.md.jinja" %}\n{% block limits %}Mine.\n{% endblock %}'
    )
    built_in = render_facts(card_facts())
    assert render_facts(card_facts(), template(extended)) == (
        built_in[: built_in.index("## Limits")] + "Mine.\n"
    )


def test_values_are_escaped_once_also_through_macros(
    card_facts: Make, template: Callable[[str], Path]
) -> None:
    text = (
        "{% macro cell(x) %}| {{ x }} |{% endmacro %}{% set y %}{{ dataset }}{% endset %}"
        "{{ cell(dataset) }} {{ y }} {{ dataset | safe }} {{ dataset | code }}"
    )
    card = render_facts(card_facts(dataset="a|b"), template(text))
    assert card.endswith("| a&#124;b | a&#124;b a|b <code>a&#124;b</code>")


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("# x\n{% if tag %}\n", 2, "endif"),
        ("# x\n\n{{ nonsense }}", 3, "'nonsense' is undefined"),
        ("{{ parity.nonsense }}", 1, "no attribute 'nonsense'"),
        ("\n{{ tag | nonsense }}", 2, "nonsense"),
        ("\n{{ 1 / 0 }}", 2, "division by zero"),
        ("\n{{ tag.__class__.__mro__ }}", 2, "unsafe"),
        ('\n{% include "nowhere" %}', 2, "nowhere"),
        ('{% include "../secret" %}', 1, "secret"),
        ('{% extends "card.md.jinja" %}', None, "recursion"),
    ],
)
def test_an_error_names_file_line_and_variables(
    card_facts: Make,
    template: Callable[[str], Path],
    text: str,
    line: int | None,
    says: str,
) -> None:
    path = template(text)
    (path.parent.parent / "secret").write_text("secret")
    with pytest.raises(UsageError) as error:
        render_facts(card_facts(), path)
    where = f"{path}, line {line}: " if line else f"{path}"
    assert error.value.message.startswith(where)
    assert says in error.value.message
    assert "checkpoint_sha256, code" not in error.value.hint
    assert "architecture, assumed, behaviours, card_data, caught," in error.value.hint


def test_a_missing_template_is_a_usage_error(card_facts: Make, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no such card template"):
        render_facts(card_facts(), tmp_path / "none.jinja")
    with pytest.raises(UsageError, match="no such card template"):
        render_facts(card_facts(), tmp_path)


def test_a_template_that_is_not_utf8_is_a_usage_error(card_facts: Make, tmp_path: Path) -> None:
    path = tmp_path / "latin.jinja"
    path.write_bytes(b"caf\xe9")
    with pytest.raises(UsageError, match="utf-8"):
        render_facts(card_facts(), path)


def test_metadata_of_a_template_is_checked(
    card_facts: Make, template: Callable[[str], Path]
) -> None:
    with pytest.raises(UsageError, match="pipeline_tag: 'chat'"):
        render_facts(card_facts(), template("---\nlicense: mit\npipeline_tag: chat\n---\n"))
    with pytest.raises(UsageError, match="metadata"):
        render_facts(card_facts(), template("---\nlicense: mit\n"))
