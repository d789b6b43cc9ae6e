"""``autoseg.plan`` is a module (its models) and a verb (make one); so are ``fingerprint`` and ``postprocess``.

These names are the field's and users expect both meanings. A module may be given a class of its own (Python's data
model, section "Customizing module attribute access"), so here it gets one that can be called.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


def callable_module(name: str, module: str, function: str) -> None:
    """Let calling the module ``name`` call ``function`` of ``module``, which is imported only then."""

    class Verb(ModuleType):
        def __call__(self, *arguments: Any, **options: Any) -> Any:
            return getattr(import_module(module), function)(*arguments, **options)

    sys.modules[name].__class__ = Verb
