"""Real decode kernels, each the twin of a method. Nothing is compiled or imported until one is asked for."""

import torch

from sparq_eval.methods import FlexGen, Method, Shape, SparQ
from sparq_eval.methods.kernel import Kernel

FP8 = (8, 9)  # the compute capability from which float8 can be read
MOST_HEADS = 16  # of a group, whose logits a program holds one by one; with more it is slower than torch (docs/log.md)


def find_kernel(method: Method, device: torch.device, shape: Shape) -> Kernel:
    """The kernel of a method on a device, for heads of this shape. ValueError, in one sentence, where there is none."""
    if device.type == "cuda":
        try:
            from sparq_eval.kernels.cuda import KERNELS
        except ImportError as error:
            raise ValueError(f"its kernels need triton ({error}): pip install 'sparq_eval[kernels]'") from error
    else:
        from sparq_eval.kernels.cpu import KERNELS
    name = type(method).__name__
    if type(method) not in KERNELS:
        raise ValueError(f"there is no kernel of {name} on {device.type}")
    if isinstance(method, SparQ) and method.r > shape.head_size:
        raise ValueError(f"r={method.r}: the kernel of {name} reads at most the head size, {shape.head_size}")
    if isinstance(method, SparQ) and method.ablation:
        raise ValueError(f"the kernel ranks as SparQ does, not with {method.ablation}")
    if isinstance(method, SparQ) and method.copy == "fp8" and not reads_fp8(device):
        raise ValueError("copy=fp8: this device cannot read float8; use copy=int8")
    if device.type == "cuda" and needs_every_head(method, shape) and shape.groups > MOST_HEADS:
        raise ValueError(f"the kernel of {name} ranks by at most {MOST_HEADS} heads of a group, not {shape.groups}")
    return KERNELS[type(method)](method)


def needs_every_head(method: Method, shape: Shape) -> bool:
    """Whether ranking needs the logits of each head of a group, not their sum alone."""
    if isinstance(method, SparQ):
        return method.rank_by == "weights" or bool(method.resolve(shape).reallocate)
    return isinstance(method, FlexGen)


def reads_fp8(device: torch.device) -> bool:
    """Whether kernels on a device can read float8. A GPU that is not there is taken for a new one."""
    if device.type != "cuda" or not torch.cuda.is_available():
        return True
    return torch.cuda.get_device_capability(device) >= FP8
