"""The pool of candidate examples: formats, readers, import and storage."""
