"""A model before its weights are read: where it comes from, what it is, its config and its tokenizer.

It may be a hub id, a folder, a GGUF file or a bundle of packages. Opening it finds what is wrong with any of them;
`load` reads the weights.
"""

import copy
import hashlib
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import (
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    GenerationConfig,
    PretrainedConfig,
    PreTrainedModel,
)
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils import logging

from sparq_eval.errors import UserError
from sparq_eval.hf import gguf, hub, mha
from sparq_eval.hf.bundle import Bundle, prepare
from sparq_eval.packages import known_sha256

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
# multimodal checkpoints whose text model is read alone, and how its weights are renamed for that
WRAPPED = {"gemma3": {r"^(model\.)?language_model\.(model\.)?": "model."}}
HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")


@dataclass(frozen=True)
class Checkpoint:
    """name: as the user calls it. folder_or_id, revision: what transformers loads.

    config: of the text model; with `mha` it has as many KV heads as query heads.
    identity: says which weights these are wherever they lie: a hub commit or a sha256.
    repeats: of each KV head, for an MHA twin. wrapped_in: the kind of multimodal model that the text model is part of.
    """

    name: str
    folder_or_id: str
    revision: str | None
    config: PretrainedConfig
    identity: dict[str, Any]
    tokenizer_from: str
    repeats: int = 1
    wrapped_in: str | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """Reads the tokenizer when first asked for. It needs no padding token: batches are padded by ids."""
        revision = self.revision if self.tokenizer_from == self.folder_or_id else None
        try:
            tokenizer = AutoTokenizer.from_pretrained(self.tokenizer_from, revision=revision, trust_remote_code=False)
            # older versions of transformers make an empty one where there is no file
            if len(tokenizer) <= len(tokenizer.all_special_tokens):
                raise ValueError("it has no tokens but special ones")
            return tokenizer
        except (OSError, ValueError) as error:
            raise UserError(
                f"model={self.name}: no tokenizer could be read from {self.tokenizer_from} ({_first_line(error)}); "
                "give model.tokenizer=<hub id or folder>"
            ) from error

    @cached_property
    def ends(self) -> tuple[int, ...]:
        """Tokens that end a generated text, as transformers' own generation would know them."""
        try:
            found = GenerationConfig.from_pretrained(self.folder_or_id, revision=self.revision).eos_token_id
        except OSError:
            found = self.config.eos_token_id
        known = [found] if isinstance(found, int) else found or []
        return tuple(dict.fromkeys(token for token in (*known, self.tokenizer.eos_token_id) if token is not None))

    def load(
        self,
        dtype: str = "auto",
        device: str = "cpu",
        attention: str = "sparq_eval",
        modules: Mapping[str, int | str] | None = None,
    ) -> PreTrainedModel:
        """The model in eval mode, its weights read straight into `dtype` on `device`.

        dtype=auto is float32 on a CPU and the checkpoint's own elsewhere. `attention` is a name in transformers'
        attention interface. modules: where each module goes, if not all to `device`.
        """
        kind = torch_dtype(dtype, device, self.config)
        if not sys.stderr.isatty():
            logging.disable_progress_bar()
        if device.startswith("cuda") and not torch.cuda.is_available():
            raise UserError(f"device={device}: torch sees no CUDA device here; use device=cpu")
        config = copy.deepcopy(self.config)
        if self.repeats > 1:
            config.num_key_value_heads //= self.repeats
        if self.revision:
            hub.fetch(self.name, self.folder_or_id, self.revision)
        try:
            model, report = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)].from_pretrained(
                self.folder_or_id,
                revision=self.revision,
                config=config,
                dtype=kind,
                attn_implementation=attention,
                device_map=dict(modules) if modules else {"": device},
                key_mapping=WRAPPED[self.wrapped_in] if self.wrapped_in else None,
                use_safetensors=True,
                output_loading_info=True,
            )
        except OSError as error:
            raise UserError(
                f"model={self.name}: no safetensors weights could be read from {self.folder_or_id} "
                f"({_first_line(error)}); pickled weights are not read"
            ) from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"device={device}: memory ran out while {self.name} was loaded ({_first_line(error)}); another process "
                "may be using the GPU"
            ) from error
        if missing := sorted(report["missing_keys"]):
            raise UserError(
                f"model={self.name}: {self.folder_or_id} lacks {len(missing)} weights, {missing[0]} for one"
            )
        if self.repeats > 1:
            mha.widen(self.name, model, self.repeats)
        return model.eval()


def open_checkpoint(
    name: str,
    path: str | None = None,
    package: Mapping[str, Any] | None = None,
    revision: str | None = None,
    tokenizer: str | None = None,
    mha: bool = False,
    licence: str = "not stated",
) -> Checkpoint:
    """Find a model by its settings, which are those of configs/model/*.yaml. Weights are not read."""
    folder, weights, identity = _find(name, path, package, revision, licence)
    commit = identity.get("revision")
    whole = _whole_config(name, folder)
    config = _text_config(name, whole)
    where = weights if commit else str(folder)
    if tokenizer:
        identity |= {"tokenizer": tokenizer}
    wrapped_in = whole.model_type if config is not whole else None
    plain = Checkpoint(name, where, commit, config, identity, tokenizer or where, wrapped_in=wrapped_in)
    return _as_mha(plain) if mha else plain


def torch_dtype(dtype: str, device: str, config: PretrainedConfig) -> torch.dtype:
    """The dtype that a setting means on this device."""
    if dtype == "auto":
        own = getattr(config, "dtype", None) or torch.float32
        return torch.float32 if device.startswith("cpu") else own
    if dtype not in DTYPES:
        raise UserError(f"dtype={dtype} is none of auto, {', '.join(DTYPES)}")
    return DTYPES[dtype]


def _find(
    name: str, path: str | None, package: Mapping[str, Any] | None, revision: str | None, licence: str
) -> tuple[Path, str, dict[str, Any]]:
    """A folder with the config, what transformers is to load, and the identity."""
    if path is None and package is not None:
        bundle = Bundle.of(package)
        folder = prepare(name, bundle, licence)
        return folder, str(folder), bundle.identity
    if path is None:
        raise UserError(f"model={name} needs model.path=<hub id | folder | file.gguf>")
    local = Path(path).expanduser()
    if local.is_dir():
        return local, str(local), {"source": "folder", "sha256": _weights_sha256(name, local)}
    if local.is_file():
        if local.suffix != ".gguf":
            raise UserError(f"model.path={path} is a file but not a .gguf: give a folder, a .gguf file or a hub id")
        digest = known_sha256(local)
        folder = gguf.convert(local, digest)
        return folder, str(folder), {"source": "gguf", "sha256": digest, "converter": gguf.VERSION}
    if local.suffix == ".gguf" or not HUB_ID.fullmatch(path):
        raise UserError(f"model.path={path} does not exist: give a folder, a .gguf file or a hub id (owner/name)")
    folder, commit = hub.resolve(name, path, revision)
    return folder, path, {"source": "hub", "id": path, "revision": commit}


def _whole_config(name: str, folder: Path) -> PretrainedConfig:
    if not (folder / "config.json").is_file():
        raise UserError(f"model.path={folder} has no config.json, so it is no model that transformers can load")
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (ValueError, KeyError, OSError) as error:
        raise UserError(
            f"model={name}: the installed transformers does not know this kind of model ({_first_line(error)}), and "
            "code from a repository is not run"
        ) from error


def _text_config(name: str, config: PretrainedConfig) -> PretrainedConfig:
    text = config.get_text_config(decoder=True)
    causal = any("CausalLM" in kind or "LMHead" in kind for kind in config.architectures or ["CausalLM"])
    continues_text = causal if text is config else config.model_type in WRAPPED
    if config.is_encoder_decoder or type(text) not in MODEL_FOR_CAUSAL_LM_MAPPING or not continues_text:
        kind = (config.architectures or [config.model_type])[0]
        raise UserError(f"model={name} is no causal language model but {kind}: give one that only continues text")
    return text


def _as_mha(base: Checkpoint) -> Checkpoint:
    repeats = mha.times(base.name, base.config)
    config = copy.deepcopy(base.config)
    config.num_key_value_heads *= repeats
    identity = {**base.identity, "derived": f"MHA: each KV head repeated {repeats} times"}
    return replace(base, config=config, identity=identity, repeats=repeats)


def _weights_sha256(name: str, folder: Path) -> str:
    """One digest of all weight files of a folder, whatever they are called."""
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise UserError(f"model={name}: the folder {folder} holds no *.safetensors; pickled weights are not read")
    if len(files) == 1:
        return known_sha256(files[0])
    return hashlib.sha256(" ".join(known_sha256(file) for file in files).encode()).hexdigest()


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
