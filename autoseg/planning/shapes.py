"""Operations on the meta device, quicker than torch's own: only size and type of a result are wanted.

For many operations torch knows no more than a reference written in Python, which takes up to milliseconds, and a
training step has thousands of them. Here an operation in place is not carried out, as it changes no size; the result of
any other is remembered by the sizes, strides and types of its arguments; and that of the slowest is known. All results
are torch's (``tests/planning/test_shapes.py``).
"""

from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode

_aten = torch.ops.aten

#: Operation and description of its arguments → size, stride and type of its result.
_results: dict[Any, tuple[Any, Any, torch.dtype]] = {}

#: Results remembered at most; a plan needs some thousands.
_MOST = 50_000


class MetaMode(TorchDispatchMode):
    """Answers operations on the meta device by :func:`meta_result`; base of modes that watch them."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        return meta_result(func, args, kwargs or {})

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        # Nothing is compiled here; torch would import its compiler, which takes seconds, to keep it out.
        return False


def meta_result(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """The result of an operation on meta tensors; on others it is carried out."""
    first = args[0] if args else None
    example = first[0] if isinstance(first, list | tuple) and first else first
    if not isinstance(example, torch.Tensor) or example.device.type != "meta":
        return func(*args, **kwargs)
    kind = _kind(func)
    if kind == "changes one":
        return first
    if kind == "changes several":
        return None
    known = _KNOWN.get(func)
    result = None if known is None else known(*args, **kwargs)
    if result is not None:
        return result
    return _remembered(func, args) if kind == "new" and not kwargs else func(*args, **kwargs)


@lru_cache(maxsize=1024)
def _kind(func: Any) -> Literal["changes one", "changes several", "new", "other"]:
    """Whether an operation only changes its first argument in place, one tensor or several, or makes one new tensor."""
    schema = func._schema
    changed = [a.alias_info is not None and a.alias_info.is_write for a in schema.arguments]
    aliases = [a.alias_info is not None for a in (*schema.arguments, *schema.returns)]
    if not any(aliases):
        return "new" if len(schema.returns) == 1 else "other"
    resizes = torch.Tag.inplace_view in func.tags or any(word in schema.name for word in ("resize", "set_", "out"))
    if not changed or not changed[0] or any(changed[1:]) or resizes:
        return "other"
    if not schema.returns:
        return "changes several"
    return "changes one" if len(schema.returns) == 1 and schema.returns[0].alias_info is not None else "other"


def _remembered(func: Any, args: tuple[Any, ...]) -> Any:
    key = (func, *(_described(value) for value in args))
    try:
        found = _results.get(key)
    except TypeError:  # an argument that can't be described
        return func(*args)
    if found is not None:
        return torch.empty_strided(found[0], found[1], dtype=found[2], device="meta")
    result = func(*args)
    if isinstance(result, torch.Tensor) and result.device.type == "meta":
        if len(_results) >= _MOST:
            _results.clear()
        _results[key] = (tuple(result.shape), result.stride(), result.dtype)
    return result


def _described(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return tuple(value.shape), value.stride(), value.dtype, value.device.type
    return tuple(map(_described, value)) if isinstance(value, list | tuple) else (type(value), value)


def _batch_norm(*args: Any) -> Any:
    image, weight, _, mean, variance, training = args[:6]
    if not training or weight is None or mean is not None or variance is not None or not image.is_contiguous():
        return None
    features = image.shape[1]
    return torch.empty_like(image), weight.new_empty(features), weight.new_empty(features)


def _batch_norm_backward(*args: Any) -> Any:
    gradient, image, weight, training, wanted = args[0], args[1], args[2], args[7], args[9]
    alike = gradient.dtype == image.dtype and gradient.is_contiguous() and image.is_contiguous()
    if not (training and alike and all(wanted)) or weight is None:
        return None
    features = image.shape[1]
    return torch.empty_like(image), weight.new_empty(features), weight.new_empty(features)


def _sums(first: Any, second: Any, alpha: float = 1) -> Any:
    return [_remembered(_aten.add.Tensor, pair) for pair in zip(first, second, strict=True)]


#: The slowest operations: milliseconds each. The functions return None where they don't know.
_KNOWN: dict[Any, Callable[..., Any]] = {
    _aten.native_batch_norm.default: _batch_norm,
    _aten.native_batch_norm_backward.default: _batch_norm_backward,
    _aten._foreach_add.List: _sums,
}
