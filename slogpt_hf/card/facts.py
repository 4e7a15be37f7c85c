"""What a card says, before anything is rendered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from slogpt_hf.checkpoints import Spec
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import Comparison, ParityReport
from slogpt_hf.watch import Provenance

Row = tuple[str, str]

MOST_CHARACTERS = 200
NORMS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
MLPS = {"gelu": "exact (erf) GELU, two matrices", "swiglu": "SwiGLU, three matrices"}
ROTARY_PAIRS = {"interleaved": "neighbouring features", "halves": "the two halves of a head"}
# Where trainers keep their own datasets; a name below them is no namespace of the Hub.
LOCAL_NAMESPACES = frozenset({"data", "dataset", "datasets"})
COMMIT_PAGES = {"bitbucket.org": "commits"}

# The last word of a name, in whatever way its words are joined: hf_token, wandb-api-key, hfToken.
_SECRET_NAME = re.compile(
    r"(?:^|[_\-.]|(?<=[a-z])(?=[A-Z]))"
    r"(?i:token|secret|password|passwd|passphrase|(?:api|access|secret)?key(?:[_-]?id)?"
    r"|credentials?)$"
)
_SECRET_VALUE = re.compile(
    r"\b(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|AKIA)[\w-]{16,}|://[^/\s]*@"
)
_PUBLIC_REMOTE = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~-]+)+/?")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer of the artefact.

    Attributes:
        kind: ``characters`` or ``existing``.
        unknown: what a character outside of the vocabulary does: ``error``, or the entry that
            stands for it. Only said of ``characters``.
        source: folder or Hub repo of an existing tokenizer.
    """

    kind: str
    unknown: str = "error"
    source: str | None = None


@dataclass(frozen=True)
class Sample:
    """Text that the artefact generated.

    Attributes:
        text: prompt and continuation.
        prompt: what the user gave; None where the first token was chosen for them.
    """

    text: str
    prompt: str | None = None


@dataclass(frozen=True)
class CardFacts:
    """Everything that a card is made from. The same facts give the same card.

    Attributes:
        spec: the architecture.
        dialect: of the checkpoint.
        checkpoint_file: name of the checkpoint file.
        checkpoint_sha256: of the checkpoint file, hex.
        source_dtype: dtype of the checkpoint's weights.
        step: optimizer steps taken; None where none were recorded.
        val_loss: best validation loss, nats per token; None where none was recorded.
        dataset: what the model was trained on. A Hub id ``namespace/name`` is linked in the
            metadata; any other name is only shown, since it would link to a dataset of the
            same name that somebody else owns.
        settings: the trainer's settings.
        notes: what the reader of the checkpoint decided, one sentence each.
        target_class: the transformers class of the artefact.
        remote_code: that class ships with the artefact.
        dtype: dtype of the artefact's weights.
        n_parameters: parameters; a tied head counts once.
        parity: the proof that artefact and checkpoint are equal.
        provenance: the git repository that the checkpoint lies in.
        tool: name and version of what made the artefact.
        created: date of the artefact, as it shall be shown.
        license: id of a license as the Hub knows it.
        language: codes of the languages of the text, ISO 639.
        repo_id: ``namespace/name`` on the Hub; None before a release.
        tag: git tag of the release, which the snippet loads; None before a release.
        version: of the release; None before a release.
        sample: generated text; None for none.
        tokenizer: of the artefact; None where it has none.
    """

    spec: Spec
    dialect: str
    checkpoint_file: str
    checkpoint_sha256: str
    source_dtype: str
    step: int | None
    val_loss: float | None
    dataset: str | None
    settings: Mapping[str, Any]
    notes: tuple[str, ...]
    target_class: str
    remote_code: bool
    dtype: str
    n_parameters: int
    parity: ParityReport
    provenance: Provenance
    tool: str
    created: str
    license: str = "unknown"
    language: tuple[str, ...] = ()
    repo_id: str | None = None
    tag: str | None = None
    version: str | None = None
    sample: Sample | None = None
    tokenizer: TokenizerFacts | None = None

    @property
    def name(self) -> str:
        """What to call the model."""
        return self.repo_id.rpartition("/")[2] if self.repo_id else f"{self.dialect}-model"

    @property
    def dataset_name(self) -> str | None:
        """The dataset as a person may read it: of a path on this machine only the last part."""
        return without_folders(self.dataset) if self.dataset else None

    @property
    def dataset_id(self) -> str | None:
        """The dataset's id on the Hub, where it is one."""
        return self.dataset if self.dataset and is_hub_dataset(self.dataset) else None


def facts_from_record(record: Mapping[str, Any], report: Mapping[str, Any]) -> CardFacts:
    """The facts of a card from the content of ``release.json`` and ``parity.json``.

    Raises:
        CheckpointError: one of the two lacks a field.
    """
    try:
        source, model, tokenizer = record["checkpoint"], record["model"], record["tokenizer"]
        return CardFacts(
            spec=Spec(**model["spec"]),
            dialect=source["dialect"],
            checkpoint_file=source["file"],
            checkpoint_sha256=source["sha256"],
            source_dtype=source["dtype"],
            step=source["step"],
            val_loss=source["val_loss"],
            dataset=source["dataset"],
            settings=source["settings"],
            notes=tuple(source["notes"]),
            target_class=model["target_class"],
            remote_code=model["remote_code"],
            dtype=model["dtype"],
            n_parameters=model["n_parameters"],
            parity=_parity(report),
            provenance=Provenance(**record["source"]),
            tool=record["tool"],
            created=record["date"],
            license=record["license"],
            language=tuple(record["languages"]),
            repo_id=record["repo_id"],
            tag=record["tag"],
            version=record["version"],
            sample=Sample(record["sample"]) if record["sample"] else None,
            tokenizer=tokenizer and _tokenizer(tokenizer),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"release.json or parity.json: not as this version writes them ({error}).",
            hint="Convert the checkpoint again.",
        ) from error


def _parity(report: Mapping[str, Any]) -> ParityReport:
    values = {field.name: report[field.name] for field in fields(ParityReport)}
    comparisons = tuple(Comparison(**values) for values in values.pop("comparisons"))
    return ParityReport(comparisons=comparisons, **values)


def _tokenizer(facts: Mapping[str, Any]) -> TokenizerFacts:
    return TokenizerFacts(facts["kind"], facts.get("unknown", "error"), facts.get("source"))


def is_hub_dataset(name: str) -> bool:
    """Whether ``name`` is a ``namespace/name`` that the Hub accepts as the id of a dataset."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    namespace, slash, _ = name.partition("/")
    if not slash or namespace in LOCAL_NAMESPACES:
        return False
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def architecture_rows(facts: CardFacts) -> list[Row]:
    """The architecture, one (property, value) a row."""
    spec = facts.spec
    return [
        ("Class", facts.target_class),
        ("Parameters", f"{facts.n_parameters:,}"),
        ("Layers", f"{spec.n_layer:,}"),
        ("Width", f"{spec.n_embd:,}"),
        ("Attention heads", _heads(spec)),
        ("Positions", _positions(spec)),
        ("Norm", _norm(spec)),
        ("MLP", f"{MLPS[spec.mlp]}, hidden size {spec.n_hidden:,}"),
        ("Biases in attention and MLP", "yes" if spec.linear_bias else "no"),
        ("Vocabulary", f"{spec.vocab_size:,} ids"),
        ("Context length", f"{spec.block_size:,} tokens"),
        ("Head", "tied to the embedding" if spec.tied else "separate from the embedding"),
    ]


def _heads(spec: Spec) -> str:
    shared = f", {spec.n_kv_head} for keys and values" if spec.n_kv_head != spec.n_head else ""
    return f"{spec.n_head} of {spec.head_dim} features{shared}"


def _positions(spec: Spec) -> str:
    if spec.positions == "learned":
        return "learned, added to the token embedding"
    pairs = ROTARY_PAIRS[spec.rotary_pairs] if spec.rotary_pairs else "pairs of features"
    return f"rotary, theta {spec.rope_theta:g}; the original rotates {pairs}"


def _norm(spec: Spec) -> str:
    bias = f", {'with' if spec.norm_bias else 'without'} bias" if spec.norm == "layernorm" else ""
    return f"{NORMS[spec.norm]} before attention and MLP, eps {spec.norm_eps:g}{bias}"


def setting_rows(settings: Mapping[str, Any]) -> list[Row]:
    """The trainer's settings by name, fit for the public.

    Credentials are left out, of a path on the training machine only the last part is kept, and
    long text is cut.
    """
    return [
        (name, _cut(without_folders(value) if isinstance(value, str) else str(value)))
        for name, value in sorted(settings.items())
        if not (_SECRET_NAME.search(name) or _SECRET_VALUE.search(str(value)))
    ]


def without_folders(text: str) -> str:
    """The last part of an absolute path; any other text as it is."""
    if text.startswith("~") or PurePosixPath(text).is_absolute():
        return PurePosixPath(text).name
    return PureWindowsPath(text).name if PureWindowsPath(text).is_absolute() else text


def remote_url(provenance: Provenance) -> str | None:
    """The repository's address, if it is one that a reader of the card can open."""
    remote = (provenance.remote or "").removesuffix("/").removesuffix(".git")
    return remote if _PUBLIC_REMOTE.fullmatch(remote) else None


def commit_url(provenance: Provenance) -> str | None:
    """The page of the commit, if the repository has a public address."""
    remote = remote_url(provenance)
    if remote is None or not _COMMIT.fullmatch(provenance.commit or ""):
        return None
    return f"{remote}/{COMMIT_PAGES.get(urlsplit(remote).netloc, 'commit')}/{provenance.commit}"


def prompt_for_snippet(facts: CardFacts) -> str:
    """Text that the tokenizer surely takes: the prompt, else how the sample begins."""
    if facts.sample is None:
        return "\n"
    return facts.sample.prompt or facts.sample.text[:1] or "\n"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_CHARACTERS else f"{text[:MOST_CHARACTERS]}…"
