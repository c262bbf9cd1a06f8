"""The named templates in Jinja, for programs that have only transformers.

Winnow inserts special tokens by id and encodes every text between them by itself. transformers renders one text and
encodes it with the special tokens in it. Two things make the tokens equal:

- A tokenizer of SentencePiece's kind puts a space in front of a text, but not (or not always) in the middle of a
  longer one. `Borders` says where the template must write that space.
- The text of a special token in a message would become that token and could end or open a turn. The templates refuse
  such a message.

Each template is one of the bodies below, after a line that sets the values of a tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from trainer.named_templates import SpecialTokens
from trainer.rendering import Special

Encode = Callable[[str], list[int]]

REFUSE_TOKENS = r"""
{%- for message in messages -%}
{%- for token in special_tokens -%}
{%- if token in message['role'] or token in message['content'] -%}
{{- raise_exception('a message contains ' + token + ', which a text template cannot write as text') -}}
{%- endif -%}
{%- endfor -%}
{%- endfor -%}
"""

CHATML = r"""
{{- bos -}}
{%- for message in messages -%}
{{- im_start + after_token + message['role'] + '\n' + message['content'] + im_end + after_token + '\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- im_start + after_token + 'assistant\n' -}}
{%- endif -%}
"""

PLAIN = r"""
{{- bos -}}
{%- set ns = namespace(text='', lead=after_token if bos else '') -%}
{%- for message in messages -%}
{%- set ns.text = ns.text + message['content'] -%}
{%- if message['role'] == 'assistant' -%}
{{- (ns.lead if ns.text and ns.text[0] not in ' ▁' else '') + ns.text + eos -}}
{%- set ns.text = '' -%}
{%- set ns.lead = after_token -%}
{%- else -%}
{%- set ns.text = ns.text + '\n\n' -%}
{%- endif -%}
{%- endfor -%}
{{- (ns.lead if ns.text and ns.text[0] not in ' ▁' else '') + ns.text -}}
"""

MISTRAL = r"""
{%- set ns = namespace(system='', text='', before='') -%}
{%- for message in messages -%}
{%- if message['role'] not in ['system', 'user', 'assistant'] -%}
{{- raise_exception('expected the roles system, user and assistant, found ' + message['role']) -}}
{%- endif -%}
{%- if message['role'] == 'system' and message['content'] -%}
{%- set ns.system = ns.system + message['content'] + '\n\n' -%}
{%- endif -%}
{%- endfor -%}
{{- bos -}}
{%- for message in messages -%}
{%- set opens = loop.first or messages[loop.index0 - 1]['role'] != message['role'] -%}
{%- set closes = loop.last or messages[loop.index0 + 1]['role'] != message['role'] -%}
{%- set gap = '\n\n' if ns.text and message['content'] else '' -%}
{%- set ns.text = message['content'] if opens else ns.text + gap + message['content'] -%}
{%- if closes and message['role'] != 'system' -%}
{%- if message['role'] == ns.before -%}
{{- raise_exception('a system message between two turns of the ' + ns.before + ' cannot be written exactly') -}}
{%- endif -%}
{%- if message['role'] == 'user' -%}
{{- after_token + '[INST] ' + ns.system + ns.text + ' [/INST]' -}}
{%- else -%}
{%- if not ns.before -%}
{{- after_token + '[INST] ' + ns.system + ' [/INST]' -}}
{%- endif -%}
{{- (after_text if ns.text and ns.text[0] not in unspaced else '') + ns.text + eos -}}
{%- endif -%}
{%- set ns.system = '' -%}
{%- set ns.before = message['role'] -%}
{%- endif -%}
{%- endfor -%}
{%- if not ns.before -%}
{{- after_token + '[INST] ' + ns.system + ' [/INST]' -}}
{%- endif -%}
"""

BODIES = {"mistral": MISTRAL, "chatml": CHATML, "plain": PLAIN}
"""One for each of `trainer.named_templates.NAMED`."""


@dataclass(frozen=True)
class Borders:
    """What a template writes in front of a text so that its tokens are those of the text alone: "" or a space.

    `after_token` for a text that follows a special token, `after_text` for one that follows another text.
    """

    after_token: str
    after_text: str

    @classmethod
    def of(cls, encode: Encode, special: SpecialTokens) -> Borders:
        """The borders of a tokenizer. `encode` gives the ids of a text, with the special tokens in it and none added."""
        token = special.bos or special.im_start or special.eos
        before = token.text if token is not None else ""
        return cls(_lead(encode, before), _lead(encode, "b]"))


def jinja_of(name: str, special: SpecialTokens, borders: Borders, refused: Sequence[str]) -> str:
    """The named template `name` in Jinja for a tokenizer; it refuses messages with one of the texts `refused`."""
    has_bos = name == "mistral" or special.adds_bos
    values = {
        "bos": _literal(special.bos if has_bos else None),
        "eos": _literal(special.eos),
        "im_start": _literal(special.im_start),
        "im_end": _literal(special.im_end),
        "after_token": _quoted(borders.after_token),
        "after_text": _quoted(borders.after_text),
        "unspaced": _quoted("▁" if special.swallows_space else ""),
        "special_tokens": f"[{', '.join(map(_quoted, refused))}]",
    }
    text = REFUSE_TOKENS + BODIES[name]
    used = "".join(f"{{%- set {key} = {value} -%}}\n" for key, value in values.items() if key in text)
    return used + text.lstrip("\n")


def _lead(encode: Encode, before: str) -> str:
    """The space, or none, after which "a" has behind `before` the tokens that it has alone; none if neither has."""
    wanted = [*encode(before), *encode("a")]
    return next((lead for lead in ("", " ") if encode(before + lead + "a") == wanted), "")


def _literal(token: Special | None) -> str:
    return _quoted("" if token is None else token.text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"
