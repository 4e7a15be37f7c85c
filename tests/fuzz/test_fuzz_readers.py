"""Every reader, given damaged and hostile files: a value or one clear message, nothing else.

The inputs are the same in every run; ``bench/fuzz.py`` is for finding new ones.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from fuzzing import models, oracle
from fuzzing.cases import Case, pack, unpack
from fuzzing.raw import GIVEN, SCALARS, YAML
from fuzzing.seeds import MODELS, READERS, seeds
from fuzzing.strategies import cases, valued
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

REPEATABLE = settings(
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@pytest.fixture(scope="module", autouse=True)
def _prepared() -> None:
    before = dict(os.environ)
    oracle.prepare()
    # What it sets is for imports; the commands that other tests start are not to see it.
    for name in os.environ.keys() - before.keys():
        del os.environ[name]
    os.environ.update(before)


def sound(case: Case) -> None:
    outcome = oracle.judge(case)
    assert outcome.kind != "failed", f"{outcome.text}\n{case!r:.2000}"


@pytest.mark.parametrize("reader", READERS)
def test_any_damage(reader: str) -> None:
    @settings(REPEATABLE, max_examples=60)
    @given(cases(reader))
    def check(case: Case) -> None:
        sound(case)

    check()


@pytest.mark.parametrize("reader", MODELS)
def test_any_value(reader: str) -> None:
    @settings(REPEATABLE, max_examples=40)
    @given(valued(reader))
    def check(case: Case) -> None:
        sound(case)

    check()


@pytest.mark.parametrize("line", YAML, ids=range(len(YAML)))
def test_any_line_of_the_settings_file(line: bytes) -> None:
    case = seeds(".slogpt-hf.yml")[0]
    sound(replace(case, files={**case.files, ".slogpt-hf.yml": line}))


@pytest.mark.parametrize("text", GIVEN, ids=range(len(GIVEN)))
def test_any_given_field(text: str) -> None:
    sound(replace(seeds("--set")[0], given=(text,)))


@pytest.mark.parametrize("text", SCALARS, ids=range(len(SCALARS)))
def test_any_json_at_the_places_that_are_read(text: str) -> None:
    folder = seeds("run folder")[0]
    for name in ("n_head", "config", "dataset", "itos"):
        sound_fields = json.dumps(models.SLOUGHGPT_CONFIG)[1:-1]
        content = f'{{{sound_fields}, "{name}": {text}}}'.encode()
        both = content, b'{"config": %s}' % content
        for each in both:
            sound(replace(folder, files={**folder.files, "r/metadata.json": each}))
        saved = models.Saved(*models.tensors(models.SLOUGHGPT))
        sound(Case("sou", {"m.sou": models.sou_file(content, saved)}, "m.sou"))
        metadata = {"config": content.decode(), name: text}
        header = models.safetensors_header(models.SLOUGHGPT, metadata)
        file = models.safetensors_file(*header)
        sound(Case("safetensors", {"m.safetensors": file}, "m.safetensors"))


@pytest.mark.parametrize("scale", [b"\0\0\x80\x7f", b"\0\0\xc0\x7f"], ids=["inf", "nan"])
def test_a_scale_that_is_no_number(scale: bytes) -> None:
    content = models.bin_file(2)[:-4] + scale  # of the last tensor
    outcome = oracle.judge(Case("bin v2", {"m.bin": content}, "m.bin"))
    assert outcome.kind == "refused", outcome.text


TEXTS = (
    *("\ud800", "\x1b[31m", "a\nb", "a\0b", "\u202e", "x" * 5000, "", ".", "..", "~", "gpt2"),
    *(
        "/etc/passwd",
        "../../etc/passwd",
        "/proc/self/mem",
        "/dev/zero",
        "con:",
        "https://x.invalid",
    ),
)


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
@pytest.mark.parametrize(
    "name", ["dataset", "role", "\ud800"], ids=["dataset", "role", "surrogate"]
)
def test_any_text_that_is_recorded(name: str, text: str) -> None:
    saved = models.llama()
    for place in ("config", "profile", "metadata", "model_args"):
        value = {**saved.value, place: {**saved.value.get(place, {}), name: text}}
        content = models.torch_file(models.Saved(value, saved.storages))
        sound(Case("llama2c", {"ckpt.pt": content}, "ckpt.pt"))


@given(
    st.builds(
        Case,
        st.sampled_from(READERS),
        st.dictionaries(st.text("abc./", min_size=1, max_size=5), st.binary(max_size=20)),
        st.text(max_size=5),
        st.lists(st.text(max_size=5), max_size=3).map(tuple),
    )
)
def test_a_kept_input_is_the_one_that_failed(case: Case) -> None:
    assert unpack(pack(case)) == case


@pytest.fixture
def reading(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Lets a test put its own action where a reader was."""
    return monkeypatch


@pytest.mark.parametrize(
    ("what", "action"),
    [
        ("os.system", lambda path, _: os.system("true")),
        ("open", lambda path, _: path.write_bytes(b"")),
        ("open", lambda path, _: Path("/etc/hostname").open().close()),
        ("import", lambda path, _: __import__("this")),
        ("ZeroDivisionError", lambda path, _: 1 / 0),
        ("printed", lambda path, _: sys.stderr.write("!")),
        ("took more than", lambda path, _: [None for _ in iter(int, 1)]),
        ("MiB", lambda path, _: bytearray(os.urandom(1) * (300 << 20))),
    ],
)
def test_the_oracle_sees_what_must_not_happen(
    reading: pytest.MonkeyPatch, what: str, action: object
) -> None:
    reading.setitem(oracle.ACTIONS, "meta.pkl", action)
    outcome = oracle.judge(seeds("meta.pkl")[0], limit_s=0.2)
    assert outcome.kind == "failed"
    assert what in outcome.text
