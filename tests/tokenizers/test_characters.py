from __future__ import annotations

import json
from itertools import compress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from slogpt_hf.datasets.meta import read_meta
from slogpt_hf.datasets.vocabulary import Vocabulary
from slogpt_hf.errors import UsageError
from slogpt_hf.tokenizers.characters import write_character_tokenizer
from slogpt_hf.tokenizers.special import seldom

GOLDEN = Path(__file__).parents[1] / "data" / "golden" / "slo-classic" / "meta.pkl"

# Characters that normalisers, splitters and decoders like to change.
AWKWARD = (
    "\0\t\n\x0b\x0c\r\x1c\x1f \x7f\x85\xa0\xad\u2003\u2028\u2029\u3000\u200b\u200c\u200d"
    "\u2060\ufeff"
    "\u0301\u030a\u0323\xe9\xc5\u212b\ufb01\u1e9b\uac00\u1100\u1161\u0130\u0131\u017f\xdf"
    "\u05d0\u0645\u202e\u202c\ufe0f\u2764\U0001f468\U0001f469\U0001f3fd\U0001f1eb\U0001f1f7"
    "<>|[]/sUNKPADendoftx_#@'.,!?\u0120\u010a\u2581\U000e0041\uffff\ufffd\U0010ffff"
)
ANY = st.characters(exclude_categories=("Cs",))
MANY = st.sampled_from(AWKWARD) | ANY
ENTRIES = st.lists(
    MANY | st.sampled_from(["<s>", "<pad>", "[UNK]", "<|endoftext|>", "  ", "\r\n"]),
    min_size=1,
    max_size=60,
    unique=True,
).filter(lambda entries: any(len(entry) == 1 for entry in entries))


def load(
    vocabulary: Vocabulary,
    folder: Path,
    *,
    unknown: str = "error",
    special_tokens: dict[str, int] | None = None,
) -> PreTrainedTokenizerBase:
    write_character_tokenizer(
        vocabulary, folder, model_max_length=64, unknown=unknown, special_tokens=special_tokens
    )
    return auto(folder)


def auto(folder: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)


def assert_exact(
    tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary, texts: list[str]
) -> None:
    expected = [[vocabulary.ids[c] for c in text] for text in texts]
    assert [tokenizer.encode(text) for text in texts] == expected
    assert [tokenizer(text)["input_ids"] for text in texts] == expected
    assert tokenizer(texts)["input_ids"] == expected
    for skip in (False, True):
        got = [tokenizer.decode(ids, skip_special_tokens=skip) for ids in expected]
        assert got == texts
        assert tokenizer.batch_decode(expected, skip_special_tokens=skip) == texts
        clean = tokenizer.decode(
            expected[0], skip_special_tokens=skip, clean_up_tokenization_spaces=True
        )
        assert clean == texts[0]


@pytest.fixture(scope="module")
def shakespeare(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    return load(read_meta(GOLDEN), tmp_path_factory.mktemp("shakespeare"))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data())
def test_any_vocabulary(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    entries = data.draw(ENTRIES)
    characters = [entry for entry in entries if len(entry) == 1]
    vocabulary = Vocabulary(tuple(entries), "random")
    texts = data.draw(st.lists(st.text(characters, max_size=40), min_size=1, max_size=4))
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer = load(vocabulary, folder)
    texts.append("".join(characters))
    assert_exact(tokenizer, vocabulary, texts)
    for i, entry in enumerate(entries):
        assert tokenizer.decode([i], skip_special_tokens=True) == entry
    tokenizer.save_pretrained(folder / "again")
    keep_stand_ins(folder / "again")
    assert_exact(auto(folder / "again"), vocabulary, texts)


def keep_stand_ins(folder: Path) -> None:
    """Put back what transformers leaves out when it saves: without it, it makes them special."""
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"added_tokens_decoder": {}}))


def test_saved_again_a_stand_in_is_special_to_transformers(
    shakespeare: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    shakespeare.save_pretrained(tmp_path)
    again = auto(tmp_path)
    ids = again.encode("a $ 3")
    assert ids == shakespeare.encode("a $ 3") and again.decode(ids) == "a $ 3"
    assert again.decode(ids, skip_special_tokens=True) == "a  3"  # docs/conversion.md warns of it


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "  leading, trailing  and  doubled  ",
        "\n\na\r\n\r\nb\r",
        "\0\0 \0",
        "<s>[UNK]</s><pad><|endoftext|>",
        "e\u0301 is not \xe9",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467 \u2764\ufe0f \U0001f44d\U0001f3fd",
        " don 't , you ? I 'm . ! n't",
    ],
)
def test_texts_that_tokenizers_change(tmp_path: Path, text: str) -> None:
    vocabulary = Vocabulary((*sorted(set(text)), "<s>", "<|endoftext|>", "[UNK]"), "text")
    assert_exact(load(vocabulary, tmp_path), vocabulary, [text, text + text])


def test_golden_vocabulary(shakespeare: PreTrainedTokenizerBase) -> None:
    vocabulary = read_meta(GOLDEN)
    assert_exact(shakespeare, vocabulary, ["First Citizen:\nSpeak, speak. ", "&c.", ""])
    assert len(shakespeare) == 65
    assert shakespeare.is_fast
    assert shakespeare.model_max_length == 64


def test_no_id_has_a_meaning_of_its_own(shakespeare: PreTrainedTokenizerBase) -> None:
    assert not any(token.special for token in shakespeare.added_tokens_decoder.values())
    for role in ("sep", "cls", "mask"):
        assert getattr(shakespeare, f"{role}_token_id") is None
    # The character that is named where tools insist stays in every text.
    dollar = read_meta(GOLDEN).ids["$"]
    for role in ("bos", "eos", "pad", "unk"):
        assert getattr(shakespeare, f"{role}_token_id") == dollar
    texts = ["$", "a$", "$$ $\n", "3"]
    batch = shakespeare(texts, padding=True)
    assert batch["attention_mask"][0] == [1, 0, 0, 0, 0]
    assert batch["input_ids"][0] == [dollar] * 5
    rows = zip(batch["input_ids"], batch["attention_mask"], strict=True)
    kept = [list(compress(ids, mask)) for ids, mask in rows]
    assert shakespeare.batch_decode(kept, skip_special_tokens=True) == texts
    assert sorted(shakespeare("ab")) == ["attention_mask", "input_ids"]
    assert shakespeare("ab", "c")["input_ids"] == shakespeare.encode("abc")


def test_offsets_are_those_of_the_characters(shakespeare: PreTrainedTokenizerBase) -> None:
    text = "Ay,  ay\n"
    offsets = shakespeare(text, return_offsets_mapping=True)["offset_mapping"]
    assert offsets == [(i, i + 1) for i in range(len(text))]


@pytest.mark.parametrize("text", ["\xe9", "a\xe9", "\xe9" * 300, "a" * 300 + "\xe9", "e\u0301"])
def test_unknown_characters_raise(shakespeare: PreTrainedTokenizerBase, text: str) -> None:
    for call in (shakespeare.encode, shakespeare, lambda text: shakespeare(["a", text])):
        with pytest.raises(Exception, match="character of the text that the model was not"):
            call(text)


def test_unknown_characters_raise_after_save_and_reload(
    shakespeare: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    shakespeare.save_pretrained(tmp_path)
    with pytest.raises(Exception, match="not found in the vocabulary"):
        auto(tmp_path).encode("\xe9")


def test_unknown_characters_raise_even_if_the_message_is_an_entry(tmp_path: Path) -> None:
    message = "a character of the text that the model was not trained on"
    vocabulary = Vocabulary(("a", message, message + " "), "here")
    with pytest.raises(Exception, match="not found in the vocabulary"):
        load(vocabulary, tmp_path).encode("b")


@pytest.mark.parametrize("unknown", ["?", "\n", "<unk>"])
def test_unknown_characters_become_an_entry(tmp_path: Path, unknown: str) -> None:
    vocabulary = Vocabulary(("a", "?", "\n", "<unk>"), "here")
    tokenizer = load(vocabulary, tmp_path, unknown=unknown)
    i = vocabulary.ids[unknown]
    assert tokenizer.encode("\xe9\xe9ab\U0001f468") == [i, i, 0, i, i]
    assert tokenizer.unk_token_id == i
    assert tokenizer.decode([i], skip_special_tokens=True) == unknown
    tokenizer.save_pretrained(tmp_path / "again")
    assert auto(tmp_path / "again").encode("\xe9a") == [i, 0]


@pytest.mark.parametrize("unknown", ["z", "", "ab", "Error"])
def test_unknown_must_be_in_the_vocabulary(tmp_path: Path, unknown: str) -> None:
    with pytest.raises(UsageError, match="does not have it"):
        load(Vocabulary(("a", "b"), "here"), tmp_path / "out", unknown=unknown)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("characters", ["a", "\0", " ", "\U0001f468"])
def test_one_character(tmp_path: Path, characters: str) -> None:
    vocabulary = Vocabulary(tuple(characters), "here")
    assert_exact(load(vocabulary, tmp_path), vocabulary, [characters * 9, ""])


def test_60_000_characters(tmp_path: Path) -> None:
    characters = [chr(c) for c in (*range(0x4E00, 0xA000), *range(0x20000, 0x2A000))]
    assert len(characters) > 60_000
    vocabulary = Vocabulary(tuple(characters), "here")
    assert_exact(load(vocabulary, tmp_path), vocabulary, ["".join(characters)])


def test_same_vocabulary_same_bytes(tmp_path: Path) -> None:
    vocabulary = read_meta(GOLDEN)
    for name in ("one", "two"):
        write_character_tokenizer(vocabulary, tmp_path / name, model_max_length=64)
    files = sorted(path.name for path in (tmp_path / "one").iterdir())
    assert files == ["tokenizer.json", "tokenizer_config.json", "vocab.json"]
    for file in files:
        one, two = ((tmp_path / name / file).read_bytes() for name in ("one", "two"))
        assert one == two


def test_vocab_json_is_stoi(tmp_path: Path) -> None:
    vocabulary = read_meta(GOLDEN)
    write_character_tokenizer(vocabulary, tmp_path, model_max_length=64)
    assert json.loads((tmp_path / "vocab.json").read_text("utf-8")) == vocabulary.ids


@pytest.mark.parametrize("model_type", ["gpt2", "llama", "starcoder2", "stablelm", "arcee", "own"])
def test_beside_a_model_config(tmp_path: Path, model_type: str) -> None:
    config: dict[str, object] = {"model_type": model_type}
    if model_type == "own":
        config["auto_map"] = {"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    vocabulary = Vocabulary((*AWKWARD, "<s>", "<|endoftext|>"), "here")
    tokenizer = load(vocabulary, tmp_path)
    assert_exact(tokenizer, vocabulary, [AWKWARD, " <s> <|endoftext|> "])
    assert set(tokenizer.all_special_ids) == {vocabulary.ids[seldom(vocabulary) or ""]}
    assert len(tokenizer) == vocabulary.size


def test_special_tokens_of_spare_ids(tmp_path: Path) -> None:
    vocabulary = Vocabulary((*AWKWARD, "p", "a", "<pad>"), "here")
    pad, spare = vocabulary.ids["<pad>"], vocabulary.size
    roles = {"pad": pad, "eos": spare, "bos": spare}
    tokenizer = load(vocabulary, tmp_path, special_tokens=roles)
    for reloaded in (tokenizer, None):
        if reloaded is None:
            tokenizer.save_pretrained(tmp_path / "again")
            reloaded = auto(tmp_path / "again")
        assert (reloaded.pad_token, reloaded.pad_token_id) == ("<pad>", pad)
        assert (reloaded.eos_token, reloaded.eos_token_id) == ("<|eos|>", spare)
        assert (reloaded.bos_token, reloaded.bos_token_id) == ("<|eos|>", spare)
        assert reloaded.unk_token_id == pad
        assert_exact(reloaded, vocabulary, [AWKWARD, "<pad>", "<|eos|>"])
        assert reloaded.decode([0, pad, spare], skip_special_tokens=True) == AWKWARD[0]
        assert reloaded.decode([0, pad, spare]) == AWKWARD[0] + "<pad><|eos|>"
        padded = reloaded(["<pad>", ""], padding=True)
        assert padded["input_ids"][1] == [pad] * 5
        assert padded["attention_mask"] == [[1] * 5, [0] * 5]
        with pytest.raises(Exception, match="not found in the vocabulary"):
            reloaded.encode("\u4e00")


def test_special_unk_stands_for_unknown_characters(tmp_path: Path) -> None:
    tokenizer = load(Vocabulary(("a",), "here"), tmp_path, special_tokens={"unk": 1})
    assert tokenizer.encode("a\xe9") == [0, 1]
    assert tokenizer.unk_token == "<|unk|>"
    assert tokenizer.decode([0, 1], skip_special_tokens=True) == "a"


@pytest.mark.parametrize(
    ("roles", "unknown", "words"),
    [
        ({"cls": 3}, "error", "no special token 'cls'"),
        ({"pad": -1}, "error", "begin at 0"),
        ({"pad": 9}, "error", "already has as id 1"),
        ({"unk": 9}, "a", "both"),
    ],
)
def test_special_tokens_that_cannot_be(
    tmp_path: Path, roles: dict[str, int], unknown: str, words: str
) -> None:
    with pytest.raises(UsageError, match=words):
        load(
            Vocabulary(("a", "<|pad|>"), "here"),
            tmp_path / "out",
            unknown=unknown,
            special_tokens=roles,
        )
    assert not (tmp_path / "out").exists()


def test_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        write_character_tokenizer(Vocabulary(("a",), "x"), tmp_path / "file", model_max_length=1)
