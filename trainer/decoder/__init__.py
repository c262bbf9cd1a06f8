"""The decoder of the Llama family with hand-written forward and backward passes, for training and scoring.

    decoder.py      the stack: one autograd function over all layers
    binding.py      reads the layers of a transformers model, by the description of its family (trainer/families.py)
    layer.py        one layer, forward and backward
    branch.py       how attention and MLP read the residual stream and are added to it: norms and scale
    kept.py         what a layer keeps between its two passes
    projections.py  joined linear layers of one input, with NF4 weights and LoRA
    inference.py    the projections in passes without gradients: in the model's dtype, or in 8-bit floats
    retention.py    how much each layer keeps for its backward pass, under a memory budget
    offload.py      layer inputs kept in host memory until the backward pass
    packed_attention.py  attention inside the documents of a pack by our own kernels, on a GPU
    elementwise.py  norms, rotary embeddings, gates: fused kernels on a GPU (kernels.py), plain torch elsewhere

Shapes: T tokens of the pack, d width of the model, H query heads, K key/value heads, D head width, F width of the
MLP, r rank of LoRA.
"""
