"""Writes the adapter's folder, and measures whether its chat template gives the tokens that were trained on.

    adapter_model.safetensors  a hard link to the trained weights
    adapter_config.json        with a name of the base that is no path of this machine
    tokenizer.json, …          the base's tokenizer
    chat_template.jinja        the tokenizer's own template, or the named one in Jinja
    generation_config.json     the tokens that end an answer

The same adapter gives the same bytes.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection
from functools import partial
from pathlib import Path
from typing import Any

from trainer.adapters import CONFIG_FILE, WEIGHTS_FILE
from trainer.named_templates import NAMED, SpecialTokens
from trainer.published.jinja import Borders, jinja_of
from trainer.published.likeness import Likeness, measure_likeness
from trainer.template import ChatTemplate
from trainer.tokenizer_template import dated

OF_THIS_MACHINE = ("name_or_path", "is_local", "local_files_only", "cache_dir", "tokenizer_file", "vocab_file")
"""Keys of tokenizer_config.json that say how the tokenizer was loaded here."""


def write_folder(
    out: Path, adapter: Path, tokenizer: Any, template: ChatTemplate, base_name: str, trust_remote_code: bool = False
) -> Likeness:
    """Write into directory `out` everything that other programs need to prompt base + `adapter`, a directory of
    `save_adapter`; returns how the chat template compares with `template`.

    The base's tokenizer is not changed. `base_name` is what adapter_config.json calls the base.
    """
    _link(adapter / WEIGHTS_FILE, out / WEIGHTS_FILE)
    settings = _read_json(adapter / CONFIG_FILE)
    _write_json(out / CONFIG_FILE, {**settings, "base_model_name_or_path": base_name})
    _write_tokenizer(out, tokenizer, template)
    ends = sorted(template.end_ids)
    found = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": ends, "pad_token_id": tokenizer.pad_token_id}
    _write_json(out / "generation_config.json", {key: value for key, value in found.items() if value is not None})
    return measure_likeness(out, template, trust_remote_code)


def _link(source: Path, target: Path) -> None:
    """A hard link: a second name of the same bytes, which takes no disk. A copy where the filesystem has none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _write_tokenizer(out: Path, tokenizer: Any, template: ChatTemplate) -> None:
    tokenizer.save_pretrained(out)
    config = out / "tokenizer_config.json"
    settings = {key: value for key, value in _read_json(config).items() if key not in OF_THIS_MACHINE}
    if template.name in NAMED:
        special = SpecialTokens.of(tokenizer)
        written = {token.text for token in (special.bos, special.eos, special.im_start, special.im_end) if token}
        kept = _keep_special(out / "tokenizer.json", written | set(tokenizer.special_tokens_map.values()))
        settings.pop("chat_template", None)
        if isinstance(settings.get("extra_special_tokens"), list):
            settings["extra_special_tokens"] = [token for token in settings["extra_special_tokens"] if token in kept]
        shutil.rmtree(out / "additional_chat_templates", ignore_errors=True)
        encode = partial(tokenizer.encode, add_special_tokens=False)
        text = jinja_of(template.name, special, Borders.of(encode, special), kept)
        (out / "chat_template.jinja").write_text(text, encoding="utf-8")
    elif (own := out / "chat_template.jinja").exists():
        own.write_text(dated(own.read_text(encoding="utf-8")), encoding="utf-8")
    _write_json(config, settings)


def _keep_special(path: Path, names: Collection[str]) -> list[str]:
    """Make the special tokens other than `names` plain text in a tokenizer.json, as they are in training under a named
    template, which may write `[INST]` as text where a tokenizer has such a token. Returns the special tokens left.

    Tokens that the model's own vocabulary lacks stay, because later ids would move.
    """
    document = _read_json(path)
    vocabulary = document["model"].get("vocab", ())
    known = {entry if isinstance(entry, str) else entry[0] for entry in vocabulary}
    removable = {
        token["content"]
        for token in document["added_tokens"]
        if token["special"] and token["content"] in known and token["content"] not in names
    }
    if removable:
        document["added_tokens"] = [token for token in document["added_tokens"] if token["content"] not in removable]
        path.write_text(json.dumps(document, ensure_ascii=False), encoding="utf-8")
    return [token["content"] for token in document["added_tokens"] if token["special"]]


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
