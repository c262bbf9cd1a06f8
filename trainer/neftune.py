"""NEFTune: uniform noise on the embeddings during training (arXiv 2310.05914).

The paper's scale is alpha / sqrt(L · d) for an example of L tokens and width d. In a pack, L is the length of each
document, not of the pack: with the pack's 2,048 tokens, a document of 200 would get 3.2 times too little noise.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.forward import Batch, causal_lm


def noisy_embeddings(
    model: torch.nn.Module, batch: Batch, alpha: float, packs: Sequence[tuple[int, int]]
) -> torch.Tensor:
    """Embeddings (T, d) of the batch with noise, uniform within ± alpha / sqrt(L · d), L the length of the token's
    document.

    `packs` are (tokens, seed) of each pack of the batch. The noise of a pack depends only on its seed and shape.
    """
    embeddings_Td = causal_lm(model).get_input_embeddings()(batch.input_ids)
    noise_Td = torch.empty_like(embeddings_Td, dtype=torch.float32)
    for part, (_, seed) in zip(noise_Td.split([tokens for tokens, _ in packs]), packs, strict=True):
        part.uniform_(-1.0, 1.0, generator=torch.Generator(device=part.device).manual_seed(seed))
    lengths_D = batch.cu_seqlens.diff()
    lengths_T = torch.repeat_interleave(lengths_D, lengths_D, output_size=len(embeddings_Td))
    scale_T = alpha * torch.rsqrt(lengths_T.float() * embeddings_Td.shape[1])
    return (embeddings_Td.float() + noise_Td * scale_T[:, None]).to(embeddings_Td.dtype)
