"""Registry: extensible sets of components by name.

A registry has all components of one kind: losses, metrics, image formats, layouts and so on. It is defined beside the
type of its components::

    # autoseg/evaluation/metrics/__init__.py or a module beside it
    METRICS: Registry[Metric] = Registry("metric", option="--metrics", package="autoseg.evaluation.metrics")

One more component is one file. Within autoseg, it is put in the package that the registry names, whose modules are all
imported::

    # autoseg/evaluation/metrics/accuracy.py
    @METRICS.register("accuracy")
    def accuracy(prediction: np.ndarray, reference: np.ndarray) -> float:
        return float((prediction == reference).mean())

Outside autoseg, the same file is an entry point of another package::

    # pyproject.toml of the other package
    [project.entry-points."autoseg.extensions"]
    accuracy = "mypackage.accuracy"

Loading that module registers its components, also in worker processes, each of which loads the entry points itself.
"""

import pkgutil
from collections.abc import Callable, Iterator
from importlib import import_module
from importlib.metadata import entry_points
from threading import RLock
from typing import Generic, TypeVar, overload

from autoseg.utils.errors import AutosegError, UsageError

_T = TypeVar("_T")

#: Entry points of this group name modules that register components when they are imported.
EXTENSIONS = "autoseg.extensions"

_lock = RLock()
_loaded: set[str] = set()
_all_loaded = False


def load_extensions() -> None:
    """Import the modules of all entry points of the group ``autoseg.extensions``, once a process.

    Raises:
        AutosegError: one of them can't be imported, or registers a name that is taken.
    """
    global _all_loaded
    with _lock:
        if _all_loaded:
            return
        for entry in entry_points(group=EXTENSIONS):
            if entry.value in _loaded:
                continue
            _loaded.add(entry.value)  # before loading, as an extension may look up a component itself
            try:
                entry.load()
            except Exception as error:
                _loaded.discard(entry.value)
                raise AutosegError(
                    f"the extension {entry.name} ({entry.value}) can't be loaded ({error}); "
                    "correct or uninstall the package that provides it."
                ) from error
        _all_loaded = True


class Registry(Generic[_T]):
    """Components of one kind by name, in the order of their registration.

    Args:
        kind: of its components, in the singular, for messages (``metric``).
        option: the option or the plan's key that chooses one, for messages in place of the kind (``--metrics``).
        package: a package whose modules register components when they are imported; None if all components
            are registered before one is looked up.
    """

    def __init__(self, kind: str, option: str = "", package: str | None = None) -> None:
        self.kind = kind
        self.option = option
        self._package = package
        self._things: dict[str, _T] = {}
        self._package_imported = package is None

    @overload
    def register(self, name: str) -> Callable[[_T], _T]: ...

    @overload
    def register(self, name: str, thing: _T) -> _T: ...

    def register(self, name: str, thing: _T | None = None) -> _T | Callable[[_T], _T]:
        """Register a component under a name: ``@REGISTRY.register("name")``, or ``REGISTRY.register("name", thing)``.

        Returns:
            The component itself, or the decorator.

        Raises:
            AutosegError: another component has this name. Registering the same object again does nothing.
        """

        def add(new: _T) -> _T:
            known = self._things.setdefault(name, new)
            if known is not new:
                raise AutosegError(
                    f"two {self.kind} components have the name {name}, {_origin(known)} and {_origin(new)}; rename one."
                )
            return new

        return add if thing is None else add(thing)

    def find(self, name: str) -> _T:
        """The component of this name; imports the registry's package, then extensions, if it is not registered yet.

        Raises:
            UsageError: the name is unknown; the message lists the known ones.
            AutosegError: an extension can't be loaded.
        """
        if name not in self:
            raise UsageError(f"{self.option or self.kind} {name} is unknown; {self._choice()}.")
        return self._things[name]

    def names(self) -> tuple[str, ...]:
        """Names of all components, those of the package and of extensions included."""
        self._import_package()
        load_extensions()
        return tuple(self._things)

    def __contains__(self, name: object) -> bool:
        if name not in self._things:
            self._import_package()
        if name not in self._things:
            load_extensions()
        return name in self._things

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def _choice(self) -> str:
        return f"choose one of {', '.join(self._things)}" if self._things else "there is none to choose from"

    def _import_package(self) -> None:
        if self._package is None or self._package_imported:
            return
        with _lock:
            for module in pkgutil.iter_modules(import_module(self._package).__path__):
                if module.name != "__main__":
                    import_module(f"{self._package}.{module.name}")
            self._package_imported = True


def _origin(thing: object) -> str:
    described = thing if hasattr(thing, "__qualname__") else type(thing)
    return f"{described.__module__}.{described.__qualname__}"
