"""A model is computed exactly, or it is refused with the reason."""

from __future__ import annotations

import gc
import weakref

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from tiny_models import SIZES, build, saved, table

from trainer.attention import PACKED_ATTENTION
from trainer.config import LoraConfig
from trainer.decoder.decoder import is_family
from trainer.errors import DataError, TrainerError
from trainer.forward import bound_decoder, collate, hidden_states, output_head
from trainer.gate import limits
from trainer.gate.architecture import prepare_attention
from trainer.gate.weights import check_tokens
from trainer.loss import Head, target_nll, target_statistics
from trainer.model import Base
from trainer.template import ChatTemplate


def own_nll(model, tokens, rows):
    """NLL of every token but the first of each document, by the model's own forward over it alone."""
    found = []
    for row in rows:
        ids = torch.tensor(tokens.ids(row))[None].long()
        logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
        found.append(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="none"))
    return torch.cat(found)


def packed_nll(model, tokens, rows):
    batch = collate(tokens, rows, every_token=True)
    return target_nll(hidden_states(model, batch)[batch.predictors], output_head(model), batch.labels)


@pytest.mark.parametrize("kind", ["missing", "mismatched"])
def test_trap_33_a_weight_missing_from_the_checkpoint_is_an_error_that_names_it(tmp_path, kind):
    config, lost = saved(tmp_path), "model.layers.1.mlp.down_proj.weight"
    tensors = load_file(tmp_path / "model.safetensors")
    if kind == "missing":
        del tensors[lost]
    else:
        tensors[lost] = tensors[lost][:, :7].contiguous()
    save_file(tensors, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(TrainerError, match=f"{kind}: {lost}"):
        Base.load(config)


SCALED = {
    "gemma2": {"final_logit_softcapping": 0.5},
    "granite": {"logits_scaling": 8.0},
    "cohere": {"logit_scale": 0.25},
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", SCALED)
def test_trap_34_scaled_and_capped_logits_give_the_models_own_losses(kind, dtype):
    model, tokens = build(kind, **SCALED[kind]).to(dtype), table([9, 20])
    with torch.no_grad():
        expected = own_nll(model, tokens, [0, 1])
        prepare_attention(model)
        found = packed_nll(model, tokens, [0, 1])
        plain = Head(output_head(model).weight)
        batch = collate(tokens, [0, 1], every_token=True)
        without = target_nll(hidden_states(model, batch)[batch.predictors], plain, batch.labels)
    tolerance = 1e-5 if dtype == torch.float32 else 0.03
    assert (found - expected).abs().mean() < tolerance
    assert (without - expected).abs().mean() > 5 * tolerance


def test_gradient_and_statistics_go_through_scale_and_cap():
    head = output_head(build("gemma2"))._replace(scale=0.5, softcap=2.0)
    hidden, labels = torch.randn(30, 32).requires_grad_(), torch.randint(0, 97, (30,))
    twin = hidden.detach().clone().requires_grad_()
    head.weight.requires_grad_(False)
    target_nll(hidden, head, labels).sum().backward()
    logits = 2.0 * torch.tanh(0.5 * (twin @ head.weight.T) / 2.0)
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    torch.testing.assert_close(hidden.grad, twin.grad)
    expected = torch.distributions.Categorical(logits=logits.detach()).entropy()
    torch.testing.assert_close(target_statistics(hidden, head, labels).entropy, expected)


def test_logits_changed_by_a_value_that_no_config_has_are_refused_as_such():
    model = build("cohere")
    model.lm_head.register_forward_hook(lambda module, inputs, output: output * 0.7)
    with pytest.raises(TrainerError, match="logits of CohereForCausalLM"):
        prepare_attention(model)


def test_trap_35_a_leak_far_below_rounding_tolerances_is_refused():
    model = build("cohere")
    layer = model.model.layers[0].mlp
    layer.register_forward_hook(lambda module, inputs, output: output + 1e-6 * output.roll(1, dims=1))
    with pytest.raises(TrainerError, match="change by .* with the documents around it"):
        prepare_attention(model)


def test_trap_35_a_leak_through_replaced_embeddings_in_training_mode_is_refused():
    model = build("cohere")

    def leak(module, inputs, output):
        return output + output.mean(1, keepdim=True) if module.training else output

    model.model.layers[0].mlp.register_forward_hook(leak)
    with pytest.raises(TrainerError, match="with the documents around it"):
        prepare_attention(model)


def test_trap_36_experts_that_stay_in_16_bits_are_refused_in_nf4(tmp_path):
    model = transformers.MixtralForCausalLM(transformers.MixtralConfig(**SIZES, num_local_experts=4))
    model.save_pretrained(tmp_path)
    config = saved(tmp_path / "unused").model_copy(update={"name": str(tmp_path), "quantization": "nf4"})
    with pytest.raises(TrainerError, match=r"at least 95% .* found \d+%: .*experts"):
        Base.load(config)


def test_trap_37_code_that_calls_itself_llama_is_probed():
    class LlamaForCausalLM(transformers.LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            output = super().forward(*args, **kwargs)
            output.logits = output.logits * 0.25
            return output

    model = LlamaForCausalLM(transformers.LlamaConfig(**SIZES)).eval()
    assert not is_family(model)
    with pytest.raises(TrainerError, match="logits of LlamaForCausalLM"):
        prepare_attention(model)


def test_trap_37_one_foreign_layer_makes_a_foreign_model():
    model = build("llama")
    assert is_family(model)
    model.model.layers[1].self_attn.__class__ = type("LlamaAttention", (type(model.model.layers[1].self_attn),), {})
    assert not is_family(model)


def test_a_window_that_only_the_mask_has_is_kept():
    sizes = {**SIZES, "sliding_window": 32, "num_local_experts": 4, "head_dim": 8}
    torch.manual_seed(0)
    model, tokens = transformers.PhimoeForCausalLM(transformers.PhimoeConfig(**sizes)).eval(), table([60, 44])
    with torch.no_grad():
        expected = own_nll(model, tokens, [0, 1])
        assert prepare_attention(model) != PACKED_ATTENTION
        assert model.config.sliding_window == 32
        assert (packed_nll(model, tokens, [0, 1]) - expected).abs().max() < 1e-4


def test_longrope_is_exact_within_the_original_context_and_refused_beyond():
    half = SIZES["hidden_size"] // SIZES["num_attention_heads"] // 2
    rope = {"rope_type": "longrope", "short_factor": [1.0] * half, "long_factor": [4.0] * half, "rope_theta": 1e4,
            "original_max_position_embeddings": 32, "factor": 8.0}  # fmt: skip
    model, tokens = build("llama", rope_parameters=rope), table([30, 20, 33])
    with torch.no_grad():
        expected = own_nll(model, tokens, [0, 1])
        prepare_attention(model)
        assert (packed_nll(model, tokens, [0, 1]) - expected).abs().max() < 1e-4
        with pytest.raises(DataError, match="at most the model's 32 tokens.*longrope.*found 33"):
            packed_nll(model, tokens, [0, 2])


def test_a_document_beyond_the_models_positions_is_refused():
    config = transformers.LlamaConfig(**SIZES)
    limits.check(config, 256)
    with pytest.raises(DataError, match=r"tokens.max_length: .*256 tokens \(max_position_embeddings\), found 257"):
        limits.check(config, 257, "tokens.max_length")
    limits.check(transformers.MambaConfig(), 10**6)


def test_a_replaced_adapter_is_never_taken_for_the_one_before(tmp_path):
    base = Base.load(saved(tmp_path / "model"))
    with base.new_adapter(LoraConfig(r=2, targets=["q_proj"]), seed=0) as model:
        bound_decoder(model)
        removed = weakref.ref(base.model.model.layers[0].self_attn.q_proj)
    gc.collect()
    assert removed() is not None, "its id could be that of the next adapter's layer"
    bound_decoder(base.model)
    gc.collect()
    assert removed() is None


@pytest.fixture
def extended(byte_tokenizer):
    """A function that makes the tokenizer with one more token, and the config of a model that has no embedding of it."""
    from tokenizers import AddedToken, Tokenizer

    def made(text: str, special: bool = True, **options: str):
        backend = Tokenizer.from_str(byte_tokenizer.backend_tokenizer.to_str())
        rows = backend.get_vocab_size()
        backend.add_special_tokens([text]) if special else backend.add_tokens([AddedToken(text)])
        names = {"bos_token": "<|bos|>", "eos_token": "<|end|>"} | options
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=backend, **names)
        assert max(tokenizer.get_vocab().values()) == rows
        return tokenizer, transformers.LlamaConfig(**SIZES | {"vocab_size": rows})

    return made


@pytest.mark.parametrize(
    ("text", "special", "options"),
    [
        ("<word>", False, {}),
        ("<fill>", True, {"pad_token": "<fill>"}),
        ("<picture>", True, {"chat_template": "{{ messages[0]['content'] }}<picture>"}),
    ],
)
def test_a_token_without_an_embedding_that_a_text_may_become_is_refused_by_name(extended, text, special, options):
    tokenizer, config = extended(text, special, **options)
    rows = config.vocab_size
    with pytest.raises(TrainerError, match=f"{rows} embeddings, found '{text}' with id {rows}"):
        check_tokens(tokenizer, config)
    config.vocab_size += 1
    check_tokens(tokenizer, config)


OWN = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>{% endfor %}"


@pytest.mark.parametrize(("name", "options"), [("chatml", {}), ("plain", {}), ("auto", {"chat_template": OWN})])
def test_a_special_token_without_an_embedding_is_read_as_characters(extended, name, options):
    """As Gemma 3's token of an image, which its text models lack."""
    tokenizer, config = extended("<picture>", **options)
    check_tokens(tokenizer, config)
    messages = [{"role": "user", "content": "a <picture>"}, {"role": "assistant", "content": "<picture>!"}]
    ids = ChatTemplate.resolve(tokenizer, name).tokenize(messages).ids
    assert max(ids) < config.vocab_size and tokenizer.decode(ids).count("<picture>") == 2


def test_packed_attention_gives_a_contiguous_result():
    from trainer.attention import packed_attention

    batch = collate(table([5, 7]), [0, 1])
    q, k = torch.randn(1, 4, 12, 8), torch.randn(1, 2, 12, 8)
    out, _ = packed_attention(torch.nn.Module(), q, k, k, None, pack=batch.layout)
    assert out.is_contiguous() and out.shape == (1, 12, 4, 8)
    assert np.isfinite(out.numpy()).all()
