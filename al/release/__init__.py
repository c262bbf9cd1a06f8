"""The adapter's folder: what other people and programs need to use a round's adapter, and a card that says what it is.

    adapter_model.safetensors, adapter_config.json   the adapter
    tokenizer.json, chat_template.jinja, …           how to prompt it
    winnow.json, winnow.yaml                         where it comes from, and the config to make it again
    README.md                                        all of this for people

No file has a time or an absolute path in it: the same round gives the same bytes.
"""
