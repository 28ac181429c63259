"""What the last query of a prompt sees in every layer of a model: the analysis looks from here and nowhere else."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from sparq_eval.hf.engine import Engine
from sparq_eval.hf.phases import attend_densely
from sparq_eval.hf.seam import Call
from sparq_eval.ops import Prompt
from sparq_eval.step import Step, Visible

See = Callable[[int, Step], None]


@dataclass
class Observe:
    """Dense attention over one prompt without padding. `see` gets each layer and the step of its last query, with all
    keys and values of the prompt, windows, soft caps and sinks as the layer has them. Nothing is kept.
    """

    see: See
    layers: set[int] = field(default_factory=set)

    def attend(self, call: Call) -> Float[Tensor, "B H G T D"]:
        T = call.q.shape[3]
        visible = Visible(torch.ones(1, T, dtype=torch.bool, device=call.q.device), T, call.window)
        prompt = Prompt(call.q, call.k, call.v, visible, call.scale, call.softcap, call.sinks)
        self.layers.add(call.layer)
        self.see(call.layer, prompt.narrow(T - 1, T))
        return attend_densely(prompt)


@torch.inference_mode()
def observe(engine: Engine, prompt: Sequence[int], see: See) -> None:
    """Pass a prompt's tokens through the model once."""
    session = Observe(see)
    ids = torch.tensor([list(prompt)])
    engine.forward(ids, torch.arange(len(prompt))[None], session, last_only=True)
    if len(session.layers) != engine.layers:
        raise RuntimeError(f"attention was seen on {len(session.layers)} of {engine.layers} layers")
