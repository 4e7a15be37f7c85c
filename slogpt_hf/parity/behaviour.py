"""What people do with a model beside one forward pass: caches, padding, batches, generation.

Each check computes the same thing twice, and both ways must agree as two implementations of one
function do: to FP64_BOUND in float64. So no check needs a tolerance of its own.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional

from slogpt_hf.errors import UsageError
from slogpt_hf.files import DISK_ERRORS
from slogpt_hf.parity import decoder, loading
from slogpt_hf.parity.appended import appended_rows, never_generated
from slogpt_hf.parity.comparing import deviation
from slogpt_hf.parity.compat import cache_of, with_cache
from slogpt_hf.parity.decoder import Decoder
from slogpt_hf.parity.report import Behaviour
from slogpt_hf.parity.streamed import StoredTensors, Streamed, stream_artefact
from slogpt_hf.progress import quiet_transformers

TOKENS = 16  # of a check's sequence
CONTINUED = 8  # tokens that are generated
MOST_LOGITS = 1 << 23  # of real text at once: 64 MiB in float64
LOADABLE_BYTES = 2 << 30  # of weights that are loaded whole to be saved again
Made = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Subject:
    """What the checks look at.

    Attributes:
        folder: of the artefact.
        stored: its tensors.
        exact: the artefact in float64, with the attention that transformers takes by itself.
        eager: the same with attention spelled out.
        single: the artefact in float32.
        original: as a model that can run.
        ids: (2, T) token ids, T from 1.
        text: ids of real text; empty where there is none.
        noise: of the original's logits in float32, absolute.
        trust_remote_code: run a modeling file that is not this package's.
        long: (1, T) ids, T from 2, for code that may treat long sequences in another way.
    """

    folder: Path
    stored: StoredTensors
    exact: Streamed
    eager: Streamed
    single: Streamed
    original: Decoder
    ids: Tensor
    text: tuple[int, ...]
    noise: float
    trust_remote_code: bool = False
    long: Tensor | None = None


def behaviours(subject: Subject, bound: float) -> tuple[Behaviour, ...]:
    """Run every check that the model and its inputs allow.

    Args:
        subject: what to look at.
        bound: largest relative error in float64.
    """
    found: list[Behaviour] = []
    for name, check in CHECKS.items():
        for ours, theirs in check(subject):
            error = deviation(ours, theirs)
            found.append(Behaviour(name, bool(error <= bound), error, bound))
    found += _greedy(subject)
    found += _loss(subject, bound)
    found += _saved_again(subject)
    return tuple(found)


def _incremental(subject: Subject) -> Iterator[Made]:
    """Half of the sequence at once, then token by token with the cache."""
    ids, long, exact = subject.ids, subject.long, subject.exact
    if ids.shape[1] < 2:
        return
    half = ids.shape[1] // 2
    parts, cache = [], None
    for start, stop in [(0, half), *((i, i + 1) for i in range(half, ids.shape[1]))]:
        output = exact.run(ids[:, start:stop], **with_cache(exact.model, cache))
        parts.append(output.logits)
        cache = cache_of(output)
    yield torch.cat(parts, dim=1), exact.logits(ids)
    if long is not None:
        cache = cache_of(exact.run(long[:, :-1], use_cache=True))
        last = exact.run(long[:, -1:], **with_cache(exact.model, cache)).logits
        yield last, exact.logits(long)[:, -1:]


def _left_padding(subject: Subject) -> Iterator[Made]:
    """The second row shorter, filled from the left; positions as ``generate`` counts them."""
    yield from _padded(subject, left=True)


def _right_padding(subject: Subject) -> Iterator[Made]:
    """The second row shorter, filled from the right."""
    yield from _padded(subject, left=False)


def _padded(subject: Subject, left: bool) -> Iterator[Made]:
    ids = subject.ids
    length = ids.shape[1]
    if length < 2:
        return
    short = (length + 1) // 2
    kept = slice(length - short, length) if left else slice(0, short)
    mask = torch.ones_like(ids)
    filled = ids.clone()
    outside = torch.ones(length, dtype=torch.bool)
    outside[kept] = False
    mask[1, outside], filled[1, outside] = 0, 0
    filled[1, kept] = ids[1, :short]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    logits = subject.exact.logits(filled, attention_mask=mask, position_ids=positions)
    yield logits[1:, kept], subject.exact.logits(ids[1:, :short])


def _batched(subject: Subject) -> Iterator[Made]:
    """Two rows at once against one after the other."""
    singles = [subject.exact.logits(row[None]) for row in subject.ids]
    yield subject.exact.logits(subject.ids), torch.cat(singles)


def _attention(subject: Subject) -> Iterator[Made]:
    """The fused attention against the one that is spelled out."""
    yield subject.eager.logits(subject.ids), subject.exact.logits(subject.ids)


CHECKS: dict[str, Callable[[Subject], Iterator[Made]]] = {
    "decoding with the cache": _incremental,
    "left padding": _left_padding,
    "right padding": _right_padding,
    "batched against single": _batched,
    "eager against fused attention": _attention,
}


def _greedy(subject: Subject) -> Iterator[Behaviour]:
    """The artefact's greedy continuation, token by token the original's likeliest.

    Where two tokens are as likely within the noise of float32, either is right.
    """
    block = subject.original.spec.block_size
    n_new = min(CONTINUED, block - 1)
    if n_new < 1:
        return
    start = torch.tensor([subject.text]) if subject.text else subject.ids[:1]
    prompt = start[:, : max(1, min(TOKENS, block - n_new))]
    model: Any = subject.single.model
    with torch.random.fork_rng(), warnings.catch_warnings():
        # Of transformers before 5.20: the weights lie on no device until they are needed.
        warnings.filterwarnings("ignore", "You are calling .generate")
        output = model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=n_new,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=None,
            output_scores=True,
            return_dict_in_generate=True,
        )
    continued, rows = output.sequences, subject.original.spec.vocab_size
    if appended_rows(subject.single, rows):
        yield (never := never_generated(output.scores, rows))
        if not never.passed:
            return
    states = decoder.final_state(subject.original, continued[:, :-1], torch.float64)
    logits = decoder.head(subject.original, states[:, prompt.shape[1] - 1 :])[0]
    chosen = continued[0, prompt.shape[1] :]
    margin = (logits.amax(-1) - logits.gather(-1, chosen[:, None])[:, 0]).max().item()
    largest = 2 * 4 * subject.noise  # both tokens' logits may be off by as much
    enough = continued.shape[1] == prompt.shape[1] + n_new
    yield Behaviour("greedy continuation", bool(enough and margin <= largest), margin, largest)


def _loss(subject: Subject, bound: float) -> Iterator[Behaviour]:
    """The loss on real text, as the artefact computes it from labels."""
    if len(subject.text) < 2:
        return
    most = max(2, MOST_LOGITS // subject.original.spec.vocab_size)
    ids = torch.tensor([subject.text[:most]])
    with quiet_transformers():  # of classes for which it knows no kind of loss
        ours = subject.exact.run(ids, labels=ids, use_cache=False).loss
    states = decoder.final_state(subject.original, ids, torch.float64)
    logits = decoder.head(subject.original, states)[0, :-1]
    theirs = functional.cross_entropy(logits, ids[0, 1:])
    # What was appended, whose logits are zero, takes part in the artefact's softmax.
    padding = (0, appended_rows(subject.exact, subject.original.spec.vocab_size))
    whole = functional.cross_entropy(functional.pad(logits, padding), ids[0, 1:])
    error = deviation(ours, whole)
    note = f"loss {theirs.item():.6f} nats per token, perplexity {theirs.exp().item():.3f}"
    yield Behaviour("loss on real text", bool(error <= bound), error, bound, note)


def _saved_again(subject: Subject) -> Iterator[Behaviour]:
    """What ``from_pretrained`` loads computes the same bits, and saves the same tensors again."""
    n_bytes = sum(file.stat().st_size for file in subject.folder.glob("*.safetensors"))
    if n_bytes > LOADABLE_BYTES:
        return
    dtype = getattr(torch, loading.stored_dtype(subject.folder))
    model: Any = loading.load_artefact(subject.folder, dtype, subject.trust_remote_code)
    with quiet_transformers(), tempfile.TemporaryDirectory(prefix="slogpt-hf-saved-") as folder:
        with _disk_errors(folder):
            model.save_pretrained(folder)
        again = StoredTensors(Path(folder))
        # transformers saves a tied head once; that a stored one is the embedding was compared.
        tied = {subject.exact.head_name} if model.config.tie_word_embeddings else set()
        equal = subject.stored.keys() - tied == again.keys() - tied and all(
            name in subject.stored and torch.equal(subject.stored[name], again[name])
            for name in again
        )
    yield Behaviour("saved and loaded again", equal, 0.0 if equal else float("inf"), 0.0)
    if dtype != torch.float64:  # of which the streamed model computes more exactly
        single = subject.single
        if dtype != torch.float32:
            single = stream_artefact(
                subject.folder, dtype, subject.stored, subject.trust_remote_code
            )
        equal = torch.equal(loading.logits(model, subject.ids), single.logits(subject.ids))
        yield Behaviour("loaded whole", equal, 0.0 if equal else float("inf"), 0.0)


@contextmanager
def _disk_errors(folder: str) -> Iterator[None]:
    """Say of a full disk that it is one; safetensors has an error of its own for it."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        if getattr(error, "errno", None) not in DISK_ERRORS and "I/O error" not in str(error):
            raise
        raise UsageError(
            f"{folder}: cannot be written: {error}.",
            hint="Free some of that disk, or have TMPDIR name a folder on another one.",
        ) from error


def sequence_for(ids: Tensor, block_size: int) -> Tensor:
    """Two rows of at most TOKENS ids for the checks, from any ids (B, T)."""
    flat = ids.flatten()
    length = max(1, min(TOKENS, block_size, len(flat) // 2))
    repeated: Sequence[int] = flat.repeat(2).tolist()
    return torch.tensor(repeated[: 2 * length]).view(2, length)


def long_sequence(ids: Tensor, vocab_size: int) -> Tensor | None:
    """The first of rows (B, T), cut where its logits are too many; None if it is one token."""
    row = ids[:1, : max(2, MOST_LOGITS // vocab_size)]
    return row if row.shape[1] > 1 else None
