"""4-bit LoRA training and measuring on isolated packs of documents. Independent of selection and runs."""
