"""What the built-in card says."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import yaml
from huggingface_hub import ModelCard

from slogpt_hf.card import (
    CardFacts,
    Sample,
    TokenizerFacts,
    facts_from_record,
    render_card,
    render_facts,
    validate_card,
)
from slogpt_hf.card.facts import setting_rows
from slogpt_hf.errors import CheckpointError, ParityError, UsageError

Make = Callable[..., CardFacts]


def metadata(card: str) -> dict[str, Any]:
    """The front matter, read by yaml alone."""
    content: dict[str, Any] = yaml.safe_load(card.split("---\n")[1])
    return content


def section(card: str, heading: str) -> str:
    """The text below a heading."""
    return card.split(f"\n## {heading}\n")[1].split("\n## ")[0]


def test_the_hub_client_and_yaml_read_the_same_metadata(
    record: dict[str, Any], report: dict[str, Any]
) -> None:
    card = render_card(record, report)
    data = ModelCard(card).data
    assert data.to_dict() == metadata(card)
    assert data.license == "mit"
    assert data.library_name == "transformers"
    assert data.pipeline_tag == "text-generation"
    assert data.language == ["en", "no"]
    assert {"slogpt", "nanogpt", "slo", "character-level"} <= set(data.tags)
    assert [(r.metric_type, r.metric_value) for r in data.eval_results] == [
        ("loss", 1.4697),
        ("perplexity", math.exp(1.4697)),
    ]
    assert data.eval_results[0].dataset_name == "shakespeare_char"
    assert validate_card(card) == []


def test_the_card_of_the_same_facts_is_the_same(card_facts: Make) -> None:
    assert render_facts(card_facts()) == render_facts(card_facts())


def test_sections_come_in_order(card_facts: Make) -> None:
    headings = re.findall(r"^#+ .*", render_facts(card_facts()), re.MULTILINE)
    assert headings == [
        "# tiny",
        "## How to load",
        "## Architecture",
        "## Proof",
        "## What the proof rests on",
        "## Provenance",
        "## Sample",
        "## Limits",
    ]


def test_the_proof_has_a_row_a_batch_with_figures_and_bounds(card_facts: Make) -> None:
    proof = section(render_facts(card_facts()), "Proof")
    rows = [line for line in proof.splitlines() if line.startswith("|")][2:]
    assert rows == [
        "| full block | 2 × 256 | 1.6e-14 | 1.0e-10 | 2.5e-06 | 6.0e-06 | 1.5e-06 |",
        "| odd length | 2 × 127 | 1.6e-14 | 1.0e-10 | 2.5e-06 | 6.0e-06 | 1.5e-06 |",
    ]
    assert "built-in plain-torch Slo model" in proof
    assert (
        "all 65 rows of embedding and head were compared and are equal, value for value." in proof
    )


def test_provenance_links_the_commit_of_a_public_remote(card_facts: Make) -> None:
    facts = card_facts()
    commit = facts.provenance.commit
    provenance = section(render_facts(facts), "Provenance")
    assert f"[`{commit}`](<https://example.org/me/gpt/commit/{commit}>)" in provenance
    assert f"`{facts.checkpoint_sha256}`" in provenance
    assert "| Branch | `train/small` |" in provenance
    assert "| Training steps | 2,500 |" in provenance
    assert "1.4697 nats per token" in provenance
    assert "float32 in the checkpoint, float32 here" in provenance


@pytest.mark.parametrize(
    "remote",
    [
        "/home/annika/gpt",
        "git@example.org:me/gpt.git",
        "https://annika:pw@example.org/gpt",
        "http://x/y",
    ],
)
def test_no_other_remote_is_shown(card_facts: Make, remote: str) -> None:
    facts = card_facts()
    card = render_facts(replace(facts, provenance=replace(facts.provenance, remote=remote)))
    assert remote not in card
    assert "annika" not in card
    assert f"| Commit | `{facts.provenance.commit}` |" in card


def test_what_was_not_recorded_is_left_out(card_facts: Make) -> None:
    facts = card_facts(step=None, val_loss=None, dataset=None, settings={}, sample=None, notes=())
    none = replace(facts.provenance, commit=None, branch=None, remote=None)
    card = render_facts(replace(facts, provenance=none, language=()))
    assert not {"model-index", "datasets", "language"} & metadata(card).keys()
    for absent in ("Commit", "Branch", "Training s", "Validation loss", "Dataset", "## Sample"):
        assert absent not in card
    assert "None" not in card


@pytest.mark.parametrize(
    ("dataset", "shown"),
    [
        ("me/poems", "me/poems"),
        ("mydata/books", "mydata/books"),
        ("shakespeare", "shakespeare"),
        ("/srv/annika/poems", "poems"),
        ("C:\\Users\\annika\\poems", "poems"),
        ("~annika/poems", "poems"),
        ("file:///srv/annika/poems", "poems"),
        ("https://annika:pw@example.org/annika/poems/?token=annika#annika", "poems"),
        ("s3://annika/poems", "poems"),
        ("s3://annika", "not recorded"),
        ("https://annika:pw@example.org", "not recorded"),
    ],
)
def test_a_dataset_that_the_trainer_recorded_is_shown_and_not_linked(
    card_facts: Make, dataset: str, shown: str
) -> None:
    card = render_facts(card_facts(dataset=dataset))
    assert "datasets" not in metadata(card)
    (result, _) = ModelCard(card).data.eval_results
    assert (result.dataset_type, result.dataset_name) == ("text", shown)
    assert "annika" not in card


def test_a_dataset_that_the_user_named_is_linked(
    record: dict[str, Any], report: dict[str, Any]
) -> None:
    for dataset_id, ids in (("me/poems", ["me/poems"]), (None, None)):
        card = render_card({**record, "dataset_id": dataset_id}, report)
        assert metadata(card).get("datasets") == ids
        result = ModelCard(card).data.eval_results[0]
        assert result.dataset_type == (dataset_id or "text")
        assert result.dataset_name == "shakespeare_char"
    with pytest.raises(UsageError, match="datasets: 'not an id'"):
        render_card({**record, "dataset_id": "not an id"}, report)


@pytest.mark.parametrize(("loss", "metrics"), [(0.0, 2), (900.0, 1), (float("nan"), 0)])
def test_a_perplexity_is_only_given_where_it_is_a_number(
    card_facts: Make, loss: float, metrics: int
) -> None:
    results = ModelCard(render_facts(card_facts(val_loss=loss))).data.eval_results or []
    assert len(results) == metrics


@pytest.mark.parametrize("remote_code", [True, False])
def test_the_snippet_is_pinned_and_trusts_code_only_where_needed(
    card_facts: Make, remote_code: bool
) -> None:
    card = render_facts(card_facts(remote_code=remote_code))
    snippet = card.split("```python\n")[1].split("\n```")[0]
    compile(snippet, "snippet", "exec")
    trust = ", trust_remote_code=True" if remote_code else ""
    assert snippet.count(f'from_pretrained("me/tiny", revision="v1.4.0"{trust})') == 2
    assert ("trust_remote_code" in card) is remote_code
    assert ("modeling_slogpt.py" in card) is remote_code


def test_the_snippet_never_generates_beyond_the_context(card_facts: Make) -> None:
    facts = card_facts(sample=Sample("x"))
    card = render_facts(replace(facts, spec=replace(facts.spec, block_size=8)))
    assert "max_new_tokens=7," in card
    assert 'padding_side="left"' in card


@pytest.mark.parametrize(("tokenizer", "most"), [(TokenizerFacts("sentencepiece"), 4), (None, 7)])
def test_nor_with_what_a_tokenizer_puts_around_the_prompt(
    card_facts: Make, tokenizer: TokenizerFacts | None, most: int
) -> None:
    facts = card_facts(sample=Sample("x"), tokenizer=tokenizer)
    card = render_facts(replace(facts, spec=replace(facts.spec, block_size=8)))
    assert f"max_new_tokens={most}," in card
    assert ('padding_side="left"' in card) is (tokenizer is not None)


def test_before_a_release_there_is_no_tag_to_load(card_facts: Make) -> None:
    card = render_facts(card_facts(repo_id=None, tag=None, version=None))
    assert "revision=" not in card
    assert "not released yet" in card
    assert ModelCard(card).data.model_name == "slo-model"


def test_a_model_without_tokenizer_takes_ids(card_facts: Make) -> None:
    card = render_facts(card_facts(tokenizer=None, sample=None))
    assert "AutoTokenizer" not in card and "text-generation" not in card.partition("---\n\n")[2]
    assert ModelCard(card).data.pipeline_tag is None
    assert "ids = torch.tensor([[0]])" in card
    assert "it takes and gives token ids" in card


def test_limits_say_what_the_tokenizer_does(card_facts: Make) -> None:
    assert "encoding it is an error" in render_facts(card_facts())
    mapped = render_facts(card_facts(tokenizer=TokenizerFacts("characters", unknown="|")))
    assert "is read as <code>&#124;</code>." in mapped
    existing = TokenizerFacts("existing", source="/srv/annika/gpt2")
    card = render_facts(card_facts(tokenizer=existing))
    assert "`gpt2`" in card
    assert "/srv" not in card


HYPER_PARAMETERS = {
    "learning_rate": (6e-4, "0.0006"),
    "min_lr": (1e-05, "1e-05"),
    "n_layer": (12, "12"),
    "decay_lr": (True, "True"),
    "compile": (False, "False"),
    "max_tokens": (7, "7"),
    "eos_token_id": (0, "0"),
    "num_key_value_heads": (4, "4"),
    "bytesPerToken": (1.5, "1.5"),
    "grad_clip": (float("inf"), "inf"),
    "dataset": ("me/poems", "me/poems"),
    "init_from": ("gpt2-xl", "gpt2-xl"),
    "device": ("cuda:0", "cuda:0"),
    "lr-schedule": ("cosine", "cosine"),
    "role": ("critic", "critic"),
}
PRIVATE = {
    "auth": "Bearer canary",
    "db_pwd": "canary",
    "db-pwd": 4711,
    "api_keys": 4711,
    "wandb_api_key_2": "4711",
    "dbPassword1": 4711,
    "pin": 4711,
    "hfToken": 4711,
    "aws.account": 4711,
    "jwt": "eyJcanary",
    "slack_webhook": "https://hooks.slack.com/canary",
    "cmd": "train.py --token hf_canary",
    "note": "file:///home/canary/x",
    "master_addr": "canary.corp.internal",
    "bucket": "canary",
    "data_dir": "canary",
    "out_dir": "/home/canary",
    "wandb_project": "canary",
    "hf_canaryname": 1,
    "name with canary": 1,
    "list": ["canary"],
    "mapping": {"canary": 1},
    "nothing": None,
    7: "canary",
    # Hyper-parameters with what is none
    "optimizer": "Bearer canary",
    "scheduler": "hf_canary",
    "backend": "tcp://canary:1234",
    "dtype": "canary@example.org",
    "model_type": "../canary/x",
    "model_name": "a/canary/b",
    "precision": "canary\nx",
    "variant": "canary" * 20,
    "sampler": "-canary",
    "compile_mode": "--canary",
}


def test_settings_of_the_trainer_that_are_shown() -> None:
    shown = {name: text for name, (_, text) in HYPER_PARAMETERS.items()}
    assert dict(setting_rows({name: value for name, (value, _) in HYPER_PARAMETERS.items()})) == (
        shown
    )
    assert dict(setting_rows(shown)) == shown  # as read back from release.json
    assert setting_rows({"dataset": "/home/me/poems"}) == [("dataset", "poems")]


@pytest.mark.parametrize("name", PRIVATE)
def test_settings_of_the_trainer_that_are_not_shown(name: str) -> None:
    assert setting_rows({name: PRIVATE[name]}) == []


def test_the_card_filters_the_settings_of_a_record(card_facts: Make) -> None:
    card = render_facts(card_facts(settings={"learning_rate": "0.1", "note": "canary"}))
    assert "| `learning_rate` | `0.1` |" in card
    assert "canary" not in card and "note" not in card


@pytest.mark.parametrize(
    ("tracked", "dirty", "said"),
    [
        (True, False, ""),
        (None, None, ""),
        (True, True, ", with uncommitted changes"),
        (
            False,
            False,
            ", HEAD of the repository around the checkpoint when it was released; the checkpoint "
            "is not part of it",
        ),
    ],
)
def test_the_commit_is_not_said_to_hold_a_checkpoint_that_it_does_not(
    card_facts: Make, tracked: bool | None, dirty: bool | None, said: str
) -> None:
    provenance = replace(card_facts().provenance, remote=None, tracked=tracked, dirty=dirty)
    card = render_facts(card_facts(provenance=provenance))
    assert f"| Commit | `{provenance.commit}`{said} |" in card


def test_special_tokens_are_only_denied_of_characters(card_facts: Make) -> None:
    said = "There are no special tokens"
    assert said in section(render_facts(card_facts()), "Limits")
    for tokenizer in (None, TokenizerFacts("existing", source="gpt2")):
        assert said not in render_facts(card_facts(tokenizer=tokenizer))


def test_a_failed_proof_gives_no_card(card_facts: Make) -> None:
    facts = card_facts()
    failed = replace(facts.parity, failures=("full block: float32 error.",))
    with pytest.raises(ParityError, match="full block"):
        render_facts(replace(facts, parity=failed))


def test_a_record_that_lacks_a_field_is_named(
    record: dict[str, Any], report: dict[str, Any]
) -> None:
    del record["checkpoint"]["dialect"]
    with pytest.raises(CheckpointError, match="dialect"):
        facts_from_record(record, report)


@pytest.mark.parametrize(
    ("change", "field"),
    [({"license": "proprietary"}, "license"), ({"language": ("english",)}, "language")],
)
def test_metadata_that_the_hub_refuses_is_a_usage_error(
    card_facts: Make, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(UsageError, match=f"{field}: '"):
        render_facts(card_facts(**change))
