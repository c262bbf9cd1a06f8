"""Texts to unit vectors."""

from __future__ import annotations

import numpy as np
import pytest

from selection.config import EmbedConfig
from selection.distill import distill
from selection.embed import _batches, embed_texts, load_embedder
from selection.errors import MachineError, SelectionError

TEXTS = [
    f"task {i} say the first of " + " ".join(["red", "green", "stone", "paper"][: 1 + i % 4] * (1 + i % 7))
    for i in range(60)
]


@pytest.fixture(scope="module")
def config(world):
    import yaml

    return EmbedConfig(**yaml.safe_load(world.read_text())["embed"])


def embedded(texts, config, **change):
    out = np.full((len(texts), 32), np.nan, dtype=np.float16)
    embed_texts(texts, config.model_copy(update=change), out)
    return out


def test_vectors_are_of_unit_length_and_rows_stay_in_order(config):
    vectors = embedded(TEXTS, config)
    assert np.allclose(np.linalg.norm(vectors.astype(np.float32), axis=1), 1, atol=2e-3)
    reference = load_embedder(config).encode(TEXTS, batch_size=1, normalize_embeddings=True, show_progress_bar=False)
    assert np.abs(vectors - reference).max() < 2e-3


def test_batch_size_changes_nothing_but_rounding(config):
    assert np.abs(embedded(TEXTS, config, batch_tokens=16).astype(np.float32) - embedded(TEXTS, config)).max() < 2e-3


def test_when_memory_runs_out_batches_are_halved_and_the_vectors_are_the_same(config):
    sizes, calls = [], iter(range(99))

    def attempt(encode):
        sizes.append(len(encode.args[1]))
        return None if next(calls) in (0, 1) else encode()

    counts, out = [], np.empty((len(TEXTS), 32), np.float16)
    embed_texts(TEXTS, config, out, progress=counts.append, attempt=attempt)
    assert np.abs(out.astype(np.float32) - embedded(TEXTS, config)).max() < 2e-3
    assert sum(counts) == len(TEXTS) and sizes[:3] == [60, 30, 15]


def test_a_text_that_does_not_fit_the_memory_alone_is_an_error_of_the_machine(config):
    with pytest.raises(MachineError, match="one text of .* embed.device") as raised:
        embed_texts(TEXTS, config, np.empty((len(TEXTS), 32), np.float16), attempt=lambda encode: None)
    assert raised.value.exit_code == 4


def test_no_batch_is_over_its_tokens_and_lengths_are_alike():
    lengths = np.random.default_rng(0).integers(1, 200, 500)
    batches = list(_batches(lengths, 1000))
    assert sorted(np.concatenate(batches)) == list(range(500))
    assert all(len(b) == 1 or len(b) * lengths[b].max() <= 1000 for b in batches)
    assert sum(len(b) * lengths[b].max() for b in batches) < 1.05 * lengths.sum()


def test_a_text_longer_than_a_batch_is_a_batch_by_itself():
    assert [b.tolist() for b in _batches(np.array([5, 5000]), 100)] == [[1], [0]]


def test_progress_counts_every_text(config):
    counts = []
    embed_texts(TEXTS, config, np.empty((len(TEXTS), 32), np.float16), progress=counts.append)
    assert sum(counts) == len(TEXTS)


def test_a_model_that_is_none_is_named(tmp_path):
    with pytest.raises(SelectionError, match="embed.model.*nothing-here"):
        load_embedder(EmbedConfig(model=str(tmp_path / "nothing-here"), device="cpu"))


def test_trap_33_an_embedder_whose_checkpoint_lacks_a_weight_is_refused(config, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    shutil.copytree(config.model, tmp_path / "model")
    file = next((tmp_path / "model").rglob("model.safetensors"))
    tensors = load_file(file)
    lost = next(name for name in tensors if name.endswith("output.dense.weight"))
    save_file({name: tensor for name, tensor in tensors.items() if name != lost}, file, metadata={"format": "pt"})
    with pytest.raises(SelectionError, match=f"1 missing: {lost}"):
        load_embedder(config.model_copy(update={"model": str(tmp_path / "model")}))


def test_a_static_embedder_takes_the_mean_of_its_tokens_vectors(config, tmp_path):
    static = load_embedder(config.model_copy(update={"distill": True}))
    static.save(str(tmp_path))
    again = config.model_copy(update={"model": str(tmp_path)})
    vectors = embedded(TEXTS, again)
    weights = static[0].embedding.weight.detach().numpy()
    ids = static.tokenizer.encode(TEXTS[7], add_special_tokens=False).ids
    mean = weights[ids].mean(axis=0)
    assert np.allclose(vectors[7], mean / np.linalg.norm(mean), atol=2e-3)
    assert np.array_equal(embedded(TEXTS, again, batch_tokens=16), vectors)


def test_distilling_embeds_every_token_and_rare_ones_weigh_more(config):
    counts = []
    source = load_embedder(config)
    weights = distill(source, counts.append)[0].embedding.weight.detach().numpy()
    size = source.tokenizer.backend_tokenizer.get_vocab_size()
    assert sum(counts) == len(weights) == size and weights.shape[1] == 32
    length = np.linalg.norm(weights, axis=1)
    assert length[5:25].mean() < 0.5 * length[-20:].mean()


def test_a_tokenizer_that_pads_to_a_length_pads_no_token_that_is_distilled(config):
    plain, padding = load_embedder(config), load_embedder(config)
    padding.tokenizer.backend_tokenizer.enable_padding(length=24)
    weights = [distill(model)[0].embedding.weight.detach().numpy() for model in (plain, padding)]
    assert np.array_equal(*weights)
    assert padding.tokenizer.backend_tokenizer.padding["length"] == 24  # the embedder's own tokenizer is left as it was


def test_texts_about_the_same_are_near_in_the_distilled_space_too(config):
    out = np.empty((3, 32), np.float16)
    distilled = load_embedder(config.model_copy(update={"distill": True}))
    same = [TEXTS[0], TEXTS[0] + " " + TEXTS[0], "paper " * 9]
    embed_texts(same, config, out, embedder=distilled)
    near, far = out[0] @ out[1], out[0] @ out[2]
    assert near > 0.999 > far + 0.2


def test_a_static_model_cannot_be_distilled(config, tmp_path):
    load_embedder(config.model_copy(update={"distill": True})).save(str(tmp_path))
    with pytest.raises(SelectionError, match=r"embed\.distill.*set embed\.distill to false"):
        load_embedder(config.model_copy(update={"model": str(tmp_path), "distill": True}))
