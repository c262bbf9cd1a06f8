"""4-bit LoRA training and measuring on isolated packs of documents; knows nothing of selection or runs."""
