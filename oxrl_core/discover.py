"""Things found by walking a package: one file adds an algorithm, a reward or a dataset, and no list needs an edit."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import pkgutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, Generic, TypeVar

from oxrl_core.errors import ConfigError
from oxrl_core.suggest import did_you_mean

MANY = 20  # names in a message

Entry = TypeVar("Entry")
Function = Callable[..., Any]


def summary_of(function: Function) -> str:
    """The first line of the docstring: it is what catalogues and docs show."""
    return (inspect.getdoc(function) or "").split("\n", 1)[0]


class Catalogue(Generic[Entry]):
    """Named entries of one kind; the modules of its package are imported at the first look-up."""

    def __init__(self, kind: str, package: str, make: Callable[[str, Function], Entry]) -> None:
        self.kind = kind
        self.package = package
        self.make = make  # an entry of a function that carries no decorator: somebody's own, by dotted path
        self.entries: dict[str, Entry] = {}
        self.functions: dict[str, Function] = {}
        self.walked = False

    def add(self, name: str, function: Function, entry: Entry) -> None:
        """Registers an entry; two functions cannot have one name."""
        known = self.functions.get(name)
        if known is not None and (known.__module__, known.__qualname__) != (function.__module__, function.__qualname__):
            raise ConfigError(
                f"two {self.kind}s are called {name!r}: {known.__module__}.{known.__qualname__} and this one",
                where=f"{function.__module__}.{function.__qualname__}",
                next_step="rename one of them",
            )
        self.functions[name] = function
        self.entries[name] = entry

    def all(self) -> dict[str, Entry]:
        """Every entry of the package, and those registered by hand, by name."""
        if not self.walked:
            package = importlib.import_module(self.package)
            for module in pkgutil.walk_packages(package.__path__, prefix=f"{self.package}."):
                importlib.import_module(module.name)
            self.walked = True
        return dict(sorted(self.entries.items()))

    def entry_of(self, function: Function) -> Entry | None:
        """The entry that a function was registered as, or None."""
        names = [name for name, registered in self.functions.items() if registered is function]
        return self.entries[names[0]] if names else None

    def get(self, name: str) -> Entry:
        """The entry of that name, or of the function at the dotted path `package.module:function`."""
        entries = self.all()
        if name in entries:
            return entries[name]
        if ":" in name:
            function = load_function(name, self.kind)
            return self.entry_of(function) or self.make(name, function)
        raise ConfigError(
            f"there is no {self.kind} {name!r}.{did_you_mean(name, list(entries))}",
            where=f"{self.kind}.name",
            next_step=f"take one of: {some_of(list(entries), self.kind)}; or your own as package.module:function",
        )


def some_of(names: list[str], kind: str) -> str:
    """The names, or where they are too many to read the first ones and the command that lists all."""
    if len(names) <= MANY:
        return ", ".join(names)
    return f"{', '.join(names[:MANY])}, ... (`oxrl {kind}s` lists all {len(names)})"


def _load_file(path: str) -> ModuleType:
    """The module that a file holds, loaded once in a process, under a name that no other file has."""
    file = Path(path).expanduser().resolve()
    name = f"oxrl_file_{hashlib.sha256(str(file).encode()).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FileNotFoundError(f"there is no file {file}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # before it runs: dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def load_function(path: str, kind: str) -> Function:
    """The function at `package.module:function` or at `path/to/file.py:function`."""
    module_name, _, function_name = path.rpartition(":")
    try:
        module = _load_file(module_name) if module_name.endswith(".py") else importlib.import_module(module_name)
    except Exception as error:  # the module is somebody's own: whatever its import raises is theirs to read
        raise ConfigError(
            f"the module {module_name!r} cannot be imported: {type(error).__name__}: {error}",
            where=f"{kind}.name = {path}",
            next_step="put its folder on PYTHONPATH (or name the file: path/to/file.py:function), or mend the error",
        ) from error
    function = getattr(module, function_name, None)
    if not callable(function):
        names = [name for name, value in vars(module).items() if inspect.isfunction(value)]
        raise ConfigError(
            f"the module {module_name!r} has no function {function_name!r}.{did_you_mean(function_name, names)}",
            where=f"{kind}.name = {path}",
            next_step=f"its functions are: {', '.join(names) or 'none'}",
        )
    return function
