"""LoRA's dropout: masks that are computed where they are applied, alike on a CPU and in the GPU's kernels, and free of any batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tiny_models import build, plan, saved, table

from trainer import step as steps
from trainer.adapters import trainable_parameters
from trainer.config import LoraConfig, TrainConfig
from trainer.decoder import dropout as module
from trainer.decoder.dropout import LANE, LANES, Dropout, Keys, pcg4d
from trainer.model import Base
from trainer.train import train

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
GROUP = LANE * LANES
SEEDS = (1, 2**62 + 5, 987_654_321_012_345_678)


def dropping(packs, rate=0.05, site=0):
    return Dropout(Keys.of(packs, DEVICE), site, rate)


@pytest.fixture
def both(monkeypatch):
    """A function's results in plain torch and through the kernels."""
    pytest.importorskip("triton", reason="triton is not installed (requirements-dev.txt)")

    def run(function):
        found = []
        for by_kernels in (False, True):
            with monkeypatch.context() as patch:
                patch.setattr(module, "_by_kernels", lambda tensor, answer=by_kernels: answer)
                found.append(function())
        return found

    return run


def integers(rows, columns, seed, right=5):
    """Small whole numbers in a wider buffer: sums of their products are exact in float32, in any order."""
    made = torch.randint(-8, 9, (rows, columns + right), generator=torch.Generator().manual_seed(seed)).float()
    return made.to(DEVICE)[:, :columns]


@pytest.mark.parametrize("width", [40, GROUP, GROUP + 72])
@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_the_kernel_drops_the_same_elements_to_the_bit(both, width, rate):
    dropout = dropping([(37, SEEDS[1]), (5, SEEDS[2]), (30, SEEDS[0])], rate, site=127)
    x = torch.randn(72, width + 3, generator=torch.Generator().manual_seed(1)).to(DEVICE)[:, :width]
    plain, fused = both(lambda: dropout(x))
    assert torch.equal(plain, fused)
    assert torch.equal(plain != 0, dropout.keep(width) & (x != 0)) and plain.is_contiguous()


@pytest.mark.parametrize(("width", "rank"), [(40, 4), (GROUP + 72, 16), (96, 100)])
def test_the_kernel_adds_the_same_product_to_the_bit(both, width, rank):
    dropout = dropping([(70, SEEDS[0])], 0.5, site=3)  # scaled by 2, so that every value is exact
    left, right = integers(70, rank, 1), integers(rank, width, 2)
    plain, fused = both(lambda: dropout.add_product(integers(70, width, 3).clone(), left, right))
    assert torch.equal(plain, fused)
    expected = integers(70, width, 3) + (left @ right) * dropout.keep(width) * 2
    assert torch.equal(plain, expected)


def test_pcg4d_is_the_published_function():
    """Computed here with Python's whole numbers, as the paper writes it."""

    def published(*words):
        cut = 0xFFFFFFFF
        x, y, z, w = ((word * 1664525 + 1013904223) & cut for word in words)

        def mixed(x, y, z, w):
            x = (x + y * w) & cut
            y = (y + z * x) & cut
            z = (z + x * y) & cut
            return x, y, z, (w + y * z) & cut

        return mixed(*(word ^ (word >> 16) for word in mixed(x, y, z, w)))

    words = np.random.default_rng(0).integers(0, 2**32, (4, 50), dtype=np.uint32)
    found = pcg4d(*(torch.from_numpy(row.view(np.int32).copy()) for row in words))
    for i in range(50):
        expected = published(*(int(word) for word in words[:, i]))
        assert tuple(int(word[i]) & 0xFFFFFFFF for word in found) == expected


def test_the_rate_is_exact_to_its_step_and_the_mean_is_kept():
    dropout = dropping([(1000, 3), (1000, 4)], 0.05)
    assert dropout.threshold == 3277 and dropout.scale == pytest.approx(1 / 0.95, rel=1e-5)
    kept = dropout.keep(2 * GROUP).double()
    deviation = (kept.mean().item() - (1 - 3277 / 65536)) / np.sqrt(0.05 * 0.95 / kept.numel())
    assert abs(deviation) < 4
    assert dropout(torch.ones(2000, GROUP, device=DEVICE)).mean().item() == pytest.approx(1, abs=2e-3)


@pytest.mark.parametrize("rate", [0.05, 0.5])
def test_masks_of_neighbours_are_unrelated(rate):
    """Of columns of any distance, lanes, tokens, sites and packs: correlations are within chance (4.5 deviations of 60 or so)."""
    kept = [dropping([(400, 11), (400, 12)], rate, site).keep(2 * GROUP).double().cpu() for site in (0, 1, 4)]
    first = kept[0]
    pairs = [(first[:, :-shift], first[:, shift:]) for shift in (1, 2, 3, 7, 8, 16, LANE, 2 * LANE, 7 * LANE, GROUP)]
    pairs += [(first[:-shift], first[shift:]) for shift in (1, 2, 3, 7, 16, 64)]
    pairs += [(first[:400], first[400:]), (first, kept[1]), (first, kept[2]), (kept[1], kept[2])]
    for lane in range(LANES):
        columns = slice(lane * LANE, (lane + 1) * LANE)
        pairs += [(first[:, columns], kept[1][:, columns]), (first[:399, columns], first[1:400, columns])]
    for left, right in pairs:
        found = ((left - left.mean()) * (right - right.mean())).mean() / (left.std() * right.std())
        assert abs(found.item()) * np.sqrt(left.numel()) < 4.5


def test_no_column_and_no_token_is_dropped_more_than_others():
    kept = dropping([(4096, 21)], 0.05).keep(GROUP).double().cpu()
    for axis in (0, 1):
        count = kept.shape[axis]
        deviations = (kept.sum(axis) - count * (1 - 3277 / 65536)) / np.sqrt(count * 0.05 * 0.95)
        assert deviations.abs().max() < 5.5 and deviations.std().item() == pytest.approx(1, abs=0.1)


def test_a_packs_masks_depend_on_its_seed_and_not_on_its_neighbours():
    alone = dropping([(30, 7)]).keep(100)
    behind = dropping([(50, 9), (30, 7)]).keep(100)
    assert torch.equal(behind[50:], alone)
    assert not torch.equal(dropping([(30, 8)]).keep(100), alone)
    assert not torch.equal(dropping([(30, 7 + 2**40)]).keep(100), alone)  # the high word counts too


TOKENS, PACKS = table([9, 20, 6, 14, 30, 3, 11, 8]), plan([[0, 1], [2, 3], [4], [5, 6], [7]])
CONFIG = TrainConfig(learning_rate=5e-3, packs_per_step=4, packs_per_batch=1, neftune_alpha=0)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return Base.load(saved(tmp_path_factory.mktemp("model")))


def trained(base, directory, rate, packs):
    config = CONFIG.model_copy(update={"packs_per_batch": packs})
    with base.new_adapter(LoraConfig(r=4, dropout=rate), seed=0) as model:
        options = {"seed": 1, "round": 1, "steps": 4, "scratch": directory / f"{rate}-{packs}"}
        train(model, TOKENS, PACKS, np.arange(8), config, **options)
        return {name: p.detach().clone() for name, p in trainable_parameters(model).items()}


def test_another_division_into_micro_batches_draws_the_same_masks(base, tmp_path):
    one, all_at_once, without = (trained(base, tmp_path, *how) for how in ((0.3, 1), (0.3, 4), (0.0, 1)))
    for name, value in one.items():
        torch.testing.assert_close(all_at_once[name], value, rtol=1e-3, atol=2e-5)
    assert max((one[name] - without[name]).abs().max().item() for name in one) > 1e-3


def test_every_pack_of_every_step_has_masks_of_its_own(base, tmp_path, monkeypatch):
    seen, real = [], steps.hidden_states

    def record(*arguments, dropout_packs, **options):
        seen.extend(seed for _, seed in dropout_packs)
        return real(*arguments, dropout_packs=dropout_packs, **options)

    monkeypatch.setattr(steps, "hidden_states", record)
    trained(base, tmp_path, 0.1, 2)
    assert len(seen) == len(set(seen)) == 16


def test_a_model_without_dropout_makes_no_keys(monkeypatch):
    from trainer.decoder.decoder import Decoder
    from trainer.forward import collate

    monkeypatch.setattr(Keys, "of", None)
    model, batch = build("llama"), collate(TOKENS, [0, 1])
    embeddings = model.get_input_embeddings()(batch.input_ids).detach()
    decoder = Decoder.bind(model, torch.float32)
    with torch.no_grad():
        found = decoder.hidden_states(
            embeddings, batch.position_ids, batch.layout, True, dropout_packs=[(len(embeddings), 1)]
        )
    assert found.shape == embeddings.shape
