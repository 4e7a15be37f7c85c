"""What the Hub would refuse in a card, found without asking it.

Rules: https://huggingface.co/docs/hub/model-cards, and modelcard.md of huggingface/hub-docs,
which says of a card with a model-index that it, datasets and license are verified on push.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from slogpt_hf.card.hub_values import LANGUAGES_BESIDE_CODES, LICENSES, PIPELINE_TAGS

# Letters of ISO 639-1 to -3, optionally a script or region.
_LANGUAGE = re.compile(r"[a-z]{2,3}(?:-[A-Za-z0-9]{2,8})*")


def validate_card(text: str) -> list[str]:
    """Why the Hub would refuse the card, one sentence a reason that begins with the field.

    Args:
        text: the whole README.md.

    Returns:
        The problems; empty for a valid card.
    """
    import yaml
    from huggingface_hub import ModelCard

    # The Hub's own expression for the block; the client documents that it keeps it in step.
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    block = REGEX_YAML_BLOCK.search(text)
    if block is None:
        return ["metadata: the card does not begin with a block of YAML between --- lines."]
    try:
        metadata = yaml.safe_load(block[2])
    except yaml.YAMLError as error:
        return [f"metadata: is not YAML ({' '.join(str(error).split())})."]
    if not isinstance(metadata, Mapping) or not all(isinstance(key, str) for key in metadata):
        return ["metadata: is not a mapping of names to values."]
    problems = validate_metadata(metadata)
    if "license" not in metadata:
        problems.append("license: is missing; 'unknown' is a license id.")
    if not problems:
        try:
            ModelCard(text)
        except Exception as error:  # whatever metadata can make the client raise
            problems.append(f"metadata: {' '.join(str(error).split())}.")
    return problems


def validate_metadata(metadata: Mapping[str, Any]) -> list[str]:
    """What the Hub would refuse of the fields that ``metadata`` has."""
    return [
        f"{field}: {problem}."
        for field, check in CHECKS.items()
        if field in metadata
        for problem in check(metadata[field])
    ]


def _license(value: Any) -> Iterator[str]:
    for name in _listed(value):
        if not isinstance(name, str) or name not in LICENSES:
            yield (
                f"{name!r} is not a license id of the Hub; see "
                "https://huggingface.co/docs/hub/repositories-licenses"
            )


def _pipeline_tag(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or value not in PIPELINE_TAGS:
        yield f"{value!r} is not a task of the Hub; these models do text-generation"


def _language(value: Any) -> Iterator[str]:
    for code in _listed(value):
        known = isinstance(code, str) and (
            code in LANGUAGES_BESIDE_CODES or _LANGUAGE.fullmatch(code)
        )
        if not known:
            quoted = " (YAML reads a bare no as false: quote it)" if code is False else ""
            yield f"{code!r} is not an ISO 639 code such as en{quoted}"


def _datasets(value: Any) -> Iterator[str]:
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    for name in _listed(value):
        try:
            valid = isinstance(name, str)
            validate_repo_id(name)
        except HFValidationError:
            valid = False
        if not valid:
            yield f"{name!r} is not the id of a dataset on the Hub"


def _text(value: Any) -> Iterator[str]:
    if not isinstance(value, str) or not value:
        yield f"{value!r} is not text"


def _texts(value: Any) -> Iterator[str]:
    if not isinstance(value, list):
        yield f"{value!r} is not a list"
        return
    for i, entry in enumerate(value):
        if not isinstance(entry, str) or not entry:
            yield f"entry {i}, {entry!r}, is not text"


def _model_index(value: Any) -> Iterator[str]:
    if not isinstance(value, list) or not value:
        yield "is not a list of models"
        return
    for i, model in enumerate(value):
        yield from _required(model, f"[{i}]", {"name": str, "results": list})
        results = model.get("results") if isinstance(model, Mapping) else None
        for j, result in enumerate(results if isinstance(results, list) else ()):
            yield from _result(result, f"[{i}].results[{j}]")


def _result(result: Any, where: str) -> Iterator[str]:
    parts = {"task": Mapping, "dataset": Mapping, "metrics": list}
    missing = list(_required(result, where, parts))
    yield from missing
    if missing:
        return
    yield from _required(result["task"], f"{where}.task", {"type": str})
    yield from _required(result["dataset"], f"{where}.dataset", {"type": str, "name": str})
    for k, metric in enumerate(result["metrics"]):
        yield from _required(metric, f"{where}.metrics[{k}]", {"type": str, "value": object})


def _required(value: Any, where: str, fields: Mapping[str, type]) -> Iterator[str]:
    if not isinstance(value, Mapping):
        yield f"{where} is not a mapping"
        return
    for name, kind in fields.items():
        if value.get(name) is None or not isinstance(value[name], kind):
            yield f"{where} needs {name!r}"


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


CHECKS: Mapping[str, Callable[[Any], Iterator[str]]] = {
    "license": _license,
    "library_name": _text,
    "pipeline_tag": _pipeline_tag,
    "language": _language,
    "tags": _texts,
    "metrics": _texts,
    "datasets": _datasets,
    "model-index": _model_index,
}
