"""What a task asks of an engine, and what it gets back: plain values that neither side owns."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Request:
    """One example of a task, ready for a model.

    part: which of its example's requests it is, where there are several (the options of a multiple choice).
    prompt: token ids, special tokens included, truncated if the run truncates.
    prompt_tokens: tokens of the whole prompt without special tokens and before truncation: S in the paper's formulas.
    Of a text that is scored without a prompt, the mean number of tokens before each of its own.
    steps: tokens to generate, at most. `until` ends the answer earlier, before the first of these strings that comes
    after the output's first letter or digit; `ends` are token ids that end it.
    literal: strings of `until` count from the output's first character, and special tokens are no part of it.
    forced: where the task gives the text itself, its token ids: they are scored and nothing is generated.
    context: the first tokens of `prompt` that are the task's context (0 where it has none).
    text: of the prompt, whole. cluster: what its example shares with others, "" for nothing.
    """

    index: int
    id: str
    prompt: tuple[int, ...]
    prompt_tokens: int
    steps: int = 0
    until: tuple[str, ...] = ()
    forced: tuple[int, ...] = ()
    context: int = 0
    truncated: bool = False
    part: int = 0
    ends: tuple[int, ...] = ()
    literal: bool = False
    text: str = ""
    cluster: str = ""

    @property
    def effort(self) -> int:
        """Tokens that answering takes, at most: what progress counts."""
        return len(self.prompt) + self.steps + len(self.forced)


@dataclass(frozen=True)
class Traffic:
    """Elements moved between memory and processor per generated token, over all layers and key/value heads.

    nominal, nominal_dense: the paper's formula for the setting and for dense, S counted as the run's `accounting` says.
    counted, counted_dense: what the setting really selected at its decode steps, and what dense moves at the same
    steps; nan where no decode step was taken.
    """

    nominal: float
    nominal_dense: float
    counted: float
    counted_dense: float


@dataclass(frozen=True)
class Certificate:
    """Whether a method really acted on an answer.

    steps: one-query steps that the answer took; calls: attention calls of these steps that went through the method,
    over all layers; sparse_steps: at how many steps some position was left out, mean over layers; layers_active: in how
    many layers that ever happened.
    """

    steps: int = 0
    calls: int = 0
    sparse_steps: float = 0.0
    layers_active: int = 0


@dataclass(frozen=True)
class Answer:
    """What one setting answered to one request, whose `index` and `part` it has.

    tokens: generated ids (cut at `until`), or the forced ones; output: their text. token_lengths: how many characters
    of it each generated token adds, 0 where a character is not whole yet.
    loglikelihood: sum of log-probabilities in nats of the forced tokens (None when generating); greedy: whether each of
    them was the likeliest.
    finite: whether all logits were.
    """

    index: int
    tokens: tuple[int, ...]
    output: str
    traffic: Traffic
    certificate: Certificate = Certificate()
    loglikelihood: float | None = None
    greedy: bool | None = None
    finite: bool = True
    part: int = 0
    token_lengths: tuple[int, ...] = ()
