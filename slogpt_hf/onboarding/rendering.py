"""Rendering the templates of CI files; every value is quoted for the language that it stands in.

Templates use ``[= =]``, ``[% %]`` and ``[# #]``, since CI files have braces of their own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined

from slogpt_hf.onboarding.platforms import COMPONENT, SCRIPT
from slogpt_hf.version import __version__

TEMPLATES = Path(__file__).parent / "templates"
# What no YAML, old or new, takes for anything but text, also within [ ].
PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]+(?:/[A-Za-z0-9_.*-]+)*")
SPECIAL_ON_GITHUB = re.compile(r"([+!\\])")
UNCERTAIN_ON_GITHUB = re.compile(r"\[[^]]*\]|[^\w./*@=+!#, -]")


@dataclass(frozen=True)
class Values:
    """What the templates say of a repository.

    Attributes:
        repo_id: Hub repository.
        checkpoints: globs, relative to the top of the repository, or URLs.
        branches: globs with ``*`` and ``**`` alone.
        source: URL that git clones the training repository from.
        is_oidc: publish as a trusted publisher rather than with a stored token.
        script: path of the script that runs the stages with docker.
        component: path of the GitLab component.
        has_settings_file: ``.slogpt-hf.yml`` holds what the CI file need not say.
        version: of slogpt-hf.
    """

    repo_id: str
    checkpoints: tuple[str, ...]
    branches: tuple[str, ...]
    source: str = ""
    is_oidc: bool = False
    script: str = SCRIPT
    component: str = COMPONENT
    has_settings_file: bool = True
    version: str = __version__


def render(template: str, values: Values) -> str:
    """The text of a CI file.

    Args:
        template: name of a file in ``templates/``, without ``.jinja``.
        values: what it says.
    """
    return _environment().get_template(f"{template}.jinja").render(**vars(values))


def scalar(value: object) -> str:
    """A value as a YAML scalar: text without quotes where every reader takes it for that text."""
    if isinstance(value, str) and PLAIN.fullmatch(value) and yaml.safe_load(value) == value:
        return value
    return quoted(value)


def quoted(value: object) -> str:
    """A value as a YAML scalar, text in double quotes."""
    if value is None:
        return ""
    if isinstance(value, bool | int):
        return str(value).lower()
    text = yaml.safe_dump(value, default_style='"', allow_unicode=True, width=math.inf)
    return str(text).removesuffix("\n")


def flow(values: Iterable[object]) -> str:
    """Values as a YAML list on one line."""
    return f"[{', '.join(map(quoted, values))}]"


def groovy(value: str) -> str:
    """Text as a Groovy string without interpolation."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def without_variables(value: str) -> str:
    """Text in which GitLab, or Kubernetes, expands no variable."""
    return value.replace("$", "$$")


def github_branches(globs: Iterable[str]) -> str:
    """Branch globs as a filter of a GitHub workflow, where ``+`` and ``!`` mean something."""
    return flow(SPECIAL_ON_GITHUB.sub(r"\\\1", glob) for glob in globs)


def github_paths(globs: Iterable[str]) -> list[str]:
    """Globs of files as a path filter of a GitHub workflow; it lets through at least as much.

    What its patterns read otherwise (``?``, sets, signs) becomes ``*``. Empty where a URL is
    among them, since the files of an object store are in no push.
    """
    globs = list(globs)
    if any("://" in glob for glob in globs):
        return []
    wide = (UNCERTAIN_ON_GITHUB.sub("*", glob.removeprefix("./")) for glob in globs)
    return list(dict.fromkeys(SPECIAL_ON_GITHUB.sub(r"\\\1", glob) for glob in wide))


def gitlab_regex(globs: Sequence[str]) -> str:
    """Branch globs as a regular expression of GitLab (RE2), between slashes."""
    return f"/^{_alternatives(globs)}$/"


def circleci_regex(globs: Sequence[str]) -> str:
    """Branch globs as a pattern of CircleCI (Java), which matches a whole name; as YAML."""
    text = f"/{_alternatives(globs)}/"
    return text if re.fullmatch(r"/[\w\\/.*+-]+/", text) else quoted(text)


def azure_branches(globs: Iterable[str]) -> list[str]:
    """Branch globs as a trigger of Azure Pipelines, where ``*`` is any text."""
    return [re.sub(r"\*+", "*", glob) for glob in globs]


def azure_condition(globs: Sequence[str]) -> str:
    """Whether a run is of such a branch, as far as Azure can tell: up to the first ``*``.

    It guards publishing once more; which branches start a run is what the trigger says.
    """
    ref, each = "variables['Build.SourceBranch']", []
    for glob in globs:
        start, star, _ = glob.partition("*")
        each.append(f"{'startsWith' if star else 'eq'}({ref}, 'refs/heads/{start}')")
    return each[0] if len(each) == 1 else f"or({', '.join(each)})"


def named(globs: Iterable[str]) -> str:
    """Branch globs for people."""
    return ", ".join(re.sub(r"\*+", "...", glob) for glob in globs)


def _alternatives(globs: Sequence[str]) -> str:
    each = [_regex(glob) for glob in globs]
    return each[0] if len(each) == 1 else f"(?:{'|'.join(each)})"


def _regex(glob: str) -> str:
    meaning = {"**/": r"(?:.+\/)?", "*": r"[^\/]*"}
    pieces = re.split(r"(\*\*/|\*+)", glob)
    return "".join(
        meaning.get(piece, ".*" if "*" in piece else re.sub(r"([^\w@#=])", r"\\\1", piece))
        for piece in pieces
    )


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        variable_start_string="[=",
        variable_end_string="=]",
        block_start_string="[%",
        block_end_string="%]",
        comment_start_string="[#",
        comment_end_string="#]",
    )
    filters: dict[str, Callable[..., object]] = {
        "scalar": scalar,
        "quoted": quoted,
        "flow": flow,
        "groovy": groovy,
        "without_variables": without_variables,
        "github_branches": github_branches,
        "github_paths": github_paths,
        "gitlab_regex": gitlab_regex,
        "circleci_regex": circleci_regex,
        "azure_branches": azure_branches,
        "azure_condition": azure_condition,
        "named": named,
    }
    environment.filters.update(filters)
    return environment
