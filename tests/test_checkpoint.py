"""Checkpoints: every kind of source opens without its weights, says what it is, and fails in the user's words."""

import json
import re
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub.errors import (
    GatedRepoError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import (
    BertConfig,
    BertForMaskedLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipVisionConfig,
)

from sparq_eval.errors import UserError
from sparq_eval.hf.bundle import Bundle
from sparq_eval.hf.checkpoint import open_checkpoint, torch_dtype

pytestmark = pytest.mark.models

MODELS = sorted((Path(__file__).resolve().parents[1] / "configs" / "model").glob("*.yaml"))
SIZES = dict(
    vocab_size=64,
    hidden_size=64,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    pad_token_id=0,
)


@pytest.fixture(autouse=True)
def _own_cache_and_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPARQ_EVAL_CACHE", str(tmp_path / "cache"))
    torch.manual_seed(0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save(LlamaForCausalLM(LlamaConfig(**SIZES, dtype="bfloat16")), tmp_path / "llama")


def save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder


def logits(model: PreTrainedModel) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(20)[None]).logits


def settings(path: Path) -> dict:
    read = yaml.safe_load(path.read_text(encoding="utf-8"))
    for base in read.pop("defaults", []):
        if base != "_self_":
            read = {**settings(path.with_name(f"{base}.yaml")), **read}
    return read


def test_a_folder_loads_in_eval_mode_in_the_dtype_asked_for(folder: Path) -> None:
    opened = open_checkpoint("m", str(folder))
    model = opened.load("float16", attention="sdpa")
    assert model.dtype == torch.float16 and not model.training
    assert opened.config.num_key_value_heads == 2 and opened.revision is None


def test_identity_follows_the_weights_and_not_the_place(folder: Path, tmp_path: Path) -> None:
    before = open_checkpoint("m", str(folder)).identity
    moved = folder.rename(tmp_path / "moved")
    assert open_checkpoint("other", str(moved)).identity == before
    LlamaForCausalLM(LlamaConfig(**SIZES)).save_pretrained(moved)
    assert open_checkpoint("m", str(moved)).identity != before


def test_a_digest_is_not_computed_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_checkpoint("m", str(folder)).identity
    monkeypatch.setattr("sparq_eval.packages.file_sha256", lambda *_: pytest.fail("computed again"))
    assert open_checkpoint("m", str(folder)).identity == before


def test_auto_is_float32_on_a_cpu_and_the_models_own_dtype_elsewhere() -> None:
    config = LlamaConfig(**SIZES, dtype="bfloat16")
    assert torch_dtype("auto", "cpu", config) == torch.float32
    assert torch_dtype("auto", "cuda:0", config) == torch.bfloat16
    with pytest.raises(UserError, match=r"dtype=half .*auto, float32, float16, bfloat16"):
        torch_dtype("half", "cpu", config)


@pytest.mark.parametrize("family", [(LlamaConfig, LlamaForCausalLM), (Qwen2Config, Qwen2ForCausalLM)])
def test_the_mha_twin_computes_the_same_function(tmp_path: Path, family: tuple) -> None:
    config_class, model_class = family
    path = str(save(model_class(config_class(**SIZES)), tmp_path / "m"))
    gqa, twin = open_checkpoint("m", path), open_checkpoint("m-mha", path, mha=True)
    assert twin.config.num_key_value_heads == 4 and gqa.config.num_key_value_heads == 2
    assert twin.identity == {**gqa.identity, "derived": "MHA: each KV head repeated 2 times"}
    model = twin.load("float32", attention="eager")
    assert model.config.num_key_value_heads == 4 and model.model.layers[0].self_attn.k_proj.out_features == 64
    torch.testing.assert_close(logits(model), logits(gqa.load("float32", attention="eager")), rtol=0, atol=1e-6)


def test_mha_of_an_mha_model_is_refused(tmp_path: Path) -> None:
    neox = GPTNeoXConfig(**{key: value for key, value in SIZES.items() if key != "num_key_value_heads"})
    path = save(GPTNeoXForCausalLM(neox), tmp_path / "neox")
    with pytest.raises(UserError, match=r"mha=true: pythia has a KV head for each query head already"):
        open_checkpoint("pythia", str(path), mha=True)


def test_mha_of_a_model_with_fused_projections_is_refused(tmp_path: Path) -> None:
    path = save(Phi3ForCausalLM(Phi3Config(**SIZES)), tmp_path / "phi")
    with pytest.raises(UserError, match=r"mha=true needs .* phi \(phi3\) fuses them"):
        open_checkpoint("phi", str(path), mha=True).load("float32", attention="sdpa")


def test_the_text_model_of_a_multimodal_gemma_is_read_alone(tmp_path: Path) -> None:
    text = Gemma3TextConfig(**SIZES, head_dim=16, sliding_window=8)
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    whole = Gemma3ForConditionalGeneration(Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1))
    opened = open_checkpoint("gemma3-4b", str(save(whole.eval(), tmp_path / "gemma")))
    assert opened.config.model_type == "gemma3_text"
    torch.testing.assert_close(logits(opened.load("float32", attention="sdpa")), logits(whole), rtol=0, atol=1e-6)


def test_a_missing_path_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "nothing", tmp_path / "m.gguf"):
        with pytest.raises(UserError, match=f"model.path={path} does not exist"):
            open_checkpoint("m", str(path))


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(b"")
    with pytest.raises(UserError, match=r"model\.bin is a file but not a \.gguf"):
        open_checkpoint("m", str(file))


def test_without_the_hub_the_other_ways_are_named() -> None:
    with pytest.raises(
        UserError, match=r"model=llama2-7b needs the hub .*model\.path=<folder\|file\.gguf>.*smollm2-135m"
    ):
        open_checkpoint("llama2-7b", "meta-llama/Llama-2-7b-hf")


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (GatedRepoError, r"model=m: a/b is gated: accept its licence"),
        (RepositoryNotFoundError, r"model\.path=a/b is neither a file or folder here nor a repository"),
        (RevisionNotFoundError, r"model\.revision=main is no branch, tag or commit of a/b"),
        (RemoteEntryNotFoundError, r"model\.path=a/b has no config\.json"),
    ],
)
def test_what_the_hub_refuses_is_said_plainly(monkeypatch: pytest.MonkeyPatch, error: type, sentence: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error.__new__(error)

    monkeypatch.setattr("sparq_eval.hf.hub.hf_hub_download", refuse)
    with pytest.raises(UserError, match=sentence):
        open_checkpoint("m", "a/b", revision="main")


def test_a_hub_id_becomes_a_commit(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparq_eval.hf.hub.hf_hub_download", lambda *_, **__: str(folder / "config.json"))
    opened = open_checkpoint("m", "a/b")
    assert opened.identity == {"source": "hub", "id": "a/b", "revision": folder.name}
    assert (opened.folder_or_id, opened.revision) == ("a/b", folder.name)


def test_no_path_at_all_is_asked_for() -> None:
    with pytest.raises(UserError, match=r"model=any needs model\.path=<hub id \| folder \| file\.gguf>"):
        open_checkpoint(**settings(next(path for path in MODELS if path.stem == "any")))


def test_an_encoder_is_refused(tmp_path: Path) -> None:
    sizes = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
    path = save(BertForMaskedLM(BertConfig(**sizes)), tmp_path / "bert")
    with pytest.raises(UserError, match="model=bert is no causal language model but BertForMaskedLM"):
        open_checkpoint("bert", str(path))


def test_code_from_a_repository_is_not_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "my_own", "auto_map": {"AutoConfig": "configuration_my_own.MyConfig"}}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"model=m: the installed transformers does not know"):
        open_checkpoint("m", str(folder))


def test_pickled_weights_are_refused(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=r"holds no \*\.safetensors; pickled weights are not read"):
        open_checkpoint("m", str(folder))


def test_missing_weights_are_refused(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 3, "layer_types": None}))
    with pytest.raises(UserError, match=r"lacks 9 weights, model\.layers\.2\."):
        open_checkpoint("m", str(folder)).load("float32", attention="sdpa")


def test_a_missing_tokenizer_is_asked_for(folder: Path) -> None:
    with pytest.raises(UserError, match=r"model=m: no tokenizer .*model\.tokenizer=<hub id or folder>"):
        _ = open_checkpoint("m", str(folder)).tokenizer


def test_cuda_without_a_device_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(UserError, match=r"device=cuda: .*device=cpu"):
        open_checkpoint("m", str(folder)).load(device="cuda", attention="sdpa")


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_model_file_has_the_settings_that_open_it(path: Path) -> None:
    read = settings(path)
    assert read["name"] == path.stem
    assert set(read) <= {"name", "path", "package", "revision", "tokenizer", "mha", "licence"}
    assert "package" in read or "path" in read
    if "package" in read:
        bundle = Bundle.of(read["package"])
        assert all(
            re.fullmatch("[0-9a-f]{64}", digest) for digest in (bundle.sha256, *(p.sha256 for p in bundle.parts))
        )
