"""Tokenizers that need no download: a small byte-level one, Mistral's v1, and SmolLM2's where its files are there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

CORPUS = [
    "Hello, how are you? I am fine, thank you. What is the capital of France? Paris.",
    "system user assistant You are a helpful assistant.\n\nAnswer the question.\n 1 2 3 4 5 6 7 8 9 0",
]


@pytest.fixture(scope="session")
def byte_tokenizer() -> Any:
    """Byte-level BPE of about 320 tokens with <|bos|>, <|end|>, <|im_start|> and <|im_end|>; no chat template.

    It opens every text with <|bos|>.
    """
    from tokenizers import models, pre_tokenizers

    return _trained(models.BPE(), pre_tokenizers.ByteLevel(add_prefix_space=False))


def _trained(model: Any, splitting: Any) -> Any:
    """A byte-level BPE that splits text into words by `splitting`, as `byte_tokenizer`."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    specials = ["<|bos|>", "<|end|>", "<|im_start|>", "<|im_end|>"]
    backend = Tokenizer(model)
    backend.pre_tokenizer = splitting
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(vocab_size=320, special_tokens=specials, initial_alphabet=alphabet, show_progress=False),
    )
    backend.post_processor = processors.TemplateProcessing(single="<|bos|> $A", special_tokens=[("<|bos|>", 0)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|bos|>", eos_token="<|end|>")


def _split_by(digits: str, **model: Any) -> Any:
    """A byte-level BPE with the words of the models after GPT-4's tokenizer; `digits`: how many make a word."""
    from tokenizers import Regex, models, pre_tokenizers

    words = (
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
        + digits
        + r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    )
    steps = [
        pre_tokenizers.Split(Regex(words), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
    return _trained(models.BPE(**model), pre_tokenizers.Sequence(steps))


@pytest.fixture(scope="session")
def qwen2_tokenizer() -> Any:
    """A small BPE with Qwen2's splitting and normalization."""
    from tokenizers import normalizers

    tokenizer = _split_by(r"\p{N}")
    tokenizer.backend_tokenizer.normalizer = normalizers.NFC()
    return tokenizer


@pytest.fixture(scope="session")
def llama3_tokenizer() -> Any:
    """A small BPE with Llama 3's splitting; a word that is a token is one whatever the merges."""
    return _split_by(r"\p{N}{1,3}", ignore_merges=True)


@pytest.fixture(scope="session")
def mistral_tokenizer() -> Any:
    """Mistral's v1 tokenizer: the SentencePiece model that mistral-common ships, as a transformers LlamaTokenizer."""
    package = pytest.importorskip("mistral_common", reason="mistral-common is not installed (requirements-dev.txt)")
    sentencepiece = pytest.importorskip("sentencepiece")
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    model = sentencepiece.SentencePieceProcessor(
        model_file=str(Path(package.__file__).parent / "data" / "tokenizer.model.v1")
    )
    pieces = [model.id_to_piece(i) for i in range(model.get_piece_size())]
    vocab = {piece: i for i, piece in enumerate(pieces)}
    scores = {piece: model.get_score(i) for i, piece in enumerate(pieces)}
    return LlamaTokenizer(vocab=vocab, merges=generate_merges(vocab, scores))


@pytest.fixture(scope="session")
def gemma_tokenizer(mistral_tokenizer: Any) -> Any:
    """Mistral's pieces with Gemma's preparation of text: no space in front, and a split at spaces that are none any more; <|im_start|> and
    <|im_end|>."""
    from tokenizers import Tokenizer, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer.from_str(mistral_tokenizer.backend_tokenizer.to_str())
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    backend.add_special_tokens(["<|im_start|>", "<|im_end|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


@pytest.fixture(scope="session")
def olmo2_tokenizer() -> Any:
    """A small BPE with OLMo 2's splitting, which is Llama 3's; words are made by merges alone."""
    return _split_by(r"\p{N}{1,3}")


@pytest.fixture(scope="session")
def smollm2_tokenizer() -> Any:
    """SmolLM2's tokenizer with its own chat template, from the cache of demo assets."""
    directory = Path(os.environ.get("WINNOW_CACHE") or Path.home() / ".cache" / "winnow") / "smollm2-135m"
    if not (directory / "tokenizer.json").exists():
        pytest.skip(f"no demo assets at {directory}: run `make assets`")
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)
