"""Real decode kernels, each the twin of a method. Nothing is compiled or imported until one is asked for."""

import torch

from sparq_eval.methods import Method
from sparq_eval.methods.kernel import Kernel

__all__ = ["Kernel", "find_kernel"]


def find_kernel(method: Method, device: torch.device) -> Kernel:
    """The kernel of a method on a device. ValueError, in one sentence, where there is none."""
    if device.type == "cuda":
        from sparq_eval.kernels.cuda import KERNELS
    else:
        from sparq_eval.kernels.cpu import KERNELS
    if type(method) not in KERNELS:
        raise ValueError(f"there is no kernel of {type(method).__name__} on {device.type}; use backend=torch")
    return KERNELS[type(method)](method)
