"""Settings: flags > environment > ``.slogpt-hf.yml`` > defaults, in one frozen dataclass."""

from __future__ import annotations

import difflib
import math
import os
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from slogpt_hf.errors import UsageError, first_line

SETTINGS_FILE = ".slogpt-hf.yml"
ENVIRONMENT_PREFIX = "SLOGPT_"
SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?)(I?)B?", re.IGNORECASE | re.ASCII)
DTYPES = ("float32", "float16", "bfloat16", "float64")
PROMOTIONS = ("latest", "best", "never")
TRANSFERS = ("auto", "xet", "lfs")
SELECTIONS = ("all", "latest", "best")
SPECIAL_ROLES = ("pad", "eos", "bos", "unk")
WITNESSES = ("witnessed", "corroborated")
CHOICES = {
    "dtype": DTYPES,
    "promote": PROMOTIONS,
    "transfer": TRANSFERS,
    "which": SELECTIONS,
    "require_witness": WITNESSES,
}
REPO_ID = re.compile(  # as huggingface_hub's validate_repo_id has it, and 96 characters at most
    r"(?=.{1,96}$)(?!.*(?:--|\.\.|\.git(?:/|$)))\w(?:[\w.-]*\w)?/\w(?:[\w.-]*\w)?", re.ASCII
)
TYPE_PREFIXES = ("datasets/", "models/", "spaces/")  # of Hub URLs; no one's namespace
MOST_FILE_BYTES = 1 << 16
NUMBER = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)
NAME = re.compile(r"[A-Za-z_][\w.^*-]{0,79}", re.ASCII)  # a word, or an entry of a file
IGNORE = "ignore"
LONGEST_NUMBER = 24  # characters; no setting has a longer one
LARGEST_SIZE = 2**63  # bytes; no file is larger


def _setting(default: Any, help_text: str, **kind: Any) -> Any:
    return field(default=default, metadata={"help": help_text, **kind})


@dataclass(frozen=True)
class Settings:
    """Everything a release can be told. Field names are the option names with ``_`` for ``-``."""

    repo_id: str | None = _setting(None, "Hub repository to release to, NAMESPACE/NAME.")
    hub: str | None = _setting(None, "Folder of an embedded hub to release to; no account needed.")
    dataset: str | None = _setting(
        None, "Dataset of the vocabulary: a name below datasets/, a folder, or a meta.pkl."
    )
    tokenizer: str | None = _setting(
        None,
        "Tokenizer of a model without a character vocabulary: a tokenizer.model or "
        "tokenizer.bin, a folder or a Hub repository; none releases the model alone.",
    )
    unknown: str = _setting(
        "error", "What the tokenizer does with an unknown character: error, or a character."
    )
    special_tokens: str | None = _setting(
        None,
        "Special tokens of a character vocabulary, some of pad,eos,bos,unk: named where it has "
        "them, else rows that are appended and never generated; default: none.",
        comma_separated=True,
    )
    allow_spare_ids: bool = _setting(
        False, "Accept a vocabulary that has fewer entries than the model has rows."
    )
    set: tuple[str, ...] = _setting(
        (),
        "Field that no file records, as NAME=VALUE, e.g. n_head=8 or activation=gelu_tanh; "
        "ignore=NAME accepts a recorded one that is not known; may be given several times.",
    )
    base: str | None = _setting(
        None, "Checkpoint that an adapter-only checkpoint was trained on; both are merged."
    )
    unquantised: str | None = _setting(
        None, "Original of a quantised checkpoint; the card tells by how much they differ."
    )
    reference: str | None = _setting(
        None,
        "Model class of the training repository to be asked as well, as FILE.py:CLASS; auto looks "
        "for it, none does not. Its code runs, in a process without tokens in its environment and, "
        "if possible, without a network.",
    )
    require_witness: str | None = _setting(
        None,
        "Publish only what a witness of the trainer's confirms: witnessed (its model class or "
        "recorded logits) or corroborated (also its recorded loss); default: neither is needed.",
    )
    dtype: str | None = _setting(
        None, f"Dtype of the artefact: {', '.join(DTYPES)}; default: kept."
    )
    max_shard_size: str = _setting(
        "5GB", "Largest weights file, e.g. 500MB or 5GB.", types=(str, int)
    )
    tag: str = _setting(
        "v{version}", "Tag of the release; knows {version}, {step}, {branch} and {date}."
    )
    revision: str = _setting(
        "main", "Hub branch that the release is committed to; knows {step}, {branch} and {date}."
    )
    promote: str = _setting(
        "latest",
        "Which releases move the branch: latest (each), best (the lowest validation loss so far) "
        "or never; the others go to the branch REVISION-candidates.",
    )
    message: str | None = _setting(
        None, "Message of the commit and the tag; knows what the tag knows."
    )
    private: bool = _setting(False, "Create the Hub repository as private.")
    create: bool = _setting(True, "Create the Hub repository where it is missing.")
    transfer: str = _setting(
        "auto", "How large files travel: xet, lfs, or auto (xet where both sides have it)."
    )
    smoke: bool = _setting(
        True,
        "After publication, load the release by its tag in a process without token and continue a "
        "text; a failure is exit code 4, and the tag stays.",
    )
    sign: bool = _setting(
        False, "Sign the release (OpenSSF model signing), with the CI's identity or signing_key."
    )
    signing_key: str | None = _setting(None, "Private key to sign with, an EC key in a PEM file.")
    checkpoints: tuple[str, ...] = _setting(
        ("**/ckpt*.pt",),
        "Glob of checkpoints to watch for, e.g. 'out/**/ckpt*.pt'; may be given several times.",
    )
    branches: tuple[str, ...] = _setting(
        (),
        "Glob of branches to watch, e.g. 'train/**'; may be given several times. Default: the "
        "branch of the CI's event, else the one that is checked out.",
    )
    which: str = _setting(
        "all",
        "Which new checkpoints are released: all, the latest of each branch, or the best (the "
        "lowest validation loss; they are fetched to be compared).",
    )
    license: str = _setting("unknown", "License of the model, as the Hub spells it, e.g. mit.")
    language: str | None = _setting(
        None, "Language codes for the card, comma-separated, e.g. en.", comma_separated=True
    )
    card_template: str | None = _setting(None, "Jinja file to render the model card from.")
    output: str | None = _setting(None, "Keep the artefact in this folder.")
    report: str = _setting("parity.json", "Where the parity report goes when the proof fails.")
    token_file: str | None = _setting(
        None, "File that holds the Hub token, or - for standard input; default: HF_TOKEN."
    )
    oidc: bool = _setting(
        False, "Exchange the CI's OIDC identity for a token of one hour (trusted publishing)."
    )

    def __post_init__(self) -> None:
        if self.repo_id is not None and not REPO_ID.fullmatch(self.repo_id):
            raise UsageError(
                f"repo-id {self.repo_id[:100]!r} is not NAMESPACE/NAME.",
                hint="Use letters, digits, '-', '_' and '.', e.g. --repo-id me/my-model.",
            )
        if self.repo_id is not None and self.repo_id.startswith(TYPE_PREFIXES):
            raise UsageError(
                f"repo-id {self.repo_id!r} begins with a type of repository, not a NAMESPACE.",
                hint="Leave the type out, e.g. --repo-id me/my-model.",
            )
        for name, known in CHOICES.items():
            if (value := getattr(self, name)) is not None and value not in known:
                raise UsageError(f"{name} {value[:40]!r} is not one of {', '.join(known)}.")
        size_in_bytes(self.max_shard_size)
        for role in self.special_roles:
            if role not in SPECIAL_ROLES:
                raise UsageError(
                    f"special-tokens: {role[:40]!r} is none of {', '.join(SPECIAL_ROLES)}."
                )
        self.given  # noqa: B018  raises where a value cannot be meant

    @property
    def given(self) -> dict[str, Any]:
        """What ``set`` says, name to value; of two values for one name the last counts.

        ``ignore`` may be said several times and is a list of names.
        """
        said = [given_field(text) for text in self.set]
        ignored = sorted({str(value) for name, value in said if name == IGNORE})
        given: dict[str, Any] = {name: value for name, value in said if name != IGNORE}
        return given | ({IGNORE: ignored} if ignored else {})

    @property
    def base_path(self) -> Path | None:
        """The checkpoint that an adapter-only one adapts."""
        return Path(self.base) if self.base else None

    @property
    def max_shard_bytes(self) -> int:
        """Largest weights file, in bytes."""
        return size_in_bytes(self.max_shard_size)

    @property
    def template(self) -> Path | None:
        """The card's template; None for the built-in one."""
        return Path(self.card_template) if self.card_template else None

    @property
    def languages(self) -> tuple[str, ...]:
        """Language codes for the card."""
        return _listed(self.language)

    @property
    def special_roles(self) -> tuple[str, ...]:
        """Roles of the special tokens that are asked for."""
        return _listed(self.special_tokens)


def _listed(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())


NAMES = {setting.name: setting for setting in fields(Settings)}


def load_settings(
    flags: Mapping[str, Any],
    environment: Mapping[str, str] = os.environ,
    folder: Path | None = None,
) -> Settings:
    """Merge flags, environment and the settings file of ``folder`` over the defaults.

    Args:
        flags: option name (with ``_``) to value; None where the flag was not given.
        environment: ``SLOGPT_REPO_ID`` and so on.
        folder: where ``.slogpt-hf.yml`` may lie; the current folder by default.

    Raises:
        UsageError: an unknown key or ``SLOGPT_`` variable, a value of the wrong type, or one
            that cannot be meant.
    """
    _require_known_variables(environment)
    values = _from_file((folder or Path()) / SETTINGS_FILE)
    said = values.pop("set", ())
    for name in NAMES:
        if text := environment.get(ENVIRONMENT_PREFIX + name.upper()):
            values[name] = _typed(name, text, ENVIRONMENT_PREFIX + name.upper())
    # A flag that may be given several times is an empty tuple where it was not given.
    values |= {name: value for name, value in flags.items() if value not in (None, ())}
    # Fields add up, each from the place that counts most.
    fields_set = (*said, *_typed("set", environment.get("SLOGPT_SET", ""), "SLOGPT_SET"))
    return Settings(**values | {"set": (*fields_set, *(flags.get("set") or ()))})


def given_field(text: str) -> tuple[str, bool | int | float | str]:
    """Name and value of ``NAME=VALUE``: a number, true or false, or a word.

    Short names (``eps``, ``theta``, ``pairs``, ``scale``, ``gelu``) and other words for the same
    (``gelu_new`` for ``gelu_tanh``) come as those that are used.

    Raises:
        UsageError: it is none of these, or a word where the field takes none of that name.
    """
    from slogpt_hf.checkpoints.words import field_named, require_word

    name, equals, value = (part.strip() for part in text.partition("="))
    if name.isidentifier() and equals:
        said = value if name == IGNORE else _number_or_switch(value)
        if said is not None and (name != IGNORE or NAME.fullmatch(value)):
            full, meant = field_named(name, said)
            require_word(full, meant)
            return full, meant
        full, meant = field_named(name, value)
        if NAME.fullmatch(value) and require_word(full, meant):
            return full, meant
    raise UsageError(
        f"--set {text[:80]!r}: is not NAME=VALUE with a number, true or false, or a word.",
        hint="Write e.g. --set n_head=8 --set block_size=256 --set activation=gelu_tanh.",
    )


def _number_or_switch(value: str) -> bool | int | float | None:
    if len(value) > LONGEST_NUMBER:
        return None
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    for kind in (int, float) if NUMBER.fullmatch(value) else ():
        with suppress(ValueError):
            if math.isfinite(number := kind(value)):
                return number
    return None


def size_in_bytes(text: str) -> int:
    """Bytes of a size such as ``5GB`` (decimal) or ``512MiB`` (binary).

    Raises:
        UsageError: it is not a size, not at least one byte, or larger than any file.
    """
    match = SIZE.fullmatch(text.strip())
    size = 0.0
    if match:
        base = 1024 if match[3] else 1000
        size = float(match[1]) * base ** " KMGT".index(match[2].upper() or " ")
    if not 1 <= size < LARGEST_SIZE:
        shown = text if len(text) <= 40 else f"{text[:40]}..."
        raise UsageError(f"{shown!r} is not a size.", hint="Write e.g. 500MB, 5GB or 2GiB.")
    return int(size)


def _from_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    if path.stat().st_size > MOST_FILE_BYTES:
        raise UsageError(f"{path}: is larger than {MOST_FILE_BYTES} bytes, which no settings are.")
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):  # a few of them can stand for gigabytes
                raise yaml.YAMLError("references such as *name are not read")
            return super().compose_node(parent, index)

        def construct_number(self, node: yaml.ScalarNode) -> int:
            if len(node.value) > LONGEST_NUMBER:
                raise yaml.YAMLError(f"a number of {len(node.value)} digits")
            return self.construct_yaml_int(node)

    Loader.add_constructor("tag:yaml.org,2002:int", Loader.construct_number)
    try:
        content = yaml.load(path.read_text("utf-8"), Loader)
    except (yaml.YAMLError, ValueError, RecursionError, OSError) as error:
        reason = first_line(" ".join(str(error).split()))
        raise UsageError(f"{path}: is not YAML ({reason}).") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise UsageError(f"{path}: must hold 'key: value' lines.")
    values = {}
    for key, value in content.items():
        name = str(key).replace("-", "_")
        if name not in NAMES:
            known = [setting.replace("_", "-") for setting in NAMES]
            raise UsageError(
                f"{path}: unknown key {str(key)[:80]!r}.",
                hint=_nearest(name.replace("_", "-"), known),
            )
        if value is not None:
            values[name] = _typed(name, value, f"{path}: {key}")
    return values


def _require_known_variables(environment: Mapping[str, str]) -> None:
    known = [name.upper() for name in NAMES]
    for variable in sorted(environment):
        name = variable.removeprefix(ENVIRONMENT_PREFIX)
        if name != variable and name not in known:
            raise UsageError(
                f"the environment sets {variable}, which is no setting.",
                hint=_nearest(name.upper(), known, ENVIRONMENT_PREFIX),
            )


def _nearest(name: str, known: list[str], prefix: str = "") -> str:
    if near := difflib.get_close_matches(name, known, n=1):
        return f"Did you mean {prefix + near[0]!r}?"
    return f"Known are {', '.join(prefix + each for each in known)}."


def _typed(name: str, value: Any, where: str) -> Any:
    if name == "set":
        return _fields(value, where)
    if isinstance(NAMES[name].default, tuple):
        return _patterns(value, where)
    if not isinstance(NAMES[name].default, bool):
        return _text(name, value, where)
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    shown = value if isinstance(value, str | bool | int) else f"a {type(value).__name__}"
    if str(shown).lower() not in known:
        shown = shown[:40] if isinstance(shown, str) else shown
        raise UsageError(f"{where} is {shown!r}.", hint="Write true or false.")
    return known[str(shown).lower()]


def _fields(value: Any, where: str) -> tuple[str, ...]:
    if isinstance(value, dict):
        items = [
            (name, each)
            for name, said in value.items()
            for each in (said if name == IGNORE and isinstance(said, list) else [said])
        ]
        for name, number in items:
            if type(number) not in (bool, int, float, str):  # text, as YAML takes 1e-6 for one
                kind = "nothing" if number is None else f"a {type(number).__name__}"
                raise UsageError(
                    f"{where}: {first_line(name, 80)} is {kind}, not a number or a word.",
                    hint="Write e.g. 'set: {n_head: 8, block_size: 256}'.",
                )
        return tuple(f"{name}={number}" for name, number in items)
    if isinstance(value, str):
        return tuple(value.replace(",", " ").split())
    raise UsageError(
        f"{where} is a {type(value).__name__}, not names and their numbers.",
        hint="Write e.g. 'set: {n_head: 8, block_size: 256}'.",
    )


def _patterns(value: Any, where: str) -> tuple[str, ...]:
    items = re.split(r"[,\n]", value) if isinstance(value, str) else value
    if not isinstance(items, list) or not all(isinstance(item, str) for item in items):
        raise UsageError(
            f"{where} is not a list of globs.", hint="Write e.g. ['out/**/ckpt*.pt', 'runs/*.pt']."
        )
    return tuple(item.strip() for item in items if item.strip())


def _text(name: str, value: Any, where: str) -> str:
    known = NAMES[name].metadata
    items = value if isinstance(value, list) and known.get("comma_separated") else [value]
    for item in items:
        if type(item) not in known.get("types", (str,)):
            shown = repr(item) if isinstance(item, int | float) else f"a {type(item).__name__}"
            raise UsageError(f"{where} is {shown}, not text.", hint="Put it in quotes.")
    return ",".join(map(str, items))
