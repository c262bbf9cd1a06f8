"""The peer's side of less_agreement.py: dattri-llm's LESSAttributor, in an environment of its own that has dattri-llm, transformers and
peft but none of Winnow.

    PEER_PYTHON benchmarks/less_peer.py FOLDER FORM

FOLDER holds `task.json` (model; documents as token ids and labels; how many are candidates; "device", the CPU if left out), adapter/ and
moments.safetensors. Writes
`peer-FORM.npy`: (candidates, targets) cosines. FORM: adamw is the peer's own map. less puts LESS's m / √(v + ε) into the peer's table of
optimizers, which has no such entry; gradients, capture and cosine remain the peer's.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Documents(torch.utils.data.Dataset):
    """One document an item, as model(**batch) takes it."""

    def __init__(self, rows: list[dict[str, list[int]]]):
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: torch.tensor(values) for name, values in self.rows[index].items()}


def optimizer_at(model: torch.nn.Module, moments: Path) -> torch.optim.Optimizer:
    """torch's AdamW over the adapter, with the state that Winnow saved."""
    from safetensors import safe_open

    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(parameters.values(), betas=(0.9, 0.999), eps=1e-8)
    with safe_open(moments, "pt", device=str(next(iter(parameters.values())).device)) as file:
        steps = json.loads(file.metadata()["optimizer"])["steps"]
        for name, parameter in parameters.items():
            optimizer.state[parameter] = {
                "step": torch.tensor(float(steps)),
                "exp_avg": file.get_tensor(f"mean.{name}"),
                "exp_avg_sq": file.get_tensor(f"square.{name}"),
            }
    return optimizer


def of_less(g: torch.Tensor, state: dict[str, torch.Tensor], step: int, settings: dict[str, Any]) -> torch.Tensor:
    """LESS's own map: no bias correction, ε under the root."""
    beta_1, beta_2 = settings["betas"]
    m = beta_1 * state["exp_avg"] + (1 - beta_1) * g
    v = beta_2 * state["exp_avg_sq"] + (1 - beta_2) * g * g
    return m / torch.sqrt(v + settings["eps"])


def main() -> None:
    """Attribute and write the cosines."""
    from dattri_llm.attribution.algorithm.less import LESSAttributor
    from dattri_llm.attribution.arguments import AttributionArguments
    from dattri_llm.gradient.hooks import HookManagerConfig
    from dattri_llm.gradient.ops import optimizer as rules
    from dattri_llm.gradient.optimizer_state import OptimizerSnapshot
    from dattri_llm.task import AttributionTask
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    folder, form = Path(sys.argv[1]), sys.argv[2]
    # The peer looks through all modules for FSDP, once for each layer of each document. There is none in one process.
    OptimizerSnapshot._fully_shard_param = lambda self, module, role: None
    if form == "less":
        rules._RULES["AdamW"] = of_less
    task = json.loads((folder / "task.json").read_text())
    device = torch.device(task.get("device", "cpu"))
    causal = AutoModelForCausalLM.from_pretrained(task["model"], dtype=torch.float32).to(device)
    model = PeftModel.from_pretrained(causal, folder / "adapter", is_trainable=True).eval()
    settings = AttributionArguments(
        output_dir=str(folder / f"peer-{form}"),
        per_device_train_batch_size=1,
        per_device_eval_batch_size=1,
        use_cpu=device.type == "cpu",
    )
    attributor = LESSAttributor(
        settings, task=AttributionTask(None, model), optimizers=[optimizer_at(model, folder / "moments.safetensors")]
    )
    documents, count = task["documents"], task["candidates"]
    score = attributor.attribute(
        Documents(documents[:count]),
        Documents(documents[count:]),
        hook_config=HookManagerConfig(linear_io=[r"lora_[AB]"]),
    )
    if len(set(score.row_train_ids)) != count or len(score.test_ids) != len(documents) - count:
        raise SystemExit(f"expected {count} candidates, found {len(set(score.row_train_ids))}: are two the same?")
    np.save(folder / f"peer-{form}.npy", score.scores.float().cpu().numpy())


if __name__ == "__main__":
    main()
