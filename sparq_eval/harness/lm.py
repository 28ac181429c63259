"""lm-eval's requests made ours and our answers made lm-eval's, by the conventions of its own Hugging Face models.

Those are: white space at the end of a context belongs to the continuation; a text without context follows the
tokenizer's first special token; what is too long loses its beginning, special tokens too; a rolling text is cut into
windows of the model's context.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import takewhile
from typing import Any, Self

from lm_eval.__main__ import cli_evaluate
from lm_eval.api.instance import Instance
from lm_eval.api.model import CacheHook, TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, has_bos_prefix, normalize_gen_kwargs
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window, simple_parse_args_string

from sparq_eval.errors import UserError
from sparq_eval.progress import say
from sparq_eval.request import Answer, Request

Response = str | float | tuple[float, bool]
MOST_GENERATED = 256  # tokens where a task does not say
# beside these, greedy decoding knows no options; those of sampling mean nothing to it
GREEDY = {"until", "max_gen_toks", "do_sample", "temperature", "top_p", "top_k", "min_p", "typical_p", "seed"}


class EngineLM(TemplateLM):
    """A model for lm-eval whose answers come from `answer`, in any order.

    context_length: positions of the model. ends: tokens that end a generated text. whole: leave prompts whole that are
    too long, for someone else to refuse; otherwise they lose their beginning.
    Its log-likelihoods are those of the answers: only the context is prefilled, so each token of a continuation but its
    first is predicted by decoding. Generation is plain greedy decoding: penalties that a checkpoint's own generation
    config asks for are not applied.
    """

    def __init__(
        self,
        tokenizer: Any,
        answer: Callable[[Sequence[Request]], Iterable[Answer]] | None,
        *,
        context_length: int,
        ends: Sequence[int] = (),
        whole: bool = False,
    ) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.answer = answer
        self.max_length = context_length
        self.max_gen_toks = MOST_GENERATED
        self.ends = tuple(ends)
        self.whole = whole
        self.special = set(tokenizer.all_special_ids)

    @classmethod
    def create_from_arg_obj(cls, arg_dict: dict[str, Any], additional_config: dict[str, Any] | None = None) -> Self:
        """What is in the model's arguments goes before options of the command line, which always have a value."""
        options = {key: value for key, value in (additional_config or {}).items() if value is not None}
        options.pop("max_batch_size", None)
        return cls(**(options | arg_dict))

    @classmethod
    def create_from_arg_string(cls, arg_string: str, additional_config: dict[str, Any] | None = None) -> Self:
        return cls.create_from_arg_obj(simple_parse_args_string(arg_string), additional_config)

    @property
    def eot_token_id(self) -> int:
        return self.tokenizer.eos_token_id

    @property
    def prefix_token_id(self) -> int:
        first = self.tokenizer.bos_token_id
        return self.tokenizer.eos_token_id if first is None else first

    @property
    def tokenizer_name(self) -> str:
        return str(self.tokenizer.name_or_path).replace("/", "__")

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        return self.tokenizer.apply_chat_template(
            chat_history,
            tokenize=False,
            add_generation_prompt=add_generation_prompt,
            continue_final_message=not add_generation_prompt,
        )

    def set_cache_hook(self, cache_hook: CacheHook) -> None:
        say("note: the keys of --use_cache hold neither model nor method: give each setting a file of its own")
        super().set_cache_hook(cache_hook)

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; special tokens before the text unless it begins with them itself."""
        if add_special_tokens is None:
            prefix = self.prefix_token_id
            add_special_tokens = prefix is None or not has_bos_prefix(string, self.tokenizer.decode(prefix))
        return self.tokenizer.encode(string, add_special_tokens=add_special_tokens, verbose=False)

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        return self.respond(requests)

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return self.respond(requests)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        return self.respond(requests)

    def _loglikelihood_tokens(self, requests: Any, **kwargs: Any) -> list[tuple[float, bool]]:
        raise NotImplementedError("log-likelihoods are asked for by text")

    def respond(self, instances: Sequence[Instance]) -> list[Any]:
        """lm-eval's responses to instances of one kind, in their order."""
        if self.answer is None:
            raise ValueError("this model only writes requests")
        written = []
        for index, instance in enumerate(instances):
            written += self.write(instance, index, f"{instance.task_name} {instance.doc_id}")
        answers = defaultdict(list)
        for answer in self.answer(written):
            answers[answer.index].append(answer)
        responses = []
        for index, instance in enumerate(instances):
            response = respond(instance.request_type, sorted(answers[index], key=lambda answer: answer.part))
            self.cache_hook.add_partial(instance.request_type, instance.args, response)
            responses.append(response)
        return responses

    def write_all(self, instances: Sequence[Instance], index: int, id: str) -> list[Request]:
        """Requests of an example that has several instances, numbered through."""
        written = [request for instance in instances for request in self.write(instance, index, id)]
        return [replace(request, part=part) for part, request in enumerate(written)]

    def write(self, instance: Instance, index: int, id: str) -> list[Request]:
        """One request, or one for each window of a rolling text."""
        blank = Request(
            index, id, (), 0, text="" if instance.request_type.endswith("rolling") else str(instance.args[0])
        )
        match instance.request_type:
            case "generate_until":
                return [self._generate(blank, *instance.args[:2])]
            case "loglikelihood":
                return [self._score(blank, *self._pair(*instance.args[:2]))]
            case "loglikelihood_rolling":
                return self._roll(blank, instance.args[0])
            case kind:
                raise UserError(f"task={instance.task_name}: requests of the kind {kind} are not known here")

    def _generate(self, request: Request, text: str, options: dict[str, Any]) -> Request:
        if unknown := sorted(set(options) - GREEDY - {"max_new_tokens", "max_tokens", "max_completion_tokens"}):
            raise UserError(f"generation_kwargs {unknown[0]}={options[unknown[0]]}: only greedy decoding is done here")
        greedy: dict[str, Any] = dict(normalize_gen_kwargs(options, MOST_GENERATED))
        if greedy["do_sample"]:
            temperature = options.get("temperature")
            raise UserError(
                f"generation_kwargs do_sample={options.get('do_sample')}, temperature={temperature}: only greedy "
                "decoding is done here; do_sample=false asks for it"
            )
        steps = greedy["max_gen_toks"]
        most = self.max_length - steps
        if steps < 1 or (most < 1 and not self.whole):
            raise UserError(
                f"generation_kwargs max_gen_toks={steps}: must leave room for a prompt in a context of "
                f"{self.max_length} tokens"
            )
        end = None if self.eot_token_id is None else self.tokenizer.decode(self.eot_token_id)
        until = handle_stop_sequences(greedy.get("until"), eos=end)
        tokens = self.tok_encode(text) or [self.prefix_token_id]
        return replace(
            request,
            prompt=tuple(tokens if self.whole else tokens[-most:]),
            prompt_tokens=self._text_tokens(tokens),
            truncated=not self.whole and len(tokens) > most,
            steps=steps,
            until=tuple(stop for stop in until if stop),
            ends=self.ends,
            literal=True,
        )

    def _pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Tokens of both; where there is no context, the continuation follows the first special token."""
        if context:
            return self._encode_pair(context, continuation)
        tokens = self.tok_encode(continuation, add_special_tokens=False)
        if tokens[:1] == [self.prefix_token_id]:
            return tokens[:1], tokens[1:]
        return [self.prefix_token_id], tokens

    def _score(self, request: Request, context: list[int], continuation: list[int]) -> Request:
        if not context or not 0 < len(continuation) <= self.max_length:
            raise UserError(
                f"{request.id}: {len(context)} tokens of context and {len(continuation)} to score; there must be one "
                f"of each at least, and no more than {self.max_length} to score"
            )
        # the last token is never fed
        over = max(0, len(context) + len(continuation) - 1 - self.max_length) if not self.whole else 0
        return replace(
            request,
            prompt=tuple(context[over:]),
            prompt_tokens=self._text_tokens(context),
            truncated=over > 0,
            forced=tuple(continuation),
        )

    def _roll(self, request: Request, text: str) -> list[Request]:
        windows = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.max_length, context_len=1)
        requests = []
        for part, window in enumerate(windows):
            context, forced = make_disjoint_window(window)
            requests.append(
                replace(
                    request,
                    part=part,
                    prompt=tuple(context),
                    prompt_tokens=self._text_tokens(context) + len(forced) // 2,
                    forced=tuple(forced),
                )
            )
        return requests

    def _text_tokens(self, tokens: Sequence[int]) -> int:
        """How many tokens there are without the special ones at the beginning."""
        return len(tokens) - sum(1 for _ in takewhile(self.special.__contains__, tokens))


def hand_over(name: str, model: type[EngineLM]) -> None:
    """lm-eval's own command line, which knows this model by this name."""
    register_model(name)(model)
    cli_evaluate()


def respond(kind: str, answers: Sequence[Answer]) -> Response:
    """What lm-eval expects of a model for an instance of this kind, answered in these parts."""
    if kind == "generate_until":
        return answers[0].output
    values = [answer.loglikelihood for answer in answers]
    if None in values:
        raise ValueError(f"answer {answers[0].index} has no log-likelihood, which its task is scored by")
    total = math.fsum(value for value in values if value is not None)
    return total if kind == "loglikelihood_rolling" else (total, all(answer.greedy for answer in answers))
