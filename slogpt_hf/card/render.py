"""Facts and a Jinja template give README.md.

Whatever a template prints is escaped for Markdown unless a filter of this module made it:
``code`` (inline code), ``fence`` (a code block) and ``python`` (a string literal).
``scientific`` formats a number, ``setting`` an assumption as ``NAME=VALUE``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields
from functools import wraps
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from slogpt_hf.card import elsewhere, escaping
from slogpt_hf.card.facts import (
    CardFacts,
    architecture_rows,
    commit_url,
    facts_from_record,
    profile_rows,
    prompt_for_snippet,
    remote_url,
    setting_rows,
    without_folders,
)
from slogpt_hf.card.metadata import metadata_yaml
from slogpt_hf.card.proof import behaviours_of, caught_by, likeness_of
from slogpt_hf.card.record import PICTURES
from slogpt_hf.card.validate import validate_card, validate_metadata
from slogpt_hf.errors import GateInvalidError, ParityError, UsageError
from slogpt_hf.libraries import loaded_in, loads
from slogpt_hf.parity.claims import MOST_ASSUMED, NOT_EQUAL, assumed, short_claim
from slogpt_hf.parity.stated import as_setting

if TYPE_CHECKING:
    from jinja2.sandbox import SandboxedEnvironment
    from markupsafe import Markup

DEFAULT_TEMPLATE = Path(__file__).with_name("template.md.jinja")
OWN_TEMPLATES = "slogpt-hf"  # {% extends "slogpt-hf/template.md.jinja" %}
NEW_TOKENS = 100
AROUND_A_TEXT = 3  # ids: a begin, a space in front, an end


def render_card(
    record: Mapping[str, Any], report: Mapping[str, Any], template: Path | None = None
) -> str:
    """The model card of an artefact.

    Args:
        record: content of ``release.json``.
        report: content of ``parity.json``.
        template: as for ``render_facts``.

    Raises:
        CheckpointError: record or report lack a field.
        UsageError, ParityError: as for ``render_facts``.
    """
    return render_facts(facts_from_record(record, report), template)


def render_facts(facts: CardFacts, template: Path | None = None) -> str:
    """The model card.

    Args:
        facts: what it says.
        template: a Jinja file in place of the built-in one; it may extend the built-in one's
            blocks with ``{% extends "slogpt-hf/template.md.jinja" %}``. The metadata is put
            before it unless it begins with ``---`` itself.

    Returns:
        README.md: YAML metadata between ``---`` lines, then Markdown.

    Raises:
        UsageError: the template is missing, has an error (with its line) or uses a variable
            that there is not, or the Hub would refuse the card's metadata.
        ParityError: the proof that the card would state failed.
        GateInvalidError: that proof would not have caught a fault.
    """
    if facts.parity.verdict == "invalid":
        raise GateInvalidError(
            f"no card: the artefact is not proven. {facts.parity.reason}",
            hint="A card states the proof.",
        )
    if not facts.parity.passed:
        raise ParityError(
            f"no card: the artefact is {NOT_EQUAL}. " + " ".join(facts.parity.failures),
            hint="A card states the proof; repair the conversion first.",
        )
    text = _rendered(_context(facts), template or DEFAULT_TEMPLATE)
    if not text.lstrip().startswith("---"):
        text = f"---\n{metadata_yaml(facts)}\n---\n\n{text}"
    if problems := validate_card(text):
        raise _refused(problems)
    return text


def _most_ids(facts: CardFacts, prompt: str) -> int:
    """How many ids the snippet's prompt has at most, with what a tokenizer puts around it."""
    if facts.tokenizer is None:
        return 1
    if facts.tokenizer.kind == "characters":
        return len(prompt)
    return len(prompt.encode()) + AROUND_A_TEXT


def _context(facts: CardFacts) -> dict[str, Any]:
    """The variables of a template: the facts, and what is derived from them."""
    from markupsafe import Markup

    prompt = prompt_for_snippet(facts)
    made_for = loads(facts.remote_code)
    source = facts.tokenizer.source if facts.tokenizer else None
    return {field.name: getattr(facts, field.name) for field in fields(facts)} | {
        "architecture": architecture_rows(facts),
        "assumed": assumed(facts.parity, MOST_ASSUMED),
        "behaviours": behaviours_of(facts.parity),
        "caught": caught_by(facts.parity),
        "likeness": likeness_of(facts.parity),
        "card_data": Markup(metadata_yaml(facts)),
        "commit_url": commit_url(facts.provenance),
        "dataset": facts.dataset_name,
        # Of records of earlier versions, whose files are others, only the range is known.
        "loaded_in": loaded_in(facts.remote_code) if facts.loads == made_for else (),
        "max_new_tokens": max(1, min(NEW_TOKENS, facts.spec.block_size - _most_ids(facts, prompt))),
        "name": facts.name,
        "pictures": PICTURES if facts.has_pictures else None,
        "prompt": prompt,
        "remote_url": remote_url(facts.provenance),
        "places": _places(facts) if facts.loads == made_for else [],
        "places_tried": elsewhere.table()["date"],
        "profile": profile_rows(facts.profile),
        "settings": setting_rows(facts.settings),
        "short_claim": short_claim(facts.parity),
        "tokenizer_source": without_folders(source) if source else None,
    }


def _places(facts: CardFacts) -> list[elsewhere.Place]:
    kind = facts.tokenizer.kind if facts.tokenizer else None
    return elsewhere.places(facts.spec, facts.target_class, kind)


def require_card_options(
    license_id: str, languages: tuple[str, ...], template: Path | None = None
) -> None:
    """Find before anything takes long what would make a card impossible.

    Raises:
        UsageError: the Hub knows no such license or language, or the template does not parse.
    """
    problems = validate_metadata({"license": license_id, "language": list(languages)})
    if problems:
        raise _refused(problems)
    if template is not None:
        with _template_errors(template, ()):
            _environment(template).get_template(template.name)


def _refused(problems: list[str]) -> UsageError:
    return UsageError(
        f"the Hub would refuse the model card: {' '.join(problems)}",
        hint="Correct the option or the template that it comes from.",
    )


def _rendered(context: dict[str, Any], path: Path) -> str:
    with _template_errors(path, context):
        return _environment(path).get_template(path.name).render(context)


@contextmanager
def _template_errors(path: Path, variables: Iterable[str]) -> Iterator[None]:
    if not path.is_file():
        raise UsageError(f"{path}: there is no such card template.", hint="Name a Jinja file.")
    try:
        yield
    except Exception as error:  # a template can make Python raise anything
        line = getattr(error, "lineno", None) or _line(error.__traceback__, path)
        where = f"{path}, line {line}" if line else f"{path}"
        what = str(error).strip() or type(error).__name__
        known = f"Its variables are {', '.join(sorted(variables))}." if variables else ""
        raise UsageError(
            f"{where}: the card template has an error: {what.rstrip('.')}.", hint=known
        ) from error


def _environment(path: Path) -> SandboxedEnvironment:
    """Jinja that escapes for Markdown what an expression prints, and runs no Python."""
    from jinja2 import ChoiceLoader, FileSystemLoader, PrefixLoader, StrictUndefined
    from jinja2.sandbox import SandboxedEnvironment
    from markupsafe import Markup

    def printed(value: object) -> Markup:
        if isinstance(value, Markup):
            return value
        return Markup("" if value is None else escaping.escape_markdown(str(value)))

    environment = SandboxedEnvironment(
        loader=ChoiceLoader(
            [
                FileSystemLoader(path.parent, encoding="utf-8-sig"),
                PrefixLoader({OWN_TEMPLATES: FileSystemLoader(DEFAULT_TEMPLATE.parent)}),
            ]
        ),
        undefined=StrictUndefined,
        # Marks what macros and blocks return as done, so that nothing is escaped twice.
        autoescape=True,
        finalize=printed,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {
        "code": _markup(escaping.code),
        "fence": _markup(escaping.fence),
        "python": _markup(escaping.python_literal),
        "scientific": _scientific,
        "setting": as_setting,
    }
    return environment


def _markup(function: Callable[..., str]) -> Callable[..., Markup]:
    """A filter whose output is Markdown already."""
    from markupsafe import Markup

    @wraps(function)
    def filtered(value: object, *arguments: str) -> Markup:
        return Markup(function(str(value), *arguments))

    return filtered


def _scientific(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def _line(traceback: TracebackType | None, path: Path) -> int | None:
    """The line of the template that was being rendered when an error was raised."""
    line = None
    while traceback is not None:
        if Path(traceback.tb_frame.f_code.co_filename) == path:
            line = traceback.tb_lineno
        traceback = traceback.tb_next
    return line
