"""lm-eval's own command line with our model in it: `python -m sparq_eval.lm_eval --model sparq_eval --model_args …`.

lm-eval discovers no plugins, so this module registers the model and then hands over; every option is lm-eval's.
"""

import dataclasses
import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

import torch
import yaml
from hydra.utils import get_class

from sparq_eval.errors import UserError
from sparq_eval.evaluate.batches import answer_all, fitting
from sparq_eval.evaluate.documents import note_prefilled
from sparq_eval.evaluate.expand import Setting
from sparq_eval.evaluate.plan import named
from sparq_eval.evaluate.settings import choice, whole_number
from sparq_eval.harness.lm import EngineLM, hand_over
from sparq_eval.hf.checkpoint import Checkpoint, open_checkpoint
from sparq_eval.hf.engine import Engine
from sparq_eval.hf.families import check_family, context_length, shape_of
from sparq_eval.hf.placement import find_device
from sparq_eval.hf.seam import NAME
from sparq_eval.methods import Method
from sparq_eval.overrides import CONFIGS, suggest
from sparq_eval.progress import fail, progress
from sparq_eval.request import Answer, Request

ARGUMENTS = ("pretrained", "method", "dtype", "device", "batch_size", "revision", "tokenizer")
KINDS = {int: "a whole number", bool: "true or false", float: "a number", str: "a word", type(None): "null"}


class SparqEval(EngineLM):
    """A model under one setting of one method, as lm-eval's model arguments describe it.

    pretrained: a name of configs/model, a hub id, a folder or a file.gguf. method: a name of configs/method or the
    import path of a method's class. Everything else that is none of ARGUMENTS is a setting of the method; what is not
    given has the class's own default. UserError, before weights are read, for what does not exist or cannot be.
    """

    def __init__(self, pretrained: str | None = None, method: str = "dense", **arguments: Any) -> None:
        options = {key: arguments.pop(key) for key in ARGUMENTS if key in arguments}
        setting = find_setting(str(method), arguments)
        self.batch_size = read_batch_size(options.get("batch_size", "auto"))
        dtype = choice("dtype", options.get("dtype", "auto"), ("auto", "float32", "bfloat16", "float16"))
        device = find_device(available(str(options.get("device", "auto"))))
        checkpoint = find_model(pretrained, options)
        check_family(checkpoint.config)
        self.setting = setting.resolve(shape_of(checkpoint.config))
        self.checkpoint = checkpoint
        self.engine = Engine(checkpoint.load(dtype, str(device), attention=NAME), checkpoint.tokenizer)
        context = context_length(checkpoint.config)
        super().__init__(checkpoint.tokenizer, self.answer_all, context_length=context, ends=checkpoint.ends)
        self._device = device

    def answer_all(self, requests: Sequence[Request]) -> Iterator[Answer]:
        note_prefilled(f"{len(requests):,} requests", requests)
        size = self.batch_size or fitting(self.engine, requests, [self.setting.method])
        effort = sum(request.effort for request in requests)
        with progress(f"{len(requests):,} requests", effort, "tokens") as advance:
            for batch in answer_all(self.engine, requests, [self.setting.method], size):
                yield from batch.answers[0]
                advance(sum(request.effort for request in batch.requests))

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say about the model beside its arguments."""
        return {
            "model_identity": {"name": self.checkpoint.name, **self.checkpoint.identity},
            "model_dtype": str(self.engine.model.dtype),
            "method": self.setting.name,
            "method_settings": self.setting.method.settings,
        }


def main() -> None:
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        hand_over(NAME, SparqEval)
    except UserError as error:
        fail(error)


def find_setting(method: str, settings: Mapping[str, Any]) -> Setting:
    """The method with these settings. UserError that names the argument, its value and what is right."""
    kind = find_method(method)
    hints = get_type_hints(kind)
    own = [field.name for field in dataclasses.fields(kind)]
    for key, value in settings.items():
        if key not in own:
            near = difflib.get_close_matches(key, [*ARGUMENTS, *own], n=1)
            hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(ARGUMENTS)}"
            raise UserError(
                f"model_args {key}={value}: there is no such argument; {hint} "
                f"(settings of {method}: {', '.join(own) or 'none'})"
            )
        right = get_args(hints[key]) or (hints[key],)
        if type(value) not in right:
            words = " or ".join(KINDS.get(one, str(one)) for one in right)
            raise UserError(f"model_args {key}={value}: must be {words}")
    try:
        return Setting(method, kind(**settings))
    except (ValueError, TypeError) as error:
        raise UserError(f"method {method}: {error}") from None


def find_method(method: str) -> type[Method]:
    """The class behind a name of configs/method or an import path."""
    known = {path.stem: path for path in (CONFIGS / "method").glob("*.yaml")}
    target = method
    if method in known:
        target = yaml.safe_load(known[method].read_text(encoding="utf-8"))["_target_"]
    elif "." not in method:
        raise UserError(f"model_args method={method}: there is no such method; {suggest(method, set(known))}")
    try:
        return get_class(target)
    except Exception as error:  # hydra raises what the import raises, and more
        raise UserError(f"model_args method={method}: not a class that can be imported ({error})") from error


def find_model(pretrained: str | None, options: Mapping[str, Any]) -> Checkpoint:
    """The model that a name of the zoo, a hub id, a folder or a file means, its weights not read."""
    zoo = {path.stem: path for path in (CONFIGS / "model").glob("*.yaml")}
    if pretrained is None:
        raise UserError(
            "model_args: pretrained=<a name of configs/model, a hub id, a folder or a file.gguf> is missing"
        )
    if pretrained in zoo:
        model = yaml.safe_load(zoo[pretrained].read_text(encoding="utf-8"))
    elif (
        "/" not in pretrained and (near := difflib.get_close_matches(pretrained, zoo)) and not Path(pretrained).exists()
    ):
        raise UserError(
            f"model_args pretrained={pretrained}: there is no such model; did you mean {' or '.join(near)}?"
        )
    else:
        model = named({"name": "any", "path": pretrained})
    chosen = {key: str(options[key]) for key in ("revision", "tokenizer") if options.get(key) is not None}
    try:
        return open_checkpoint(**{**model, **chosen})
    except UserError as error:
        # the words are those of the other command line, whose keys are model.path and its like
        text = str(error).replace("model.path", "pretrained")
        raise UserError(text.replace("model.revision", "revision").replace("model.tokenizer", "tokenizer")) from error


def read_batch_size(value: Any) -> int | None:
    """lm-eval's `auto` and `auto:N` are as many as fit; its command line gives numbers as text."""
    if str(value).split(":")[0] == "auto":
        return None
    return whole_number("batch_size", int(value) if isinstance(value, str) and value.isdecimal() else value)


def available(device: str) -> str:
    """lm-eval asks for its default, the first CUDA device, also where there is none."""
    return "auto" if device == "cuda:0" and not torch.cuda.is_available() else device


if __name__ == "__main__":
    main()
