"""A whole small world on disk, made in seconds and from nothing: a Llama with random weights, its tokenizer and chat template, a
sentence-transformers embedder, a pool with every kind of trouble, and a config. Everything is float32 and runs on any CPU."""

from __future__ import annotations

import json
import random
from pathlib import Path

import yaml

WORDS = (
    "red green blue round square heavy light quick slow north south river stone paper metal cloud garden engine bridge window "
    "seven eight nine ten eleven twelve sum product capital author colour language opposite plural"
).split()
CHAT_TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SEED = 20


def build_world(root: Path, examples: int = 220) -> Path:
    """Make everything under `root` and return the config's path."""
    texts = _write_pool(root / "pool", examples)
    write_model(root / "model", texts)
    _write_embedder(root / "embedder", texts)
    config = {
        "control": True,
        "pool": {"files": [str(root / "pool")]},
        "tokens": {"max_length": 96},
        "model": {"name": str(root / "model"), "quantization": "none", "compute_dtype": "float32", "device": "cpu"},
        "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
        "embed": {"model": str(root / "embedder"), "device": "cpu", "dtype": "float32"},
        "dedup": {"threshold": 0.999},
        "holdout": {"dev": 16, "test": 30},
        "cluster": {"k": 6},
        "score": {"sample_per_cluster": 5},
        "train": {
            "learning_rate": 1e-2,
            "pack_length": 96,
            "packs_per_step": 2,
            "packs_per_batch": 1,
            "checkpoint_every": 2,
        },
        "measure": {"batch_tokens": 512},
        "evaluate": {"bootstrap": 200, "generations": 4},
        "generate": {"max_new_tokens": 12},
    }
    path = root / "world.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def write_model(directory: Path, texts: list[str]) -> None:
    """A Llama with random weights, and a tokenizer of these texts with a chat template."""
    tokenizer = _tokenizer(texts, CHAT_TEMPLATE)
    tokenizer.save_pretrained(directory)
    _write_llama(directory, len(tokenizer))


def _write_pool(directory: Path, examples: int) -> list[str]:
    """Six sources of uneven size in evals form, with exact duplicates, an unlabelled row, an over-long one and broken lines."""
    directory.mkdir(parents=True)
    rng = random.Random(SEED)
    texts = []
    for number, share in enumerate((0.4, 0.25, 0.15, 0.1, 0.06, 0.04)):
        rows = []
        for _ in range(max(6, int(share * examples))):
            words = rng.sample(WORDS, rng.randint(3, 9))
            question = f"task {number} say the {('first', 'last', 'longest')[number % 3]} of {' '.join(words)}"
            answer = (words[0], words[-1], max(words, key=len))[number % 3]
            texts += [question, answer]
            rows.append(
                json.dumps(
                    {
                        "input": [
                            {"role": "system", "content": f"kind {number}"},
                            {"role": "user", "content": question},
                        ],
                        "ideal": [answer, answer.upper()] if rng.random() < 0.2 else answer,
                    }
                )
            )
        if number == 0:
            rows += [
                rows[0],
                rows[1],
                '{"input": [',
                json.dumps({"input": [{"role": "user", "content": "no answer here"}]}),
                json.dumps({"input": "long", "ideal": " ".join(rng.choices(WORDS, k=300))}),
                json.dumps({"input": 7, "ideal": "x"}),
            ]
        (directory / f"source-{number}.jsonl").write_text("\n".join(rows) + "\n")
    return texts


def _tokenizer(texts: list[str], chat_template: str | None):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    special = ["<pad>", "<|im_start|>", "<|im_end|>"]
    backend.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=special,
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="<pad>", eos_token="<|im_end|>", bos_token="<|im_start|>"
    )
    tokenizer.chat_template = chat_template
    return tokenizer


def _write_llama(directory: Path, vocabulary: int) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        LlamaForCausalLM(
            LlamaConfig(
                vocab_size=vocabulary,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=2,
                max_position_embeddings=512,
            )
        ).save_pretrained(directory)


def _write_embedder(directory: Path, texts: list[str]) -> None:
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

    inner = directory / "inner"
    backend = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    backend.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        special_tokens=[("[CLS]", backend.token_to_id("[CLS]")), ("[SEP]", backend.token_to_id("[SEP]"))],
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=64,
    )
    tokenizer.save_pretrained(inner)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        BertModel(
            BertConfig(
                vocab_size=len(tokenizer),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=64,
                max_position_embeddings=64,
            )
        ).save_pretrained(inner)
    word = Transformer(str(inner), max_seq_length=64)
    SentenceTransformer(modules=[word, Pooling(32)], device="cpu").save(str(directory))
