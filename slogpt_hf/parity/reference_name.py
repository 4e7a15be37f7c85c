"""How a model class of the training repository is named: ``path/model.py:Class[:Config]``."""

from __future__ import annotations

from pathlib import Path

from slogpt_hf.errors import UsageError


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
            hint="Write e.g. --reference model.py:GPT, or model.py:GPT:GPTConfig.",
        )
    file = Path(f"{path}.py")
    if not file.is_file():
        raise UsageError(f"--reference {file}: no such file.", hint="Check the path.")
    return file.absolute(), classes[0], classes[1] if len(classes) == 2 else None
