"""GGUF: a tiny model written in GGUF's layout and converted back is the same model; tokenizers are the publishers'."""

import gzip
import hashlib
import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from gguf.constants import GGMLQuantizationType as Kind
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from sparq_eval.errors import UserError
from sparq_eval.hf.checkpoint import open_checkpoint
from sparq_eval.hf.gguf import convert, converted, read
from sparq_eval.hf.gguf_families import family_of
from sparq_eval.packages import cache_dir, file_sha256

pytestmark = pytest.mark.models

SIZES = dict(hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2)
BYTES = [chr(c) for c in (*range(33, 127), *range(161, 173), *range(174, 256), *range(256, 324))]  # GPT-2's alphabet
BPE_TOKENS = ["<|end|>", *BYTES, "in", "12", "Ġin"]
SPM_TOKENS = ["<pad>", "<eos>", "<bos>", "<unk>", "  ", *(f"<0x{i:02X}>" for i in range(256)), "in", "▁in", *"ina▁1"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(tmp_path / "cache"))


def tiny(family: str, tied: bool = True) -> PreTrainedModel:
    """A random model whose weights are exact in bfloat16."""
    torch.manual_seed(0)
    classes = {
        "llama": (LlamaConfig, LlamaForCausalLM),
        "qwen2": (Qwen2Config, Qwen2ForCausalLM),
        "qwen3": (Qwen3Config, Qwen3ForCausalLM),
        "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM),
    }
    config_class, model_class = classes[family]
    sizes = {**SIZES, "vocab_size": len(SPM_TOKENS if family == "gemma3" else BPE_TOKENS), "tie_word_embeddings": tied}
    if family in ("qwen3", "gemma3"):
        sizes["head_dim"] = 32
    if family == "gemma3":
        sizes |= {"sliding_window": 4, "query_pre_attn_scalar": 32, "num_hidden_layers": 6}
    model = model_class(config_class(**sizes)).eval()
    for weight in model.parameters():
        weight.data = (torch.randn_like(weight) * 0.3).to(torch.bfloat16).float()
    return model


def publish(model: PreTrainedModel, path: Path, family: str, kind: Kind = Kind.F32, words: str = "smollm") -> Path:
    """Write a model as a GGUF file the way llama.cpp lays it out."""
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_context_length(256)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    if family in ("qwen3", "gemma3"):
        writer.add_key_length(config.head_dim)
    if family == "gemma3":
        writer.add_rope_freq_base(1e6)
        writer.add_sliding_window(config.sliding_window)
    else:
        writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    add_vocabulary(writer, family, words)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        rows = weight.numpy()
        if family == "llama" and name.endswith(("q_proj.weight", "k_proj.weight")):
            heads = config.num_attention_heads if "q_proj" in name else config.num_key_value_heads
            rows = rows.reshape(heads, 2, -1, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
        if family == "gemma3" and "norm" in name:
            rows = rows + 1
        ours = names.get_name(name, try_suffixes=(".weight", ".bias"))
        kept = Kind.F32 if rows.ndim == 1 or rows.shape[-1] % 32 else kind
        writer.add_tensor(ours, gguf.quantize(np.ascontiguousarray(rows), kept), raw_dtype=kept)
    for write in (
        writer.write_header_to_file,
        writer.write_kv_data_to_file,
        writer.write_tensors_to_file,
        writer.close,
    ):
        write()
    return path


def add_vocabulary(writer: gguf.GGUFWriter, family: str, words: str) -> None:
    sentence_piece = family == "gemma3"
    tokens = SPM_TOKENS if sentence_piece else BPE_TOKENS
    kinds = [1] * len(tokens)
    kinds[0] = 3
    writer.add_tokenizer_model("llama" if sentence_piece else "gpt2")
    writer.add_tokenizer_pre("default" if sentence_piece else words)
    writer.add_token_list(tokens)
    if sentence_piece:
        kinds[:5], kinds[5:261] = [3, 3, 3, 3, 4], [6] * 256
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_eos_token_id(1)
        writer.add_unk_token_id(3)
        writer.add_add_space_prefix(False)
    else:
        writer.add_token_merges(["i n", "1 2", "Ġ in"])
        writer.add_eos_token_id(0)
    writer.add_token_types(kinds)
    writer.add_bos_token_id(2 if sentence_piece else 0)
    writer.add_add_bos_token(sentence_piece)


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


@pytest.mark.parametrize(
    ("family", "tied"),
    [("llama", True), ("llama", False), ("qwen2", True), ("qwen2", False), ("qwen3", True), ("gemma3", True)],
)
def test_a_model_written_as_gguf_and_converted_back_is_the_same_model(tmp_path: Path, family: str, tied: bool) -> None:
    model = tiny(family, tied)
    file = publish(model, tmp_path / "m.gguf", family)
    opened = open_checkpoint("m", str(file))
    back = opened.load("float32", attention="sdpa")
    torch.testing.assert_close(logits(back), logits(model), rtol=0, atol=1e-5)
    assert opened.config.tie_word_embeddings == tied
    assert opened.identity == {"source": "gguf", "sha256": file_sha256(file), "converter": 1}


@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma3"])
def test_the_values_are_those_that_transformers_reads(tmp_path: Path, family: str) -> None:
    file = publish(tiny(family), tmp_path / "m.gguf", family, Kind.Q8_0)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name, dtype=torch.float32).state_dict()
    ours = load_file(convert(file, "0" * 64) / "model.safetensors")
    assert ours and all(torch.equal(ours[name], theirs[name].to(torch.bfloat16)) for name in ours)
    assert set(theirs) - set(ours) <= {"lm_head.weight"}


def test_two_quantisations_of_one_matrix_are_tied_again_on_the_finer(tmp_path: Path) -> None:
    model = tiny("qwen2", tied=False)
    model.lm_head.weight.data = model.model.embed_tokens.weight.data + 0.001
    weights = load_file(convert(publish(model, tmp_path / "m.gguf", "qwen2"), "0" * 64) / "model.safetensors")
    assert "lm_head.weight" not in weights
    assert torch.equal(weights["model.embed_tokens.weight"], model.lm_head.weight.data.to(torch.bfloat16))


def test_a_file_is_converted_once_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    file = publish(tiny("llama"), tmp_path / "m.gguf", "llama")
    folder = convert(file, "0" * 64)
    file.unlink()
    assert convert(file, "0" * 64) == folder
    assert {path.name for path in folder.parent.iterdir()} == {folder.name, f"{folder.name}.lock"}
    assert json.loads((folder / "provenance.json").read_text())["source_sha256"] == "0" * 64


def test_an_interrupted_conversion_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = publish(tiny("llama"), tmp_path / "m.gguf", "llama")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("sparq_eval.hf.gguf.write_tokenizer", interrupt)
    with pytest.raises(KeyboardInterrupt):
        convert(file, "0" * 64)
    assert [path.suffix for path in (cache_dir() / "models").iterdir()] == [".lock"]


def test_an_unknown_architecture_lists_the_known_ones(tmp_path: Path) -> None:
    file = publish(tiny("llama"), tmp_path / "m.gguf", "llama")
    source = read(file)
    source.fields["general.architecture"] = "mamba"
    with pytest.raises(UserError, match=r"'mamba'.*llama, qwen2, qwen3, gemma3"):
        family_of(source)


def test_a_torn_file_is_refused(tmp_path: Path) -> None:
    file = publish(tiny("llama"), tmp_path / "m.gguf", "llama")
    file.write_bytes(file.read_bytes()[:-5000])
    with pytest.raises(UserError, match=r"m\.gguf is no whole GGUF file"):
        open_checkpoint("m", str(file))


@pytest.mark.parametrize(
    ("words", "expected"),
    [("smollm", ["Ġin", "1", "2", "in"]), ("default", ["Ġin", "12", "in"]), ("qwen2", ["Ġin", "1", "2", "in"])],
)
def test_byte_level_text_is_cut_as_its_publisher_cuts_it(tmp_path: Path, words: str, expected: list[str]) -> None:
    file = publish(tiny("llama"), tmp_path / "m.gguf", "llama", words=words)
    tokenizer = AutoTokenizer.from_pretrained(convert(file, "0" * 64))
    assert tokenizer.tokenize(" in12in") == expected
    assert (tokenizer.bos_token is None) == (words == "qwen2")
    text = "añ 12\n\n in<|end|>"
    ids = tokenizer.encode(text)
    assert ids[-1] == tokenizer.eos_token_id == 0 and tokenizer.decode(ids) == text


def test_sentence_pieces_fall_back_to_bytes_after_a_bos(tmp_path: Path) -> None:
    file = publish(tiny("gemma3"), tmp_path / "m.gguf", "gemma3")
    tokenizer = AutoTokenizer.from_pretrained(convert(file, "0" * 64))
    ids = tokenizer.encode("in in  aé")
    assert tokenizer.convert_ids_to_tokens(ids) == ["<bos>", "in", "▁in", "▁▁", "a", "<0xC3>", "<0xA9>"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "in in  aé"
    assert tokenizer.encode("in", add_special_tokens=False) == ids[1:2]


def test_an_unknown_way_of_cutting_words_asks_for_a_tokenizer(tmp_path: Path) -> None:
    file = publish(tiny("llama"), tmp_path / "m.gguf", "llama", words="tekken")
    with pytest.raises(UserError, match=r"'tekken'.*model\.tokenizer="):
        open_checkpoint("m", str(file))


@pytest.mark.real
def test_the_needle_prompts_of_the_default_model_have_the_golden_ids(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SPARQ_EVAL_CACHE")
    folder = converted("b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53")
    if not folder.is_dir():
        pytest.skip("smollm2-135m is not in the package cache")
    tokenizer = AutoTokenizer.from_pretrained(folder, model_max_length=1 << 30)

    def ids(text: str) -> list[int]:
        return tokenizer.encode(text, add_special_tokens=False)

    with gzip.open(shared / "data/mirror/paul_graham/train.jsonl.gz", "rt", encoding="utf-8") as file:
        essays = [json.loads(line)["content"] for line in file]
    np.random.RandomState(4852341).shuffle(essays)
    longest = 8192 - 128
    haystack = ids("\n\n".join(essays)[: int(1 + np.mean([len(token) for token in tokenizer.get_vocab()])) * longest])
    needle = "The best thing to do in San Francisco is to eat a sandwich and sit in Dolores Park on a sunny day.\n"
    question = '.\n\n\nWhat is the best thing to do in San Francisco? "The best thing to do in San Francisco is to'
    for line in (shared / "golden/prompts/needle_smollm2-135m_8192.jsonl").read_text(encoding="utf-8").splitlines():
        golden = json.loads(line)
        i = int(golden["depth"] * golden["length"])
        prompt = [tokenizer.bos_token_id, *ids("Articles by Paul Graham:\n"), *haystack[:i]]
        prompt += [*ids((".\n" if i else "") + needle), *haystack[i : golden["length"]], *ids(question)]
        digest = hashlib.sha256(" ".join(map(str, prompt)).encode()).hexdigest()
        assert digest == golden["token_ids_sha256"], golden["id"]
