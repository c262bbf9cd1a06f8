"""Selectors of DataFlex 1.1.0 without its trainer, in an environment of its own: python dataflex_rules.py GIVEN.npz PICKS.npy

    loss   samples with five times the weight where a row's loss is in the upper third; losses come through its own score source
    near   the dev rows take turns, each with its nearest pool row by sentence embeddings
    tsds   samples by the probabilities that its optimal-transport heuristic gives pool rows near to dev rows
    less   highest mean cosine of a row's gradient to those of the dev rows. It reads projected gradients where it finds them; cosines to
           t dev rows next to the t unit vectors have the same products
    delta_loss   samples with forty times the weight from the fifth of the pool whose loss a warm-up lowered most, the first window of
           its schedule. It asks twice for losses: those of the base model and those after the warm-up

"vectors" and "targets" stand in for the embeddings that its offline selectors would compute with a model of their own. Its neighbour
lists are shorter than its defaults (1,000 and 5,000), because an inverted file over few thousand rows does not return as many.
"""

import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from dataflex.offline_selector.offline_near_selector import offline_near_Selector
from dataflex.offline_selector.offline_tsds_selector import offline_tsds_Selector
from dataflex.train.selector.delta_loss_selector import DeltaLossSelector
from dataflex.train.selector.less_selector import LessSelector
from dataflex.train.selector.loss_selector import LossSelector
from dataflex.train.selector.near_selector import near_Selector
from dataflex.train.selector.tsds_selector import tsds_Selector

NEIGHBOURS = 300
given = np.load(sys.argv[1])
name, budget, seed, count = str(given["rule"]), int(given["budget"]), int(given["seed"]), len(given["nll"])
neighbours = min(NEIGHBOURS, count // 8)
alone = SimpleNamespace(is_main_process=True, num_processes=1, device="cpu", wait_for_everyone=lambda: None)


def embedded(kind: type, **settings: object) -> object:
    """An offline selector that finds these embeddings instead of computing some."""
    selector = kind(max_K=neighbours, **settings)
    selector.candidate_sentence_embedding = lambda: given["vectors"]
    selector.query_sentence_embedding = lambda: given["targets"]
    return selector


def of_losses(selector: object, name: str) -> object:
    """The selector, losses coming from an array that is given."""
    selector.set_score_source(lambda positions: [float(given[name][i]) for i in positions])
    selector.seed = seed
    return selector


class Silent:
    """A model that is asked for nothing."""

    def eval(self) -> None:
        """Nothing to do."""


with tempfile.TemporaryDirectory() as folder:
    kept, step, more = str(Path(folder) / "found.npy"), 0, {}
    if name == "loss":
        selector = of_losses(LossSelector(range(count), alone, None, folder), "nll")
    elif name == "delta_loss":
        selector = of_losses(DeltaLossSelector(range(count), alone, None, folder), "nll")
        selector.select(Silent(), step, budget)  # keeps the losses; its picks are random
        step, more = 1, {"current_update_times": 1, "update_times": 2}
        of_losses(selector, "after")
    elif name == "less":
        cosines = given["cosines"]
        selector = LessSelector(range(count), range(cosines.shape[1]), alone, None, folder)
        for part, matrix in (("train", cosines), ("eval", np.eye(cosines.shape[1], dtype=np.float32))):
            place = Path(folder) / part / str(step)
            place.mkdir(parents=True)
            torch.save(torch.from_numpy(matrix), place / "all_projected_grads.pt")
    elif name == "near":
        embedded(offline_near_Selector, save_indices_path=kept).selector()
        selector = near_Selector(range(count), alone, None, folder, indices_path=kept)
    else:
        np.random.seed(seed)
        embedded(offline_tsds_Selector, save_probs_path=kept, kde_K=neighbours // 2).selector()
        selector = tsds_Selector(range(count), alone, None, folder, probs_path=kept)
    np.save(sys.argv[2], np.array(selector.select(Silent(), step, budget, **more)))
