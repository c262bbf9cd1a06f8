"""A checkpoint of random weights in NF4, quantized on the device that builds it: the speed and memory of a real model, without one.

Only the quantized weights are written: 4 GB for the Mistral-7B shape, where a detour through a plain checkpoint writes and reads 14.5.
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any


def save_random_nf4(directory: Path, config: Any, tokenizer: Path) -> None:
    """Save a model of `config` (a transformers config) with random weights in `directory`, as bitsandbytes stores NF4 with double
    quantization, with the tokenizer of another directory. Built on the GPU, if there is one; its memory is free afterwards."""
    import bitsandbytes as bnb
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device(device):
            model = AutoModelForCausalLM.from_config(config)
    finally:
        torch.set_default_dtype(torch.float32)
    head = model.get_output_embeddings()
    for parent in list(model.modules()):
        for name, plain in list(parent.named_children()):
            if type(plain) is not torch.nn.Linear or plain is head:
                continue
            layer = bnb.nn.Linear4bit(
                plain.in_features, plain.out_features, plain.bias is not None, quant_type="nf4", device="meta"
            )
            layer.weight = bnb.nn.Params4bit(plain.weight.data, requires_grad=False, quant_type="nf4").to(device)
            layer.bias = plain.bias
            setattr(parent, name, layer)
    settings = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    directory.mkdir(parents=True, exist_ok=True)
    tied = config.tie_word_embeddings
    kept = {name: value for name, value in model.state_dict().items() if not (tied and value is head.weight)}
    save_file(
        {name: value.contiguous() for name, value in kept.items()}, directory / "model.safetensors", {"format": "pt"}
    )
    AutoTokenizer.from_pretrained(tokenizer).save_pretrained(directory)
    model.config.dtype, model.config.quantization_config = torch.bfloat16, settings
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(directory)  # last: with it the checkpoint is whole
    del model, head, kept
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
