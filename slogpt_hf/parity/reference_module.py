"""The training repository's file as a module, without what trains at its top level.

Of the file only imports, classes, functions, constants and what the class that is asked uses are
executed. An import that fails, or a definition that needs it, leaves a placeholder that raises
where it is used.
"""

from __future__ import annotations
import __future__

import ast
import importlib.util
import sys
import types
from collections.abc import Iterable, Iterator, Sequence
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from typing import Any

# Calls that compute a value and do nothing else, by the name that is called or its last part.
HARMLESS_CALLS = frozenset(
    (
        *("bool", "bytes", "complex", "dict", "float", "frozenset", "int", "len", "list", "max"),
        *("min", "pow", "range", "round", "set", "sorted", "str", "sum", "tuple", "abs", "type"),
        *("hasattr", "getattr", "isinstance", "issubclass", "namedtuple", "NamedTuple"),
        *("TypeVar", "NewType", "ParamSpec", "partial", "field", "getLogger", "Path", "compile"),
        *("sqrt", "log", "log2", "exp", "pi", "ceil", "floor", "prod", "dirname", "join"),
        *(
            "abspath",
            "basename",
            "tensor",
            "getenv",
            "is_available",
            "device_count",
            "finfo",
            "iinfo",
        ),
        *("is_bf16_supported", "get_device_capability", "device", "dtype", "version", "parse"),
        *("split", "lower", "upper", "find_spec", "attrgetter", "itemgetter", "Enum", "startswith"),
    )
)
SETTINGS_CLASSES = ("Config", "Args", "Params", "Namespace", "CfgNode")  # last part of their names
DEFINITIONS = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


class Missing(types.ModuleType):
    """What stands for a name that could not be had: it raises where it is used."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name)
        self.__dict__["reason"] = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return Missing(f"{self.__name__}.{name}", self.__dict__["reason"])

    def __call__(self, *_: Any, **__: Any) -> Any:
        """Raise, saying what is missing."""
        raise ImportError(f"{self.__name__} is used, but {self.__dict__['reason']}")

    def __getitem__(self, _: Any) -> Any:
        return self  # as in an annotation

    def __or__(self, _: Any) -> Any:
        return self

    __ror__ = __or__


def used_by(name: str, statements: Sequence[ast.stmt]) -> frozenset[str]:
    """The names of a module's top level that a definition needs, and those that these need."""
    needs: dict[str, set[str]] = {}
    for each in statements:
        inside = {node.id for node in ast.walk(each) if isinstance(node, ast.Name)}
        for bound in (each.name,) if isinstance(each, DEFINITIONS) else _assigned(each):
            needs.setdefault(bound, set()).update(inside)
    found: set[str] = set()
    waiting = [name]
    while waiting:
        if (each_name := waiting.pop()) not in found and each_name in needs:
            found.add(each_name)
            waiting.extend(needs[each_name])
    return frozenset(found)


def _assigned(statement: ast.stmt) -> Iterator[str]:
    """The names that an assignment binds."""
    if isinstance(statement, ast.Assign):
        for target in statement.targets:
            yield from (node.id for node in ast.walk(target) if isinstance(node, ast.Name))
    elif isinstance(statement, ast.AnnAssign | ast.AugAssign) and isinstance(
        statement.target, ast.Name
    ):
        yield statement.target.id


def kept(
    statements: Iterable[ast.stmt], needed: frozenset[str] = frozenset()
) -> Iterator[ast.stmt]:
    """Of a module's top level what trains nothing, or binds what is needed."""
    for each in statements:
        if isinstance(each, (ast.Import, ast.ImportFrom, ast.Pass, ast.Global, *DEFINITIONS)):
            yield each
        elif isinstance(each, ast.Assign | ast.AnnAssign | ast.AugAssign):
            used = not needed.isdisjoint(_assigned(each))
            if each.value is not None and (used or is_simple(each.value)):
                yield each
        elif isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant):
            yield each
        elif isinstance(each, ast.If) and is_simple(each.test):
            body, orelse = list(kept(each.body, needed)), list(kept(each.orelse, needed))
            new = ast.If(each.test, body or [ast.Pass()], orelse)
            yield ast.fix_missing_locations(ast.copy_location(new, each))
        elif isinstance(each, ast.Try):
            handlers = [
                ast.ExceptHandler(h.type, h.name, list(kept(h.body, needed)) or [ast.Pass()])
                for h in each.handlers
            ]
            parts = [list(kept(part, needed)) for part in (each.body, each.orelse, each.finalbody)]
            tried = ast.Try(parts[0] or [ast.Pass()], handlers, parts[1], parts[2])
            if handlers or parts[2]:
                yield ast.fix_missing_locations(ast.copy_location(tried, each))


def is_simple(value: ast.expr) -> bool:
    """Whether an expression computes a constant: no call in it does anything but that."""
    inner = [node for node in ast.walk(value) if isinstance(node, ast.Call)]
    if any(isinstance(n, ast.Await | ast.Yield | ast.YieldFrom) for n in ast.walk(value)):
        return False
    if isinstance(value, ast.Lambda):
        return True
    return all(_is_harmless(call.func) for call in inner)


def _is_harmless(function: ast.expr) -> bool:
    if isinstance(function, ast.Name):
        return function.id in HARMLESS_CALLS or function.id.endswith(SETTINGS_CLASSES)
    if not isinstance(function, ast.Attribute):
        return False
    return function.attr in HARMLESS_CALLS or ast.unparse(function) == "os.environ.get"


def execute(
    tree: ast.Module, file: str, names: dict[str, Any], *, whole: bool, wanted: str = ""
) -> None:
    """Execute a module statement by statement.

    Args:
        tree: the module.
        file: its path.
        names: its namespace.
        whole: execute every statement, not only those that ``kept`` gives.
        wanted: the class that is asked.
    """
    flags = 0
    for statement in tree.body if whole else list(kept(tree.body, used_by(wanted, tree.body))):
        if isinstance(statement, ast.ImportFrom) and statement.module == "__future__":
            for alias in statement.names:
                flags |= getattr(__future__, alias.name).compiler_flag
        code = compile(ast.Module([statement], []), file, "exec", flags=flags, dont_inherit=True)
        try:
            exec(code, names)
        except Exception as error:
            if whole and not isinstance(error, ImportError):
                raise
            for name in _bound(statement):
                if name not in names:
                    names[name] = Missing(name, _reason(statement, error))


def _reason(statement: ast.stmt, error: Exception) -> str:
    line = " ".join(str(error).split())[:160]
    if isinstance(statement, DEFINITIONS):
        return f"its definition raised {type(error).__name__}: {line}"
    return f"line {statement.lineno} raised {type(error).__name__}: {line}"


def _bound(statement: ast.stmt) -> Iterator[str]:
    """The names that a statement would have bound."""
    if isinstance(statement, ast.Import):
        yield from ((a.asname or a.name.partition(".")[0]) for a in statement.names)
    elif isinstance(statement, ast.ImportFrom):
        yield from (a.asname or a.name for a in statement.names if a.name != "*")
    elif isinstance(statement, DEFINITIONS):
        yield statement.name


class _Loader(Loader):
    """Executes a module of the training repository, imports that fail being placeholders."""

    def __init__(self, path: str, whole: bool, wanted: str = "") -> None:
        self.path, self.whole, self.wanted = path, whole, wanted

    def exec_module(self, module: types.ModuleType) -> None:
        """Execute the module."""
        with Path(self.path).open("rb") as file:
            tree = ast.parse(file.read(), self.path)
        execute(tree, self.path, module.__dict__, whole=self.whole, wanted=self.wanted)


class _Finder(MetaPathFinder):
    """Finds the modules of the training repository: those below one of its folders."""

    def __init__(self, folders: Sequence[Path], main: Path, wanted: str) -> None:
        self.folders = [str(folder) for folder in folders]
        self.main, self.wanted = str(main), wanted

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of a module in Python that the repository has; None leaves it to others."""
        spec = PathFinder.find_spec(fullname, self.folders if path is None else path)
        origin = getattr(spec, "origin", None)
        if spec is None or not origin or not origin.endswith(".py"):
            return None
        if not any(Path(origin).is_relative_to(folder) for folder in self.folders):
            return None
        spec.loader = _Loader(origin, whole=origin != self.main, wanted=self.wanted)
        return spec


def imported(path: Path, wanted: str) -> Any:
    """The module of a file, with what lies beside it or, in packages, around it importable.

    Args:
        path: of the file.
        wanted: name of the class that is asked.

    Raises:
        SyntaxError: it is no Python.
    """
    names, folder = [path.stem], path.parent
    while (folder / "__init__.py").is_file():
        names.insert(0, folder.name)
        folder = folder.parent
    # ``from src.layers import Layer`` in src/model.py, which is run from above.
    around = [folder, folder.parent]
    sys.path.insert(0, str(folder))
    sys.path.append(str(folder.parent))
    # What is installed counts first where the folder above could hide it, e.g. one named torch.
    sys.meta_path.insert(0, _Finder(around[:1], path, wanted))
    sys.meta_path.append(_Finder(around[1:], path, wanted))
    if len(names) > 1:
        return importlib.import_module(".".join(names))
    spec = importlib.util.spec_from_file_location(
        path.stem, path, loader=_Loader(str(path), False, wanted)
    )
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module
