"""Where a model goes: a copy on one device, a copy on each of several, or one copy over several GPUs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from accelerate import infer_auto_device_map
from accelerate.utils import get_balanced_memory
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedModel

from sparq_eval.errors import UserError
from sparq_eval.hf.checkpoint import Checkpoint, torch_dtype

RESERVE = 0.1  # of each GPU's memory, at least, for the cache and all else that is no weight


@dataclass(frozen=True)
class Placement:
    """devices: each has a copy of the model, or, if `split`, some layers of the only one.

    modules: of a split model, the index of the GPU that each module goes to.
    """

    devices: tuple[torch.device, ...]
    split: bool = False
    modules: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def copies(self) -> int:
        return 1 if self.split else len(self.devices)

    def __str__(self) -> str:
        names = ", ".join(map(str, self.devices))
        if len(self.devices) == 1:
            return names
        return f"one copy over {names}" if self.split else f"a copy on each of {names}"


def find_device(name: str) -> torch.device:
    """The one device that a name means. Raises UserError where there is no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UserError(f"device={name}: must be auto, cpu, cuda, cuda:N, a list of these for a copy on each, or split")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"device={name}: torch sees {torch.cuda.device_count()} CUDA devices here; try device=cpu")
    return device


def find_devices(setting: str | Sequence[str]) -> tuple[torch.device, ...]:
    """All devices that a setting may mean; which of them are used, and how, `place` decides."""
    if isinstance(setting, str):
        gpus = tuple(torch.device("cuda", index) for index in range(torch.cuda.device_count()))
        if setting == "split" and len(gpus) < 2:
            raise UserError(f"device=split: torch sees {len(gpus)} CUDA devices here and it takes two; try device=auto")
        return gpus if setting == "split" or (setting == "auto" and len(gpus) > 1) else (find_device(setting),)
    asked = "device=[" + ",".join(map(str, setting)) + "]"
    if not setting or "auto" in setting:
        raise UserError(f"{asked}: must name devices, such as [cuda:0,cuda:1]")
    devices = tuple(find_device(str(name)) for name in setting)
    if len({device.type for device in devices}) > 1:
        raise UserError(f"{asked}: answers of a CPU and of a GPU are not the same; name devices of one kind")
    return devices


def place(setting: str | Sequence[str], checkpoint: Checkpoint, dtype: str) -> Placement:
    """Decide by what the weights need, which the config tells: no weight is read. Raises UserError if they do not fit.

    device=auto puts a copy on each GPU that holds one, and one copy over all of them where none does.
    """
    devices = find_devices(setting)
    if devices[0].type == "cpu":
        return Placement(devices)
    model = outline(checkpoint, torch_dtype(dtype, str(devices[0]), checkpoint.config))
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    room = {device: memory_of(device) * (1 - RESERVE) for device in devices}
    copies = Counter(devices)
    roomy = tuple(device for device in devices if copies[device] * weights <= room[device])
    if setting != "split" and (roomy == devices or (setting == "auto" and roomy)):
        return Placement(roomy)
    if setting == "split" or (setting == "auto" and len(devices) > 1):
        return split_over(checkpoint.name, model, weights, room)
    short = next(device for device in devices if device not in roomy)
    of = f"{copies[short]} copies of its weights take" if copies[short] > 1 else "its weights take"
    raise too_large(checkpoint.name, f"{of} {gib(copies[short] * weights)}", f"{short} has {gib(room[short])}", model)


def split_over(name: str, model: PreTrainedModel, weights: int, room: Mapping[torch.device, float]) -> Placement:
    """One copy, spread evenly so that the cache has room on every GPU. No layer is divided."""
    whole = list(model._no_split_modules or ())
    memory = {device.index: int(bytes_) for device, bytes_ in room.items()}
    balanced = get_balanced_memory(model, memory, no_split_module_classes=whole)
    modules = infer_auto_device_map(model, balanced, no_split_module_classes=whole)
    if not set(modules.values()) <= set(memory):
        has = f"{len(room)} GPUs have {gib(sum(room.values()))} together"
        raise too_large(name, f"its weights take {gib(weights)}", has, model)
    used = tuple(device for device in room if device.index in modules.values())
    return Placement(used, split=len(used) > 1, modules=modules)


def outline(checkpoint: Checkpoint, dtype: torch.dtype) -> PreTrainedModel:
    """The model without its weights."""
    with torch.device("meta"):
        return MODEL_FOR_CAUSAL_LM_MAPPING[type(checkpoint.config)]._from_config(checkpoint.config, dtype=dtype)


def memory_of(device: torch.device) -> int:
    """Bytes of a GPU. Not those that are free: asking for these would occupy some, and another run's may go."""
    return torch.cuda.get_device_properties(device).total_memory


def too_large(name: str, need: str, have: str, model: PreTrainedModel) -> UserError:
    help_ = "more or larger GPUs" + (", or dtype=bfloat16" if model.dtype == torch.float32 else "")
    return UserError(
        f"model={name}: {need} in {str(model.dtype).removeprefix('torch.')} and {have} for them, a tenth being left to "
        f"the cache; it takes {help_} (device=auto or split spreads one copy over all GPUs; weights are not kept in "
        "main memory or on disk, which would be too slow)"
    )


def gib(bytes_: float) -> str:
    return f"{bytes_ / 2**30:.1f} GiB"
