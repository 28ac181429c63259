"""A tiny model in a folder, and a folder of lm-eval's kind of tasks whose data are files: one of each output type."""

import json
from pathlib import Path
from typing import Any

import torch
import yaml
from opened import bytes_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM

CONTEXT = 96
QUESTIONS = [
    ("The capital of France is", [" London", " Paris", " Berlin"], 1),
    ("Water is hydrogen and", [" oxygen", " iron", " coal dust"], 0),
    ("The opposite of hot is ", ["warm", "tall", "cold"], 2),
    ("A dog is an", [" animal", " orange", " idea of late"], 0),
    ("After nine comes", [" eight", " ten"], 1),
]
LONG = "It was said of old that a tale goes on as long as someone listens, and that it ends with a yawn. "
PLAIN = {"metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}]}
TASKS: dict[str, dict[str, Any]] = {
    "my_choice": {
        "output_type": "multiple_choice",
        "doc_to_choice": "choices",
        "doc_to_target": "answer",
        "target_delimiter": "",
        "num_fewshot": 1,
        "fewshot_split": "train",
        "metric_list": [
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
            {"metric": "acc_norm", "aggregation": "mean", "higher_is_better": True},
            {"metric": "mcc", "aggregation": "matthews_corrcoef", "higher_is_better": True},
        ],
        "tag": "my_both",
    },
    "my_words": {
        "output_type": "generate_until",
        "doc_to_target": "{{choices[answer]}}",
        "generation_kwargs": {"until": ["\n", "e"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [
            {"metric": "bleu", "aggregation": "bleu", "higher_is_better": True},
            {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True},
        ],
        "tag": "my_both",
    },
    "my_ending": {
        "output_type": "loglikelihood",
        "doc_to_target": "{{choices[answer]}}",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
    },
    "my_start": {"output_type": "loglikelihood", "doc_to_text": "", "doc_to_target": "question", **PLAIN},
    "my_late": {"output_type": "loglikelihood", "doc_to_text": "long", "doc_to_target": "question", **PLAIN},
    "my_text": {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "long",
        "metric_list": [
            {"metric": "word_perplexity", "aggregation": "weighted_perplexity", "higher_is_better": False},
            {"metric": "bits_per_byte", "aggregation": "bits_per_byte", "higher_is_better": False},
        ],
    },
    "my_sample": {
        "output_type": "generate_until",
        "doc_to_target": "question",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 12, "do_sample": True, "temperature": 0.7},
    },
    "my_scores": {
        "output_type": "generate_until",
        "doc_to_target": "question",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 80},
        "metric_list": [{"metric": "bleu", "aggregation": "bleu", "higher_is_better": True}],
    },
    "my_essay": {
        "output_type": "generate_until",
        "doc_to_text": "long",
        "doc_to_target": "question",
        "generation_kwargs": {"until": ["\n"], "max_gen_toks": 20},
        "metric_list": [{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    },
}


def write_tasks(folder: Path, name: str = "data.jsonl", **changes: Any) -> Path:
    """The folder with a YAML for each task over one file of documents; changes: fields of every task."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [
        json.dumps({"question": q, "choices": c, "answer": a, "long": LONG[: 15 + 45 * n]})
        for n, (q, c, a) in enumerate(QUESTIONS)
    ]
    (folder / name).write_text("\n".join(lines), encoding="utf-8")
    files = {"train": str(folder / name), "test": str(folder / name)}
    common = {
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": files},
        "test_split": "test",
        "doc_to_text": "question",
        "metadata": {"version": 1},
    }
    for task, settings in TASKS.items():
        text = yaml.safe_dump({"task": task, **common, **settings, **changes})
        (folder / f"{task}.yaml").write_text(text, encoding="utf-8")
    group = {"group": "my_texts", "task": ["my_start", {"task": "my_ending", "description": "Go on: "}]}
    (folder / "my_texts.yaml").write_text(yaml.safe_dump(group), encoding="utf-8")
    return folder


def write_model(folder: Path) -> Path:
    """A random Llama of 96 positions whose tokens are bytes, a start and an end."""
    torch.manual_seed(11)
    tokenizer = bytes_tokenizer()
    tokenizer.add_special_tokens({"eos_token": "</s>"})
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.3,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        dtype="float32",
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
