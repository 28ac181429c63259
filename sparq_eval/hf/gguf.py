"""A GGUF file as a folder that transformers loads in a second: bfloat16 safetensors, config and tokenizer, made once.

transformers reads GGUF files too, but slowly, at each start, and with some tokenizers wrong. The converted folder lies
in the cache under the digest of the file it came from.
"""

import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch

from sparq_eval.errors import UserError
from sparq_eval.hf.gguf_families import Family, Source, family_of
from sparq_eval.hf.gguf_tokenizer import write_tokenizer
from sparq_eval.packages import alone, cache_dir, in_cache
from sparq_eval.progress import progress, say

VERSION = 1  # of the conversion: raise it when the same file would come out otherwise
BLOCK = 1 << 22  # weights in float32 at a time

OUTPUT, EMBEDDING = "output.weight", "token_embd.weight"


def converted(sha256: str) -> Path:
    """Where the folder made from the GGUF file with this digest lies, or will lie."""
    return cache_dir() / "models" / f"{sha256[:16]}-v{VERSION}"


def convert(source: Path, sha256: str) -> Path:
    """The folder made from `source`, whose digest is `sha256`: converted now if it never was. Whole or not there."""
    folder = converted(sha256)
    with in_cache():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with alone(folder.parent / f"{folder.name}.lock"):
            if not folder.is_dir():
                aside = folder.with_name(f".{folder.name}-{os.getpid()}")
                aside.mkdir()
                try:
                    _write(source, sha256, aside)
                    if not folder.is_dir():  # another process may have been first where a file system has no locks
                        os.rename(aside, folder)
                finally:
                    shutil.rmtree(aside, ignore_errors=True)
    return folder


def _write(path: Path, sha256: str, folder: Path) -> None:
    say(f"reading the vocabulary of {path.name}: up to half a minute, once")
    source = read(path)
    family = family_of(source)
    tied = _tied_copy(source)
    config = family.config(source, tie_word_embeddings=tied is not None)
    config.save_pretrained(folder)
    ids = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": config.eos_token_id,
        "pad_token_id": config.pad_token_id,
    }
    _write_json(folder / "generation_config.json", {"_from_model_config": True, **ids})
    write_tokenizer(source, folder, config.max_position_embeddings)
    _write_weights(source, family, tied, folder / "model.safetensors")
    made = {"source": path.name, "source_sha256": sha256, "converter": VERSION, "dtype": "bfloat16"}
    _write_json(folder / "provenance.json", {**made, "name": source.fields.get("general.name")})


def read(path: Path) -> Source:
    """The metadata and the tensors of a GGUF file, still quantised and mapped, not read."""
    try:
        reader = gguf.GGUFReader(path)
    except (ValueError, IndexError) as broken:
        raise UserError(f"model.path={path} is no whole GGUF file ({broken}): download it again") from broken
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return Source(path, fields, {tensor.name: tensor for tensor in reader.tensors})


def _tied_copy(source: Source) -> str | None:
    """Which tensor serves both ends of the model: the embedding, if there is no other.

    Quantisers store a tied matrix twice, the output finer. Two quantisations of one matrix differ by a few per cent,
    two matrices by all: such a pair is tied again, on the finer copy.
    """
    if OUTPUT not in source.tensors:
        return EMBEDDING
    head, embedding = source.tensors[OUTPUT], source.tensors[EMBEDDING]
    rows = slice(0, min(1024, len(head.data)))
    x, y = (gguf.dequantize(tensor.data[rows], tensor.tensor_type).ravel() for tensor in (head, embedding))
    if x.shape != y.shape or np.dot(x, y) < 0.98 * np.linalg.norm(x) * np.linalg.norm(y):
        return None
    return OUTPUT if head.n_bytes >= embedding.n_bytes else EMBEDDING


def _write_weights(source: Source, family: Family, tied: str | None, path: Path) -> None:
    """Stream every tensor into one safetensors file, so that memory holds a block of it at a time."""
    names = dict(family.names(source))
    if tied is not None:
        names.pop(OUTPUT, None)
        names[tied] = names.pop(EMBEDDING)
    order = sorted(names, key=lambda name: names[name])
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name in order:
        shape = [int(size) for size in reversed(source.tensors[name].shape)]
        start, end = end, end + 2 * math.prod(shape)
        header[names[name]] = {"dtype": "BF16", "shape": shape, "data_offsets": [start, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    with path.open("wb") as file, progress(f"converting {source.path.name}", end / 1e6, "MB") as advance:
        file.write(len(head).to_bytes(8, "little") + head)
        for name in order:
            for block in _bfloat16(source.tensors[name], family.row_order(source, name), family.offset(name)):
                file.write(block)
                advance(len(block) / 1e6)


def _bfloat16(
    tensor: gguf.ReaderTensor, row_order: Callable[[int], np.ndarray] | None, offset: float
) -> Iterator[bytes]:
    """The tensor's values plus `offset`, rounded to bfloat16, some rows at a time in `row_order`."""
    data = tensor.data if tensor.data.ndim > 1 else tensor.data[None]
    if row_order is not None:
        data = data[row_order(len(data))]
    step = max(1, BLOCK * len(data) // tensor.n_elements)
    for start in range(0, len(data), step):
        values = gguf.dequantize(data[start : start + step], tensor.tensor_type).astype(np.float32) + np.float32(offset)
        yield torch.from_numpy(values).to(torch.bfloat16).view(torch.int16).numpy().tobytes()


def _write_json(path: Path, value: dict[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
