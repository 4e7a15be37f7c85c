"""What a repository is found to hold."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from init_trainer import Trainer

from slogpt_hf.errors import UsageError
from slogpt_hf.onboarding.platforms import platforms_of
from slogpt_hf.onboarding.survey import (
    Survey,
    branch_globs,
    checkpoint_globs,
    is_named_like_one,
    look_at,
)
from slogpt_hf.watch.patterns import matches

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'ab' * 32}\nsize 1048576\n"


def test_an_empty_repository(trainer: Trainer) -> None:
    survey = look_at(Path())
    assert (survey.checkpoints, survey.datasets, survey.globs) == ((), (), ())
    assert (survey.host, survey.slug) == ("github.com", "acme/training")
    assert survey.branches == ("main",)


def test_checkpoints_tracked_ignored_and_on_other_branches(trainer: Trainer) -> None:
    trainer.copy("ckpt.pt", "out/tracked/ckpt.pt")
    trainer.write(".gitignore", "*.pth\n")
    trainer.commit("out", ".gitignore")
    trainer.write("out/ignored.pth", b"damaged")
    trainer.copy("ckpt.pt", "loose.pt")
    for path in ("tests/data/ckpt.pt", ".venv/lib/ckpt.pt", "out/optimizer.pt", "data/train.bin"):
        trainer.write(path, "x")
    trainer.git("switch", "--quiet", "--create", "train/a")
    trainer.write("out/far/ckpt.pt", "far")
    trainer.commit("out/far")
    trainer.git("switch", "--quiet", "main")
    found = {each.path: each for each in look_at(Path()).checkpoints}
    assert list(found) == ["loose.pt", "out/far/ckpt.pt", "out/ignored.pth", "out/tracked/ckpt.pt"]
    assert found["out/far/ckpt.pt"].n_bytes is None and found["out/far/ckpt.pt"].is_tracked
    assert found["out/tracked/ckpt.pt"].dialect == "slo"
    assert found["out/ignored.pth"].is_ignored and found["out/ignored.pth"].dialect is None
    assert "out/ignored.pth: " in (found["out/ignored.pth"].problem or "")
    assert not found["loose.pt"].is_ignored and not found["loose.pt"].is_tracked


def test_git_lfs_by_pointer_and_by_attribute(trainer: Trainer) -> None:
    trainer.write("out/pointer.pt", POINTER)
    trainer.commit("out")
    trainer.write(".gitattributes", "runs/*.pt filter=lfs diff=lfs merge=lfs -text\n")
    trainer.copy("ckpt.pt", "runs/meant.pt")
    trainer.copy("ckpt.pt", "plain.pt")
    found = {each.path: each.is_lfs for each in look_at(Path()).checkpoints}
    assert found == {"out/pointer.pt": True, "runs/meant.pt": True, "plain.pt": False}


def test_vocabularies(trainer: Trainer) -> None:
    for path in ("datasets/tiny/meta.pkl", "data/other/meta.pkl", "prepared/meta.pkl"):
        trainer.copy("meta.pkl", path)
    trainer.write("vocabulary/tokenizer.model", "x")
    survey = look_at(Path())
    assert survey.datasets == ("other", "tiny", "prepared")
    assert survey.tokenizers == ("vocabulary/tokenizer.model",)


def test_remote_branches_count(trainer: Trainer, tmp_path: Path) -> None:
    trainer.git("branch", "train/far")
    shutil.copytree(trainer.folder, tmp_path / "upstream")
    trainer.git("branch", "--delete", "train/far")
    trainer.git("remote", "set-url", "origin", str(tmp_path / "upstream"))
    trainer.git("fetch", "--quiet", "origin")
    survey = look_at(Path())
    assert survey.branches == ("main", "train/far")
    assert survey.globs == ("train/**",)


def test_no_torch(trainer: Trainer) -> None:
    trainer.copy("ckpt.pt", "out/ckpt.pt")
    code = (
        "import sys; from pathlib import Path; from slogpt_hf.onboarding.survey import look_at;"
        "assert look_at(Path()).checkpoints[0].dialect == 'slo';"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_outside_of_a_repository_and_below_its_top(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer.write("sub/x")
    monkeypatch.chdir("sub")
    with pytest.raises(UsageError, match=r"not the top of the repository.* Run: cd "):
        look_at(Path())
    monkeypatch.chdir(trainer.folder.parent)
    with pytest.raises(UsageError, match="in no git repository"):
        look_at(Path())


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        *(("out/ckpt.pt", True), ("a.PTH", True), ("soul.sou", True), ("out/model.bin", True)),
        *(("model.safetensors", True), ("step-5/.metadata", True), ("x.ckpt", True)),
        *((".metadata", False), ("train.bin", False), ("tokenizer.bin", False), ("a.py", False)),
        *(("embedding.safetensors", False), ("optimizer.pt", False), ("rng_state.pth", False)),
    ],
)
def test_names_of_checkpoints(path: str, expected: bool) -> None:
    assert is_named_like_one(path) is expected


@pytest.mark.parametrize(
    ("paths", "globs"),
    [
        (["out/a/ckpt.pt", "out/ckpt_100.pt"], ("out/**/ckpt*.pt",)),
        (["ckpt.pt"], ("ckpt*.pt",)),
        (["runs/1000.pth"], ("runs/**/*.pth",)),
        (["out/step-5/.metadata"], ("out/**/.metadata",)),
        (["a[1]/model.pt"], ("a[[]1]/**/model*.pt",)),
        (["a,b/model.pt"], ("a?b/**/model*.pt",)),
    ],
)
def test_globs_of_checkpoints(paths: list[str], globs: tuple[str, ...]) -> None:
    assert checkpoint_globs(paths) == globs


NAMES = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="/\0"), min_size=1)
PATHS = st.lists(NAMES.filter(lambda name: name not in (".", "..")), min_size=1, max_size=3)


@given(PATHS.map(lambda parts: "/".join(parts) + ".pt"))
def test_a_glob_finds_the_path_that_it_was_made_from(path: str) -> None:
    (glob,) = checkpoint_globs([path])
    assert matches([glob], path)
    assert "," not in glob and glob.isprintable()


@pytest.mark.parametrize(
    ("files", "default", "globs"),
    [
        ({"main": []}, "main", ()),
        ({"main": [], "train/a": [], "train/b": []}, "main", ("train/**",)),
        ({"main": [], "big": ["out/ckpt.pt"], "docs": ["a.md"]}, "main", ("big",)),
        ({"main": ["ckpt.pt"], "fix": ["ckpt.pt", "a.py"]}, "main", ("main",)),
        ({"main": ["ckpt.pt"], "exp/a": ["ckpt.pt"]}, "main", ("exp/**",)),
        ({"main": [], "lab/a": ["a.pt"], "lab/b": ["b.pt"], "x/y": ["c.pt"]}, "main",
         ("lab/**", "x/y")),
        ({"main": [], "train/$(rm)": ["a.pt"]}, "main", ()),
        ({}, None, ()),
    ],
)  # fmt: skip
def test_branches_that_training_pushes_to(
    files: dict[str, list[str]], default: str | None, globs: tuple[str, ...]
) -> None:
    assert branch_globs(files, default) == globs


@pytest.mark.parametrize(
    ("files", "host", "expected"),
    [
        ((), None, ()),
        ((), "github.com", ("github",)),
        ((), "gitlab.example.org", ("gitlab",)),
        ((), "git.example.org", ()),
        ((".circleci/config.yml",), "github.com", ("circleci",)),
        ((".github/workflows/a.yml", "Jenkinsfile"), "github.com", ("github",)),
        (("azure-pipelines.yml", "Jenkinsfile"), None, ("jenkins", "azure")),
        ((".gitlab-ci.yml",), None, ("gitlab",)),
    ],
)
def test_the_ci_at_hand(files: tuple[str, ...], host: str | None, expected: object) -> None:
    assert platforms_of(files, host) == expected


@pytest.mark.parametrize(
    ("remote", "page"),
    [
        ("https://github.com/a/b.git", "https://github.com/a/b"),
        ("git@github.com:a/b.git", "https://github.com/a/b"),
        ("ssh://git@gitlab.com:2222/group/sub/b", "https://gitlab.com/group/sub/b"),
        ("/srv/git/training", None),
        ("../upstream", None),
        (None, None),
    ],
)
def test_the_page_of_a_remote(remote: str | None, page: str | None) -> None:
    survey = Survey(Path(), remote, (), (), (), (), ())
    assert survey.page == page
