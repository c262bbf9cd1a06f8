"""What a freshly loaded model is checked for: complete weights, documents that do not see each other, the output head, the context."""
