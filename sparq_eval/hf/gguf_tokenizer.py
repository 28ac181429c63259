"""The tokenizer inside a GGUF file, as the tokenizer.json that its publisher would have shipped.

Two kinds: byte-level BPE (`gpt2`), whose way of cutting text into words has a name in the file, and SentencePiece BPE
(`llama`), whose merges follow from the scores of its pieces.
"""

import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE

from sparq_eval.errors import UserError
from sparq_eval.hf.gguf_families import Source

CONTROL, USER_DEFINED, UNUSED = 3, 4, 5  # kinds of token, in GGUF's numbers
SPACE = "\u2581"  # what SentencePiece writes for a space


def _words(digits: str) -> Regex:
    """Contractions, words, runs of `digits`, punctuation with its line ends, white space."""
    letters = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
    return Regex(rf"{letters}|{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")


# llama.cpp's names for ways of cutting text into words
WORDS = {"qwen2": _words(r"\p{N}"), "llama-bpe": _words(r"\p{N}{1,3}")}


def write_tokenizer(source: Source, folder: Path, context: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into `folder`."""
    fields = source.fields
    kinds = {"gpt2": _byte_level, "llama": _sentence_piece}
    kind = fields.get("tokenizer.ggml.model")
    if kind not in kinds:
        raise _unknown(source, kind)
    tokenizer = kinds[kind](source)
    roles = {"bos": "bos_token", "eos": "eos_token", "unknown": "unk_token", "padding": "pad_token"}
    names = {
        ours: fields["tokenizer.ggml.tokens"][i]
        for role, ours in roles.items()
        if (i := source.token(role)) is not None
    }
    if fields.get("tokenizer.ggml.pre") == "qwen2":
        names.pop("bos_token", None)  # the file names one because its format asks for it; the model was trained without
    with_bos = bool(fields.get("tokenizer.ggml.add_bos_token", kind == "llama"))
    if with_bos:
        bos = (names["bos_token"], source.token("bos"))
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{bos[0]} $A", pair=f"{bos[0]} $A {bos[0]}:1 $B:1", special_tokens=[bos]
        )
    # and not its own save, whose errors are not those of files
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context,
        "clean_up_tokenization_spaces": False,
        "add_bos_token": with_bos,
        **names,
    }
    if template := fields.get("tokenizer.chat_template"):
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _byte_level(source: Source) -> Tokenizer:
    words = source.fields.get("tokenizer.ggml.pre", "default")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=words not in WORDS)
    vocabulary = _vocabulary(source)
    merges = [tuple(merge.split(" ")) for merge in source.fields["tokenizer.ggml.merges"]]
    # llama 3 takes a word that is in its vocabulary whole, even where merges would not build it
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=merges, ignore_merges=words == "llama-bpe"))
    if words in WORDS:
        cut = pre_tokenizers.Split(WORDS[words], behavior="isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, byte_level])
    elif words == "smollm":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), byte_level])
    elif words in ("default", "gpt-2"):
        tokenizer.pre_tokenizer = byte_level
    else:
        raise _unknown(source, words)
    if words == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.decoder = decoders.ByteLevel()
    return _with_added(tokenizer, source)


def _sentence_piece(source: Source) -> Tokenizer:
    vocabulary = _vocabulary(source)
    pieces = list(vocabulary)
    unknown = source.token("unknown") or 0
    model = BPE(
        vocab=vocabulary,
        merges=_merges(source, vocabulary),
        unk_token=pieces[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    with_prefix = bool(source.fields.get("tokenizer.ggml.add_space_prefix", True))
    spaces = normalizers.Replace(" ", SPACE)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), spaces]) if with_prefix else spaces
    bytes_to_text = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*bytes_to_text, decoders.Strip(" ", 1, 0)] if with_prefix else bytes_to_text)
    return _with_added(tokenizer, source)


def _merges(source: Source, vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Every way to join two pieces into a third, the pieces of the vocabulary's own first, then by falling score."""
    kinds, scores = source.fields["tokenizer.ggml.token_type"], source.fields["tokenizer.ggml.scores"]
    found: list[tuple[float, int, int, int, tuple[str, str]]] = []
    for piece, i in vocabulary.items():
        rank = -float("inf") if kinds[i] == USER_DEFINED else -scores[i]
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                found.append((rank, i, left, right, (piece[:cut], piece[cut:])))
    return [merge for *_, merge in sorted(found)]


def _vocabulary(source: Source) -> dict[str, int]:
    """Token -> id, without the unused ones that only pad the embedding."""
    kinds = source.fields["tokenizer.ggml.token_type"]
    return {_written(source, i): i for i in range(len(kinds)) if kinds[i] != UNUSED}


def _written(source: Source, i: int) -> str:
    token = source.fields["tokenizer.ggml.tokens"][i]
    # llama.cpp writes plain spaces in the tokens that a SentencePiece vocabulary defines itself
    mine = (
        source.fields["tokenizer.ggml.model"] == "llama"
        and source.fields["tokenizer.ggml.token_type"][i] == USER_DEFINED
    )
    return token.replace(" ", SPACE) if mine else token


def _with_added(tokenizer: Tokenizer, source: Source) -> Tokenizer:
    """Tokens that are found in a text before it is cut into words."""
    kinds = source.fields["tokenizer.ggml.token_type"]
    for kind, add in ((CONTROL, tokenizer.add_special_tokens), (USER_DEFINED, tokenizer.add_tokens)):
        mine = [i for i in range(len(kinds)) if kinds[i] == kind]
        add([AddedToken(_written(source, i), special=kind == CONTROL, normalized=False) for i in mine])
    return tokenizer


def _unknown(source: Source, kind: Any) -> UserError:
    return UserError(
        f"model.path={source.path} has a tokenizer of the kind {kind!r}, which cannot be rebuilt from GGUF: "
        "give model.tokenizer=<hub id or folder>"
    )
