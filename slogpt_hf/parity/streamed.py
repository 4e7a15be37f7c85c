"""The artefact's class without its weights, which come from disk for as long as a part runs.

The class, its configuration and its forward pass are transformers' own; what is ours is only when
a weight is there. So the logits are those of the whole model, bit for bit, in the memory of one
matrix, whatever the size of the model.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from slogpt_hf.errors import CheckpointError, first_line
from slogpt_hf.parity.float64 import Float64Everywhere
from slogpt_hf.parity.loading import compute_buffers, require_plain, runs_code, stored_dtype
from slogpt_hf.parity.memory import Growth
from slogpt_hf.progress import quiet_transformers

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
Fetch = Callable[[str], Tensor]
Call = tuple[tuple[Any, ...], dict[str, Any]]


class StoredTensors(Mapping[str, Tensor]):
    """The tensors of an artefact's safetensors files, mapped: reading one costs page cache.

    Raises:
        CheckpointError: there are none, or a file is not whole.
    """

    def __init__(self, folder: Path) -> None:
        from safetensors import SafetensorError, safe_open

        self._files: dict[str, Any] = {}
        for path in _weight_files(folder):
            try:
                file = safe_open(path, framework="pt")
            except (OSError, SafetensorError) as error:
                raise CheckpointError(
                    f"{path}: is not a whole safetensors file ({first_line(error)}).",
                    hint="Convert the checkpoint again.",
                ) from error
            names: list[str] = file.keys()  # type: ignore[no-untyped-call]
            if twice := sorted(self._files.keys() & set(names)):
                raise CheckpointError(
                    f"{path}: holds {twice[0]}, which another file holds too.",
                    hint="Convert the checkpoint again.",
                )
            self._files |= dict.fromkeys(names, file)

    def __getitem__(self, name: str) -> Tensor:
        with torch._C.DisableTorchFunction():  # Float64Everywhere would change what is on disk
            tensor: Tensor = self._files[name].get_tensor(name)
        return tensor

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __len__(self) -> int:
        return len(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a tensor, which is not read."""
        return tuple(self._files[name].get_slice(name).get_shape())


@dataclass(frozen=True)
class Streamed:
    """A model that fetches its weights.

    Attributes:
        model: the class; its parameters hold nothing.
        blocks: of the model, in order; empty if it shows no list of them.
        dtype: that it computes in.
        raw: name of a stored tensor to its value in the dtype that it is stored in.
        tied: name of a parameter that is not stored to the one whose value it has.
        exact: every cast to float32 inside is lifted to float64.
        tuples: whether a block answers with a tuple.
    """

    model: nn.Module
    blocks: tuple[nn.Module, ...]
    dtype: torch.dtype
    raw: Fetch
    tied: Mapping[str, str]
    exact: bool
    tuples: list[bool] = field(default_factory=list)

    def computing(self) -> Any:
        """The mode in which the model computes."""
        return Float64Everywhere() if self.exact else nullcontext()

    @property
    def head_name(self) -> str:
        """Name of the stored tensor (V, n) that gives the logits."""
        name = _name_of(self.model, self.model.get_output_embeddings())  # type: ignore[operator]
        return self.tied.get(name, name)

    @property
    def embedding_name(self) -> str:
        """Name of the stored tensor (V, n) of the embedding."""
        return _name_of(self.model, self.model.get_input_embeddings())  # type: ignore[operator]

    @property
    def sizes(self) -> dict[str, int | None]:
        """Vocabulary, context, layers and width; None where the configuration does not say."""
        config: Any = self.model.config
        vocabulary, width = self.model.get_input_embeddings().weight.shape  # type: ignore[operator]
        return {
            "vocab_size": vocabulary,
            "block_size": getattr(config, "max_position_embeddings", None),
            "n_layer": getattr(config, "num_hidden_layers", None),
            "n_embd": width,
        }

    def run(self, ids: Tensor, **options: Any) -> Any:
        """The class's own answer for ids (B, T), in one forward pass."""
        with self.computing():
            return self.model(input_ids=ids, **options)

    def logits(self, ids: Tensor, **options: Any) -> Tensor:
        """Logits (B, T, V) of every position, without a cache."""
        logits: Tensor = self.run(ids, use_cache=False, **options).logits
        return logits

    @property
    def divisor(self) -> float:
        """What the class divides logits by (Granite); 1 in most."""
        return float(getattr(self.model.config, "logits_scaling", None) or 1.0)

    def final_state(self, ids: Tensor) -> Tensor:
        """What enters the head (B, T, n) for ids (B, T), in one forward pass.

        What the class divides logits by divides it here.
        """
        state = self.undivided(ids)
        return state if self.divisor == 1.0 else state / self.divisor

    def undivided(self, ids: Tensor) -> Tensor:
        """What the class gives its head (B, T, n), in one forward pass."""
        with self.computing():
            state: Tensor = self.model.base_model(  # type: ignore[operator]
                input_ids=ids, use_cache=False
            ).last_hidden_state
        return state

    def enter(self, ids: Tensor) -> tuple[Tensor, list[Call]]:
        """What enters the first block, and with which arguments each block is called.

        Only embedding, masks and rotary tables are computed.

        Raises:
            CheckpointError: the class does not run each of its blocks once.
        """
        calls: list[Call] = []
        in_tuple = self.answers_tuple

        def note(*args: Any, **kwargs: Any) -> Any:
            stream = args[0] if args else kwargs["hidden_states"]
            calls.append((args, kwargs))
            return (stream,) if in_tuple else stream

        self._run(ids, [note] * len(self.blocks))
        if len(calls) != len(self.blocks):
            raise CheckpointError(
                f"{type(self.model).__name__}: runs {len(calls)} of {len(self.blocks)} blocks.",
                hint="It cannot be verified layer by layer.",
            )
        args, kwargs = calls[0]
        return (args[0] if args else kwargs["hidden_states"]), calls

    def block(self, index: int, x: Tensor, call: Call) -> Tensor:
        """What a block makes of the stream (B, T, n)."""
        args, kwargs = call
        with self.computing():
            if args:
                output = self.blocks[index](x, *args[1:], **kwargs)
            else:
                output = self.blocks[index](**kwargs | {"hidden_states": x})
        result: Tensor = output[0] if isinstance(output, tuple) else output
        return result

    def leave(self, ids: Tensor, x: Tensor) -> Tensor:
        """What enters the head if ``x`` is what the last block gave."""
        answer = (x,) if self.answers_tuple else x
        return self._run(ids, [lambda *args, **kwargs: answer] * len(self.blocks))

    @property
    def answers_tuple(self) -> bool:
        """Whether a block answers with a tuple, which the model takes apart."""
        if not self.tuples:
            probe = torch.zeros((1, 1), dtype=torch.int64)
            handle = self.blocks[0].register_forward_hook(
                lambda module, args, output: self.tuples.append(isinstance(output, tuple))
            )
            try:
                self.final_state(probe)
            finally:
                handle.remove()
        return self.tuples[0]

    def _run(self, ids: Tensor, forwards: Sequence[Callable[..., Any]]) -> Tensor:
        for block, forward in zip(self.blocks, forwards, strict=True):
            block.forward = forward
        try:
            return self.final_state(ids)
        finally:
            for block in self.blocks:
                del block.forward


def stream_artefact(
    folder: Path,
    dtype: torch.dtype,
    stored: Mapping[str, Tensor],
    trust_remote_code: bool = False,
    fetch: Fetch | None = None,
    attention: str | None = None,
) -> Streamed:
    """The artefact in a folder as a model that fetches its weights.

    Args:
        folder: that ``from_pretrained`` loads.
        dtype: to compute in; in float64 all casts inside are lifted.
        stored: the artefact's tensors.
        trust_remote_code: run a modeling file that is not this package's.
        fetch: gives weights other than the stored ones.
        attention: implementation of attention, as transformers calls it; None for its choice.

    Raises:
        UsageError: it needs a modeling file that is not this package's and is not trusted.
        CheckpointError: it does not load, or its tensors are not exactly the model's.
    """
    stored_dtype(folder)
    require_plain(folder)
    code = runs_code(folder, trust_remote_code)
    exact = dtype == torch.float64
    model = _built(folder, dtype, code, exact, attention)
    names = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    tied = _tied(folder, model, names, stored)
    _require_all(folder, model, names - tied.keys(), stored)
    get = fetch or stored.__getitem__

    def cast(name: str) -> Tensor:
        return get(tied.get(name, name)).to(dtype)

    n_layer = getattr(model.config, "num_hidden_layers", 0)
    blocks, growth = _blocks(model, n_layer), Growth()
    for block in blocks:
        block.register_forward_hook(lambda *_: growth.check())
    for prefix, module in model.named_modules():
        if any(True for _ in module.parameters(recurse=False)):
            _fetch_while_running(prefix, module, cast, lambda n: get(tied.get(n, n)), dtype)
    return Streamed(model, blocks, dtype, get, tied, exact)


@contextmanager
def substituted(thing: Any, name: str, value: Any) -> Iterator[None]:
    """An attribute replaced for the time of the block."""
    before = getattr(thing, name)
    setattr(thing, name, value)
    try:
        yield
    finally:
        setattr(thing, name, before)


def _built(
    folder: Path, dtype: torch.dtype, code: bool, exact: bool, attention: str | None
) -> nn.Module:
    from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig

    mode: Any = Float64Everywhere() if exact else nullcontext()
    # None would not leave the choice to the config.
    chosen = {} if attention is None else {"attn_implementation": attention}
    with quiet_transformers(), mode:
        try:
            config = AutoConfig.from_pretrained(
                folder, local_files_only=True, trust_remote_code=code
            )
            with torch.device("meta"):
                model: nn.Module = AutoModelForCausalLM.from_config(
                    config, dtype=dtype, trust_remote_code=code, **chosen
                )
            compute_buffers(folder, model)
            with suppress(OSError):  # there is none
                model.generation_config = GenerationConfig.from_pretrained(
                    folder, local_files_only=True
                )
        except CheckpointError:
            raise
        except Exception as error:  # whatever a damaged artefact makes transformers raise
            raise CheckpointError(
                f"{folder}: transformers cannot load it ({first_line(error)}).",
                hint="Convert the checkpoint again.",
            ) from error
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    return model.eval()


def _tied(
    folder: Path, model: nn.Module, names: set[str], stored: Mapping[str, Tensor]
) -> dict[str, str]:
    """Parameters that are not stored because they are another one.

    Raises:
        CheckpointError: the config says so of a head that is stored and is not the embedding.
    """
    head = _name_of(model, model.get_output_embeddings())  # type: ignore[operator]
    embedding = _name_of(model, model.get_input_embeddings())  # type: ignore[operator]
    config: Any = model.config
    if not getattr(config, "tie_word_embeddings", False):
        return {}
    if head in names - stored.keys():
        return {head: embedding}
    if embedding in stored and not torch.equal(stored[head], stored[embedding]):
        raise CheckpointError(
            f"{folder}: config.json ties the head, but {head} is stored and is not the embedding.",
            hint="Which of them is used depends on the version of transformers; convert it again.",
        )
    return {}


def _require_all(
    folder: Path, model: nn.Module, names: set[str], stored: Mapping[str, Tensor]
) -> None:
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters(remove_duplicate=False)}
    own = {name: tuple(stored[name].shape) for name in names & stored.keys()}
    faults = {
        "missing": names - stored.keys(),
        "unexpected": stored.keys() - shapes.keys(),
        "mismatched": {name for name, shape in own.items() if shape != shapes[name]},
    }
    for kind, wrong in faults.items():
        if listed := sorted(wrong):
            more = f" and {len(listed) - 6} more" if len(listed) > 6 else ""
            raise CheckpointError(
                f"{folder}: {kind} tensors: {', '.join(listed[:6])}{more}.",
                hint="transformers would fill them with random weights; convert it again.",
            )


def _fetch_while_running(
    prefix: str, module: nn.Module, cast: Fetch, get: Fetch, dtype: torch.dtype
) -> None:
    names = {own: f"{prefix}.{own}" for own, _ in module.named_parameters(recurse=False)}
    if type(module) is nn.Embedding and module.max_norm is None:
        # Of an embedding only the rows that are asked for are cast.
        weight = names["weight"]
        module.__dict__["forward"] = lambda ids: functional.embedding(ids, get(weight)).to(dtype)
        return
    empty = dict(module._parameters)

    def before(module: nn.Module, args: Any) -> None:
        for own, name in names.items():
            module._parameters[own] = nn.Parameter(cast(name), requires_grad=False)

    def after(module: nn.Module, args: Any, output: Any) -> None:
        module._parameters.update(empty)

    module.register_forward_pre_hook(before)
    module.register_forward_hook(after, always_call=True)


def _blocks(model: nn.Module, n_layer: int) -> tuple[nn.Module, ...]:
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layer)
    return tuple(next(lists, ()))


def _name_of(model: nn.Module, module: nn.Module) -> str:
    return next(f"{name}.weight" for name, each in model.named_modules() if each is module)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / INDEX
    if index.is_file() and not (folder / SINGLE).is_file():  # as transformers looks for them
        try:
            names = set(json.loads(index.read_text("utf-8"))["weight_map"].values())
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(
                f"{index}: is no index of weights ({first_line(error)}).",
                hint="Convert the checkpoint again.",
            ) from error
        return [folder / Path(str(name)).name for name in sorted(names)]
    return [folder / SINGLE]
