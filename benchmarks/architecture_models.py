"""Tiny random models of every causal class that transformers knows: its own default config with small sizes.

Options that a model computes with keep the values of the default config, or get values that have an effect in a small model (a
window shorter than the documents, a cap smaller than the logits): options at neutral values prove nothing.
"""

from __future__ import annotations

from typing import Any

VOCABULARY = 97
SIZES: dict[str, Any] = {
    **dict.fromkeys(("vocab_size", "vocab_size_per_layer_input", "text_vocab_size"), VOCABULARY),
    **dict.fromkeys(
        ("hidden_size", "d_model", "n_embd", "dim", "embedding_size", "word_embed_proj_dim", "emb_dim"), 32
    ),
    **dict.fromkeys(
        ("intermediate_size", "ffn_dim", "n_inner", "d_ff", "decoder_ffn_dim", "encoder_ffn_dim", "dff"), 64
    ),
    **dict.fromkeys(("intermediate_size_mlp", "dense_intermediate_size", "ffn_hidden_size", "feed_forward_size"), 64),
    **dict.fromkeys(("num_hidden_layers", "n_layer", "n_layers", "num_layers", "decoder_layers", "encoder_layers"), 2),
    **dict.fromkeys(("num_attention_heads", "n_head", "n_heads", "num_heads", "decoder_attention_heads"), 4),
    **dict.fromkeys(("encoder_attention_heads", "swa_num_attention_heads"), 4),
    **dict.fromkeys(("num_key_value_heads", "swa_num_key_value_heads", "num_global_key_value_heads"), 2),
    **dict.fromkeys(("head_dim", "attention_head_dim", "global_head_dim", "rotary_dim", "dim_head", "d_kv"), 8),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx", "max_sequence_length"), 512),
    **dict.fromkeys(("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts", "ffn_num_experts"), 4),
    **dict.fromkeys(("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "moe_k", "top_k_experts"), 2),
    **dict.fromkeys(("moe_intermediate_size", "expert_ffn_hidden_size", "expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_expert_intermediate_size", "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(("shared_intermediate_size", "moe_latent_size"), 16),
    **dict.fromkeys(("sliding_window", "sliding_window_size", "attention_window_size", "window_size"), 6),
    **dict.fromkeys(("attention_chunk_size", "local_attention"), 6),
    **dict.fromkeys(
        ("q_lora_rank", "kv_lora_rank", "qk_nope_head_dim", "v_head_dim", "index_head_dim", "qk_head_dim"), 8
    ),
    **dict.fromkeys(("hidden_size_per_layer_input", "qk_rope_head_dim", "o_lora_rank"), 8),
    **dict.fromkeys(("n_group", "topk_group", "n_groups", "mamba_n_groups", "num_expert_group"), 1),
    **dict.fromkeys(("linear_num_key_heads", "linear_num_value_heads", "index_n_heads", "mamba_n_heads"), 4),
    **dict.fromkeys(
        ("linear_key_head_dim", "linear_value_head_dim", "mamba_d_head", "mamba_d_state", "ssm_state_size"), 8
    ),
    **dict.fromkeys(("state_size", "mamba_head_dim", "mamba_num_heads"), 8),
    "index_topk": 40,
    **dict.fromkeys(("first_k_dense_replace", "num_dense_layers"), 1),
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop", "hidden_dropout", "attention_dropout", "dropout"), 0.0),
    **dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "activation_dropout", "layerdrop"), 0.0),
    **dict.fromkeys(("emb_pdrop", "embed_dropout", "embedding_dropout", "resid_dropout", "decoder_layerdrop"), 0.0),
    **dict.fromkeys(("router_jitter_noise", "input_jitter_noise", "attn_dropout", "residual_dropout"), 0.0),
    **dict.fromkeys(("final_logit_softcapping", "logits_soft_cap"), 3.0),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "decoder_start_token_id", "forced_eos_token_id"), 1),
    "pad_token_id": 0,
    "is_decoder": True,
}
"""By name of a config's field. Only fields whose default is not None are set, so absent options stay absent."""

ALTERNATING = ["sliding_attention", "full_attention"] * 2
CHANGES: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("bamba", "falcon_h1", "granitemoehybrid"), {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_ssm": 64}),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe", "ministral", "exaone4"), {"head_dim": 8}),
    "nemotron": {"head_dim": 8, "num_key_value_heads": 2},
    "dbrx": {
        "attn_config": {"kv_n_heads": 2, "rope_theta": 10000.0, "clip_qkv": 8.0},
        "ffn_config": {"hidden_size": 32, "ffn_hidden_size": 16, "moe_num_experts": 4, "moe_top_k": 2},
    },
    "deepseek_v2": {"num_experts_per_tok": 2, "n_routed_experts": 4, "moe_intermediate_size": 16},
    "deepseek_v4": {"compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 8}},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "moe_intermediate_size": 16},
    "gemma2": {"num_hidden_layers": 2, "attn_logit_softcapping": 2.0},
    "gemma3_text": {"num_hidden_layers": 4, "layer_types": ALTERNATING},
    "gemma3n_text": {
        "num_hidden_layers": 4, "layer_types": ALTERNATING, "num_kv_shared_layers": 2, "laurel_rank": 8,
        "activation_sparsity_pattern": [0.5, 0.0, 0.0, 0.0], "intermediate_size": [64] * 4,
    },
    "gemma4_text": {"num_hidden_layers": 4, "layer_types": ALTERNATING, "head_dim": 8, "global_head_dim": 16},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "granite": {
        "embedding_multiplier": 3.0, "attention_multiplier": 0.5, "residual_multiplier": 0.6, "logits_scaling": 2.0,
    },
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "mpt": {"attn_config": {"attn_pdrop": 0}},
    "phi3": {"sliding_window": 6, "partial_rotary_factor": 0.5},
    "prophetnet": {"num_encoder_layers": 2, "num_decoder_layers": 2},
    "zaya": {"num_experts_per_tok": 1},
    "smollm3": {"no_rope_layers": [1, 0]},
}  # fmt: skip
"""What a class needs besides, by transformers' `model_type`."""

LATENT = {"num_key_value_heads": 4, "qk_head_dim": 16}


def tiny_config(model_type: str) -> Any:
    """The default config of `model_type` with small sizes. Raises what transformers raises if it does not fit together."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[model_type], CHANGES.get(model_type, {}))


def _shrunk(kind: type, changes: dict[str, Any]) -> Any:
    default = kind()
    own = vars(default)
    values = {k: v for k, v in SIZES.items() if own.get(default.attribute_map.get(k, k)) is not None}
    if "kv_lora_rank" in values:  # multi-head latent attention
        values |= {name: value for name, value in LATENT.items() if own.get(name) is not None}
    for name, value in own.items():
        if hasattr(value, "to_dict") and hasattr(value, "model_type") and name not in changes:
            values[name] = _shrunk(type(value), {}).to_dict()
    return kind(**{**values, **changes})


def tiny_model(model_type: str, seed: int = 0) -> Any:
    """A random causal model of `model_type` in float32 and evaluation mode, with spread-out logits."""
    import torch
    import transformers

    torch.manual_seed(seed)
    model = transformers.AutoModelForCausalLM.from_config(tiny_config(model_type), dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2:
                parameter.normal_(0, 2.0 * parameter.shape[-1] ** -0.5, generator=generator)
            elif name.endswith("norm.weight"):
                parameter.add_(torch.rand(parameter.shape, generator=generator) - 0.5)
            elif name.endswith("bias") or name.endswith(
                "correct_output_scale"
            ):  # Gemma 3n's per-layer input is 0 at its default
                parameter.normal_(0, 0.1, generator=generator)
    return model.eval()
