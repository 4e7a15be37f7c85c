"""Settings that a trainer pickled as an object of its own class: their fields, and nothing run.

build-nanogpt's ``config`` is a dataclass ``__main__.GPTConfig``, others keep an
``argparse.Namespace`` or an Enum. Of such an object the pickle holds the class's name and the
fields; a dict of the fields takes its place.
"""

from __future__ import annotations

import sys
from typing import Any

from slogpt_hf.errors import CheckpointError
from slogpt_hf.pickles import Record, Wording

# What is called by a pickle that runs code, or is no one's settings.
NOT_SETTINGS = frozenset(sys.stdlib_module_names) - {"__main__"} | {
    *("torch", "numpy", "transformers", "cloudpickle", "dill"),
    *("__builtin__", "copy_reg", "commands"),  # of Python 2
}
HOLDERS = ("argparse.Namespace", "types.SimpleNamespace")
# What the state of a torch.nn.Module has: a whole model is no settings.
OF_A_MODULE = "_modules"


def is_settings_class(name: str) -> bool:
    """Whether an object of this class may be a trainer's settings."""
    return name in HOLDERS or name.partition(".")[0] not in NOT_SETTINGS


def with_settings_as_dicts(value: Any, source: str, wording: Wording) -> Any:
    """The value of a pickle, a tree, with a dict for every object and the value for every Enum.

    Raises:
        CheckpointError: an object is not made of named fields alone.
    """
    made: dict[int, Any] = {}

    def plain(each: Any) -> Any:
        if not isinstance(each, Record | dict | list | tuple):
            return each
        if id(each) not in made:
            made[id(each)] = converted(each)
        return made[id(each)]

    def converted(each: Any) -> Any:
        if isinstance(each, dict):
            return {key: plain(item) for key, item in each.items()}
        if isinstance(each, list | tuple):
            return type(each)(map(plain, each))
        named = all(isinstance(key, str) for key in each.state)
        if named and not each.items and OF_A_MODULE not in each.state:
            return plain(each.state)
        if not each.state and len(each.items) == 1:
            return plain(each.items[0])
        raise CheckpointError(
            f"{source}: {wording.forbidden.format(ascii(each.name)[1:-1][:80])}",
            hint=wording.forbidden_hint,
        )

    return plain(value)
