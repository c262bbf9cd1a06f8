"""Our own decoder computes the results of transformers and PEFT, whatever it keeps and wherever its weights are."""

from __future__ import annotations

import logging

import peft
import pytest
import torch
from tiny_models import build, saved, table

from trainer.adapters import trainable_parameters
from trainer.config import PROJECTIONS, LoraConfig
from trainer.decoder.decoder import Decoder, Unsupported
from trainer.decoder.layer import Layer
from trainer.decoder.retention import (
    Memory,
    Retention,
    Widths,
    choose,
    divide,
    kept_bytes,
    peak_bytes,
)
from trainer.families import FAMILIES
from trainer.forward import bound_decoder, collate, hidden_states
from trainer.model import Base

TOKENS = table([9, 20, 6, 14])
ARCHITECTURES = {kind: (kind, {}) for kind in FAMILIES} | {
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama3 rope": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "llama3",
                "rope_theta": 10000.0,
                "factor": 4.0,
                "low_freq_factor": 1.0,
                "high_freq_factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral with a window": ("mistral", {"sliding_window": 5}),
    "phi3 with a window": ("phi3", {"sliding_window": 5}),
    "smollm2": (
        "llama",
        {
            "tie_word_embeddings": True,
            "hidden_size": 24,
            "num_attention_heads": 3,
            "num_key_value_heads": 1,
            "head_dim": 8,
        },
    ),
    "qwen2 with windows": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
}


@pytest.mark.parametrize("kind", FAMILIES)
def test_the_list_of_families_says_whether_heads_have_norms(kind):
    assert FAMILIES[kind].head_norms == hasattr(build(kind).model.layers[0].self_attn, "q_norm")


def with_adapter(name, r=4, **settings):
    """A model of architecture `name` with a LoRA whose B is not zero; biases and norms have random values too."""
    kind, changes = ARCHITECTURES[name]
    causal = build(kind, **changes)
    settings = {"target_modules": "all-linear", "lora_alpha": 3 * r, "task_type": "CAUSAL_LM", **settings}
    model = peft.get_peft_model(causal, peft.LoraConfig(r=r, **settings))
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "lora_B" in parameter_name or parameter_name.endswith(("bias", "norm.weight")):
                parameter.add_(torch.randn(parameter.shape), alpha=0.05)
    return model


def reference(model, batch):
    """Hidden states of transformers and PEFT, each document alone."""
    causal = model.get_base_model()
    pieces = [batch.input_ids[None, a:b] for a, b in zip(batch.borders, batch.borders[1:], strict=False)]
    return torch.cat([causal.base_model(input_ids=piece, use_cache=False).last_hidden_state[0] for piece in pieces])


def ours(model, batch, retention=Retention.KEEP, resident=False, training=False):
    causal = model.get_base_model()
    decoder = Decoder.bind(causal, torch.float32)
    decoder.settle(Memory([retention] * len(decoder.layers), resident))
    embeddings = causal.get_input_embeddings()(batch.input_ids).detach()
    return decoder.hidden_states(embeddings, batch.position_ids, batch.layout, training)


def gradients(model, hidden):
    model.zero_grad(set_to_none=True)
    weights = torch.randn(hidden.shape, generator=torch.Generator().manual_seed(0))
    (hidden * weights).sum().backward()
    return {name: parameter.grad.clone() for name, parameter in trainable_parameters(model).items()}


def close(found, expected, tolerance=2e-5):
    for name, value in expected.items():
        assert (found[name] - value).norm() <= tolerance * value.norm() + 1e-9, name


@pytest.mark.parametrize("name", ARCHITECTURES)
@pytest.mark.parametrize("retention", Retention)
def test_hidden_states_and_gradients_are_those_of_transformers_and_peft(name, retention):
    model, batch = with_adapter(name), collate(TOKENS, [0, 1, 2, 3])
    expected = reference(model, batch)
    wanted = gradients(model, expected)
    found = ours(model, batch, retention)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    close(gradients(model, found), wanted)


@pytest.mark.parametrize("retention", Retention)
def test_the_input_of_q_k_and_v_waits_for_the_mlps_backward_pass_unless_it_is_kept(monkeypatch, retention):
    held, plain = [], Layer._mlp_backward

    def watched(layer, G, kept, run):
        held.append(kept.X_qkv is not None)
        return plain(layer, G, kept, run)

    monkeypatch.setattr(Layer, "_mlp_backward", watched)
    model, batch = with_adapter("llama"), collate(TOKENS, [0, 1])
    gradients(model, ours(model, batch, retention))
    assert held == [retention is Retention.KEEP] * 2


@pytest.mark.parametrize(
    "settings", [{"target_modules": ["q_proj", "v_proj", "down_proj"]}, {"use_rslora": True}, {"r": 16}, {"r": 1}]
)
def test_lora_on_some_projections_of_any_rank_and_scale(settings):
    model, batch = with_adapter("llama", **settings), collate(TOKENS, [1, 3])
    expected = reference(model, batch)
    wanted = gradients(model, expected)
    found = ours(model, batch)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=2e-5)
    close(gradients(model, found), wanted)


def test_bare_model_gives_transformers_logits():
    causal, batch = build("mistral"), collate(TOKENS, [0, 2])
    decoder = Decoder.bind(causal, torch.float32)
    with torch.no_grad():
        pieces = [batch.input_ids[None, a:b] for a, b in zip(batch.borders, batch.borders[1:], strict=False)]
        expected = torch.cat([causal(input_ids=piece).logits[0] for piece in pieces])
        hidden = decoder.hidden_states(
            causal.get_input_embeddings()(batch.input_ids), batch.position_ids, batch.layout, False
        )
    torch.testing.assert_close(causal.lm_head(hidden), expected, rtol=1e-4, atol=2e-5)


def test_dense_weights_move_into_the_joined_matrices_and_stay_what_they_were():
    model, batch = with_adapter("qwen3"), collate(TOKENS, [0])
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    expected = reference(model, batch)
    ours(model, batch)
    assert all(torch.equal(parameter, before[name]) for name, parameter in model.named_parameters())
    assert torch.equal(reference(model, batch), expected)
    decoder = Decoder.bind(model.get_base_model(), torch.float32)
    q = model.get_base_model().base_model.layers[0].self_attn.q_proj.get_base_layer().weight
    assert q.untyped_storage().data_ptr() == decoder.layers[0].qkv.resident.untyped_storage().data_ptr()


@pytest.mark.parametrize("retention", Retention)
def test_dropout_is_the_same_in_both_passes_and_drops_the_right_share(retention):
    """The gradient is that of the very function that was computed: its value along a direction, by differences."""
    model, batch = with_adapter("llama", lora_dropout=0.5), collate(TOKENS, [0, 1])
    model.train()

    weights = torch.randn(29, 32, generator=torch.Generator().manual_seed(2)).double()

    def value():
        torch.manual_seed(5)
        return (ours(model, batch, retention, training=True).double() * weights).sum()

    parameters = trainable_parameters(model)
    model.zero_grad(set_to_none=True)
    value().backward()
    direction = {name: torch.randn_like(p) for name, p in parameters.items()}
    slope = sum((p.grad * direction[name]).sum() for name, p in parameters.items()).item()
    values = []
    with torch.no_grad():
        for step in (1e-3, -2e-3):
            for name, parameter in parameters.items():
                parameter.add_(direction[name], alpha=step)
            values.append(value().item())
    assert (values[0] - values[1]) / 2e-3 == pytest.approx(slope, rel=2e-2)


def test_dropout_is_off_outside_training_and_of_its_own_at_every_input():
    model, batch = with_adapter("llama", lora_dropout=0.3), collate(TOKENS, [0, 1])
    model.eval()
    torch.testing.assert_close(ours(model, batch), reference(model, batch), rtol=1e-4, atol=2e-5)
    decoder = Decoder.bind(model.get_base_model(), torch.float32)
    from trainer.decoder.dropout import Keys

    keys = Keys.of([(29, 7)], torch.device("cpu"))
    run = decoder.new_pass(torch.zeros(29, 32), batch.position_ids, batch.layout, False, dropout_keys=keys)
    sites = [layer._dropout(joined, n, run).site for layer in decoder.layers for n, joined in enumerate(layer.joined)]
    assert sites == list(range(8))


def test_a_pass_whose_offloaded_inputs_were_overwritten_says_so():
    model = with_adapter("llama")
    decoder = Decoder.bind(model.get_base_model(), torch.float32)
    decoder.settle(Memory([Retention.OFFLOAD] * 2, False))
    first, second = (
        decoder.hidden_states(
            model.get_base_model().get_input_embeddings()(batch.input_ids).detach(),
            batch.position_ids,
            batch.layout,
            False,
        )
        for batch in (collate(TOKENS, [0]), collate(TOKENS, [1]))
    )
    with pytest.raises(RuntimeError, match="overwritten"):
        first.sum().backward()
    second.sum().backward()


def test_parameters_changed_by_a_fused_optimizer_are_seen(tmp_path):
    base = Base.load(saved(tmp_path))
    with base.new_adapter(LoraConfig(r=4, dropout=0.0), seed=0) as model:
        batch = collate(TOKENS, [0, 1])
        optimizer = torch.optim.AdamW(trainable_parameters(model).values(), lr=0.1, fused=True)
        before = hidden_states(model, batch)
        gradients(model, before)
        optimizer.step()
        with torch.no_grad():
            after = hidden_states(model, batch)
        assert not torch.equal(before, after)
        torch.testing.assert_close(after, ours(model, batch), rtol=1e-6, atol=1e-6)


def test_some_rows_are_those_of_all(tmp_path):
    base = Base.load(saved(tmp_path))
    with base.new_adapter(LoraConfig(r=4, dropout=0.0), seed=0) as model:
        batch = collate(TOKENS, [0, 1])
        rows = torch.tensor([7, 0, 3])
        everything = hidden_states(model, batch)
        torch.testing.assert_close(hidden_states(model, batch, rows=rows), everything[rows])
        with torch.no_grad():
            torch.testing.assert_close(hidden_states(model, batch, rows=rows), everything[rows])
            assert hidden_states(model, batch, rows=rows[:0]).shape == (0, everything.shape[1])


def test_lora_is_copied_once_for_passes_in_which_nothing_can_change_it(tmp_path, monkeypatch):
    from trainer.decoder.projections import Joined

    base = Base.load(saved(tmp_path))
    fill, filled = Joined._fill_lora, []
    monkeypatch.setattr(Joined, "_fill_lora", lambda joined, matrix: (filled.append(joined), fill(joined, matrix)))
    with base.new_adapter(LoraConfig(r=4, dropout=0.0), seed=0) as model:
        batch = collate(TOKENS, [0, 1])
        with torch.no_grad():
            once = hidden_states(model, batch)
            first = len(filled)
            assert first > 0 and torch.equal(hidden_states(model, batch), once) and len(filled) == first
            next(iter(trainable_parameters(model).values())).mul_(1.5)
            hidden_states(model, batch)
            assert len(filled) == 2 * first
        gradients(model, hidden_states(model, batch))
        with torch.no_grad():
            hidden_states(model, batch)
        assert len(filled) == 4 * first


def test_an_adapter_put_on_or_switched_off_outside_is_noticed(tmp_path):
    base = Base.load(saved(tmp_path))
    batch = collate(TOKENS, [0, 1])
    with torch.no_grad():
        bare = hidden_states(base.model, batch)
        model = peft.get_peft_model(base.model, peft.LoraConfig(r=4, target_modules=list(PROJECTIONS)))
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_()
        worn = hidden_states(model, batch)
        with model.disable_adapter():
            off = hidden_states(model, batch)
        again = hidden_states(model, batch)
    assert torch.equal(bare, off) and torch.equal(worn, again) and not torch.equal(bare, worn)


def test_weights_trained_besides_lora_are_refused():
    model = peft.get_peft_model(
        build("llama"), peft.LoraConfig(r=4, target_modules=["q_proj"], modules_to_save=["norm"])
    )
    with pytest.raises(Unsupported, match="other than LoRA"):
        Decoder.bind(model.get_base_model(), torch.float32)


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}])
def test_variants_of_lora_run_through_transformers(tmp_path, caplog, settings):
    base = Base.load(saved(tmp_path, "llama", attention_bias=True))
    targets = ["q_proj", "v_proj"]
    model = peft.get_peft_model(base.model, peft.LoraConfig(r=4, target_modules=targets, **settings))
    with caplog.at_level(logging.INFO):
        found = hidden_states(model, collate(TOKENS, [0, 1]))
    assert bound_decoder(model) is None and "transformers' own forward" in caplog.text
    with caplog.at_level(logging.INFO):
        assert found.requires_grad


def test_other_architectures_are_refused_by_name():
    with pytest.raises(Unsupported, match="cohere"):
        Decoder.bind(build("cohere"), torch.float32)
    with pytest.raises(Unsupported, match="dropout of attention"):
        Decoder.bind(build("llama", attention_dropout=0.1), torch.float32)
    foreign = build("llama")
    foreign.base_model.layers[0].mlp.__class__ = type(
        "LlamaMLP", (type(foreign.base_model.layers[0].mlp),), {"__module__": "elsewhere"}
    )
    with pytest.raises(Unsupported, match="llama"):
        Decoder.bind(foreign, torch.float32)
    with pytest.raises(Unsupported, match="gelu"):
        Decoder.bind(build("llama", hidden_act="gelu"), torch.float32)


MISTRAL = Widths(hidden=4096, query=4096, key_value=1024, intermediate=14336, heads=32, rank=16, itemsize=2)


def test_keeping_less_takes_less_memory():
    sizes = [kept_bytes(MISTRAL, retention, 8192) for retention in Retention]
    assert sizes == sorted(sizes, reverse=True) and sizes[-1] == 0
    peaks = [peak_bytes(MISTRAL, [retention] * 32, 8192) for retention in Retention]
    assert peaks == sorted(peaks, reverse=True)


@pytest.mark.parametrize("gib", [0.5, 1.5, 3, 8, 16, 24, 30, 60])
def test_a_budget_is_kept_and_used(gib):
    retentions = choose(MISTRAL, 32, 8192, gib * 2**30, can_offload=True)
    peak = peak_bytes(MISTRAL, retentions, 8192) / 2**30
    ladder = list(Retention)
    assert [ladder.index(r) for r in retentions] == sorted((ladder.index(r) for r in retentions), reverse=True)
    if set(retentions) not in ({Retention.OFFLOAD}, {Retention.KEEP}):
        assert peak <= gib < peak + 0.9
    assert (set(retentions) == {Retention.KEEP}) is (gib == 60)


def test_the_peak_is_where_what_was_freed_and_what_gradients_take_balance():
    """Two layers that keep inputs: with small gradients the first backward pass is the peak, with large ones the last."""
    freed = kept_bytes(MISTRAL, Retention.INPUT, 8192)
    none, small, large = (
        peak_bytes(MISTRAL, [Retention.INPUT] * 2, 8192, gradients=g) for g in (0, freed / 2, freed * 2)
    )
    assert small == none + freed / 2
    assert large == none + 2 * (freed * 2) - freed


def test_without_host_memory_the_least_is_inputs():
    assert choose(MISTRAL, 32, 8192, 0.0, can_offload=False) == [Retention.INPUT] * 32


def test_dequantized_weights_come_before_cheap_inputs_and_after_products():
    matrices = 13 * 2**30
    small, middle, large = (divide(MISTRAL, 32, 8192, gib * 2**30, matrices, True) for gib in (30, 38, 70))
    assert not small.resident and small.retentions.count(Retention.KEEP) > 0
    assert middle.resident and middle.retentions.count(Retention.PRODUCTS) > 24
    assert large.resident and set(large.retentions) == {Retention.KEEP}
    assert not divide(MISTRAL, 32, 8192, 70 * 2**30, 0, True).resident
