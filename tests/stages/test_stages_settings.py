"""What prepare hands on: every setting, and the files that settings name."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stage_lab import TOKEN, Jobs, checkpoint, published, tags

from slogpt_hf.card.record import read_record
from slogpt_hf.ci.outcome import Outcome
from slogpt_hf.hub.embedded import RunningHub, serve
from slogpt_hf.planning import Plan
from slogpt_hf.settings import CHOICES, Settings
from slogpt_hf.stages import preparing
from slogpt_hf.stages.work import Work, keep, read_settings
from slogpt_hf.watch.event import Event

# Half characters, too, as the environment holds bytes that are no UTF-8.
TEXT = st.text(st.characters(exclude_categories=[]), max_size=20) | st.just("\udcff")
OWN: dict[str, st.SearchStrategy[Any]] = {
    **{name: st.sampled_from(known) for name, known in CHOICES.items()},
    "repo_id": st.none() | st.sampled_from(["me/model", "You/a.b-c_1"]),
    "max_shard_size": st.sampled_from(["5GB", "500 MiB", "12345"]),
    "special_tokens": st.none() | st.sampled_from(["pad", "pad,eos,bos,unk", " unk , "]),
    "set": st.lists(st.sampled_from(["n_head=8", "rope=true", "eps=1e-6"])).map(tuple),
    "card_template": st.none(),  # becomes a file of the folder
}


def any_value(name: str, default: Any) -> st.SearchStrategy[Any]:
    if name in OWN:
        return OWN[name]
    if isinstance(default, bool):
        return st.booleans()
    if isinstance(default, tuple):
        return st.lists(TEXT).map(tuple)
    return TEXT if default is not None else st.none() | TEXT


ANY = {each.name: any_value(each.name, each.default) for each in fields(Settings)}


@settings(max_examples=100, deadline=None)
@given(st.fixed_dictionaries(ANY))
def test_every_setting_is_handed_on(
    tmp_path_factory: pytest.TempPathFactory, values: dict[str, Any]
) -> None:
    assert all(each.default is not MISSING for each in fields(Settings))
    work = Work(tmp_path_factory.mktemp("work"))
    meant = Settings(**values)
    preparing._write(work, meant, Plan("me/model", ()), {}, Event("push"), True)
    assert read_settings(work) == meant


def test_paths_mean_the_same_in_any_folder(jobs: Jobs, tmp_path: Path) -> None:
    jobs.endpoint = ""
    (jobs.folder / "token").write_text(TOKEN)
    relative = {
        "SLOGPT_HUB": os.path.relpath(tmp_path / "own-hub", jobs.repository),
        "SLOGPT_SIGNING_KEY": "../key.pem",
        "SLOGPT_TOKEN_FILE": os.path.relpath(jobs.folder / "token", jobs.repository),
        "SLOGPT_OUTPUT": "kept-artefact",
    }
    ran = jobs.ci("prepare", **relative)
    assert ran.code == 0, ran.err
    found = jobs.read("settings.json")
    assert found["output"] is None
    for name, variable in (("hub", "SLOGPT_HUB"), ("signing_key", "SLOGPT_SIGNING_KEY")):
        assert Path(found[name]).is_absolute()
        assert os.path.normpath(found[name]) == os.path.normpath(
            jobs.repository / relative[variable]
        )
    assert Path(found["token_file"]).read_text() == TOKEN


def test_a_token_file_is_read_where_it_lies_and_not_copied(job: Jobs, hub: RunningHub) -> None:
    (job.folder / "token").write_text(TOKEN)
    job.rewrite("settings.json", token_file=str(job.folder / "token"))
    del job.environment["HF_TOKEN"]
    assert job.ci("publish").code == 0
    assert len(tags(hub)) == 2
    files = [path for path in job.work.rglob("*") if path.is_file()]
    assert not any(TOKEN.encode() in path.read_bytes() for path in files)


def test_a_token_of_standard_input_is_read_once(
    jobs: Jobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    from slogpt_hf.hub import credentials

    pieces = iter([TOKEN.encode()])
    monkeypatch.setattr(credentials, "_standard_input", lambda: next(pieces, b""))
    del jobs.environment["HF_TOKEN"]
    ran = jobs.ci("prepare", SLOGPT_TOKEN_FILE="-")
    assert ran.code == 0, ran.err
    assert jobs.read("settings.json")["token_file"] is None


def test_a_card_template_travels_with_the_folder(
    jobs: Jobs,
    hub: RunningHub,
    golden: Callable[[str], Path],
    new_repository: Callable[..., Path],
) -> None:
    template = b"---\nlicense: mit\nlibrary_name: transformers\n---\n# Ours: {{ repo_id }}\n"
    jobs.repository = new_repository(
        **{"card.jinja": template}, **checkpoint(golden("slo-rope-rmsnorm-gelu"), "out")
    )
    source = jobs.repository / "card.jinja"
    assert jobs.ci("prepare", SLOGPT_CARD_TEMPLATE="card.jinja").code == 0
    assert jobs.ci("prove").code == 0
    source.unlink()
    shutil.move(jobs.work, jobs.folder / "moved")
    moved = Jobs(jobs.folder / "other", jobs.folder, hub.endpoint, jobs.environment)
    moved.folder.mkdir()
    shutil.copytree(jobs.folder / "moved", moved.work)
    ran = moved.ci("publish")
    assert ran.code == 0, ran.err
    assert b"# Ours: me/model" in published(hub, "v1.0.0", "README.md")
    assert moved.read("settings.json")["card_template"] is None


def test_a_template_of_a_run_before_is_not_used(jobs: Jobs) -> None:
    template = jobs.folder / "card.jinja"
    template.write_text("old")
    assert jobs.ci("prepare", SLOGPT_CARD_TEMPLATE=str(template)).code == 0
    assert read_settings(Work(jobs.work)).card_template == str(jobs.work / "card-template.jinja")
    assert jobs.ci("prepare").code == 0
    assert read_settings(Work(jobs.work)).card_template is None
    ran = jobs.ci("prepare", SLOGPT_CARD_TEMPLATE="missing.jinja")
    assert ran.code == 2 and "missing.jinja: cannot be read" in ran.error


def test_a_tokenizer_of_the_hub_is_there_without_a_network(
    jobs: Jobs,
    hub: RunningHub,
    golden: Callable[[str], Path],
    new_repository: Callable[..., Path],
    tmp_path: Path,
) -> None:
    from huggingface_hub import HfApi
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    model = models.WordLevel({f"w{n}": n for n in range(65)}, unk_token="w0")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="w0")
    fast.save_pretrained(tmp_path / "tokenizer")
    api = HfApi(endpoint=hub.endpoint, token=TOKEN)
    api.create_repo("me/words")
    api.upload_folder(repo_id="me/words", folder_path=tmp_path / "tokenizer")
    files = checkpoint(golden("slo-rope-rmsnorm-gelu"), "out")
    jobs.repository = new_repository(
        **{name: content for name, content in files.items() if "meta" not in name}
    )
    # As in a job of its own: nothing of the client's cache but the folder.
    home = {"HF_HOME": str(tmp_path / "no-cache"), "SLOGPT_TOKENIZER": "me/words"}
    assert jobs.process("ci", "prepare", str(jobs.work), **home).code == 0
    offline = {**home, "HF_HUB_OFFLINE": "1", "HF_ENDPOINT": "http://127.0.0.1:9"}
    proven = jobs.process("ci", "prove", str(jobs.work), **offline)
    assert proven.code == 0, proven.err
    (key,) = jobs.wanted()
    record = read_record(Work(jobs.work).artefact(key))
    assert record["tokenizer"]["source"] == "me/words"


@given(TEXT, TEXT)
@settings(max_examples=50, deadline=None)
def test_any_text_of_an_outcome_can_be_kept(
    tmp_path_factory: pytest.TempPathFactory, name: str, message: str
) -> None:
    path = tmp_path_factory.mktemp("kept") / "outcome.json"
    keep(path, Outcome("a", name, "refused", message=message, exit_code=3))
    assert path.stat().st_size


def test_settings_are_those_of_the_jobs_that_proved(
    jobs: Jobs, artifacts: Path, hub: RunningHub
) -> None:
    """The job that publishes does not see the repository, nor its settings file."""
    folder = jobs.folder / "artifacts"
    shutil.copytree(artifacts, folder)
    elsewhere = jobs.folder / "elsewhere"
    elsewhere.mkdir()
    jobs.repository = elsewhere
    before = jobs.ci("prepare", "--job", "publish", "--artefacts", str(folder), SLOGPT_TAG="x")
    assert before.code == 0, before.err
    assert jobs.read("settings.json")["tag"] == "v{version}"
    assert jobs.ci("publish", SLOGPT_TAG="y").code == 0
    assert tags(hub) == ["v1.0.0", "v2.0.0"]


def test_a_commit_brings_its_own_files(
    jobs: Jobs, golden: Callable[[str], Path], new_repository: Callable[..., Path]
) -> None:
    """Fetched is what was committed, whatever lies in the checkout now."""
    jobs.repository = new_repository(**checkpoint(golden("slo-rope-rmsnorm-gelu"), "out"))
    (jobs.repository / "out" / "meta.pkl").write_bytes(b"changed meanwhile")
    assert jobs.ci("prepare").code == 0
    (key,) = jobs.wanted()
    kept = jobs.work / "checkpoints" / key / "files" / "out" / "meta.pkl"
    assert kept.read_bytes() == (golden("slo-rope-rmsnorm-gelu") / "meta.pkl").read_bytes()


def test_hub_folder_serves_as_the_hub(
    jobs: Jobs,
    golden: Callable[[str], Path],
    new_repository: Callable[..., Path],
    tmp_path: Path,
) -> None:
    """All stages with the folder of an embedded hub, named relative to the repository."""
    jobs.endpoint, jobs.environment = "", {"SLOGPT_HUB": "../own-hub"}
    jobs.repository = new_repository(**checkpoint(golden("slo-rope-rmsnorm-gelu"), "out"))
    for stage in ("prepare", "prove", "publish", "report"):
        if stage == "publish":
            (jobs.folder / "elsewhere").mkdir()
            jobs.repository, jobs.environment = jobs.folder / "elsewhere", {}
        ran = jobs.ci(stage)
        assert ran.code == 0, ran.err
    with serve(tmp_path / "own-hub") as running:
        assert tags(running) == ["v1.0.0"]


def test_a_candidate_may_stand_in_a_file(tmp_path: Path) -> None:
    from slogpt_hf.cli.ci import _key_in
    from slogpt_hf.errors import UsageError

    (tmp_path / "0").write_text("0123abcd-2\n")
    assert _key_in(f"@{tmp_path}/0") == "0123abcd-2"
    assert _key_in("0123abcd") == "0123abcd"
    (tmp_path / "1").write_text("secret = 'x'\n")
    for name in ("1", "missing"):
        with pytest.raises(UsageError, match="holds no key") as caught:
            _key_in(f"@{tmp_path}/{name}")
        assert "secret" not in str(caught.value)
