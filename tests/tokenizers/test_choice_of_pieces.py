"""A tokenizer.model or tokenizer.bin that is named, or that lies beside a llama2.c checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from slogpt_hf.checkpoints import Checkpoint, read_checkpoint
from slogpt_hf.errors import CheckpointError, UsageError
from slogpt_hf.tokenizers import check, check_choice, choose_tokenizer
from slogpt_hf.tokenizers.check import load_tokenizer

DATA = Path(__file__).parents[1] / "data" / "tokenizers"
SIZE = 512
KEEP_SPACES = b"\x1a\x02\x20\x00"  # normalizer_spec { remove_extra_whitespaces: false }, merged in


@pytest.fixture
def checkpoint(slo_checkpoint: Callable[..., Path], tmp_path: Path) -> Checkpoint:
    """As llama2.c leaves one: alone in its folder, without vocabulary."""
    read = read_checkpoint(slo_checkpoint(n_layer=1))
    folder = tmp_path / "out"
    folder.mkdir()
    spec = replace(read.spec, vocab_size=SIZE)
    return replace(read, spec=spec, path=folder / "model.bin", dialect="llama2c", vocabulary=None)


def place(name: str, folder: Path, to: str | None = None) -> Path:
    folder.mkdir(exist_ok=True)
    return Path(shutil.copy(DATA / name, folder / (to or name)))


@pytest.mark.parametrize("name", ["tokenizer.model", "tokenizer.bin"])
@pytest.mark.parametrize("to", ["tokenizer.model", "tokenizer.bin", "tok512"])
def test_named_file_is_told_by_content(
    name: str, to: str, checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = place(name, tmp_path / "elsewhere", to)
    choice = choose_tokenizer(checkpoint, tokenizer=str(path))
    assert choice.pieces is not None and choice.pieces.space == ("\u2581 "[name.endswith("bin")])
    assert choice.source == str(path)
    choice.write(tmp_path / "artefact", checkpoint)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "artefact")
    assert tokenizer.model_max_length == checkpoint.spec.block_size
    report = check_choice(tmp_path / "artefact", choice, SIZE)
    assert report is not None and report.ok
    facts = choice.facts(tmp_path / "artefact")
    assert (facts["kind"], facts["entries"]) == ("sentencepiece", SIZE)
    assert choice.corpus is None and choice.text_ids(24) == []
    assert report.corpus == check.NO_CORPUS


def test_named_folder(checkpoint: Checkpoint, tmp_path: Path) -> None:
    folder = tmp_path / "tokenizers"
    place("tokenizer.bin", folder)
    of_bin = choose_tokenizer(checkpoint, tokenizer=str(folder))
    place("tokenizer.model", folder)
    of_model = choose_tokenizer(checkpoint, tokenizer=str(folder))
    assert of_bin.source == str(folder / "tokenizer.bin")
    assert of_model.source == str(folder / "tokenizer.model")
    of_model.write(folder, checkpoint)
    existing = choose_tokenizer(checkpoint, tokenizer=str(folder))
    assert existing.pieces is None and existing.source == str(folder)
    report = check_choice(folder, existing, SIZE)
    assert report is not None and report.ok and report.corpus == check.NO_CORPUS


def test_fingerprint_is_of_the_content(checkpoint: Checkpoint, tmp_path: Path) -> None:
    a = choose_tokenizer(checkpoint, tokenizer=str(place("tokenizer.model", tmp_path / "a")))
    b = choose_tokenizer(checkpoint, tokenizer=str(place("tokenizer.model", tmp_path / "b", "x")))
    path = place("tokenizer.model", tmp_path / "c")
    path.write_bytes(path.read_bytes() + KEEP_SPACES)
    c = choose_tokenizer(checkpoint, tokenizer=str(path))
    assert a.fingerprint == b.fingerprint != c.fingerprint
    assert str(tmp_path) not in str(a.fingerprint)


def test_beside_a_checkpoint(checkpoint: Checkpoint) -> None:
    folder = checkpoint.path.parent
    with pytest.raises(UsageError, match="--tokenizer"):
        choose_tokenizer(checkpoint, root=folder)
    place("tokenizer.bin", folder)
    assert choose_tokenizer(checkpoint, root=folder).source == str(folder / "tokenizer.bin")
    place("tokenizer.model", folder)
    assert choose_tokenizer(checkpoint, root=folder).source == str(folder / "tokenizer.model")


def test_in_a_checkpoint_that_is_a_folder(checkpoint: Checkpoint) -> None:
    sharded = replace(checkpoint, path=checkpoint.path.parent)
    place("tokenizer.bin", sharded.path)
    assert choose_tokenizer(sharded, root=sharded.path).pieces is not None


def test_only_beside_llama2c(checkpoint: Checkpoint) -> None:
    place("tokenizer.model", checkpoint.path.parent)
    with pytest.raises(UsageError):
        choose_tokenizer(replace(checkpoint, dialect="slo"), root=checkpoint.path.parent)


def test_size_has_to_fit(checkpoint: Checkpoint) -> None:
    def sized(rows: int) -> Checkpoint:
        return replace(checkpoint, spec=replace(checkpoint.spec, vocab_size=rows))

    folder = checkpoint.path.parent
    path = str(place("tokenizer.model", folder))
    for rows in (SIZE - 1, SIZE + 1):
        with pytest.raises(CheckpointError, match=f"has 512 entries, but .* has {rows} rows"):
            choose_tokenizer(sized(rows), tokenizer=path)
        with pytest.raises(UsageError, match=r"tokenizer\.model has 512 pieces"):
            choose_tokenizer(sized(rows), root=folder)
    for named in ({"tokenizer": path}, {"root": folder}):
        choice = choose_tokenizer(sized(SIZE + 1), allow_spare_ids=True, **named)
        assert choice.pieces is not None
        with pytest.raises((CheckpointError, UsageError)):
            choose_tokenizer(sized(SIZE - 1), allow_spare_ids=True, **named)


def test_dataset_comes_before_pieces_beside(checkpoint: Checkpoint, tmp_path: Path) -> None:
    place("tokenizer.model", checkpoint.path.parent)
    with pytest.raises(UsageError, match="nowhere"):
        choose_tokenizer(checkpoint, dataset=str(tmp_path / "nowhere"))


def test_the_model_travels_without_the_paths_of_its_training(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    import sentencepiece

    path = place("tokenizer.model", tmp_path / "elsewhere")
    secret = b"/home/me/secret.txt"
    field = b"\x0a" + bytes([len(secret)]) + secret  # trainer_spec { input: ... }, merged in
    path.write_bytes(path.read_bytes() + b"\x12" + bytes([len(field)]) + field)
    choice = choose_tokenizer(checkpoint, tokenizer=str(path))
    artefact = tmp_path / "artefact"
    choice.write(artefact, checkpoint)
    written = artefact / "tokenizer.model"
    assert secret in path.read_bytes() and secret not in written.read_bytes()
    published = choose_tokenizer(checkpoint, tokenizer=str(written))
    assert published.pieces is not None and published.pieces.model == written.read_bytes()
    assert published.fingerprint == choice.fingerprint
    theirs, ours = (
        sentencepiece.SentencePieceProcessor(model_file=str(p)) for p in (path, written)
    )
    text = "Once upon a time  there was 1 king."
    assert ours.encode(text) == theirs.encode(text)
    assert [ours.get_score(i) for i in range(SIZE)] == [theirs.get_score(i) for i in range(SIZE)]
    report = check_choice(artefact, choice, SIZE)
    assert report is not None and report.ok


def test_another_model_in_an_artefact_is_found(checkpoint: Checkpoint, tmp_path: Path) -> None:
    choice = choose_tokenizer(
        checkpoint, tokenizer=str(place("tokenizer.model", tmp_path / "elsewhere"))
    )
    artefact = tmp_path / "artefact"
    choice.write(artefact, checkpoint)
    path = artefact / "tokenizer.model"
    content = path.read_bytes()

    def difference() -> str | None:
        return check_choice(artefact, choice, SIZE).first_difference

    path.write_bytes(content + KEEP_SPACES)
    other = difference()
    path.write_bytes(content[:-3])
    damaged = difference()
    assert other == "tokenizer.model has not the pieces and scores of the original"
    assert damaged is not None and damaged.startswith("tokenizer.model: ")
    path.unlink()  # as earlier versions wrote artefacts
    assert difference() is None


def test_the_roles_of_pieces_and_of_a_tokenizer_are_the_models(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    path = place("tokenizer.model", tmp_path / "elsewhere")
    choice = choose_tokenizer(checkpoint, tokenizer=str(path))
    artefact = tmp_path / "artefact"
    choice.write(artefact, checkpoint)
    existing = choose_tokenizer(checkpoint, tokenizer=str(artefact))
    tokenizer = load_tokenizer(artefact)
    for each in (choice, existing):
        for role in ("bos", "eos"):
            assert each.special.ids[role] == getattr(tokenizer, f"{role}_token_id")
    # No pad: what stands in has a row of its own, and texts are padded with it.
    assert "pad" not in choice.special.ids
    assert tokenizer.pad_token == (tokenizer.unk_token or tokenizer.eos_token)
    assert tokenizer(["a", "a b c d"], padding=True)["attention_mask"][0][-1] == 0
    assert "special_tokens" not in choice.fingerprint
