"""Writing of answers, one token a step.

    engine.py    what `trainer.generate` needs of a model: admit prompts, step, drop finished answers
    cached.py    the engine on our own decoder, with one flat cache; graphs.py replays its steps on a GPU
    adapters.py  several adapters of one base at once
    spans.py     which rows of that cache are free
    plain.py     the engine on transformers' forward, for models that our decoder does not support
    sampling.py  which token follows the logits
    continuous.py  requests that join and leave between steps, each with its own settings and log-probabilities

Shapes: S sequences under way (one per answer), T tokens, V vocabulary.
"""
