"""Two devices that are not there: tensors that say they lie on one, compute on the CPU, and refuse to meet the other's.

They make a model over several devices a test of every `.to`, without a GPU: an operation on tensors of two devices
raises, as it does on GPUs. Nor may such a tensor meet one in main memory, but for a number without dimensions.
"""

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from accelerate import dispatch_model
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from transformers import PreTrainedModel

FIRST, SECOND = "cpu:0", "cpu:1"  # torch knows these names, and takes them for other devices than "cpu"
MAIN_MEMORY = torch.device("cpu")


def split_in_two(model: PreTrainedModel) -> PreTrainedModel:
    """The first layer, the embedding and the head on one device, what is between them on the other."""
    inner, places = model.base_model_prefix, {}
    for name, module in model.base_model.named_children():
        if isinstance(module, torch.nn.ModuleList):
            places |= {f"{inner}.{name}.{n}": SECOND if n else FIRST for n in range(len(module))}
        else:
            places[f"{inner}.{name}"] = SECOND if "norm" in name else FIRST
    places |= {name: FIRST for name, _ in model.named_children() if name != inner}
    return dispatch_model(model, places, main_device=FIRST)


@contextmanager
def fake_devices() -> Iterator[None]:
    with Made(), Asked():
        yield


class Placed(torch.Tensor):
    """A tensor on a device that is not there; `inner` has its numbers."""

    inner: torch.Tensor

    @staticmethod
    def __new__(cls, inner: torch.Tensor, device: torch.device) -> "Placed":
        form = dict(strides=inner.stride(), storage_offset=inner.storage_offset(), dtype=inner.dtype, device=device)
        made = torch.Tensor._make_wrapper_subclass(cls, inner.shape, **form)
        made.inner = inner
        return made

    @classmethod
    def __torch_dispatch__(
        cls, func: Callable, types: Sequence[type], args: Sequence = (), kwargs: Mapping | None = None
    ) -> Any:
        return compute(func, args, dict(kwargs or {}))


def compute(func: Callable, args: Sequence, kwargs: dict[str, Any]) -> Any:
    leaves = tree_leaves((args, kwargs))
    here = {x.device for x in leaves if isinstance(x, Placed) or (isinstance(x, torch.Tensor) and x.dim())}
    copies = func is torch.ops.aten.copy_.default
    if len(here) > 1 and not copies:
        raise RuntimeError(f"{func}: expected all tensors to be on the same device, found {sorted(map(str, here))}")
    asked = next((x for x in leaves if isinstance(x, torch.device)), None)
    device = asked or (args[0].device if copies else next(iter(here), MAIN_MEMORY))
    args, kwargs = tree_map_only(Placed, lambda x: x.inner, (args, kwargs))
    args, kwargs = tree_map_only(torch.device, lambda _: MAIN_MEMORY, (args, kwargs))
    out = func(*args, **kwargs)
    place = functools.partial(placed, device, {id(x.inner): x for x in leaves if isinstance(x, Placed)})
    return tree_map_only(torch.Tensor, place, out)


def placed(device: torch.device, before: Mapping[int, Placed], x: torch.Tensor) -> torch.Tensor:
    """x on its device; the same tensor where an operation in place gave it back."""
    same = before.get(id(x))
    if same is not None and same.device == device:
        return same
    return x if device.index is None else Placed(x, device)


class Made(TorchDispatchMode):
    """Tensors that are made on such a device."""

    def __torch_dispatch__(
        self, func: Callable, types: Sequence[type], args: Sequence = (), kwargs: Mapping | None = None
    ) -> Any:
        return compute(func, args, dict(kwargs or {}))


class Asked(TorchFunctionMode):
    """What C++ does without asking a dispatch mode: tensors from numbers, and numbers from tensors."""

    def __torch_function__(
        self, func: Callable, types: Sequence[type], args: Sequence = (), kwargs: Mapping | None = None
    ) -> Any:
        named = dict(kwargs or {})
        if func is torch.tensor and (device := named.pop("device", None)) is not None:
            return func(*args, **named).to(device)
        if func is torch.Tensor.tolist and isinstance(args[0], Placed):
            return args[0].inner.tolist()
        return func(*args, **named)
