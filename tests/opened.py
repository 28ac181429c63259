"""Tasks opened as the tests need them: with a tokenizer that is made here, over few and short prompts."""

from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from sparq_eval.harness.task import Data, Protocol, Task, open_task


def bytes_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """A token per byte, with one before the text if `bos`."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({letter: n for n, letter in enumerate(letters)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if not bos:
        return PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", len(letters))])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>")


def opened(name: str, data: Data, tokenizer: Any = None, model_name: str = "m", **protocol: Any) -> Task:
    if name == "needle":
        protocol = {"needle_lengths": (50, 100), "needle_depths": 3} | protocol
    tokenizer = tokenizer or bytes_tokenizer()
    return open_task(name, data, tokenizer, model_name=model_name, context_length=8192, protocol=Protocol(**protocol))
