"""Inputs of the action, fields of the settings and the tables of the docs say the same."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import yaml

from slogpt_hf import errors
from slogpt_hf.settings import CHOICES, NAMES, Settings

ROOT = Path(__file__).parents[2]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
TYPES = yaml.safe_load((ROOT / "action-types.yml").read_text())
RELEASE = yaml.safe_load((ROOT / ".github/workflows/release.yml").read_text())
DOCS = (ROOT / "docs" / "action.md").read_text()
README = (ROOT / "README.md").read_text()

NO_INPUTS = {
    "output": "the artefact lies where the output artefact-path says",
    "report": "the report lies where the output report says",
    "token_file": "a token is the input token, from a secret",
    "signing_key": "a workflow signs with its own identity; no private key lies in a workspace",
}
NO_INPUTS_OF_THE_WORKFLOW = {
    "hub": "its folder would end with the job",
    "token": "it is the secret hf-token",
    "github-token": "it is the job's",
    "stage": "each job has its own",
    "candidate": "the matrix gives it",
    "artefact-path": "the jobs hand it on",
    "python": "the jobs run on fresh machines",
}


def setting_inputs() -> list[str]:
    return [each.name.replace("_", "-") for each in fields(Settings) if each.name not in NO_INPUTS]


def table(heading: str) -> dict[str, str]:
    """First cell to the rest of the row, of the table below a heading of the docs."""
    text = DOCS.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return dict(re.findall(r"^\| `([a-z-]+)` \| (.*) \|$", text, re.MULTILINE))


def test_every_setting_is_an_input_or_says_why_not() -> None:
    assert NO_INPUTS.keys() <= NAMES.keys()
    names = list(ACTION["inputs"])
    assert names[: len(setting_inputs())] == setting_inputs()
    for name in setting_inputs():
        assert ACTION["inputs"][name]["default"] == "", name  # .slogpt-hf.yml counts


def test_every_input_is_one_variable() -> None:
    prepare = ACTION["runs"]["steps"][0]["env"]
    for name in setting_inputs():
        variable = f"SLOGPT_{name.replace('-', '_').upper()}"
        assert prepare[variable] == f"${{{{ inputs.{name} || env.{variable} }}}}"
    text = str(ACTION["runs"])
    assert all(f"inputs.{name} " in text for name in ACTION["inputs"])


def test_types_are_those_of_the_settings() -> None:
    for name in setting_inputs():
        field, spec = NAMES[name.replace("-", "_")], TYPES["inputs"][name]
        assert (spec["type"] == "boolean") == isinstance(field.default, bool), name
        if field.name in CHOICES:
            assert tuple(spec["allowed-values"]) == CHOICES[field.name]
        if isinstance(field.default, tuple):
            assert spec["type"] == "list", name


def test_the_docs_list_inputs_and_outputs_in_order() -> None:
    documented = table("Inputs")
    assert list(documented) == list(ACTION["inputs"])
    for name, declaration in ACTION["inputs"].items():
        assert documented[name].startswith(declaration["description"].rstrip(".")), name
        assert documented[name].rpartition(" | ")[2] == _shown_default(name, declaration), name
    outputs = {name: each["description"].rstrip(".") for name, each in ACTION["outputs"].items()}
    assert table("Outputs") == outputs


def test_the_readme_has_every_input_and_output() -> None:
    written = dict(re.findall(r"^\| `(?:--)?([a-z-]+)` \| (.*) \|$", README, re.MULTILINE))
    alone = [name for name in ACTION["inputs"] if name not in setting_inputs()]
    for name in alone:
        assert f"| `{name}` | {written[name]} |" in DOCS, name
    for name in ACTION["outputs"]:
        assert f"| `{name}` | {table('Outputs')[name]} |" in README, name
    assert set(setting_inputs()) <= written.keys()


def _shown_default(name: str, declaration: dict[str, Any]) -> str:
    default = declaration["default"]
    if name in setting_inputs():
        default = NAMES[name.replace("-", "_")].default
    if isinstance(default, tuple):
        default = ", ".join(default)
    if isinstance(default, bool):
        default = str(default).lower()
    return "the job's" if "{{" in (default or "") else f"`{default}`" if default else ""


def test_the_workflow_takes_what_the_action_takes() -> None:
    declared = RELEASE[True]["workflow_call"]["inputs"]  # YAML 1.1 takes `on` for true
    shared = [name for name in ACTION["inputs"] if name not in NO_INPUTS_OF_THE_WORKFLOW]
    own = {"runs-on", "max-parallel", "fetch-depth"}
    assert set(declared) == set(shared) | own
    settings = [name for name in setting_inputs() if name != "hub"]
    for name in settings:
        assert declared[name]["description"] == ACTION["inputs"][name]["description"]
        assert (declared[name]["type"], declared[name]["default"]) == ("string", "")
    variables = {f"SLOGPT_{name.replace('-', '_').upper()}": name for name in settings}
    assert RELEASE["env"] == {
        variable: f"${{{{ inputs.{name} }}}}" for variable, name in variables.items()
    }


def test_the_readme_tells_every_exit_code() -> None:
    table = README.partition("## Exit codes")[2].partition("\n## ")[0]
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    known = {kind.exit_code for kind in kinds if issubclass(kind, errors.SloGPTError)}
    assert known <= told and told - known == {0, 130}
