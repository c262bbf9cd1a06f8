"""A merged model as one GGUF file, for llama.cpp and the programs built on it.

Names, shapes and keys are those of llama.cpp's convert_hf_to_gguf.py. Matrices are float16, or Q8_0 (8-bit values with a float16 scale for
each 32 of them); vectors (norms, biases) are float32, as llama.cpp needs them. One tensor at a time is in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gguf
import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter, RopeScalingType

from trainer.errors import TrainerError
from trainer.published.gguf_families import (
    FAMILIES,
    context_length,
    head_width,
    reason_not_written,
    rope_of,
    rotated_width,
)
from trainer.published.gguf_tokenizer import WAY_OUT, GgufTokenizer, read_tokenizer
from trainer.published.merged import Weight

FILE_TYPES = {"f16": gguf.LlamaFileType.MOSTLY_F16, "q8_0": gguf.LlamaFileType.MOSTLY_Q8_0}
LARGEST_FLOAT16 = float(np.finfo(np.float16).max)
BLOCK = 32
"""Values of a row that share one scale in Q8_0."""


def check_writable(config: Any, folder: Path, tokenizer: Any) -> GgufTokenizer:
    """The tokenizer as the file has it, if a model of `config` with the tokenizer of `folder` can be written exactly.

    Raises:
        TrainerError: it cannot; the message has what is in the way, and the way out.
    """
    reason = reason_not_written(config)
    if reason is not None:
        raise TrainerError(f"--as gguf: expected a model that llama.cpp computes exactly, found {reason}; {WAY_OUT}")
    return read_tokenizer(folder, tokenizer, config.vocab_size)


def write_gguf(
    path: Path,
    weights: Sequence[Weight],
    config: Any,
    written: GgufTokenizer,
    tokenizer: Any,
    ends: Sequence[int],
    *,
    name: str,
    outtype: str = "f16",
    progress: Callable[[int], None] = lambda n: None,
) -> None:
    """Write the merged `weights` of a model to `path`.

    Args:
        written: what `check_writable` returned for config and tokenizer.
        ends: tokens that end an answer.
        name: general.name of the file.
        outtype: "f16" or "q8_0".
        progress: called with 1 after each weight.

    Raises:
        TrainerError: a weight beyond float16, or one that llama.cpp's architecture has no place for.
    """
    arch = FAMILIES[config.model_type].arch
    writer = GGUFWriter(path, gguf.MODEL_ARCH_NAMES[arch])
    _write_parameters(writer, config, name, outtype)
    written.write(writer, tokenizer, ends)
    names = gguf.get_tensor_name_map(arch, config.num_hidden_layers)
    plan = [(_name(names, weight.name), weight, _type(weight, outtype)) for weight in weights]
    frequencies = _rope_factors(config)
    if frequencies is not None:
        writer.add_tensor_info("rope_freqs.weight", frequencies.shape, frequencies.dtype, frequencies.nbytes)
    for target, weight, kind in plan:
        shape = (
            gguf.quant_shape_to_byte_shape(weight.shape, kind) if kind == GGMLQuantizationType.Q8_0 else weight.shape
        )
        dtype = {GGMLQuantizationType.F32: np.float32, GGMLQuantizationType.F16: np.float16}.get(kind, np.uint8)
        nbytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
        writer.add_tensor_info(target, shape, np.dtype(dtype), nbytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    if frequencies is not None:
        writer.write_tensor_data(frequencies)
    for _, weight, kind in plan:
        writer.write_tensor_data(_values(weight, kind, config))
        progress(1)
    writer.close()


def _write_parameters(writer: GGUFWriter, config: Any, name: str, outtype: str) -> None:
    rope, width = rope_of(config), head_width(config)
    writer.add_type(gguf.GGUFType.MODEL)
    writer.add_name(name)
    writer.add_file_type(FILE_TYPES[outtype])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_context_length(context_length(config))
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(width)
    writer.add_value_length(width)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    writer.add_rope_dimension_count(rotated_width(config))
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    FAMILIES[config.model_type].keys(writer, config)


def _rope_factors(config: Any) -> np.ndarray | None:
    """(head width / 2,) float32 divisors of the rotary frequencies for Llama 3's scaling (transformers' modeling_rope_utils.py), or
    None."""
    rope = rope_of(config)
    if rope.get("rope_type") != "llama3":
        return None
    width, context = head_width(config), rope["original_max_position_embeddings"]
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    turns = context / (2 * np.pi * rope["rope_theta"] ** (np.arange(0, width, 2) / width))
    smooth = (turns - low) / (high - low)
    between = 1 / ((1 - smooth) / factor + smooth)
    return np.where(turns > high, 1.0, np.where(turns < low, factor, between)).astype(np.float32)


def _name(names: Any, weight: str) -> str:
    found = names.get_name(weight, try_suffixes=(".weight", ".bias"))
    if found is None:
        raise TrainerError(f"--as gguf: expected weights that llama.cpp's architecture has, found {weight}; {WAY_OUT}")
    return found


def _type(weight: Weight, outtype: str) -> GGMLQuantizationType:
    if len(weight.shape) == 1:
        return GGMLQuantizationType.F32
    whole = weight.shape[-1] % BLOCK == 0
    return GGMLQuantizationType.Q8_0 if outtype == "q8_0" and whole else GGMLQuantizationType.F16


def _values(weight: Weight, kind: GGMLQuantizationType, config: Any) -> np.ndarray:
    values, family = weight.load().numpy(), FAMILIES[config.model_type]
    if family.norm_offset and weight.name.endswith("norm.weight"):
        values = values + np.float32(family.norm_offset)
    projection = weight.name.split(".")[-2]
    if family.neighbours and projection in ("q_proj", "k_proj"):
        heads = config.num_attention_heads if projection == "q_proj" else config.num_key_value_heads
        values = _interleaved(values, heads)
    if kind == GGMLQuantizationType.F32:
        return values
    if kind == GGMLQuantizationType.Q8_0:
        return gguf.quantize(values, kind)
    if np.abs(values).max(initial=0.0) > LARGEST_FLOAT16:
        raise TrainerError(
            f"--as gguf: expected weights within float16 (65,504), found larger ones in {weight.name}; {WAY_OUT}"
        )
    return values.astype(np.float16)


def _interleaved(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a query or key projection in the order of a llama.cpp that rotates neighbouring values of a head; transformers
    rotates value i with value i + width / 2."""
    return values.reshape(heads, 2, -1, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape)
