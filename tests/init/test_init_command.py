"""``slogpt-hf init`` in real repositories: what it writes, says, asks and refuses."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from init_trainer import Trainer

from slogpt_hf.errors import UsageError
from slogpt_hf.onboarding.platforms import PLATFORMS
from slogpt_hf.settings import load_settings

WORKFLOW = ".github/workflows/slogpt-hf.yml"
SETTINGS = ".slogpt-hf.yml"
REPO = ("--repo-id", "acme/model")


def test_from_nothing_to_a_workflow(trainer: Trainer) -> None:
    trainer.copy("ckpt.pt", "out/run/ckpt.pt")
    code, out, err = trainer.init(*REPO)
    assert code == 0, err
    assert "out/run/ckpt.pt (slo, on disk)" in out
    settings = load_settings({}, {}, trainer.folder)
    assert settings.repo_id == "acme/model"
    assert settings.checkpoints == ("out/**/ckpt*.pt",)
    assert settings.branches == ("train/**",)
    push = yaml.safe_load(trainer.read(WORKFLOW))[True]["push"]
    assert push == {"branches": ["train/**"], "paths": ["out/**/ckpt*.pt"]}
    assert "https://github.com/acme/training/settings/secrets/actions/new" in out
    assert "gh secret set HF_TOKEN --repo acme/training" in out
    assert "git add out/run/ckpt.pt" in out
    assert f"git add {WORKFLOW} {SETTINGS} && git commit" in out


def test_a_second_run_has_nothing_to_change(trainer: Trainer) -> None:
    assert trainer.init(*REPO, "--license", "mit", "--credentials", "oidc")[0] == 0
    before = {path: (trainer.folder / path).stat().st_mtime_ns for path in trainer.files()}
    code, out, _ = trainer.init()
    assert code == 0 and "Nothing to change." in out and "Next:" not in out
    assert before == {path: (trainer.folder / path).stat().st_mtime_ns for path in trainer.files()}


def test_what_a_person_wrote_into_the_settings_counts(trainer: Trainer) -> None:
    trainer.write(SETTINGS, "repo_id: acme/other # mine\nbranches: [exp/*]\nset: {n_head: 8}\n")
    report = trainer.json()
    assert report["files"] == {WORKFLOW: "new", SETTINGS: "same"}
    assert trainer.read(SETTINGS).endswith("# mine\nbranches: [exp/*]\nset: {n_head: 8}\n")
    assert yaml.safe_load(trainer.read(WORKFLOW))[True]["push"]["branches"] == ["exp/*"]


def test_what_differs_is_shown_and_kept(trainer: Trainer) -> None:
    assert trainer.init(*REPO)[0] == 0
    trainer.write(WORKFLOW, trainer.read(WORKFLOW).replace("ubuntu-latest", "my-runner"))
    (trainer.folder / SETTINGS).unlink()
    code, out, err = trainer.init(*REPO)
    assert code == 2
    assert "-    runs-on: my-runner\n+    runs-on: ubuntu-latest" in out
    assert f"{WORKFLOW}: differs" in err and "--force" in err
    assert trainer.files() == {WORKFLOW}  # nothing else either


def test_force_overwrites_and_keeps_other_settings(trainer: Trainer) -> None:
    trainer.write(SETTINGS, "repo-id: acme/old\nprivate: true\nset: {n_head: 8}\n")
    trainer.write(WORKFLOW, "name: slogpt-hf\n")
    assert trainer.init(*REPO)[0] == 2
    code, _, err = trainer.init(*REPO, "--force")
    assert code == 0, err
    settings = load_settings({}, {}, trainer.folder)
    assert (settings.repo_id, settings.private) == ("acme/model", True)
    assert settings.given == {"n_head": 8}
    assert trainer.init(*REPO)[1].endswith("Nothing to change.\n")


def test_a_dry_run_writes_nothing(trainer: Trainer) -> None:
    code, out, _ = trainer.init(*REPO, "--dry-run")
    assert code == 0 and trainer.files() == set()
    assert f"--- /dev/null\n+++ {WORKFLOW}" in out and "+repo-id: acme/model" in out
    assert "Nothing to change" not in out


def test_all_that_is_missing_is_named_at_once(trainer: Trainer) -> None:
    trainer.git("remote", "remove", "origin")
    code, _, err = trainer.init()
    assert code == 2 and trainer.files() == set()
    assert "--repo-id NAMESPACE/NAME" in err and "--ci, one of github, gitlab" in err
    code, _, err = trainer.init("--ci", "github", "--yes")
    assert code == 2 and "--repo-id" in err and "--ci," not in err


def test_several_cis_at_hand_are_not_guessed(trainer: Trainer) -> None:
    trainer.git("remote", "remove", "origin")
    trainer.write("Jenkinsfile", "pipeline {}\n")
    trainer.write(".gitlab-ci.yml", "a: {script: [b]}\n")
    code, _, err = trainer.init(*REPO)
    assert code == 2 and "--ci, one of gitlab, jenkins." in err


@pytest.mark.parametrize("ci", PLATFORMS)
def test_every_ci(trainer: Trainer, ci: str) -> None:
    report = trainer.json(*REPO, "--ci", ci)
    expected = {file.path for file in PLATFORMS[ci].files} | {SETTINGS}
    assert trainer.files() == expected == set(report["written"])
    assert "{" not in "".join(report["next"])
    assert "huggingface.co/settings/tokens" in report["next"][0]
    assert trainer.json(*REPO, "--ci", ci)["written"] == []


@pytest.mark.parametrize("ci", ["jenkins", "circleci", "azure"])
def test_somebody_elses_file_stays(trainer: Trainer, ci: str) -> None:
    theirs = PLATFORMS[ci].files[-1]
    trainer.write(theirs.path, "theirs\n")
    report = trainer.json(*REPO, "--ci", ci, "--force")
    assert theirs.otherwise in report["written"]
    assert trainer.read(theirs.path) == "theirs\n"
    assert any(theirs.otherwise in step and "git add" not in step for step in report["next"])
    assert trainer.json(*REPO, "--ci", ci)["written"] == []


def test_gitlabs_one_file_is_left_and_what_to_add_is_said(trainer: Trainer) -> None:
    trainer.write(".gitlab-ci.yml", "a: {script: [b]}\n")
    report = trainer.json(*REPO, "--ci", "gitlab", "--force")
    assert report["files"][".gitlab-ci.yml"] == "yours"
    assert trainer.read(".gitlab-ci.yml") == "a: {script: [b]}\n"
    (step,) = [step for step in report["next"] if "Add to your .gitlab-ci.yml" in step]
    lines = yaml.safe_load(step.partition("\n")[2])
    assert lines["include"][0]["inputs"]["repo-id"] == "acme/model"
    trainer.write(".gitlab-ci.yml", trainer.read(".gitlab-ci.yml") + step.partition("\n")[2])
    assert trainer.init("--ci", "gitlab")[1].endswith("Nothing to change.\n")


def test_oidc(trainer: Trainer) -> None:
    report = trainer.json(*REPO, "--credentials", "oidc")
    content = yaml.safe_load(trainer.read(WORKFLOW))["jobs"]["release"]
    assert content["permissions"]["id-token"] == "write"
    steps = " ".join(report["next"])
    assert "https://huggingface.co/acme/model/settings" in steps and "HF_TOKEN" not in steps
    assert "repository acme/training; workflow slogpt-hf.yml" in steps
    code, _, err = trainer.init(*REPO, "--credentials", "oidc", "--ci", "jenkins")
    assert code == 2 and "GitHub Actions and GitLab alone" in err


def test_kubernetes_needs_to_know_where_to_clone_from(trainer: Trainer) -> None:
    trainer.git("remote", "set-url", "origin", "/srv/training")
    code, _, err = trainer.init(*REPO, "--ci", "kubernetes")
    assert code == 2 and "git remote add origin" in err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--branches", "train/$(x)"), "letters, digits"),
        (("--branches", "a\nb"), "letters, digits"),
        (("--checkpoints", "a,b"), "a comma separates globs"),
        (("--checkpoints", "a\n"), "a comma separates globs"),
        (("--repo-id", "acme"), "is not NAMESPACE/NAME"),
    ],
)
def test_values_that_no_file_could_say(
    trainer: Trainer, flags: tuple[str, str], message: str
) -> None:
    code, _, err = trainer.init(*REPO, *flags)
    assert code == 2 and message in err and trainer.files() == set()


def test_a_vocabulary_is_named_only_where_the_checkpoint_names_none(trainer: Trainer) -> None:
    trainer.copy("meta.pkl", "datasets/tiny/meta.pkl")
    trainer.copy("ckpt.pt", "out/ckpt.pt")
    report = trainer.json(*REPO, "--dry-run")
    assert report["checkpoints"][0]["dataset"]
    assert any("git add out/ckpt.pt datasets/tiny/meta.pkl" in step for step in report["next"])
    assert trainer.init(*REPO)[0] == 0
    assert load_settings({}, {}, trainer.folder).dataset is None


def test_the_only_vocabulary_is_that_of_a_checkpoint_that_names_none(trainer: Trainer) -> None:
    trainer.copy("ckpt.pt", "out/ckpt.pt", "llama2c-tied")
    trainer.write("words/tokenizer.model", "x")
    assert trainer.init(*REPO)[0] == 0
    assert load_settings({}, {}, trainer.folder).tokenizer == "words/tokenizer.model"
    trainer.copy("meta.pkl", "datasets/tiny/meta.pkl")
    assert trainer.json(*REPO, "--dry-run")["files"][SETTINGS] == "same"
    (trainer.folder / SETTINGS).unlink()
    assert trainer.init(*REPO)[0] == 0
    settings = load_settings({}, {}, trainer.folder)
    assert (settings.dataset, settings.tokenizer) == ("tiny", None)


def test_what_a_checkpoint_lacks_is_said(trainer: Trainer) -> None:
    trainer.copy("model.sou", "soul/model.sou", "sloughgpt-sou")
    code, out, _ = trainer.init(*REPO)
    assert code == 0 and "does not record n_head and block_size" in out
    assert load_settings({}, {}, trainer.folder).checkpoints == ("soul/**/model*.sou",)


def test_large_and_ignored_checkpoints_are_for_git_lfs(trainer: Trainer) -> None:
    trainer.write(".gitignore", "out/\n")
    with trainer.write("out/ckpt.pt", b"PK").open("r+b") as file:
        file.truncate(11 * 2**20)
    steps = " ".join(trainer.json(*REPO)["next"])
    assert "git lfs track 'out/**/ckpt*.pt'" in steps
    assert "git add --force .gitattributes out/ckpt.pt" in steps


def test_an_unknown_setting_is_named_with_the_nearest(trainer: Trainer) -> None:
    trainer.write(SETTINGS, "checkpoint: [a.pt]\n")
    code, _, err = trainer.init(*REPO)
    assert code == 2 and "'checkpoint'" in err and "Did you mean 'checkpoints'?" in err


def test_nothing_is_left_where_a_file_cannot_be_written(
    trainer: Trainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slogpt_hf.onboarding import writing

    def full(path: Path, content: str) -> None:
        if path.name == SETTINGS:
            raise UsageError(f"{path}: cannot be written: No space left on device.")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    monkeypatch.setattr(writing, "write_atomically", full)
    code, _, err = trainer.init(*REPO)
    assert code == 2 and "No space left" in err and trainer.files() == set()


def test_names_cannot_move_the_cursor(trainer: Trainer) -> None:
    trainer.write("out/\x1b[2Jckpt.pt", "x")
    trainer.write(WORKFLOW, "slogpt-hf \x1b[2J\udcff".encode("utf-8", "surrogateescape"))
    code, out, err = trainer.init(*REPO)
    assert code == 2 and "\x1b" not in out + err
    code, out, err = trainer.init(*REPO, "--force")
    assert code == 0 and "ckpt.pt" in out and "\x1b" not in out + err


def test_a_repository_without_a_commit(trainer: Trainer) -> None:
    shutil.rmtree(trainer.folder / ".git")
    trainer.git("init", "--quiet")
    trainer.copy("ckpt.pt", "out/ckpt.pt")
    code, out, err = trainer.init(*REPO, "--ci", "github")
    assert code == 0 and "OWNER/NAME" in out, err


def test_the_schema_is_printed(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    code, out, _ = trainer.init("--schema")
    assert code == 0 and "json-schema.org/draft/2020-12" in out


def on_a_terminal(trainer: Trainer, answers: dict[str, str], *arguments: str) -> tuple[int, str]:
    """Run the command on a terminal of its own, each answer given when its question is there."""
    main, side = pty.openpty()
    command = [sys.executable, "-m", "slogpt_hf", "init", *arguments]
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen(
        command, stdin=side, stdout=side, stderr=side, cwd=trainer.folder, env=environment
    )
    os.close(side)
    said, asked = "", dict(answers)
    while select.select([main], [], [], 30)[0]:
        try:
            said += os.read(main, 4096).decode()
        except OSError:  # the other side is closed
            break
        for question in [question for question in asked if question in said]:
            os.write(main, asked.pop(question).encode() + b"\n")
    os.close(main)
    assert not asked, said
    return process.wait(30), said


def test_questions_on_a_terminal(trainer: Trainer) -> None:
    trainer.git("remote", "remove", "origin")
    answers = {
        "CI (github": "github",
        "Hub repository to release to": "not a name",
        "is not NAMESPACE/NAME": "acme/model",
        "License of the model": "mit",
        "(token, oidc)": "oidc",
        "Write this?": "y",
    }
    code, said = on_a_terminal(trainer, answers)
    assert code == 0, said
    settings = load_settings({}, {}, trainer.folder)
    assert (settings.repo_id, settings.license) == ("acme/model", "mit")
    assert 'oidc: "true"' in trainer.read(WORKFLOW)


def test_no_on_a_terminal_writes_nothing(trainer: Trainer) -> None:
    code, said = on_a_terminal(
        trainer, {"License": "", "(token, oidc)": "", "Write this?": "n"}, *REPO
    )
    assert code == 130 and trainer.files() == set(), said


def test_a_terminal_is_not_asked_what_flags_say(trainer: Trainer) -> None:
    code, said = on_a_terminal(trainer, {}, *REPO, "--yes")
    assert code == 0 and trainer.files() == {WORKFLOW, SETTINGS}, said
