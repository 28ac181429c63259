"""Which kernel generates for a method: the run's `backend`."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from sparq_eval.errors import UserError
from sparq_eval.kernels import find_kernel
from sparq_eval.methods import Method, Shape
from sparq_eval.methods.kernel import Kernel

BACKENDS = ("auto", "torch", "kernel")


@dataclass(frozen=True)
class Kernels:
    """Gives the kernel of a method, None where the method itself attends. Processes are handed it, so it is no closure.

    backend: torch: no kernels. kernel: wherever there is one. auto: likewise on a CUDA device; on a CPU evaluation is
    torch's, whose shared work is faster there than kernels one by one.
    """

    backend: str
    device: torch.device
    shape: Shape

    def __call__(self, method: Method) -> Kernel | None:
        if self.backend == "torch" or (self.backend == "auto" and self.device.type != "cuda"):
            return None
        try:
            return find_kernel(method, self.device, self.shape)
        except ValueError:
            return None

    def check(self, methods: Iterable[Method]) -> None:
        """UserError where kernels were asked for by name and there are none for this run."""
        if self.backend != "kernel":
            return
        reasons = dict[str, None]()
        for method in methods:
            try:
                find_kernel(method, self.device, self.shape)
            except ValueError as error:
                reasons[str(error)] = None
            else:
                return
        raise UserError(f"backend=kernel: {'; '.join(reasons)}; use backend=torch")
