"""What a card says, before anything is rendered."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath, PureWindowsPath
from typing import Any
from urllib.parse import urlsplit

from slogpt_hf.card.proof import report_from
from slogpt_hf.card.record import PICTURES, has_tokenizer_in
from slogpt_hf.checkpoints import Spec
from slogpt_hf.errors import CheckpointError
from slogpt_hf.parity import ParityReport
from slogpt_hf.watch import Provenance

Row = tuple[str, str]

NORMS = {"layernorm": "LayerNorm", "rmsnorm": "RMSNorm"}
MLPS = {"plain": "two matrices", "gated": "three matrices, one of them a gate"}
ACTIVATIONS = {
    "gelu": "exact (erf) GELU",
    "gelu_tanh": "tanh GELU",
    "quick_gelu": "sigmoid GELU",
    "relu": "ReLU",
    "relu2": "squared ReLU",
    "silu": "SiLU",
}
ROTARY_PAIRS = {"interleaved": "neighbouring features", "halves": "the two halves of a head"}
COMMIT_PAGES = {"bitbucket.org": "commits"}

PROFILE_FIELDS = (
    "name",
    "version",
    "lineage",
    "base_model",
    "training_dataset",
    "epochs_trained",
    "final_val_loss",
    "born_at",
    "description",
)
PROFILE_PATHS = ("base_model", "training_dataset")  # may be where they lay on a machine
PROFILE_LENGTH = 500  # characters of one field
PROFILE_READ = 2000  # before some of them are removed
REMOVED = "[removed]"

# A trainer's settings may hold anything, so text is shown only of what is known to be a
# hyper-parameter; numbers, of any name that does not tell of a person or an account.
_TEXT_SETTING = re.compile(
    r"(?:activation|attention|decay|device|init|lr_decay|lr_scheduler|mlp|model|norm|optimizer"
    r"|scheduler)_type|activation|attention|backend|compile|compile_mode|dataset|device|dtype"
    r"|init_from|loss|lr_decay|lr_schedule|lr_scheduler|mlp|model_name|model_size|norm|optim"
    r"|optimizer|pos_encoding|position_encoding|positions|precision|role|sampler|schedule"
    r"|scheduler|variant"
)
_PRIVATE = re.compile(
    r"apikey|bearer|credential|passphrase|passwd|password|secret|webhook"
    r"|(?:^|_)(?:account|address|auth|authorization|cookie|email|host|jwt|keys?|login|pass|phone"
    r"|pin|private|pwd|session|sid|signature|ssn|token|user|username)(?:_|$)"
)
# Words of _PRIVATE in what the family calls its sizes and ids.
_HARMLESS = re.compile(r"(?:pad|eos|bos|unk)_token|token_ids?\b|key_value|(?<=_per)_token")
_SETTING_NAME = re.compile(r"[A-Za-z][\w.-]{0,47}", re.ASCII)
_WORD_BORDER = re.compile(r"[_.-]+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Za-z])(?=[0-9])")
_NUMBER = re.compile(r"[+-]?(?:\d{1,20}(?:\.\d{0,20})?|\.\d{1,20})(?:e[+-]?\d{1,4})?|[+-]?inf|nan")
_SHORT_TEXT = re.compile(r"[\w .:+-]{1,64}(?:/[\w .:+-]{1,64})?")
_SECRET_VALUE = re.compile(
    r"(?<![a-z0-9])(?:hf_|gh[pousr]_|github_pat_|glpat-|sk-|xox[a-z]-|AKIA|eyJ)[\w-]{3}"
    r"|\bbearer\b|--\w",
    re.IGNORECASE,
)
# What stands before a value that may be private: `password=`, `"token": `, `--key `, `Bearer `.
_ASSIGNMENT = re.compile(
    r"(?:--([a-z][\w-]*)(?:\s+|=)|([a-z][\w.-]*)[\"']?\s*[=:]\s*|\bbearer\s+)(?=\S)", re.IGNORECASE
)
_VALUE = re.compile(
    r"(?:(?:basic|bearer)\s+)?(?:\"[^\"]*\"|'[^']*'|\S+?(?=[,.;)}\]]*(?:\s|$)))", re.IGNORECASE
)
_WORD = re.compile(r"[^\s\"'`<>()\[\]{},;|]+")
_PUBLIC_URL = re.compile(r"https://[^/@\\]+(?:/.*)?")
_ADDRESS = re.compile(  # of a person, a machine, or a file on one
    r"[^@]@[^@]|\w://|[\\]|(?:^|[=:])(?:~[\w.-]*|\.{1,2})?/+[\w.~]|^~\w|^[a-z]:/", re.IGNORECASE
)
_PUBLIC_REMOTE = re.compile(r"https://[A-Za-z0-9.-]+(?::\d+)?(?:/[A-Za-z0-9._~-]+)+/?")
_COMMIT = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


@dataclass(frozen=True)
class TokenizerFacts:
    """The tokenizer of the artefact.

    Attributes:
        kind: ``characters``, ``sentencepiece`` or ``existing``.
        unknown: what a character outside of the vocabulary does: ``error``, or the entry that
            stands for it. Only said of ``characters``.
        source: file of the pieces, or folder or Hub repo of an existing tokenizer.
        special_tokens: role to id.
        stand_in: the character that the tokenizer names where no id plays a role, if it does.
    """

    kind: str
    unknown: str = "error"
    source: str | None = None
    special_tokens: Mapping[str, int] = field(default_factory=dict)
    stand_in: str | None = None


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
        val_loss: validation loss, nats per token; None where none was recorded.
        dataset: what the model was trained on, as the trainer recorded it. It is only shown: a
            link would lead to whatever dataset somebody else has under the same name.
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
        dataset_id: the Hub's id of the dataset, where the user said so; the metadata links it.
        profile: what a ``.sou`` file tells of itself.
        quantisation: ``kind`` and ``group_size`` of a quantised checkpoint; None for any other.
        has_pictures: the proof lies in the artefact as pictures too.
        loads: library to the range of its versions that the artefact is made for.
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
    dataset_id: str | None = None
    profile: Mapping[str, Any] = field(default_factory=dict)
    quantisation: Mapping[str, Any] | None = None
    has_pictures: bool = False
    loads: Mapping[str, str] = field(default_factory=dict)
    linear: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """What to call the model."""
        return self.repo_id.rpartition("/")[2] if self.repo_id else f"{self.dialect}-model"

    @property
    def dataset_name(self) -> str | None:
        """The dataset as a person may read it: of a path or URL only the last part."""
        # White space as one space: some of it does not survive YAML.
        name = " ".join(without_folders(self.dataset or "").split())
        return name or self.dataset_id


def facts_from_record(record: Mapping[str, Any], report: Mapping[str, Any]) -> CardFacts:
    """The facts of a card from the content of ``release.json`` and ``parity.json``.

    Raises:
        CheckpointError: one of the two lacks a field.
    """
    try:
        source, model, tokenizer = record["checkpoint"], record["model"], record["tokenizer"]
        return CardFacts(
            spec=Spec.from_dict(model["spec"]),
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
            parity=report_from(report),
            provenance=Provenance(**record["source"]),
            tool=record["tool"],
            created=record["date"],
            license=record["license"],
            language=tuple(record["languages"]),
            repo_id=record["repo_id"],
            tag=record["tag"],
            version=record["version"],
            sample=Sample(record["sample"]) if record["sample"] else None,
            tokenizer=_tokenizer(tokenizer) if has_tokenizer_in(record) else None,
            dataset_id=record.get("dataset_id"),
            profile=source.get("profile", {}),
            quantisation=source.get("quantisation"),
            has_pictures=set(PICTURES.values()) <= record["files"].keys(),
            loads=record.get("versions", {}).get("loads", {}),
            linear=tuple(map(str, model.get("linear", ()))),
        )
    except (KeyError, TypeError) as error:
        raise CheckpointError(
            f"release.json or parity.json: not as this version writes them ({error}).",
            hint="Convert the checkpoint again.",
        ) from error


def _tokenizer(facts: Mapping[str, Any]) -> TokenizerFacts:
    return TokenizerFacts(
        facts["kind"],
        facts.get("unknown", "error"),
        facts.get("source"),
        facts.get("special_tokens", {}),
        facts.get("stand_in"),
    )


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
        ("MLP", f"{ACTIVATIONS[spec.activation]}, {MLPS[spec.mlp]}, hidden size {spec.n_hidden:,}"),
        ("Biases in attention and MLP", "yes" if spec.linear_bias else "no"),
        ("Vocabulary", f"{spec.vocab_size:,} ids{_appended(facts)}"),
        ("Context length", f"{spec.block_size:,} tokens"),
        ("Head", "tied to the embedding" if spec.tied else "separate from the embedding"),
    ]


def _appended(facts: CardFacts) -> str:
    appended = facts.parity.appended_rows
    return f", and {appended} that were appended for special tokens" if appended else ""


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
    """The trainer's settings by name that are fit for the public.

    Numbers and booleans are, also as text, unless the name tells of a credential or a person; and
    short text of the family's hyper-parameters that is no path, address or credential.
    """
    rows = ((name, _public_value(name, settings[name])) for name in sorted(settings, key=str))
    return [(name, value) for name, value in rows if value is not None]


def profile_rows(profile: Mapping[str, Any]) -> list[Row]:
    """The fields of a ``.sou`` profile that are known, in its order, fit for the public."""
    rows = []
    for name in PROFILE_FIELDS:
        text = str(profile.get(name, ""))
        if name in PROFILE_PATHS:
            text = without_folders(text)
        text = _without_private(" ".join(text.split())[:PROFILE_READ])[:PROFILE_LENGTH]
        if text:
            rows.append((name, text))
    return rows


def _without_private(text: str) -> str:
    """A sentence without its e-mail addresses, paths, credentials and URLs other than https."""
    while private := next(filter(_assigns_private, _ASSIGNMENT.finditer(text)), None):
        value = _VALUE.match(text, private.end())
        text = text[: private.start()] + REMOVED + text[value.end() if value else private.end() :]
    return _WORD.sub(_public_word, text)


def _assigns_private(found: re.Match[str]) -> bool:
    name = found[1] or found[2]
    return name is None or _is_private(name)


def _public_word(found: re.Match[str]) -> str:
    word = found[0].rstrip(".:!?")
    address = _ADDRESS.search(word) and not _PUBLIC_URL.fullmatch(word)
    if address or _SECRET_VALUE.search(word):
        return REMOVED + found[0][len(word) :]
    return found[0]


def _public_value(name: str, value: Any) -> str | None:
    if not _SETTING_NAME.fullmatch(str(name)) or _SECRET_VALUE.search(name) or _is_private(name):
        return None
    text = str(value) if isinstance(value, bool | int | float | str) else ""
    if text in ("True", "False") or _NUMBER.fullmatch(text):
        return text
    if not _TEXT_SETTING.fullmatch(name.lower().replace("-", "_")):
        return None
    text = without_folders(text)
    known = _SHORT_TEXT.fullmatch(text) and not text.startswith((".", "-"))
    return text if known and not _SECRET_VALUE.search(text) else None


def _is_private(name: str) -> bool:
    words = _HARMLESS.sub("", "_".join(_WORD_BORDER.split(name)).lower())
    return bool(_PRIVATE.search(words))


def without_folders(text: str) -> str:
    """The last part of an absolute path or of a URL's path; any other text as it is.

    Of a URL without a path nothing is left: it names a machine or a bucket.
    """
    _, scheme, address = text.partition("://")
    if scheme:
        return PurePosixPath(*re.split(r"[?#]", address)[0].split("/")[1:]).name
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
