"""What others' checkers say of the action, the workflows, the scripts and the other CIs' files."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from actions_runner import Expressions

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
ACTION = ROOT / "action.yml"
SCHEMAS = {
    ".github/workflows/*.yml": "github-workflows",
    "action.yml": "github-actions",
    ".github/dependabot.yml": "dependabot",
}
USES = re.compile(r"uses: *([^\s#]+)(.*)")
# Of typesafegithub/github-actions-typing: the keys that a type needs besides `type`.
TYPES = {
    "string": set(),
    "boolean": set(),
    "integer": set(),
    "float": set(),
    "enum": {"allowed-values"},
    "list": {"separator", "list-item"},
}


def tool(name: str, *arguments: str | Path) -> str:
    """What a checker beside the interpreter says; it must find nothing."""
    command = [str(Path(sys.executable).parent / name), *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_zizmor() -> None:
    said = tool("zizmor", "--pedantic", "--offline", "--no-progress", ".github", ACTION)
    assert "No findings to report" in said


@pytest.mark.parametrize("pattern", SCHEMAS)
def test_schemas(pattern: str) -> None:
    files = sorted(ROOT.glob(pattern))
    assert files
    tool("check-jsonschema", "--builtin-schema", f"vendor.{SCHEMAS[pattern]}", *files)


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_githubs_own_parser(path: Path, expressions: Expressions) -> None:
    kind = "action" if path == ACTION else "workflow"
    assert expressions.faults(kind, path.name, path.read_text()) == []


def test_githubs_own_parser_finds_faults(expressions: Expressions) -> None:
    text = ACTION.read_text().replace("inputs.hub ", "inptus.hub ")
    assert "Unrecognized named-value: 'inptus'" in expressions.faults("action", "a", text)[0]


def test_shellcheck() -> None:
    scripts = [path for path in (ROOT / ".ci").iterdir() if path.read_text().startswith("#!")]
    scripts += [*(ROOT / "examples").rglob("*.sh"), *(ROOT / "tests").glob("*.sh")]
    assert {"action", "runtime", "setup", "venv", "run"} <= {path.name for path in scripts}
    tool("shellcheck", *scripts)


def test_hadolint() -> None:
    for path in [*ROOT.glob("Dockerfile*"), *(ROOT / "examples").rglob("Dockerfile*")]:
        tool("hadolint", path)


@pytest.mark.parametrize("path", [ACTION, *WORKFLOWS], ids=lambda path: path.name)
def test_actions_are_pinned_and_scripts_hold_no_expression(path: Path) -> None:
    for uses, comment in USES.findall(path.read_text()):
        assert uses.startswith("./") or re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", uses), uses
        assert uses.startswith("./") or re.fullmatch(r" # v\d+\.\d+\.\d+", comment), uses
    for script in _scripts(yaml.safe_load(path.read_text())):
        assert "${{" not in script


def _scripts(content: Any) -> list[str]:
    if isinstance(content, dict):
        own = [value for key, value in content.items() if key == "run" and isinstance(value, str)]
        return own + [script for value in content.values() for script in _scripts(value)]
    if isinstance(content, list):
        return [script for value in content for script in _scripts(value)]
    return []


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_grant_nothing_but_by_job(path: Path) -> None:
    content = yaml.safe_load(path.read_text())
    assert content["permissions"] == {}
    for name, job in content["jobs"].items():
        assert job["permissions"], name
        for step in job["steps"]:
            if "actions/checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


def test_the_action_has_no_logic() -> None:
    steps = yaml.safe_load(ACTION.read_text())["runs"]["steps"]
    for step in steps:
        assert step["run"] == f'exec bash "$GITHUB_ACTION_PATH/.ci/action" {step["id"]}'
        assert step["shell"] == "bash"
        words = set(re.findall(r"[a-z_.-]*[a-z]", re.sub(r"'[^']*'", "", step.get("if", ""))))
        known = re.compile(r"steps\.prepare\.(outputs\.\w+|outcome)|inputs\.stage|always|cancelled")
        assert all(known.fullmatch(word) for word in words), words


@pytest.mark.parametrize("part", ["inputs", "outputs"])
def test_types_are_those_of_the_typing_catalogue(part: str) -> None:
    declared = yaml.safe_load(ACTION.read_text())[part]
    typed = yaml.safe_load((ROOT / "action-types.yml").read_text())[part]
    assert list(typed) == list(declared)
    for name, spec in typed.items():
        assert spec.keys() - {"type"} == TYPES[spec["type"]], name
        default = declared[name].get("default", "")
        if spec["type"] == "boolean" and default:
            assert default in ("true", "false")
        if spec["type"] == "enum" and default:
            assert default in spec["allowed-values"]
