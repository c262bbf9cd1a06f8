"""A GGUF file read back: every tensor's name, shape and values, every key that llama.cpp reads, the tokenizer."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from exported_models import KINDS, LLAMA3, ONE_BASE, Published, publish
from peft import PeftModel
from tiny_models import build
from transformers import AutoModelForCausalLM

from trainer.errors import TrainerError
from trainer.published.gguf_families import FAMILIES, reason_not_written, rotated_width
from trainer.published.gguf_file import check_writable, context_length, write_gguf
from trainer.published.gguf_tokenizer import read_tokenizer
from trainer.published.merged import Weight, adapted_base, merged_weights

PLACES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "self_attn.qkv_proj": "attn_qkv",
    "mlp.gate_up_proj": "ffn_up",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
AFTER = {"post_attention_layernorm": "post_attention_norm"}
"""Where a model normalizes what attention gives, the norm of this name is that one."""


NEIGHBOURS = ("llama", "mistral", "smollm3", "granite")
"""Architectures in which llama.cpp rotates neighbouring values of a head."""


def read(made: Published, path: Path, outtype: str = "f16") -> gguf.GGUFReader:
    """Write the GGUF file of `made` to `path` and open it."""
    written = check_writable(made.config, made.folder, made.tokenizer)
    with adapted_base(made.model, made.adapter) as (_, model):
        weights = merged_weights(model)
        write_gguf(path, weights, made.config, written, made.tokenizer, made.ends, name="tiny", outtype=outtype)
    return gguf.GGUFReader(path)


def merged_by_peft(made: Published) -> dict[str, torch.Tensor]:
    causal = AutoModelForCausalLM.from_pretrained(made.model.name, dtype=torch.float32)
    found = PeftModel.from_pretrained(causal, made.adapter).merge_and_unload().state_dict()
    if made.config.tie_word_embeddings:
        del found["lm_head.weight"]
    return found


def place(name: str, kind: str) -> str:
    """llama.cpp's name of a weight of a model of `kind`, by the table in its docs."""
    parts = name.split(".")
    if parts[1] != "layers":
        outside = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
        return f"{outside[name.rpartition('.')[0]]}.{parts[-1]}"
    places = PLACES | (AFTER if kind in ("olmo2", "olmo3", "gemma2", "gemma3") else {})
    return f"blk.{parts[2]}.{places['.'.join(parts[3:-1])]}.{parts[-1]}"


def neighbours(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows i and i + width / 2 of each head next to each other."""
    width = len(values) // heads
    rows = [head * width + i + half for head in range(heads) for i in range(width // 2) for half in (0, width // 2)]
    return values[rows]


@pytest.mark.parametrize("kind", KINDS)
def test_every_tensor_has_llama_cpps_name_shape_and_values(kind, byte_tokenizer, tmp_path):
    made = publish(tmp_path, kind, byte_tokenizer, chat_template="chatml")
    found = {tensor.name: tensor for tensor in read(made, tmp_path / "f16.gguf").tensors}
    if "llama-3" in kind:
        assert found.pop("rope_freqs.weight").data.tolist() != [1.0] * 4
    expected = {place(name, kind): (name, values.numpy()) for name, values in merged_by_peft(made).items()}
    assert found.keys() == expected.keys()
    for target, (name, values) in expected.items():
        if KINDS[kind][0] in NEIGHBOURS and "q_proj" in name:
            values = neighbours(values, made.config.num_attention_heads)
        if KINDS[kind][0] in NEIGHBOURS and "k_proj" in name:
            values = neighbours(values, made.config.num_key_value_heads)
        if "gemma" in kind and "norm" in name:
            values = values + 1
        tensor = found[target]
        assert tensor.data.dtype == (np.float32 if values.ndim == 1 else np.float16)
        assert tensor.shape.tolist() == list(reversed(values.shape)), "GGUF's innermost dimension comes first"
        np.testing.assert_allclose(tensor.data.astype(np.float32), values, rtol=1e-3, atol=1e-6, err_msg=target)


def test_the_keys_say_what_the_model_computes(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "mistral", byte_tokenizer, chat_template="chatml")
    fields = {name: field.contents() for name, field in read(made, tmp_path / "f16.gguf").fields.items()}
    expected = {
        "general.architecture": "llama",
        "general.type": "model",
        "general.file_type": 1,
        "llama.context_length": 256,
        "llama.embedding_length": 32,
        "llama.feed_forward_length": 64,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.attention.key_length": 16,
        "llama.attention.value_length": 16,
        "llama.rope.dimension_count": 16,
        "llama.rope.freq_base": 10000.0,
        "llama.vocab_size": made.config.vocab_size,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.bos_token_id": made.tokenizer.bos_token_id,
        "tokenizer.ggml.eos_token_id": made.tokenizer.eos_token_id,
        "tokenizer.ggml.eot_token_id": made.tokenizer.convert_tokens_to_ids("<|im_end|>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": False,
        "tokenizer.chat_template": made.tokenizer.chat_template,
    }
    assert {name: fields.get(name) for name in expected} == expected
    assert fields["llama.attention.layer_norm_rms_epsilon"] == pytest.approx(made.config.rms_norm_eps)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (
            "gemma2",
            {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 6.0, "attention.sliding_window": 6}
            | {"attention.sliding_window_pattern": [True, False], "context_length": 256},
        ),
        (
            "gemma3",
            {
                "rope.freq_base": 1e4,
                "rope.freq_base_swa": 100.0,
                "rope.scaling.type": "linear",
                "rope.scaling.factor": 2.0,
            }
            | {"attention.sliding_window": 6, "attention.sliding_window_pattern": [True, False]},
        ),
        ("olmo3", {"attention.sliding_window": 6, "attention.sliding_window_pattern": [True, False]}),
        ("granite", {"attention.scale": 0.5, "embedding_scale": 3.0, "residual_scale": 0.6, "logit_scale": 2.0}),
        ("phi3", {"rope.dimension_count": 4, "attention.sliding_window": None}),
    ],
)
def test_the_keys_say_what_a_family_has_that_llama_has_not(kind, expected, byte_tokenizer, tmp_path):
    made = publish(tmp_path, kind, byte_tokenizer, chat_template="chatml")
    fields = {name: field.contents() for name, field in read(made, tmp_path / "f16.gguf").fields.items()}
    prefix = fields["general.architecture"]
    found = {name: fields.get(f"{prefix}.{name}") for name in expected}
    assert found == {
        name: pytest.approx(value) if isinstance(value, float) else value for name, value in expected.items()
    }


def test_tokens_have_their_rows_and_kinds(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "llama", byte_tokenizer, chat_template="chatml")
    fields = read(made, tmp_path / "f16.gguf").fields
    tokens, kinds = (fields[f"tokenizer.ggml.{name}"].contents() for name in ("tokens", "token_type"))
    rows = {text: row for row, text in enumerate(tokens)}
    assert len(tokens) == len(kinds) == made.config.vocab_size == len(byte_tokenizer) + 3
    assert {text: rows[text] for text in byte_tokenizer.get_vocab()} == byte_tokenizer.get_vocab()
    assert kinds[rows["<|im_end|>"]] == gguf.TokenType.CONTROL and kinds[rows["a"]] == gguf.TokenType.NORMAL
    assert kinds[-3:] == [gguf.TokenType.UNUSED] * 3
    model = json.loads((made.folder / "tokenizer.json").read_text())["model"]
    assert fields["tokenizer.ggml.merges"].contents() == [" ".join(merge) for merge in model["merges"]]


def test_a_special_token_without_a_row_is_left_out(byte_tokenizer, tmp_path):
    tokenizer = byte_tokenizer
    tokenizer.save_pretrained(tmp_path)
    path, rows = tmp_path / "tokenizer.json", len(tokenizer)
    document = json.loads(path.read_text())
    whole = read_tokenizer(tmp_path, tokenizer, rows)
    document["added_tokens"].append({**document["added_tokens"][0], "id": rows, "content": "<picture>"})
    path.write_text(json.dumps(document))
    assert read_tokenizer(tmp_path, tokenizer, rows) == whole
    assert read_tokenizer(tmp_path, tokenizer, rows + 1).tokens == [*whole.tokens, "<picture>"]
    document["added_tokens"][-1]["special"] = False
    path.write_text(json.dumps(document))
    with pytest.raises(TrainerError, match=rf"'<picture>' with id {rows:,}\).*--as merged"):
        read_tokenizer(tmp_path, tokenizer, rows)


def test_sentencepiece_scores_follow_the_merges(mistral_tokenizer, tmp_path, monkeypatch):
    mistral_tokenizer.save_pretrained(tmp_path)
    template = "{{ bos_token }}{% for m in messages %}[INST] {{ m['content'] }} [/INST]{% endfor %}"
    monkeypatch.setattr(mistral_tokenizer, "chat_template", template, raising=False)  # the fixture is shared
    found = read_tokenizer(tmp_path, mistral_tokenizer, 32_000)
    scores = dict(zip(found.tokens, found.scores, strict=True))
    assert (found.model, found.space_prefix) == ("llama", False)
    assert scores["▁t"] > scores["in"] > scores["▁the"] > scores["▁information"]
    kinds = dict(zip(found.tokens, found.types, strict=True))
    expected = {"<unk>": "UNKNOWN", "<s>": "CONTROL", "<0x0A>": "BYTE", "▁the": "NORMAL"}
    assert {text: kinds[text] for text in expected} == {text: gguf.TokenType[kind] for text, kind in expected.items()}


def test_eight_bits_are_within_their_rounding(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "qwen2", byte_tokenizer, chat_template="chatml")
    found = {tensor.name: tensor for tensor in read(made, tmp_path / "q8_0.gguf", "q8_0").tensors}
    values = merged_by_peft(made)["model.layers.1.mlp.down_proj.weight"].numpy()
    tensor = found["blk.1.ffn_down.weight"]
    assert tensor.tensor_type == gguf.GGMLQuantizationType.Q8_0
    apart = np.abs(gguf.dequantize(tensor.data, tensor.tensor_type) - values)
    assert 0 < apart.max() <= np.abs(values).max() / 127
    assert found["blk.0.attn_q.bias"].tensor_type == gguf.GGMLQuantizationType.F32


@pytest.mark.parametrize(
    ("kind", "changes", "named"),
    [
        ("cohere", {}, "architecture cohere"),
        ("gemma2", {"query_pre_attn_scalar": 6}, "query_pre_attn_scalar 6"),
        ("gemma2", {"query_pre_attn_scalar": 8, "final_logit_softcapping": None}, "without caps"),
        ("gemma", {"tie_word_embeddings": False}, "output head of its own"),
        ("gemma3_text", {"query_pre_attn_scalar": 6}, "query_pre_attn_scalar 6"),
        ("olmo2", {"tie_word_embeddings": True}, "tied to the embeddings"),
        ("olmo3", {}, "two bases"),
        ("smollm3", {}, "rotary positions in other layers"),
        *((kind, {"head_dim": 16}, "heads that are not as wide") for kind in ("phi3", "qwen2", "olmo2")),
        ("olmo3", {"head_dim": 16, "layer_types": ["full_attention"] * 2}, "heads that are not as wide"),
        (
            "gemma2",
            {"head_dim": 16, "query_pre_attn_scalar": 16, "layer_types": ["full_attention"] * 2},
            "without a layer",
        ),
        ("llama", {"rope_parameters": {**LLAMA3, "rope_type": "yarn"}}, "yarn"),
        ("llama", {"hidden_act": "gelu"}, "gelu"),
        ("qwen3", {"attention_bias": True}, "biases"),
        ("qwen2", {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 1}, "sliding window"),
    ],
)
def test_a_model_that_llama_cpp_computes_otherwise_is_refused_with_the_way_out(kind, changes, named, tmp_path):
    with pytest.raises(TrainerError, match=f"{named}.*--as merged.*convert_hf_to_gguf"):
        check_writable(build(kind, **changes).config, tmp_path, None)


@pytest.mark.parametrize("kind", FAMILIES)
def test_only_llama_cpps_llama_has_llama_3s_rotary_positions(kind):
    config = build(kind).config
    config.rope_parameters = (
        LLAMA3 if "full_attention" not in config.rope_parameters else dict.fromkeys(ONE_BASE, LLAMA3)
    )
    reason = reason_not_written(config)
    assert reason is None if kind in ("llama", "mistral") else f"kind llama3 in a {kind}" in reason


@pytest.mark.parametrize("kind", FAMILIES)
def test_only_a_phi_3_rotates_a_part_of_a_head(kind):
    """transformers keeps the factor in the config of any family, and reads it in this one."""
    rope = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}
    config = build(kind, head_dim=16, rope_parameters=rope).config
    assert rotated_width(config) == (8 if kind == "phi3" else 16)


@pytest.mark.parametrize("kind", ["gemma3_text", "olmo3"])
def test_a_model_without_a_layer_with_a_window_has_no_keys_of_windows(kind, byte_tokenizer, tmp_path):
    made = publish(tmp_path, f"{kind}, no windows", byte_tokenizer, chat_template="chatml")
    fields = read(made, tmp_path / "f16.gguf").fields
    assert made.config.sliding_window and any(name.endswith("rope.freq_base") for name in fields)
    assert not [name for name in fields if "sliding" in name or "swa" in name]


def test_a_tokenizer_that_splits_in_an_unknown_way_is_refused(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["pre_tokenizer"]["add_prefix_space"] = True
    path.write_text(json.dumps(document))
    with pytest.raises(TrainerError, match="splits text by.*--as merged"):
        read_tokenizer(tmp_path, byte_tokenizer, 400)


def test_a_special_token_that_takes_the_spaces_next_to_it_is_refused(byte_tokenizer, tmp_path):
    byte_tokenizer.save_pretrained(tmp_path)
    path = tmp_path / "tokenizer.json"
    document = json.loads(path.read_text())
    document["added_tokens"][1]["rstrip"] = True
    path.write_text(json.dumps(document))
    with pytest.raises(TrainerError, match=r"text next to it \(<\|end\|>\).*--as merged"):
        read_tokenizer(tmp_path, byte_tokenizer, 400)


@pytest.mark.parametrize(
    ("name", "model", "pre"),
    [("gemma", "llama", "default"), ("olmo2", "gpt2", "dbrx"), ("llama3", "gpt2", "llama-bpe")],
)
def test_a_tokenizer_has_llama_cpps_name_of_its_splitting(name, model, pre, request, tmp_path):
    tokenizer = request.getfixturevalue(f"{name}_tokenizer")
    tokenizer.save_pretrained(tmp_path)
    found = read_tokenizer(tmp_path, tokenizer, len(tokenizer))
    assert (found.model, found.pre) == (model, pre)
    assert found.space_prefix is (False if name == "gemma" else None)


def test_a_weight_beyond_float16_is_refused(byte_tokenizer, tmp_path):
    made = publish(tmp_path, "llama", byte_tokenizer, chat_template="chatml")
    written = check_writable(made.config, made.folder, made.tokenizer)
    weights = [Weight("model.embed_tokens.weight", (2, 32), lambda: torch.full((2, 32), 7e4))]
    arguments = (weights, made.config, written, made.tokenizer, made.ends)
    with pytest.raises(TrainerError, match=r"65,504.*embed_tokens.*--as merged"):
        write_gguf(tmp_path / "f16.gguf", *arguments, name="tiny")


def test_a_sliding_window_ends_the_context():
    def config(window: int | None) -> Any:
        return SimpleNamespace(model_type="mistral", max_position_embeddings=32_768, sliding_window=window)

    assert (context_length(config(None)), context_length(config(4_096))) == (32_768, 4_096)
