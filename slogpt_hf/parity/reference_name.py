"""How a model class of the training repository is named: ``path/model.py:Class[:Config]``.

Or ``auto``, for the class that has the checkpoint's tensors, in its repository; ``auto:FOLDER``
looks in a folder, and ``auto:`` knows of no repository. ``none`` asks no class.
"""

from __future__ import annotations

from pathlib import Path

from slogpt_hf.errors import UsageError

AUTO, NONE = "auto", "none"


def asks(reference: str | None) -> bool:
    """Whether a class is to be asked."""
    return reference not in (None, NONE)


def is_auto(reference: str) -> bool:
    """Whether a class is to be looked for."""
    return reference.partition(":")[0] == AUTO


def require_reference(reference: str | None) -> None:
    """Raise unless a reference can be meant.

    Raises:
        UsageError: it is not of a known form, or there is no such file.
    """
    if reference is not None and asks(reference) and not is_auto(reference):
        split_reference(reference)


def split_reference(text: str) -> tuple[Path, str, str | None]:
    """File, class and, if named, configuration class of ``path/model.py:Class[:Config]``.

    Raises:
        UsageError: it is not of that form, or there is no such file.
    """
    path, *names = text.rsplit(".py:", 1)
    classes = names[0].split(":") if names else []
    if not 1 <= len(classes) <= 2 or not all(name.isidentifier() for name in classes):
        raise UsageError(
            f"--reference {text[:80]!r}: is not FILE.py:CLASS.",
            hint="Write e.g. --reference model.py:GPT, model.py:GPT:GPTConfig or auto.",
        )
    file = Path(f"{path}.py")
    if not file.is_file():
        raise UsageError(f"--reference {file}: no such file.", hint="Check the path.")
    return file.absolute(), classes[0], classes[1] if len(classes) == 2 else None
