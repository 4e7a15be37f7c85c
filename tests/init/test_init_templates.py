"""The files of the CIs: equal to the examples, and their values survive in every language."""

from __future__ import annotations

import re
import subprocess
import sys
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from slogpt_hf.onboarding.choosing import Choices
from slogpt_hf.onboarding.platforms import PLATFORMS
from slogpt_hf.onboarding.rendering import (
    TEMPLATES,
    Values,
    github_branches,
    github_paths,
    gitlab_regex,
    render,
)
from slogpt_hf.onboarding.survey import BRANCH
from slogpt_hf.settings import Settings
from slogpt_hf.watch.patterns import matches

ROOT = Path(__file__).parents[2]
SAMPLE = Values(
    repo_id="me/my-model",
    checkpoints=("out/**/ckpt*.pt",),
    branches=("train/**",),
    source="https://github.com/me/training.git",
    script="release.sh",
    component="templates/release.yml",
    has_settings_file=False,
)
EXAMPLES = {
    "gitlab-component.yml": "gitlab/templates/release.yml",
    "gitlab-ci.yml": "gitlab/.gitlab-ci.yml",
    "Jenkinsfile": "jenkins/Jenkinsfile",
    "circleci.yml": "circleci/config.yml",
    "azure-pipelines.yml": "azure/azure-pipelines.yml",
    "release.sh": "docker/release.sh",
    "cronjob.yaml": "kubernetes/cronjob.yaml",
}
GLOBS = st.text(st.characters(exclude_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(
    lambda glob: "," not in glob and glob.isprintable()
)
NAMES = st.from_regex(BRANCH, fullmatch=True)


def values(checkpoints: list[str], branches: list[str], **more: Any) -> Values:
    return Values("me/my-model", tuple(checkpoints), tuple(branches), "https://x.y/a/b.git", **more)


def loaded(template: str, of: Values) -> Any:
    return list(yaml.safe_load_all(render(template, of)))[-1]


@pytest.mark.parametrize("template", EXAMPLES)
def test_examples_are_what_the_templates_give(template: str) -> None:
    example = (ROOT / "examples" / EXAMPLES[template]).read_text("utf-8")
    assert render(template, SAMPLE) == example, f"change templates/{template}.jinja too"


def test_every_template_is_used() -> None:
    used = {file.template for platform in PLATFORMS.values() for file in platform.files}
    assert used == {path.name.removesuffix(".jinja") for path in TEMPLATES.iterdir()}
    assert used == {*EXAMPLES, "github.yml"}


@settings(max_examples=40)
@given(st.lists(GLOBS, min_size=1, max_size=3), st.lists(NAMES, min_size=1, max_size=3))
def test_values_survive_in_yaml(globs: list[str], branches: list[str]) -> None:
    of = values(globs, branches)
    github = loaded("github.yml", of)[True]["push"]  # YAML 1.1 takes the key `on` for true
    assert [re.sub(r"\\(.)", r"\1", each) for each in github["branches"]] == branches
    assert github.get("paths", []) == github_paths(globs)
    gitlab = loaded("gitlab-ci.yml", of)["include"][0]["inputs"]
    assert gitlab["checkpoints"].replace("$$", "$") == ",".join(globs)
    assert "$" not in gitlab["checkpoints"].replace("$$", "")
    assert gitlab.get("branches", "/^train\\/.*$/") == gitlab_regex(branches)
    container = loaded("cronjob.yaml", of)["spec"]["jobTemplate"]["spec"]["template"]["spec"]
    given_there = {each["name"]: each.get("value") for each in container["containers"][0]["env"]}
    assert given_there["SLOGPT_CHECKPOINTS"].replace("$$", "$") == ",".join(globs)
    assert given_there["SLOGPT_BRANCHES"] == ",".join(branches)
    circle = loaded("circleci.yml", values(globs, branches, has_settings_file=False))
    variables = circle["executors"]["docker-machine"]["environment"]
    assert variables["SLOGPT_CHECKPOINTS"] == ",".join(globs)
    azure = loaded("azure-pipelines.yml", values(globs, branches, has_settings_file=False))
    assert azure["variables"]["SLOGPT_CHECKPOINTS"] == ",".join(globs)
    assert azure["trigger"]["branches"]["include"] == [re.sub(r"\*+", "*", b) for b in branches]


@given(st.lists(GLOBS, min_size=1, max_size=2), st.lists(NAMES, min_size=1, max_size=2))
def test_values_survive_in_groovy(globs: list[str], branches: list[str]) -> None:
    text = render("Jenkinsfile", values(globs, branches, has_settings_file=False))
    (written,) = re.findall(r"^ {8}SLOGPT_CHECKPOINTS = '(.*)'$", text, re.MULTILINE)
    assert re.sub(r"\\(.)", r"\1", written) == ",".join(globs)
    assert not re.search(r"(?<!\\)(?:\\\\)*'", written)
    for branch in branches:
        assert f"branch '{branch}'" in text


@given(GLOBS, GLOBS)
def test_a_path_filter_of_github_lets_everything_through_that_the_glob_does(
    glob: str, other: str
) -> None:
    """Its pattern language, in which ``**`` is any text and ``*`` any without a slash."""
    wide = github_paths([glob])
    if not wide:
        assert "://" in glob
        return
    pieces = re.split(r"(\*\*/?|\*|\\.)", wide[0])
    meaning = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    regex = "".join(meaning.get(p, re.escape(p[1:] if p[:1] == "\\" else p)) for p in pieces)
    for path in (glob, other, glob.replace("*", "x"), re.sub(r"\[.*?\]", "a", glob)):
        path = path.removeprefix("./")
        if matches([glob], path):
            assert re.fullmatch(regex, path, re.DOTALL), (wide, path)


@pytest.mark.parametrize(
    ("globs", "regex"),
    [
        (["train/**"], r"/^train\/.*$/"),
        (["main", "train/*"], r"/^(?:main|train\/[^\/]*)$/"),
        (["a+b.c"], r"/^a\+b\.c$/"),
        (["**/x"], r"/^(?:.+\/)?x$/"),
    ],
)
def test_branches_as_regular_expressions(globs: list[str], regex: str) -> None:
    assert gitlab_regex(globs) == regex


@given(st.lists(NAMES, min_size=1, max_size=2), NAMES)
def test_the_regular_expression_means_what_the_globs_mean(globs: list[str], name: str) -> None:
    globs = [re.sub(r"/+", "/", re.sub(r"\*{2,}", "*", glob)).strip("/") or "a" for glob in globs]
    regex = gitlab_regex(globs)[1:-1].replace(r"\/", "/")
    for each in (name, *(glob.replace("*", "b") for glob in globs)):
        if not each.startswith("./") and "/./" not in each:
            plain = [g for g in globs if "./" not in g and not g.endswith("/.") and g != "."]
            if plain == globs:
                assert bool(re.search(regex, each)) == matches(globs, each)


def test_branches_with_signs_of_githubs_patterns() -> None:
    assert github_branches(["a+b", "!c", "train/**"]) == r'["a\\+b", "\\!c", "train/**"]'


def test_an_object_store_is_looked_at_by_the_clock() -> None:
    content = loaded("github.yml", values(["s3://bucket/*.pt"], ["main"]))[True]
    assert "paths" not in content["push"] and content["schedule"]
    assert "schedule" not in loaded("github.yml", values(["*.pt"], ["main"]))[True]


@pytest.mark.parametrize("credentials", ["token", "oidc"])
@pytest.mark.parametrize("branches", [("train/**",), ("main", "exp/*", "a+b")])
def test_the_workflow_is_sound(
    expressions: Any, credentials: str, branches: tuple[str, ...]
) -> None:
    chosen = Settings("me/my-model", checkpoints=("a'b ${{ x }}*.pt",), branches=branches)
    text = render("github.yml", Choices("github", credentials, chosen).values)
    assert expressions.faults("workflow", "slogpt-hf.yml", text) == []
    content = yaml.safe_load(text)
    assert content["permissions"] == {}
    granted = content["jobs"]["release"]["permissions"]
    assert ("id-token" in granted) == (credentials == "oidc")
    checkout, own = content["jobs"]["release"]["steps"]
    assert checkout["with"] == {"fetch-depth": 0, "lfs": False, "persist-credentials": False}
    assert own["with"].keys() == ({"oidc"} if credentials == "oidc" else {"token"})
    known = yaml.safe_load((ROOT / "action.yml").read_text("utf-8"))["inputs"]
    assert own["with"].keys() <= known.keys()


def test_checkers_accept_the_files(tmp_path: Path) -> None:
    """zizmor finds only that our own action has a version for a name, as its comment says."""
    of = values(["out/**/ckpt*.pt", "it's.pt"], ["train/**", "main"], is_oidc=True)
    workflow = tmp_path / ".github" / "workflows" / "slogpt-hf.yml"
    workflow.parent.mkdir(parents=True)
    text = render("github.yml", of)
    workflow.write_text(text.replace(f"slogpt-hf@v{of.version}", f"slogpt-hf@{'1' * 40}"))
    script = tmp_path / "slogpt-hf.sh"
    script.write_text(render("release.sh", of))
    commands: list[list[str | Path]] = [
        ["zizmor", "--pedantic", "--offline", "--no-progress", workflow],
        ["shellcheck", script],
    ]
    for schema, template in {
        "github-workflows": "github.yml",
        "gitlab-ci": "gitlab-ci.yml",
        "circle-ci": "circleci.yml",
        "azure-pipelines": "azure-pipelines.yml",
    }.items():
        file = tmp_path / template
        file.write_text(render(template, of))
        variant = ["--regex-variant", "python"]  # Azure's schema is written for it
        options = ["--builtin-schema", f"vendor.{schema}", *variant]
        commands.append(["check-jsonschema", *options, file])
    for name, *arguments in commands:
        tool = Path(sys.executable).parent / str(name)
        done = subprocess.run([tool, *arguments], capture_output=True, text=True, cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    assert fnmatchcase(text, f"*uses: slogpt/slogpt-hf@v{of.version}\n*")
