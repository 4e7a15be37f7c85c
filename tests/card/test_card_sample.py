"""The generated sample, and the card's snippet run as a reader would run it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from slogpt_hf.card import CardFacts, Sample, generate_sample, render_facts
from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.tokenizers.characters import write_character_tokenizer

LETTERS = "\n abcdefghijklmnopqrstuvwxyz.,:;!?|`"
BLOCK_SIZE = 24


def write_tokenizer(folder: Path, characters: str) -> None:
    """Add a character tokenizer to an artefact."""
    write_character_tokenizer(
        Vocabulary(tuple(characters), "test"), folder, model_max_length=BLOCK_SIZE
    )


@pytest.fixture(scope="module", params=["stock class", "shipped class"])
def artefact(
    request: pytest.FixtureRequest,
    slo_checkpoint: Callable[..., Path],
    convert: Callable[..., tuple[object, Path]],
) -> Path:
    """An artefact of a stock transformers class, and one that ships its own."""
    path = slo_checkpoint(
        use_rmsnorm=request.param == "shipped class",
        vocab_size=len(LETTERS),
        block_size=BLOCK_SIZE,
    )
    folder = convert(path)[1]
    write_tokenizer(folder, LETTERS)
    return folder


@pytest.fixture
def copied(artefact: Path, tmp_path: Path) -> Path:
    """A copy of an artefact that a test may change."""
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def test_a_sample_is_the_same_on_every_run_and_leaves_torch_alone(artefact: Path) -> None:
    torch.manual_seed(5)
    first = generate_sample(artefact)
    after = torch.rand(1)
    assert generate_sample(artefact) == first
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    assert generate_sample(artefact, seed=7) != first


def test_a_sample_fills_at_most_the_context(artefact: Path) -> None:
    assert len(generate_sample(artefact)) == BLOCK_SIZE
    assert len(generate_sample(artefact, n_tokens=3)) == 4
    text = generate_sample(artefact, prompt="hello", n_tokens=BLOCK_SIZE)
    assert text.startswith("hello")
    assert len(text) == BLOCK_SIZE


def test_without_a_prompt_it_begins_with_a_newline_or_the_first_token(
    artefact: Path, copied: Path
) -> None:
    assert generate_sample(artefact, n_tokens=1)[0] == "\n"
    write_tokenizer(copied, LETTERS.replace("\n", "A"))
    assert generate_sample(copied, n_tokens=1)[0] == "A"


def test_a_prompt_that_cannot_be_used_is_a_usage_error(artefact: Path) -> None:
    with pytest.raises(UsageError, match="'Hello' has characters"):
        generate_sample(artefact, prompt="Hello")
    with pytest.raises(UsageError, match="24 tokens"):
        generate_sample(artefact, prompt="a" * BLOCK_SIZE)


def test_without_a_tokenizer_there_is_no_sample(copied: Path) -> None:
    for path in copied.glob("tokenizer*"):
        path.unlink()
    assert generate_sample(copied) == ""


def test_a_damaged_tokenizer_is_a_checkpoint_error(copied: Path) -> None:
    (copied / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="tokenizer does not load"):
        generate_sample(copied)


def test_nobody_is_asked_to_run_code(
    artefact: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *prompt: pytest.fail("asked"))
    generate_sample(artefact, n_tokens=1)
    captured = capsys.readouterr()
    assert "custom code" not in captured.out + captured.err


def test_the_snippet_runs(
    artefact: Path,
    card_facts: Callable[..., CardFacts],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # A folder of that name stands for the repository, so no hub is needed.
    shutil.copytree(artefact, tmp_path / "me" / "tiny")
    monkeypatch.chdir(tmp_path)
    remote_code = any(artefact.glob("*.py"))
    facts = card_facts(remote_code=remote_code, sample=Sample("hey"))
    card = render_facts(replace(facts, spec=replace(facts.spec, block_size=BLOCK_SIZE)))
    exec(card.split("```python\n")[1].split("\n```")[0], {})
    printed = capsys.readouterr().out.removesuffix("\n")
    assert printed.startswith("h")
    assert len(printed) == BLOCK_SIZE
