"""Families that differ from Llama: NF4 weights, 8-bit passes, several adapters, gradients by document, merging, and what is refused."""

from __future__ import annotations

import weakref

import peft
import pytest
import torch
import transformers
from safetensors.torch import load_file
from tiny_models import SIZES, build, saved, table
from torch.utils._python_dispatch import TorchDispatchMode

from al.planning.model_shape import model_shape
from trainer.activation import training_mode
from trainer.adapters import save_adapter, trainable_parameters
from trainer.config import GenerateConfig, LoraConfig, ModelConfig
from trainer.decoder.binding import read_norm
from trainer.decoder.decoder import Decoder, Unsupported, is_family
from trainer.decoder.elementwise import add_rms_norm
from trainer.decoder.retention import Retention, kept_values, working_bytes
from trainer.errors import DataError, TrainerError
from trainer.families import FAMILIES
from trainer.forward import collate, hidden_states, output_head
from trainer.gate.architecture import prepare_attention
from trainer.generate import generate
from trainer.generation.adapters import AdapterSet
from trainer.gradients import Projector, _one_by_one, _packed
from trainer.loss import target_nll
from trainer.model import Base, plain_attention

TOKENS = table([9, 20, 6, 14])
NEW = ("smollm3", "granite", "phi3", "olmo2", "olmo3", "gemma", "gemma2", "gemma3_text")
WIDE = {"hidden_size": 64, "head_dim": 16}
"""Widths that are multiples of NF4's blocks of 64 weights."""


def loaded(path, kind, quantization="none", **sizes):
    wide = {key: value for key, value in WIDE.items() if key == "hidden_size" or kind.startswith("gemma")}
    return Base.load(saved(path, kind, **wide, **sizes).model_copy(update={"quantization": quantization}))


def shaken(model, seed=0, std=0.1):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in trainable_parameters(model).items():
            if "lora_B" in name:
                parameter.normal_(std=std, generator=generator)


def alone(model, batch):
    """Hidden states of transformers and PEFT, each document alone."""
    pieces = [batch.input_ids[None, a:b] for a, b in zip(batch.borders, batch.borders[1:], strict=False)]
    with plain_attention(model):
        layers = model.get_base_model().base_model
        return torch.cat([layers(input_ids=piece, use_cache=False).last_hidden_state[0] for piece in pieces])


def test_the_new_families_are_these():
    assert set(NEW) == set(FAMILIES) - {"llama", "mistral", "qwen2", "qwen3"}


@pytest.mark.parametrize("kind", NEW)
def test_nf4_weights_give_what_transformers_gives_with_them_and_eight_bits_come_near(tmp_path, kind):
    base, batch = loaded(tmp_path, kind, "nf4"), collate(TOKENS, range(4))
    names = [name for names in FAMILIES[kind].projections for name in names]
    assert len([linear for joined in base.decoder.nf4 for linear in joined.linears]) == 2 * len(names)
    with base.new_adapter(LoraConfig(r=4), seed=0) as model, torch.no_grad():
        shaken(model, std=0.01)
        expected = alone(model, batch)
        torch.testing.assert_close(hidden_states(model, batch), expected, rtol=1e-4, atol=3e-5)
        with model.disable_adapter():
            bare = hidden_states(model, batch)
        base.decoder.measure_in_fp8(True)
        found = hidden_states(model, batch)
        assert 1e-3 * expected.norm() < (found - expected).norm() < 0.5 * (bare - expected).norm()


@pytest.mark.parametrize("kind", NEW)
def test_a_budget_of_nothing_trains_as_a_large_one_does(tmp_path, kind):
    base, batch, found = loaded(tmp_path, kind, "nf4"), collate(TOKENS, range(4)), []
    with base.new_adapter(LoraConfig(r=4, dropout=0.2), seed=0) as model:
        shaken(model)
        for budget in (8.0, 0.0):
            with training_mode(model, budget, len(batch.input_ids)):
                torch.manual_seed(3)
                hidden = hidden_states(model, batch)
                target_nll(hidden[batch.predictors], output_head(model), batch.labels).sum().backward()
                found.append({name: p.grad.clone() for name, p in trainable_parameters(model).items()})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", ["llama", "qwen3", "granite", "olmo2", "gemma2", "gemma3_text"])
@pytest.mark.parametrize("retention", [Retention.KEEP, Retention.PRODUCTS, Retention.INPUT])
def test_a_layer_keeps_the_bytes_that_the_plan_counts(tmp_path, kind, retention):
    base, batch, tape = loaded(tmp_path, kind), collate(TOKENS, range(4)), []
    with base.new_adapter(LoraConfig(r=8), seed=0) as model, torch.no_grad():
        decoder, embeddings = base.decoder, model.get_input_embeddings()(batch.input_ids)
        decoder.retention = [retention] * 2
        run = decoder.new_pass(embeddings, batch.position_ids, batch.layout, differentiable=True)
        decoder._forward(embeddings, run, tape)
        kept = [tensor for tensor in vars(tape[1]).values() if tensor is not None]
        assert sum(tensor.numel() for tensor in kept) == len(embeddings) * kept_values(decoder.widths, retention)


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are made under it and still live; `peak` is the most since it was entered."""

    def __init__(self):
        super().__init__()
        self.bytes = self.peak = 0
        self._known = set()

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        made = function(*arguments, **(options or {}))
        for tensor in made if isinstance(made, (tuple, list)) else (made,):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self._known:
                self._known.add(key)
                self.bytes += (size := tensor.untyped_storage().nbytes())
                weakref.finalize(tensor.untyped_storage(), self._freed, key, size)
        self.peak = max(self.peak, self.bytes)
        return made

    def _freed(self, key, size):
        self._known.discard(key)
        self.bytes -= size


@pytest.mark.parametrize("retention", [Retention.KEEP, Retention.PRODUCTS, Retention.INPUT])
def test_a_scaled_branch_takes_one_more_residual_in_its_backward_pass_and_the_plan_counts_it(tmp_path, retention):
    def trained(scale):
        base, batch = loaded(tmp_path / str(scale), "granite", residual_multiplier=scale), collate(table([200]), [0])
        with base.new_adapter(LoraConfig(r=8), seed=0) as model, training_mode(model, 8.0, len(batch.input_ids)):
            base.decoder.retention = [retention] * 2
            with Living() as living:
                hidden = hidden_states(model, batch)
                living.peak = living.bytes
                hidden.backward(torch.ones_like(hidden))
            return living.peak, working_bytes(base.decoder.widths, retention, len(batch.input_ids))

    (plain, counted_plain), (scaled, counted_scaled) = trained(1.0), trained(0.6)
    assert scaled - plain == counted_scaled - counted_plain == 200 * 64 * 4
    shape = model_shape(ModelConfig(name=str(tmp_path / "0.6")), LoraConfig(r=8), 4)
    assert (
        shape.widths.scaled and not model_shape(ModelConfig(name=str(tmp_path / "1.0")), LoraConfig(r=8)).widths.scaled
    )


@pytest.mark.parametrize("kind", NEW)
def test_gradients_of_packed_documents_are_those_of_autograd(tmp_path, kind):
    base = loaded(tmp_path, kind)
    with base.new_adapter(LoraConfig(r=4), seed=0) as model:
        shaken(model)
        projector = Projector(trainable_parameters(model), 64, seed=0)
        with torch.no_grad():
            found = _packed(model, TOKENS, [0, 1, 2], projector)
        expected = _one_by_one(model, TOKENS, [0, 1, 2], projector)
    torch.testing.assert_close(found, expected, rtol=2e-4, atol=2e-4 * expected.abs().max().item())


@pytest.mark.parametrize("kind", ["granite", "phi3", "olmo3", "gemma2", "gemma3_text"])
def test_several_adapters_write_together_what_each_writes_alone(tmp_path, kind):
    base, paths, alone_each = loaded(tmp_path / "model", kind), [], []
    settings = GenerateConfig(max_new_tokens=8, samples=0, temperature=1.0, batch_tokens=1000)
    prompts = [TOKENS.ids(row) for row in range(4)]

    def written(model, *owners, **adapters):
        asked = [prompts[i % 4] for i in range(len(owners) or 4)]
        found = generate(model, asked, settings, end_ids=(), seed=0, **adapters)
        return [answers[0].tolist() for answers in found]

    for k in range(2):
        with base.new_adapter(LoraConfig(r=3 + k), seed=k) as model:
            shaken(model, seed=k, std=0.5)
            paths.append(tmp_path / str(k))
            save_adapter(model, paths[-1])
            alone_each.append(written(model))
    assert alone_each[0] != alone_each[1]
    owners = [0, 1, 1, 0, 1, 0, 0, 1]
    together = written(base.model, *owners, adapters=AdapterSet.load(paths, base.decoder), owners=owners)
    assert together == [alone_each[owner][i % 4] for i, owner in enumerate(owners)]


@pytest.mark.parametrize("kind", NEW)
def test_a_saved_adapter_merges_in_plain_peft_into_the_same_losses(tmp_path, kind):
    base, batch = loaded(tmp_path / "model", kind), collate(TOKENS, [1, 3])
    with base.new_adapter(LoraConfig(r=4), seed=0) as model:
        shaken(model)
        save_adapter(model, tmp_path / "adapter")
        with torch.no_grad():
            found = target_nll(hidden_states(model, batch)[batch.predictors], output_head(model), batch.labels)
    plain = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.float32)
    merged = peft.PeftModel.from_pretrained(plain, tmp_path / "adapter").merge_and_unload()
    pieces = [batch.input_ids[None, a:b] for a, b in zip(batch.borders, batch.borders[1:], strict=False)]
    with torch.no_grad():
        logits = torch.cat([merged(input_ids=piece, use_cache=False).logits[0] for piece in pieces])
    expected = torch.nn.functional.cross_entropy(logits[batch.predictors], batch.labels, reduction="none")
    assert (found - expected).abs().mean() < 1e-5


def test_lora_on_some_layers_of_phi_by_their_own_names(tmp_path):
    base, batch = loaded(tmp_path, "phi3"), collate(TOKENS, range(4))
    with base.new_adapter(LoraConfig(r=4, targets=["qkv_proj", "down_proj"]), seed=0) as model, torch.no_grad():
        assert len(trainable_parameters(model)) == 2 * 2 * 2 and base.decoder is not None
        shaken(model)
        torch.testing.assert_close(hidden_states(model, batch), alone(model, batch), rtol=1e-4, atol=3e-5)
    with (
        pytest.raises(TrainerError, match="do not fit Phi3ForCausalLM"),
        base.new_adapter(LoraConfig(targets=["q_proj"]), 0),
    ):
        pass


def test_embeddings_with_noise_pass_through_granites_multiplier(tmp_path):
    base, batch = loaded(tmp_path, "granite"), collate(TOKENS, [1])
    embeddings = base.model.get_input_embeddings()(batch.input_ids)
    noisy = (embeddings + 0.1 * torch.randn(embeddings.shape, generator=torch.Generator().manual_seed(0))).detach()
    with torch.no_grad():
        found = hidden_states(base.model, batch, noisy)
        with plain_attention(base.model):
            expected = base.model.model(inputs_embeds=noisy[None], use_cache=False).last_hidden_state[0]
        assert (hidden_states(base.model, batch) - found).abs().max() > 1e-3
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)


def test_longrope_of_phi_is_exact_within_the_original_context_and_refused_beyond(tmp_path):
    quarter = SIZES["hidden_size"] // SIZES["num_attention_heads"] // 4
    rope = {"rope_type": "longrope", "short_factor": [1.5] * quarter, "long_factor": [4.0] * quarter, "rope_theta": 1e4,
            "original_max_position_embeddings": 32, "factor": 8.0, "partial_rotary_factor": 0.5}  # fmt: skip
    changes = {"rope_parameters": rope, "original_max_position_embeddings": 32}
    base, tokens = Base.load(saved(tmp_path, "phi3", **changes)), table([30, 20, 33])
    batch = collate(tokens, [0, 1])
    with torch.no_grad():
        found = hidden_states(base.model, batch)
        with plain_attention(base.model):
            pieces = [batch.input_ids[None, a:b] for a, b in zip(batch.borders, batch.borders[1:], strict=False)]
            expected = torch.cat([base.model.model(input_ids=piece).last_hidden_state[0] for piece in pieces])
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
        with pytest.raises(DataError, match="at most the model's 32 tokens.*longrope.*found 33"):
            hidden_states(base.model, collate(tokens, [0, 2]))


@pytest.mark.parametrize("kind", ["llama", "qwen3", *NEW])
def test_norms_in_bfloat16_have_every_bit_of_transformers(kind):
    module = build(kind).to(torch.bfloat16).model.norm
    with torch.no_grad():
        module.weight.uniform_(-0.5, 1.5, generator=torch.Generator().manual_seed(0))
        x = torch.randn(50, 32, generator=torch.Generator().manual_seed(1)).to(torch.bfloat16)
        norm, found = read_norm(module, FAMILIES[kind]), torch.empty_like(x)
        add_rms_norm(x, None, norm.weight, norm.eps, found)
        assert torch.equal(found, module(x))


def test_attention_in_both_directions_makes_no_family():
    assert is_family(build("gemma3_text")) and not is_family(build("gemma3_text", use_bidirectional_attention=True))


@pytest.mark.parametrize(("kind", "changes", "words"), [
    ("phi3", {"resid_pdrop": 0.1}, "dropout of attention or of the residual stream"),
    ("gemma3_text", {"hidden_activation": "gelu"}, "the activation gelu"),
    ("llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.0, "partial_rotary_factor": 0.5}}, "part of"),
])  # fmt: skip
def test_what_the_decoder_does_not_compute_is_refused_by_name(kind, changes, words):
    with pytest.raises(Unsupported, match=words):
        Decoder.bind(build(kind, **changes), torch.float32)


def test_trap_46_an_adapter_that_peft_would_lose_a_part_of_is_refused_before_training(tmp_path):
    """transformers reads old checkpoints of Laguna by a pattern that also matches the names of its layers."""
    from benchmarks.architecture_models import tiny_model

    tiny_model("laguna").save_pretrained(tmp_path)
    config = saved(tmp_path / "unused").model_copy(update={"name": str(tmp_path)})
    base = Base.load(config)
    with (
        pytest.raises(TrainerError, match=r"6 that it would lose \(first: .*shared_expert"),
        base.new_adapter(LoraConfig(r=2), seed=0),
    ):
        pass
    with base.new_adapter(LoraConfig(r=2, targets=["q_proj"]), seed=0) as model:
        shaken(model)
        save_adapter(model, tmp_path / "adapter")
        expected = {name: p.detach().clone() for name, p in trainable_parameters(model).items()}
    assert len(load_file(tmp_path / "adapter" / "adapter_model.safetensors")) == len(expected) == 4
    with base.adapter(tmp_path / "adapter", trainable=True) as model:
        found = trainable_parameters(model)
        assert all(torch.equal(found[name], value) for name, value in expected.items())


def test_sparse_attention_is_computed_up_to_the_tokens_that_it_selects():
    from trainer.gate import limits

    config = transformers.DeepseekV32Config(index_topk=40, max_position_embeddings=512)
    limits.check(config, 40)
    with pytest.raises(DataError, match=r"40 tokens \(index_topk\), found 41"):
        limits.check(config, 41)


@pytest.mark.parametrize(
    ("model_type", "field"), [("deepseek_v4", "compress_rates"), ("minimax_m3_vl_text", "index_block_size")]
)
def test_attention_to_blocks_of_tokens_is_refused_because_they_cross_documents(model_type, field):
    from benchmarks.architecture_models import tiny_model

    with pytest.raises(TrainerError, match=f"blocks of tokens, {field}, which begin at the start of the pack"):
        prepare_attention(tiny_model(model_type))
