"""Responses in their template's frame but without the prompt, for instruction-following difficulty (IFD).

IFD divides the NLL of a response given its prompt by its NLL without the prompt (arXiv 2308.12032). Both need the same frame,
or the ratio measures the frame: a response directly after the beginning-of-text token is improbable by itself, and with
another template IFD may be above 1 for all examples. A response is therefore placed after the text that the template
writes around any prompt:

    with prompt       <|im_start|> user \\n Name a colour. <|im_end|> \\n <|im_start|> assistant \\n Red. <|im_end|>
    without           <|im_start|>                         <|im_end|> \\n <|im_start|> assistant \\n Red. <|im_end|>
"""

from __future__ import annotations

import numpy as np

from trainer.forward import Tokens
from trainer.rendering import END_OF_TURN
from trainer.template import ChatTemplate

PROBES = ("a", "Name two things that are red.", "1 + 1 =\n")


class Unprompted:
    """Each response of documents `rows` (n,) of `tokens` after `frame`, as a separate document; `owner` (m,) int64 is its
    index into `rows`. Implements `trainer.forward.Tokens`."""

    def __init__(self, tokens: Tokens, rows: np.ndarray, frame: np.ndarray):
        self._documents: list[tuple[np.ndarray, np.ndarray]] = []
        owners = []
        for index, row in enumerate(rows):
            ids, targets = np.asarray(tokens.ids(int(row))), np.asarray(tokens.targets(int(row)))
            for start, stop in response_spans(targets):
                self._documents.append(
                    (np.concatenate([frame, ids[start:stop]]), np.concatenate([0 * frame, targets[start:stop]]))
                )
                owners.append(index)
        self.owner = np.array(owners, dtype=np.int64)

    def __len__(self) -> int:
        return len(self._documents)

    def ids(self, row: int) -> np.ndarray:
        """(length,) token ids of one response in its frame."""
        return self._documents[row][0]

    def targets(self, row: int) -> np.ndarray:
        """(length,) targets of one response in its frame."""
        return self._documents[row][1]


def response_spans(targets: np.ndarray) -> list[tuple[int, int]]:
    """(start, stop) of each response in a document's targets; an end token ends a response even if the next follows directly.

    A target at position 0 does not count, because nothing predicts it.
    """
    spans: list[tuple[int, int]] = []
    open_ = False
    for place in np.flatnonzero(np.asarray(targets) > 0).tolist():
        if place == 0:
            continue
        if open_ and spans[-1][1] == place:
            spans[-1] = (spans[-1][0], place + 1)
        else:
            spans.append((place, place + 1))
        open_ = targets[place] != END_OF_TURN
    return spans


def response_frame(template: ChatTemplate) -> np.ndarray:
    """(h,) int64 ids of the text that the template writes around any prompt: the first token, if it is always the same, and
    the longest common suffix of the prompts of a few conversations."""
    prompts = []
    for prompt in PROBES:
        tokenized = template.tokenize([{"role": "user", "content": prompt}, {"role": "assistant", "content": "It is."}])
        prompts.append(tokenized.ids[: next(i for i, target in enumerate(tokenized.targets) if target)])
    first = prompts[0][:1] if len({tuple(ids[:1]) for ids in prompts}) == 1 else []
    length, longest = 0, min(map(len, prompts)) - len(first)
    while length < longest and len({tuple(ids[len(ids) - length - 1 :]) for ids in prompts}) == 1:
        length += 1
    return np.array(first + prompts[0][len(prompts[0]) - length :], dtype=np.int64)
