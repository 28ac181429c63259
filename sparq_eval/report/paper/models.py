"""What the paper measured: its models, tasks and numbers of examples, and the commands that measure the same here."""

from dataclasses import dataclass

PROGRAM = "python -m sparq_eval"


@dataclass(frozen=True)
class PaperModel:
    """name: in configs/model. path: in the published files. figure: which of A1 to A3 it is in. row: in Table 2."""

    name: str
    path: str
    figure: str = ""
    row: str = ""


LLAMA2_7B = PaperModel("llama2-7b", "meta-llama/Llama-2-7b-hf", "figA1")
LLAMA2_13B = PaperModel("llama2-13b", "meta-llama/Llama-2-13b-hf", "figA1", "Llama 2 13B")
VICUNA = PaperModel("vicuna-7b-16k", "lmsys/vicuna-7b-v1.5-16k")
NEEDLE_MODEL = PaperModel("llama2-7b-32k", "togethercomputer/LLaMA-2-7B-32K")
MODELS = (
    LLAMA2_7B,
    LLAMA2_13B,
    PaperModel("llama3-8b", "meta-llama/Meta-Llama-3-8B", "figA1", "Llama 3 8B"),
    PaperModel("mistral-7b", "mistralai/Mistral-7B-v0.1", "figA2", "Mistral 7B"),
    PaperModel("gemma-7b", "google/gemma-7b", "figA2", "Gemma 7B"),
    PaperModel("pythia-1.4b", "EleutherAI/pythia-1.4b", "figA3"),
    PaperModel("pythia-2.8b", "EleutherAI/pythia-2.8b", "figA3"),
    PaperModel("pythia-6.9b", "EleutherAI/pythia-6.9b", "figA3", "Pythia 6.9B"),
    VICUNA,
    NEEDLE_MODEL,
)
# task: examples
TASKS = {"squad": 4000, "triviaqa": 2992, "cnn_dailymail": 500, "wikitext_bpc": 500, "repetition": 1000}
LENGTHS = {f"squad_train_{contexts}": 1000 for contexts in (3, 7, 15, 31, 63)}
NEEDLES = 544
# of its trade-offs, beside dense
METHODS = ("sparq", "h2o", "lm_infinite", "flexgen")
SAMPLES = {**TASKS, **LENGTHS, "needle": NEEDLES}
# which of the settings that a grid has the paper shows, where it has both
REALLOCATE = {"gemma-7b": True, "llama3-8b": False}


@dataclass(frozen=True)
class Missing:
    """what: model and task, or device, in words. command: a line for a shell that measures it."""

    what: str
    command: str


def missing(model: str, task: str) -> Missing:
    """A model and task of the paper, in the paper's own settings."""
    return Missing(f"{model} {task}", measure(model, task, "grid=paper"))


def measure(model: str, task: str, settings: str) -> str:
    return f"{PROGRAM} model={model} {settings} protocol=paper task={task} samples={SAMPLES[task]}"


def home(model: str) -> str:
    """The figure, A1 to A3, that a model is in; one that the paper has not is beside its family, or the small ones."""
    known = {one.name: one.figure for one in MODELS if one.figure}
    families = {"llama": "figA1", "vicuna": "figA1", "mistral": "figA2", "gemma": "figA2"}
    return known.get(model) or next((figure for name, figure in families.items() if model.startswith(name)), "figA3")
