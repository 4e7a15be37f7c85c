"""The loop that judges: order, what is skipped, and where it ends."""

from __future__ import annotations

from slogpt_hf.checkpoints import Spec
from slogpt_hf.parity.checks import CHECKS, FLOAT32_ONLY, place_of
from slogpt_hf.parity.finding import Check, Finding, judged
from slogpt_hf.parity.inputs import inputs_for
from slogpt_hf.parity.oracles import covers

A = Check[list[str]]("a", lambda seen: seen.append("a") or Finding((), {"x": 1}, None, ("n",)))  # type: ignore[func-returns-value]
B = Check[list[str]]("b", lambda seen: seen.append("b") or Finding(("b: off.",), {"y": 2}, "here"))  # type: ignore[func-returns-value]
C = Check[list[str]](
    "c",
    lambda seen: seen.append("c") or Finding(("c: off.",), {"x": 3}, "there", ("m",)),  # type: ignore[func-returns-value]
)
CAREFUL = Check[list[str]]("d", C.find, after_failures=False)
END = Check[list[str]]("e", lambda seen: Finding(("e: off.",), ends=True))


def test_findings_add_up_in_their_order_and_the_first_place_counts() -> None:
    found = judged((A, B, C), seen := [])
    assert seen == ["a", "b", "c"]
    assert found.failures == ("b: off.", "c: off.") and found.divergence == "here"
    assert found.evidence == {"x": 3, "y": 2} and found.notes == ("n", "m")


def test_what_needs_a_sound_artefact_is_not_run_on_another() -> None:
    assert judged((A, CAREFUL), seen := []).divergence == "there" and seen == ["a", "c"]
    assert judged((B, CAREFUL), seen := []).divergence == "here" and seen == ["b"]


def test_nothing_is_run_behind_the_end() -> None:
    assert judged((A, END, B), seen := []).failures == ("e: off.",) and seen == ["a"]


def test_the_place_is_read_from_failures_only_where_no_check_says_it() -> None:
    assert place_of(()) is None
    assert place_of(("loss: 1 > 0.", "x: 2.")) == "loss"
    assert place_of(("odd: float64 error 1.", "odd: float32 error 2 > 1.")) == FLOAT32_ONLY


def test_every_row_has_a_name_of_its_own_and_says_what_it_is() -> None:
    assert len({check.name for check in CHECKS}) == len(CHECKS)
    assert all(check.find.__doc__ for check in CHECKS)


def spec(block_size: int, vocab_size: int) -> Spec:
    sizes = {"n_layer": 1, "n_head": 1, "n_kv_head": 1, "n_embd": 2, "n_hidden": 8}
    return Spec(
        "learned", "layernorm", "plain", "gelu", True, True,
        block_size=block_size, vocab_size=vocab_size, norm_eps=1e-5, tied=True, **sizes,
    )  # fmt: skip


def test_every_proof_has_a_batch_of_the_whole_context_or_of_512_tokens() -> None:
    for block_size in (1, 2, 24, 511, 512, 1024, 1 << 14, 1 << 17):
        for vocab_size in (2, 65, 50_304):
            for text in ((), (1,), (1, 0, 1)):
                found = spec(block_size, vocab_size)
                longest = max(batch.ids.shape[1] for batch in inputs_for(found, text))
                assert longest >= min(block_size, 512)
                assert covers(longest, found) and not covers(min(block_size, 512) - 1, found)
