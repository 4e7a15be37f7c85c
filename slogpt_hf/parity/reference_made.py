"""A model class of the training repository as an instance with the checkpoint's weights."""

from __future__ import annotations

import ast
import builtins
import dataclasses
import inspect
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from slogpt_hf.parity.reference_known import FACT, MACHINE, NOTHING, Known, spelled, variants
from slogpt_hf.parity.reference_module import Missing

# What trainers call the parameter that holds all settings.
HOLDERS = ("config", "cfg", "conf", "args", "params", "hparams", "model_args", "opts", "settings")
EMPTY = inspect.Parameter.empty
SEVERAL = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
SAME = 1e-6  # relative; a saved constant in float32 against one that was made in float64
MOST_NAMED = 8


class Settings(dict[str, Any]):
    """Settings for a class without a configuration class: as attributes, items or a mapping."""

    def __init__(self, known: Known) -> None:
        super().__init__(
            {
                name: MACHINE.get(name, value)
                for name, value in known.own.items()
                if value is not None or FACT.get(name) not in known.seen
            }
        )
        object.__setattr__(self, "_known", known)

    def __setattr__(self, name: str, value: Any) -> None:
        self[name] = value

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        try:
            return self[name]
        except KeyError:
            raise AttributeError(name) from None

    def __getitem__(self, name: str) -> Any:
        if name in self:
            self._known.taken.add(name)
            return super().__getitem__(name)
        value = self._known.value_of(name, required=True)
        if value is NOTHING:
            raise KeyError(name)
        return value

    def get(self, name: str, default: Any = None) -> Any:
        """The value of a name, or a default."""
        if name in self:
            return self[name]
        value = self._known.value_of(name)
        return default if value is NOTHING else value


def class_named(module: Any, name: str) -> Any:
    """A class of the module.

    Raises:
        AttributeError, ImportError: it has none of that name, or its definition failed.
    """
    kind = getattr(module, name)
    if isinstance(kind, Missing):
        kind()
    return kind


def made(module: Any, name: str, config: str | None, known: Known) -> Any:
    """An instance of the class, with the sizes of the checkpoint.

    Raises:
        TypeError: it cannot be told what it needs.
    """
    kind = class_named(module, name)
    _set_globals(module, known)
    if config is not None:
        return kind(filled(class_named(module, config), module, known))
    source = _source(module)
    parameters = list(inspect.signature(kind.__init__).parameters.values())[1:]
    needed = [p for p in parameters if p.kind not in SEVERAL]
    if needed and _holds_settings(needed, module):
        if callable(getattr(kind, "get_default_config", None)):
            return kind(_default_config(kind.get_default_config(), known))
        settings = config_class(module, kind, needed[0])
        holder = Settings(known) if settings is None else filled(settings, module, known)
        return kind(holder, **arguments(needed[1:], known, parameters, source))
    return kind(**arguments(needed, known, parameters, source))


def _holds_settings(needed: list[inspect.Parameter], module: Any) -> bool:
    """Whether the first parameter is for all settings, and no other has to be given."""
    first = needed[0]
    hint = getattr(module, first.annotation, None) if isinstance(first.annotation, str) else None
    hinted = first.annotation if hint is None else hint
    is_class = inspect.isclass(hinted) and hinted not in (EMPTY, int, float, str, bool)
    return is_class or first.name in HOLDERS or (len(needed) == 1 and len(first.name) == 1)


def arguments(
    needed: list[inspect.Parameter],
    known: Known,
    parameters: list[inspect.Parameter],
    mentioned: Container[str] = (),
) -> dict[str, Any]:
    """Keyword arguments for parameters; with ``**kwargs`` also what else the model records.

    Raises:
        TypeError: one has no default and nothing tells it.
    """
    # What ``**kwargs`` swallow counts as taken only where the code ``mentioned`` it.
    values: dict[str, Any] = {}
    for each in needed:
        value = known.value_of(each.name, required=each.default is EMPTY)
        if value is NOTHING:
            known.defaults[each.name] = each.default
            if each.default is EMPTY:
                raise TypeError(
                    f"needs {each.name}, which neither the file records nor its tensors tell"
                )
        else:
            values[each.name] = value
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters):
        for name, value in known.own.items():
            if name not in values and name not in MACHINE:
                values[name] = value
                if name in mentioned:
                    known.taken.add(name)
    return values


def filled(settings: Any, module: Any, known: Known) -> Any:
    """An instance of a configuration class with what is known of its fields."""
    try:
        parameters = list(inspect.signature(settings).parameters.values())
    except (TypeError, ValueError):
        parameters = []
    several = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    needed = [p for p in parameters if p.kind not in SEVERAL]
    made = settings(**arguments(needed, known, parameters, _source(module)))
    named = {p.name for p in parameters}
    # Class attributes, and what a model reads of settings that take whatever they are given.
    more = {n for n in dir(settings) if not n.startswith("_") and not callable(getattr(made, n))}
    if several or not named:
        more |= _read_of_settings(module)
    for name in sorted(more - named):
        value = known.value_of(name, required=not hasattr(made, name))
        if value is not NOTHING:
            _set(made, name, value)
    return made


def _set(holder: Any, name: str, value: Any) -> None:
    try:
        setattr(holder, name, value)
    except AttributeError:  # a property, or frozen
        return


def _default_config(config: Any, known: Known) -> Any:
    """What ``get_default_config`` of a class gave, with what is known of its fields."""
    for name, old in list(vars(config).items()):
        value = known.value_of(name, required=old is None)
        if value is not NOTHING and value is not None:
            _set(config, name, value)
    sizes = ("n_layer", "n_head", "n_embd")
    if all(getattr(config, name, None) is not None for name in sizes):
        # minGPT takes either sizes or the name of a size.
        _set(config, "model_type", None)
    return config


def config_class(module: Any, kind: Any, parameter: inspect.Parameter) -> Any:
    """The class of the settings: of the annotation, or the module's only one; None for any holder.

    Raises:
        TypeError: there are several.
    """
    hint = parameter.annotation
    named = getattr(module, hint, None) if isinstance(hint, str) else hint
    if inspect.isclass(named) and named is not EMPTY:
        return None if issubclass(named, dict) else named
    found: dict[int, Any] = {  # one class under two names is one
        id(c): c
        for name, c in vars(module).items()
        if inspect.isclass(c)
        and c is not kind
        and (dataclasses.is_dataclass(c) or name.endswith(("Config", "Args", "Params")))
        and not issubclass(c, torch.nn.Module)
    }
    if len(found) > 1:
        read = _read_of_settings(module)
        fits = {i: c for i, c in found.items() if read and read <= set(dir(c)) | _fields(c)}
        found = fits or found
    if len(found) > 1:
        raise TypeError(f"name the configuration class too: FILE.py:{kind.__name__}:CONFIG")
    return next(iter(found.values()), None)


def _source(module: Any) -> str:
    try:
        return inspect.getsource(module)
    except (OSError, TypeError):
        return ""


def _fields(kind: Any) -> set[str]:
    try:
        return set(inspect.signature(kind).parameters)
    except (TypeError, ValueError):
        return set()


def _read_of_settings(module: Any) -> set[str]:
    """Names that the module's code reads of its settings, e.g. ``n_head`` of ``config.n_head``."""
    return {
        node.attr
        for node in ast.walk(ast.parse(_source(module)))
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Load)
        and isinstance(node.value, ast.Name)
        and node.value.id in HOLDERS
        and not node.attr.startswith("_")
    }


def _set_globals(module: Any, known: Known) -> None:
    """Sizes that the file's code reads as globals, and that its training code would have set."""
    for code in _codes(module):
        for name in code.co_names:
            if name not in vars(module) and not hasattr(builtins, name):
                value = known.value_of(name)
                if value is not NOTHING and value is not None:
                    setattr(module, name, value)


def _codes(module: Any) -> Iterator[Any]:
    for kind in list(vars(module).values()):
        if inspect.isclass(kind) and kind.__module__ == module.__name__:
            for method in list(vars(kind).values()):
                if inspect.isfunction(method):
                    yield method.__code__


def loaded(
    make: Callable[[Known], Any],
    known: Known,
    n_hidden: int,
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> tuple[Any, Known]:
    """An instance with the checkpoint's weights, and what it was told.

    Args:
        make: makes an instance from what is known.
        known: what is known.
        n_hidden: width of the MLP.
        tensors: the weights, each of which the class must have, and no other.
        constants: masks and tables that the file holds beside them; the class may have them.
        dtype: of the instance.

    Raises:
        TypeError: it cannot be told what it needs.
        RuntimeError: it does not take the weights.
    """
    refused: Exception | None = None
    for told in spelled(known):
        try:
            return _sized(make, told, n_hidden, tensors, constants, dtype)
        except (LookupError, ValueError, AssertionError, NotImplementedError) as error:
            refused = refused or error  # of a word that the class does not know, perhaps
    assert refused is not None
    raise refused


def _sized(
    make: Callable[[Known], Any],
    known: Known,
    n_hidden: int,
    tensors: Mapping[str, Tensor],
    constants: Mapping[str, Tensor],
    dtype: torch.dtype,
) -> tuple[Any, Known]:
    first: Exception | None = None
    last = known
    for each in variants(known, n_hidden):
        if each.multiple_of is not None and "multiple_of" not in last.defaults:
            break
        try:
            model = make(each).eval().to(dtype)
            if not _misfits(model, tensors):
                _load(model, tensors, constants, dtype)
                return model, each
        except Exception as error:
            first = first or error
            last = each
            continue
        if first is None:
            first = _misfit(model, tensors, constants, dtype)
        last = each
    assert first is not None
    raise first


def _misfits(model: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether one of the class's weights has another shape than the file's."""
    own = model.state_dict()
    shapes = getattr(tensors, "shapes", {})
    for name in tensors:
        mine = own.get(name)
        shape = shapes[name] if name in shapes else tensors[name].shape
        if mine is not None and tuple(mine.shape) != tuple(shape):
            return True
    return False


def _misfit(
    model: Any, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor], dtype: torch.dtype
) -> Exception:
    try:
        _load(model, tensors, constants, dtype)
    except Exception as error:
        return error
    return RuntimeError("does not take the checkpoint's weights")


def _load(
    model: Any, tensors: Mapping[str, Tensor], constants: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    """Load strictly: every parameter and nothing else; a class's own constants may stay.

    Raises:
        RuntimeError: a parameter is missing, left over or of another size.
    """
    own = model.state_dict()
    taken = {name: tensors[name].to(dtype) for name in tensors}
    for name, constant in constants.items():
        if name in own and not _is_the_same(own[name], constant):
            taken[name] = constant.to(own[name].dtype)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled_in = {id(parameters[name]): taken[name] for name in taken if name in parameters}
    for name, value in own.items():
        if name in taken:
            continue
        if name not in parameters:
            taken[name] = value
        elif id(parameters[name]) in filled_in:  # tied, and in the file once
            taken[name] = filled_in[id(parameters[name])]
    model.load_state_dict(taken, strict=True)


def _is_the_same(own: Any, saved: Tensor) -> bool:
    """Whether a class made for itself what the file holds, up to the rounding of the file."""
    if not isinstance(own, Tensor) or own.shape != saved.shape or not own.is_floating_point():
        return False
    a, b = own.double(), saved.double()
    both = torch.isfinite(a) & torch.isfinite(b)
    if not bool((both | (a == b)).all()):
        return False
    scale = b[both].abs().max().item() if bool(both.any()) else 0.0
    return bool(((a - b)[both].abs() <= SAME * scale).all())


def said_of(known: Known) -> dict[str, Any]:
    """What the report has to say of how a class was told its settings."""
    untaken = list(known.untaken)
    return {
        "untaken": {name: f"{known.untaken[name]!r:.40}" for name in untaken[:MOST_NAMED]},
        "by_hand": sorted(known.by_hand),
        "ours": sorted(known.ours),
        "defaults": sorted(known.defaults),
        "multiple_of": known.multiple_of,
    }
