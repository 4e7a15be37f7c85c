"""The card of a dataset: metadata that the Hub's viewer and ``datasets`` read, and the facts."""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping
from typing import Any

from slogpt_hf.card.escaping import code, escape_markdown
from slogpt_hf.card.validate import validate_card
from slogpt_hf.errors import UsageError
from slogpt_hf.parquet.shards import COLUMNS, TEXT, TOKENS

# As the Hub spells sizes: https://github.com/huggingface/hub-docs/blob/main/datasetcard.md
SIZES = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B")
LARGER = ("1B<n<10B", "10B<n<100B", "100B<n<1T", "n>1T")
MOST_CHARACTERS = 400  # that the card lists
ROWS = {
    "documents": "A row is a document; the ids that mark its ends have no text.",
    "paragraphs": "A row ends behind an empty line.",
    "lines": "A row is a line.",
    "pieces": "The text has neither documents nor lines; a row is a piece of it.",
}
PROVEN = {
    "anew": "the rows of `text`, one after the other, are the text of the ids, which was made a "
    "second time in another way",
    "tokenizer": "the rows of `text` are what the entries of the tokenizer spell, and {n} rows are "
    "what the tokenizer itself decodes; the other rows were not decoded by it",
    None: "no text was made, since no tokenizer was named",
}


def render_dataset_card(record: Mapping[str, Any]) -> str:
    """README.md of a dataset: YAML between ``---`` lines, then Markdown.

    Args:
        record: its ``release.json``.

    Raises:
        UsageError: the Hub would refuse the metadata.
    """
    text = f"---\n{_metadata(record)}\n---\n\n" + "\n".join(_lines(record)) + "\n"
    if problems := validate_card(text):
        raise UsageError(
            f"the Hub would refuse the dataset card: {' '.join(problems)}",
            hint="Correct --license or --language.",
        )
    return text


def _metadata(record: Mapping[str, Any]) -> str:
    """Format: https://huggingface.co/docs/hub/datasets-manual-configuration."""
    from huggingface_hub import DatasetCardData

    data = record["data"]
    rows = max(sum(s["n_rows"] for s in splits.values()) for splits in data["configs"].values())
    card = DatasetCardData(
        language=list(record["languages"]) or None,
        license=record["license"],
        pretty_name=record["name"],
        size_categories=[(*SIZES, *LARGER)[bisect.bisect([10**n for n in range(3, 13)], rows)]],
        task_categories=["text-generation"],
        tags=["slogpt", "slogpt-hf", *_level(record)],
        configs=[_config(name, splits) for name, splits in data["configs"].items()],
        dataset_info=[_info(name, splits, data) for name, splits in data["configs"].items()],
    )
    text: str = card.to_yaml()
    return text


def _level(record: Mapping[str, Any]) -> tuple[str, ...]:
    return ("character-level",) if record["tokenizer"]["kind"] == "characters" else ()


def _config(name: str, splits: Mapping[str, Any]) -> dict[str, Any]:
    files = [{"split": split, "path": f"{name}/{split}-*.parquet"} for split in splits]
    default = {"default": True} if name == TEXT else {}
    return {"config_name": name, "data_files": files, **default}


def _info(name: str, splits: Mapping[str, Any], data: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"dtype": "string"} if name == TEXT else {"sequence": data["dtype"]}
    return {
        "config_name": name,
        "features": [{"name": COLUMNS[name], **kind}],
        "splits": [
            {"name": split, "num_bytes": has["n_bytes"], "num_examples": has["n_rows"]}
            for split, has in splits.items()
        ],
        "download_size": sum(has["download_bytes"] for has in splits.values()),
        "dataset_size": sum(has["n_bytes"] for has in splits.values()),
    }


def _lines(record: Mapping[str, Any]) -> Iterator[str]:
    data, name = record["data"], record["repo_id"] or "NAMESPACE/NAME"
    yield f"# {escape_markdown(record['name'])}"
    yield ""
    n_ids = sum(file["n_ids"] for file in data["files"])
    yield f"{n_ids:,} token ids ({data['dtype']}) of a SloGPT, nanoGPT or llama2.c training."
    yield ""
    yield "```python"
    yield "from datasets import load_dataset"
    yield ""
    at = f', revision="{record["tag"]}"' if record["tag"] else ""
    for config in data["configs"]:
        yield f'{config} = load_dataset("{name}", "{config}"{at})'
    if record["tokenizer"]["kind"] != "none":
        where = f'"{name}", repo_type="dataset"{at}, allow_patterns="*.json"'
        yield ""
        yield "from huggingface_hub import snapshot_download"
        yield "from transformers import AutoTokenizer"
        yield ""
        yield f"tokenizer = AutoTokenizer.from_pretrained(snapshot_download({where}))"
    yield "```"
    yield ""
    yield from _contents(record)
    yield from _vocabulary(record)
    yield from _proof(record)


def _contents(record: Mapping[str, Any]) -> Iterator[str]:
    data = record["data"]
    yield "## What it holds"
    yield ""
    yield "| configuration | split | rows | files | bytes |"
    yield "|---|---|---|---|---|"
    for config, splits in data["configs"].items():
        for split, has in splits.items():
            size = f"{has['download_bytes']:,}"
            yield f"| `{config}` | {split} | {has['n_rows']:,} | {has['n_files']} | {size} |"
    yield ""
    block = data["block_size"]
    yield f"`{TOKENS}`: rows of {block:,} ids in the order of the file; its last may be shorter."
    kinds = dict.fromkeys(file["rows"] for file in data["files"] if file["rows"])
    if kinds:
        told = " ".join(ROWS.get(kind, "") for kind in kinds)
        yield f"`{TEXT}`: {told} What is longer than a few thousand ids is cut."
    yield ""


def _vocabulary(record: Mapping[str, Any]) -> Iterator[str]:
    data, tokenizer = record["data"], record["tokenizer"]
    yield "## Vocabulary"
    yield ""
    used = "" if data["n_used"] is None else f"{data['n_used']:,} of them are used"
    if (characters := data.get("characters")) is not None:
        yield f"{len(characters):,} unique characters; {used}:"
        yield ""
        more = f" and {len(characters) - MOST_CHARACTERS:,} more"
        shown = "".join(characters[:MOST_CHARACTERS])
        yield code(ascii(shown)[1:-1] if not shown.isprintable() else shown) + (
            more if len(characters) > MOST_CHARACTERS else ""
        )
    elif data["vocab_size"]:
        named = escape_markdown(tokenizer["source"] or tokenizer["kind"])
        yield f"{data['vocab_size']:,} ids of the tokenizer {named}; {used}."
    else:
        known = f" {data['n_used']:,} different ids are used." if data["n_used"] else ""
        yield f"No tokenizer was named, so nothing is known of what the ids mean.{known}"
    yield ""


def _proof(record: Mapping[str, Any]) -> Iterator[str]:
    data, proof = record["data"], record["proof"]
    yield "## The way back"
    yield ""
    yield "```bash"
    yield f"slogpt-hf convert --back {record['repo_id'] or 'FOLDER'} OUTPUT"
    yield "```"
    yield ""
    yield "gives these files byte for byte, which was shown when the dataset was made. Also shown: "
    yield f"{PROVEN[proof['text']].format(n=proof['rows_compared'])}."
    yield ""
    yield "| file | split | ids | SHA-256 |"
    yield "|---|---|---|---|"
    for file in data["files"]:
        yield f"| `{file['file']}` | {file['split']} | {file['n_ids']:,} | `{file['sha256']}` |"
    yield ""
    if data.get("characters") is not None:
        yield "`meta.pkl` is written anew, with the same entries for the same ids."
        yield ""
    yield f"Made by {escape_markdown(record['tool'])} on {escape_markdown(record['date'])}."
