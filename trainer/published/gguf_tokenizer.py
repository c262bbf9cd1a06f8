"""The tokenizer of a GGUF file, made from the tokenizer.json of an adapter's folder.

llama.cpp has two kinds of BPE. SentencePiece's ("llama") joins the pair whose joined piece has the highest score. GPT-2's byte-level
one ("gpt2") joins by the rank of merges, inside the words that a named pre-tokenizer finds; llama.cpp knows these by name only. A
tokenizer whose splitting is none of PRE_TOKENIZERS is refused, because another one would give other tokens without a word.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf import GGUFWriter, TokenType

from trainer.errors import TrainerError

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_QWEN2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"
_LLAMA3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
_BYTES = ("ByteLevel", False, False)
PRE_TOKENIZERS: dict[tuple[tuple[tuple[object, ...], ...], bool], str] = {
    ((("ByteLevel", False, True),), False): "gpt-2",
    ((("Digits", True), ("ByteLevel", False, True)), False): "smollm",
    ((("Split", _QWEN2, "Isolated", False), _BYTES), False): "qwen2",
    ((("Split", _LLAMA3, "Isolated", False), _BYTES), True): "llama-bpe",
    ((("Split", _LLAMA3, "Isolated", False), _BYTES), False): "dbrx",
}
"""Steps of a pre-tokenizer, and whether a word that is a token is taken whole whatever the merges → its name in llama.cpp
(src/llama-vocab.cpp)."""
BYTE = re.compile(r"<0x[0-9A-F]{2}>")
SPACE = "▁"
_AT_SPACES = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
"""Gemma's. Its normalizer has replaced all spaces by then, so it splits nothing."""
NEVER_MERGED = -1e9
WAY_OUT = "export --as merged, and convert that folder with llama.cpp's convert_hf_to_gguf.py, which knows more models"


@dataclass(frozen=True)
class GgufTokenizer:
    """What a GGUF file says of a tokenizer: `model` and `pre` by llama.cpp's names, a text and a type for each row of the embeddings,
    `merges` (byte-level) or `scores` (SentencePiece), whether a space is put in front of a text (None: not said)."""

    model: str
    pre: str
    tokens: list[str]
    types: list[int]
    merges: list[str] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    space_prefix: bool | None = None

    def write(self, writer: GGUFWriter, tokenizer: Any, ends: Sequence[int]) -> None:
        """Add everything to `writer`, with the special tokens and the chat template of `tokenizer`. `ends`: tokens that end an answer;
        the first that is not the tokenizer's end-of-text token is llama.cpp's end of turn."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.pre)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.types)
        if self.scores:
            writer.add_token_scores(self.scores)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.space_prefix is not None:
            writer.add_add_space_prefix(self.space_prefix)
        _write_special(writer, tokenizer, ends)


def read_tokenizer(folder: Path, tokenizer: Any, rows: int) -> GgufTokenizer:
    """The tokenizer of `folder`, which `tokenizer` was loaded from; `rows`: rows of the model's embeddings.

    Raises:
        TrainerError: llama.cpp has no such tokenizer.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise _refused(folder, "no tokenizer.json")
    document = json.loads(path.read_text(encoding="utf-8"))
    model = document["model"]
    if model.get("type") != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise _refused(folder, f"a tokenizer of the kind {model.get('type')}")
    for token in document["added_tokens"]:
        if token.get("lstrip") or token.get("rstrip") or token.get("single_word"):
            raise _refused(folder, f"a token that depends on the text next to it ({token['content']})")
    if model.get("byte_fallback"):
        return _sentencepiece(folder, document, tokenizer, rows)
    return _byte_level(folder, document, rows)


def _byte_level(folder: Path, document: Mapping[str, Any], rows: int) -> GgufTokenizer:
    normalizer, pre = document["normalizer"], document["pre_tokenizer"]
    if normalizer is not None and normalizer["type"] != "NFC":
        raise _refused(folder, f"a byte-level tokenizer that normalizes text ({normalizer['type']})")
    steps = tuple(_steps(pre)) if pre is not None else ()
    name = PRE_TOKENIZERS.get((steps, bool(document["model"].get("ignore_merges"))))
    if name is None:
        raise _refused(folder, f"a byte-level tokenizer that splits text by {json.dumps(pre)[:300]}")
    merges = [" ".join(merge) if isinstance(merge, list) else merge for merge in document["model"]["merges"]]
    tokens, types = _tokens(folder, document, rows)
    return GgufTokenizer("gpt2", name, tokens, types, merges=merges)


def _sentencepiece(folder: Path, document: Mapping[str, Any], tokenizer: Any, rows: int) -> GgufTokenizer:
    """SentencePiece's merges have no ranks of their own: a pair is as good as the piece it makes, so the rank of the first merge that
    makes a piece is its score."""
    prefix = _space_prefix(document, tokenizer)
    if prefix is None:
        steps = {key: document[key] for key in ("normalizer", "pre_tokenizer")}
        raise _refused(folder, f"a SentencePiece tokenizer that prepares text by {json.dumps(steps)[:300]}")
    tokens, types = _tokens(folder, document, rows)
    rank: dict[str, int] = {}
    for number, merge in enumerate(document["model"]["merges"]):
        left, right = merge if isinstance(merge, list) else merge.split(" ")
        rank.setdefault(left + right, number)
    scores = [-float(rank[token]) if token in rank else NEVER_MERGED for token in tokens]
    return GgufTokenizer("llama", "default", tokens, types, scores=scores, space_prefix=prefix)


def _space_prefix(document: Mapping[str, Any], tokenizer: Any) -> bool | None:
    """Whether llama.cpp must put a space in front of a text and after each special token; None if neither gives the right tokens.

    transformers' "first" puts it in front of the whole text alone. A prompt that begins with a special token then gets none, which is what
    chat templates of this kind write.
    """
    normalizer, pre = document["normalizer"], document["pre_tokenizer"]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if pre is None and normalizer == {
        "type": "Sequence",
        "normalizers": [{"type": "Prepend", "prepend": SPACE}, replace],
    }:
        return True
    if normalizer == replace and (pre is None or pre == _AT_SPACES):
        return False
    if normalizer is not None or pre is None or pre.get("type") != "Metaspace" or pre.get("split", True):
        return None
    if pre["prepend_scheme"] != "first":
        return pre["prepend_scheme"] == "always"
    text = tokenizer.apply_chat_template([{"role": "user", "content": "a"}], add_generation_prompt=True, tokenize=False)
    return not text.startswith(tuple(tokenizer.all_special_tokens))


def _tokens(folder: Path, document: Mapping[str, Any], rows: int) -> tuple[list[str], list[int]]:
    """Text and type of each row of the embeddings. Rows without a token are unused. A special token without a row is left out, as
    llama.cpp does: the model was not trained on it (trainer/gate/weights.py). Raises TrainerError for another token without a row."""
    added = [token for token in document["added_tokens"] if token["id"] < rows or not token["special"]]
    left_out = {token["content"] for token in document["added_tokens"] if token not in added}
    tokens = [f"[PAD{row}]" for row in range(rows)]
    types = [int(TokenType.UNUSED)] * rows
    unknown = document["model"].get("unk_token")
    numbers = {text: row for text, row in document["model"]["vocab"].items() if text not in left_out}
    text, row = max([*numbers.items(), *((token["content"], token["id"]) for token in added)], key=lambda pair: pair[1])
    if row >= rows:
        raise _refused(folder, f"a token beyond the model's {rows:,} embeddings ({text!r} with id {row:,})")
    for text, row in numbers.items():
        kind = TokenType.NORMAL
        if document["model"].get("byte_fallback"):
            kind = TokenType.BYTE if BYTE.fullmatch(text) else TokenType.NORMAL
        tokens[row], types[row] = text, int(kind)
    for token in added:
        kind = TokenType.CONTROL if token["special"] else TokenType.USER_DEFINED
        tokens[token["id"]], types[token["id"]] = token["content"], int(kind)
    for row, text in enumerate(tokens):
        if text == (unknown or "<unk>") and types[row] in (TokenType.NORMAL, TokenType.CONTROL):
            types[row] = int(TokenType.UNKNOWN)
    return tokens, types


def _steps(pre: Mapping[str, Any]) -> list[tuple[object, ...]]:
    """The steps of a pre-tokenizer with what decides on the borders of words."""
    kind = pre["type"]
    if kind == "Sequence":
        return [step for inner in pre["pretokenizers"] for step in _steps(inner)]
    if kind == "ByteLevel":
        return [(kind, pre["add_prefix_space"], pre.get("use_regex", True))]
    if kind == "Digits":
        return [(kind, pre["individual_digits"])]
    if kind == "Split":
        return [(kind, pre["pattern"].get("Regex"), pre["behavior"], pre["invert"])]
    return [(kind,)]


def _write_special(writer: GGUFWriter, tokenizer: Any, ends: Sequence[int]) -> None:
    bos, eos = tokenizer.bos_token_id, tokenizer.eos_token_id
    found = {
        writer.add_bos_token_id: bos,
        writer.add_eos_token_id: eos,
        writer.add_unk_token_id: tokenizer.unk_token_id,
        writer.add_pad_token_id: tokenizer.pad_token_id,
        writer.add_eot_token_id: next((end for end in ends if end != eos), None),
    }
    for add, token in found.items():
        if token is not None:
            add(token)
    alone, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    writer.add_add_bos_token(bos is not None and whole != alone and whole[0] == bos)
    writer.add_add_eos_token(eos is not None and whole != alone and whole[-1] == eos)
    if tokenizer.chat_template is not None:
        writer.add_chat_template(tokenizer.chat_template)


def _refused(folder: Path, found: str) -> TrainerError:
    return TrainerError(f"{folder}: expected a tokenizer that llama.cpp computes exactly, found {found}; {WAY_OUT}")
