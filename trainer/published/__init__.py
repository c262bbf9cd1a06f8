"""The adapter's folder as other programs read it: weights, tokenizer, chat template, end tokens."""
