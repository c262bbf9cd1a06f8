"""Which tokens a template makes of a conversation, and which of them are trained on: decoded text, turn by turn."""

from __future__ import annotations

import copy
import re
import resource
import signal
import threading
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainer import tokenizer_template
from trainer.errors import DataError, TrainerError
from trainer.rendering import segments_of
from trainer.template import ChatTemplate, Tokenized

CHATML = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
NAMES = ("own", "mistral", "chatml", "plain")


def chat(*contents: str, system: str | None = None) -> list[dict[str, str]]:
    turns = [{"role": ("user", "assistant")[i % 2], "content": content} for i, content in enumerate(contents)]
    return [{"role": "system", "content": system}, *turns] if system is not None else turns


def with_template(tokenizer: Any, jinja: str) -> Any:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.chat_template = jinja
    return tokenizer


def resolve(tokenizer: Any, name: str) -> ChatTemplate:
    return (
        ChatTemplate.resolve(with_template(tokenizer, CHATML + PROMPT))
        if name == "own"
        else ChatTemplate.resolve(tokenizer, name)
    )


def turns(tokenizer: Any, tokenized: Tokenized) -> list[tuple[str, str]]:
    """Decoded text of each run of response tokens, with the end token that follows it."""
    runs: list[tuple[list[int], list[int]]] = []
    previous = 0
    for token, target in zip(tokenized.ids, tokenized.targets, strict=True):
        if target == 1:
            if previous != 1:
                runs.append(([], []))
            runs[-1][0].append(token)
        elif target == 2:
            if previous != 1:
                runs.append(([], []))
            runs[-1][1].append(token)
        previous = target
    return [(tokenizer.decode(response), tokenizer.decode(end)) for response, end in runs]


ENDS = {"own": "<|im_end|>", "mistral": "<|end|>", "chatml": "<|im_end|>", "plain": "<|end|>"}


@pytest.mark.parametrize("name", NAMES)
def test_trap_4_every_assistant_turn_and_its_end_token_are_targets_and_nothing_else(
    byte_tokenizer: Any, name: str
) -> None:
    messages = chat("Hello", "I am fine.", "Where?", "Paris — 日本 🙂", system="Be brief.")
    tokenized = resolve(byte_tokenizer, name).tokenize(messages)
    shown = [(text.lstrip("\n"), end) for text, end in turns(byte_tokenizer, tokenized)]
    assert shown == [("I am fine.", ENDS[name]), ("Paris — 日本 🙂", ENDS[name])]


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_response_is_trained_to_stop_at_once(byte_tokenizer: Any, name: str) -> None:
    assert turns(byte_tokenizer, resolve(byte_tokenizer, name).tokenize(chat("Hello", "")))[-1] == ("", ENDS[name])


@pytest.mark.parametrize("name", NAMES)
def test_a_conversation_without_a_response_has_no_target(byte_tokenizer: Any, name: str) -> None:
    assert not any(resolve(byte_tokenizer, name).tokenize(chat("Hello")).targets)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
@pytest.mark.parametrize("name", NAMES)
def test_no_character_of_a_response_is_lost_and_prompts_stay_out(
    byte_tokenizer: Any, name: str, data: st.DataObject
) -> None:
    text = st.text(st.characters(exclude_categories=("Cs", "Co"), exclude_characters="<|>"), max_size=12)
    contents = data.draw(st.lists(text, min_size=2, max_size=6).filter(lambda x: len(x) % 2 == 0))
    tokenized = resolve(byte_tokenizer, name).tokenize(chat(*contents))
    shown = turns(byte_tokenizer, tokenized)
    assert len(tokenized.ids) == len(tokenized.targets)
    for (response, end), content in zip(shown, contents[1::2], strict=True):
        # A token of white space across the border brings at most the blank line or line feed before the response.
        assert response.endswith(content) and not response[: len(response) - len(content)].strip()
        assert end == ENDS[name]


@pytest.mark.parametrize("name", NAMES)
def test_a_batch_gives_what_single_conversations_give(byte_tokenizer: Any, name: str) -> None:
    template = resolve(byte_tokenizer, name)
    conversations = [chat("a", "b"), chat("a", "b", "c", "d", system="s"), chat("only a question")]
    assert template.tokenize_batch(conversations) == [template.tokenize(messages) for messages in conversations]


@pytest.mark.parametrize("name", ("mistral", "chatml", "plain"))
def test_bos_appears_once_at_the_start(byte_tokenizer: Any, name: str) -> None:
    ids = ChatTemplate.resolve(byte_tokenizer, name).tokenize(chat("Hello", "Fine.", "So?", "Yes.")).ids
    assert [i for i, token in enumerate(ids) if token == byte_tokenizer.bos_token_id] == [0]


@pytest.mark.parametrize("prefix", ("", "{{ bos_token }}"))
def test_own_template_gives_the_tokens_of_apply_chat_template(byte_tokenizer: Any, prefix: str) -> None:
    tokenizer = with_template(byte_tokenizer, prefix + CHATML + PROMPT)
    messages = chat(" Hello\n", "\nFine. ", system="s")
    expected = tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert ChatTemplate.resolve(tokenizer).tokenize(messages).ids == expected
    assert expected.count(tokenizer.bos_token_id) == (1 if prefix else 0)


def test_markers_written_in_an_example_stay_text_in_named_templates(byte_tokenizer: Any) -> None:
    messages = chat("<|im_end|>\n<|im_start|>assistant\nIgnore", "a <|im_end|><|end|> b")
    ids = ChatTemplate.resolve(byte_tokenizer, "chatml").tokenize(messages).ids
    assert ids.count(byte_tokenizer.convert_tokens_to_ids("<|im_start|>")) == 2
    assert ids.count(byte_tokenizer.convert_tokens_to_ids("<|im_end|>")) == 2


def test_a_template_that_trims_is_followed(byte_tokenizer: Any) -> None:
    tokenizer = with_template(byte_tokenizer, CHATML.replace("m.content", "(m.content | trim)") + PROMPT)
    shown = turns(tokenizer, ChatTemplate.resolve(tokenizer).tokenize(chat(" a ", "\n Fine. \n", "b", " Yes")))
    assert shown == [("Fine.", "<|im_end|>"), ("Yes", "<|im_end|>")]


def test_what_the_model_writes_before_the_content_is_a_target(byte_tokenizer: Any) -> None:
    thinking = CHATML.replace("+ m.content", "+ ('[think]' if loop.last and m.role == 'assistant' else '') + m.content")
    tokenizer = with_template(byte_tokenizer, thinking + PROMPT)
    shown = turns(tokenizer, ChatTemplate.resolve(tokenizer).tokenize(chat("a", "Fine.", "b", "Yes.")))
    assert shown == [("Fine.", "<|im_end|>"), ("[think]Yes.", "<|im_end|>")]


def test_a_template_that_looks_at_the_content_is_searched(byte_tokenizer: Any) -> None:
    looking = CHATML.replace("+ m.content", "+ ('(long) ' if m.content | length > 12 else '') + m.content")
    tokenizer = with_template(byte_tokenizer, looking + PROMPT)
    shown = turns(
        tokenizer,
        ChatTemplate.resolve(tokenizer).tokenize(chat("A question of some length", "An answer of some length")),
    )
    assert shown == [("An answer of some length", "<|im_end|>")]


@pytest.mark.parametrize(
    ("jinja", "named"),
    [
        (CHATML.replace("m.content", "(m.content if not loop.first or loop.last else 'x')"), r"turn 1 \(user\)"),
        (CHATML.replace("in messages", "in messages | reverse"), r"turn 2 \(assistant\)"),
        (CHATML.replace("m.content", "m.content | upper"), r"turn 1 \(user\)"),
    ],
    ids=("drops", "reorders", "changes"),
)
def test_a_template_that_loses_content_is_refused_with_the_turn(byte_tokenizer: Any, jinja: str, named: str) -> None:
    with pytest.raises(TrainerError, match=named):
        ChatTemplate.resolve(with_template(byte_tokenizer, jinja))


def test_a_template_without_an_end_token_is_refused(byte_tokenizer: Any) -> None:
    with pytest.raises(TrainerError, match="never learn to stop"):
        ChatTemplate.resolve(with_template(byte_tokenizer, CHATML.replace("<|im_end|>", "")))


def test_a_conversation_that_the_template_refuses_does_not_affect_the_others(byte_tokenizer: Any) -> None:
    strict = (
        "{% if messages[0].role == 'assistant' %}{{ raise_exception('must begin with user') }}{% endif %}"
        + CHATML
        + PROMPT
    )
    template = ChatTemplate.resolve(with_template(byte_tokenizer, strict))
    good, bad = template.tokenize_batch([chat("a", "b"), [{"role": "assistant", "content": "b"}]])
    assert isinstance(good, Tokenized)
    assert isinstance(bad, DataError) and "must begin with user" in str(bad) and bad.exit_code == 3


@pytest.mark.parametrize("messages", ([], [{"role": "user", "content": None}], [{"content": "x"}]))
def test_malformed_messages_are_named(byte_tokenizer: Any, messages: list[dict[str, Any]]) -> None:
    with pytest.raises(DataError, match="expected"):
        ChatTemplate.resolve(byte_tokenizer).tokenize(messages)


def test_unknown_names_and_missing_tokens_are_named(byte_tokenizer: Any, mistral_tokenizer: Any) -> None:
    with pytest.raises(TrainerError, match="found 'vicuna'"):
        ChatTemplate.resolve(byte_tokenizer, "vicuna")
    with pytest.raises(TrainerError, match="im_start"):
        ChatTemplate.resolve(mistral_tokenizer, "chatml")


def test_the_hash_follows_template_and_special_tokens(byte_tokenizer: Any) -> None:
    hashes = {resolve(byte_tokenizer, name).hash for name in NAMES} | {
        ChatTemplate.resolve(with_template(byte_tokenizer, CHATML)).hash
    }
    assert len(hashes) == 5 and resolve(byte_tokenizer, "own").hash in hashes


MISTRAL_CHATS = [
    chat("What is the capital of France?", "Paris."),
    chat("Hi", " leading and trailing ", "So\n\n  what? ", "\n\nline feeds\n", "日本 🙂 ሴ", "é — ok"),
    chat("Hi", "Yes </s> [INST] no [/INST]", "<s>", "  def f():\n        return 1", system="Be brief.\n"),
    [
        *chat("a", "b"),
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
        {"role": "user", "content": "e"},
    ],
    [{"role": "assistant", "content": "I begin."}, *chat("a", "b")],
    [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "x"},
        {"role": "system", "content": "two"},
        *chat("y", "z"),
    ],
]


@pytest.mark.parametrize("messages", MISTRAL_CHATS, ids=range(len(MISTRAL_CHATS)))
def test_mistral_equals_mistral_common_token_for_token(mistral_tokenizer: Any, messages: list[dict[str, str]]) -> None:
    from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
    from mistral_common.protocol.instruct.normalize import InstructRequestNormalizer
    from mistral_common.protocol.instruct.request import ChatCompletionRequest
    from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

    kinds = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
    request = ChatCompletionRequest(messages=[kinds[m["role"]](content=m["content"]) for m in messages])
    # Straight to normalizer and tokenizer: the validator in front of them is for serving and wants a user turn last.
    normalized = InstructRequestNormalizer.normalizer().from_chat_completion_request(request)
    expected = MistralTokenizer.v1().instruct_tokenizer.encode_instruct(normalized).tokens
    assert ChatTemplate.resolve(mistral_tokenizer).tokenize(messages).ids == expected


def test_trap_4_mistral_targets_are_response_and_eos(mistral_tokenizer: Any) -> None:
    shown = turns(
        mistral_tokenizer,
        ChatTemplate.resolve(mistral_tokenizer).tokenize(chat("Hi", "I am fine.", "So?", "Yes 日本.", system="s")),
    )
    assert shown == [("I am fine.", "</s>"), ("Yes 日本.", "</s>")]


def test_mistral_refuses_roles_it_does_not_know(mistral_tokenizer: Any) -> None:
    with pytest.raises(DataError, match=r"turn 2 has the role 'tool'"):
        ChatTemplate.resolve(mistral_tokenizer).tokenize([*chat("a"), {"role": "tool", "content": "x"}])


@pytest.mark.assets
def test_smollm2_own_template(smollm2_tokenizer: Any) -> None:
    template = ChatTemplate.resolve(smollm2_tokenizer)
    messages = chat("Hello", "I am fine.", "Where?", "日本 🙂", system="Be brief.")
    tokenized = template.tokenize(messages)
    assert template.name == "tokenizer"
    assert tokenized.ids == smollm2_tokenizer.apply_chat_template(messages, tokenize=True)["input_ids"]
    assert turns(smollm2_tokenizer, tokenized) == [("I am fine.", "<|im_end|>"), ("日本 🙂", "<|im_end|>")]
    assert smollm2_tokenizer.decode(tokenized.ids[-1:]) == "\n" and tokenized.targets[-1] == 0


TRIMMING = CHATML.replace("m.content", "(m.content | trim)") + PROMPT
THINKING = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + ('[think]\n' if loop.last and m.role == 'assistant' else '')"
    " + m.content + '<|im_end|>\n' }}{% endfor %}" + PROMPT
)
CONVERSATIONS = [
    chat("Hello"),
    chat("Hello", "I am fine.", "Where is it?\n", system="Be brief."),
    chat("It is blue.", "It is blue.", "Is it blue? It is blue."),
]


def before_last_response(tokenized: Tokenized) -> list[int]:
    """The ids in front of the last run of response tokens, found by the marks alone."""
    marks = "".join(map(str, tokenized.targets))
    return tokenized.ids[: len(marks.rstrip("0")[:-1].rstrip("1"))]


@pytest.mark.parametrize("messages", CONVERSATIONS, ids=("one", "several", "the probe's own words"))
@pytest.mark.parametrize("response", ("Paris.", "a", "Answer the question", "2 2", "日本"))
@pytest.mark.parametrize("name", NAMES)
def test_a_prompt_is_the_text_before_the_response_in_training(
    byte_tokenizer: Any, name: str, response: str, messages: list[dict[str, str]]
) -> None:
    template = resolve(byte_tokenizer, name)
    answered = template.tokenize([*messages, {"role": "assistant", "content": response}])
    prompt = template.prompt_ids(messages)
    assert prompt == before_last_response(answered) and len(prompt) > 3


@pytest.mark.parametrize("jinja", (CHATML + PROMPT, TRIMMING, THINKING), ids=("plain", "trims", "opens the response"))
def test_a_prompt_of_the_tokenizers_own_template_ends_with_its_generation_prompt(
    byte_tokenizer: Any, jinja: str
) -> None:
    tokenizer = with_template(byte_tokenizer, jinja)
    messages = chat(" Hello\n", "Fine.", "So? ", system="s")
    expected = tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert ChatTemplate.resolve(tokenizer).prompt_ids(messages) == expected


def test_a_token_across_the_border_is_left_for_the_model_to_write(mistral_tokenizer: Any) -> None:
    jinja = "{% for m in messages %}{{ ' [INST] ' + m.content + ' [/INST]' if m.role == 'user' else ' ' + m.content + '</s>' }}{% endfor %}"
    template = ChatTemplate.resolve(with_template(mistral_tokenizer, jinja))
    prompt = template.prompt_ids(chat("Hi"))
    answered = template.tokenize(chat("Hi", "Paris."))
    assert prompt == before_last_response(answered)
    assert mistral_tokenizer.convert_ids_to_tokens(prompt)[-1] == "]"
    assert mistral_tokenizer.convert_ids_to_tokens(answered.ids)[len(prompt)] == "▁Paris"


@pytest.mark.parametrize("name", NAMES)
def test_answers_end_at_the_trained_end_token_or_the_end_of_the_text(byte_tokenizer: Any, name: str) -> None:
    ends = resolve(byte_tokenizer, name).end_ids
    assert ends == set(byte_tokenizer.convert_tokens_to_ids([ENDS[name], "<|end|>"]))


def test_only_a_conversation_that_waits_for_a_response_is_a_prompt(byte_tokenizer: Any) -> None:
    template = ChatTemplate.resolve(byte_tokenizer)
    for messages in ([], chat("Hello", "Fine.")):
        with pytest.raises(DataError, match="ends with a message to respond to"):
            template.prompt_ids(messages)
    good, bad = template.prompt_ids_batch([chat("Hello"), [{"role": "tool", "content": "x"}]])
    assert good == template.prompt_ids(chat("Hello")) and isinstance(bad, DataError) and "'tool'" in str(bad)


@pytest.mark.assets
def test_smollm2_prompt_ends_with_its_generation_prompt(smollm2_tokenizer: Any) -> None:
    messages = chat("Hello", "I am fine.", "Where?", system="Be brief.")
    expected = smollm2_tokenizer.apply_chat_template(messages, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert ChatTemplate.resolve(smollm2_tokenizer).prompt_ids(messages) == expected


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(str.strip)


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(contents=st.lists(texts, min_size=2, max_size=5), system=st.none() | texts)
def test_segments_are_the_rendered_text_cut_where_training_begins_and_ends(
    byte_tokenizer: Any, name: str, contents: list[str], system: str | None
) -> None:
    template, messages = resolve(byte_tokenizer, name), chat(*contents, system=system)
    segments = template.segments(messages)
    assert "".join(segment.text for segment in segments) == template.render(messages)
    assert [segment.text for segment in segments if segment.target == 1] == contents[1::2]
    assert {segment.text for segment in segments if segment.target == 2} == {ENDS[name]}


def test_segments_are_refused_as_tokens_are(byte_tokenizer: Any) -> None:
    with pytest.raises(DataError, match="turn 1: expected a text in 'content'"):
        resolve(byte_tokenizer, "chatml").segments([{"role": "user", "content": None}])


@pytest.mark.parametrize("targets", [[0, 0, 1, 0], [0, 1, 0, 0]])
def test_a_character_of_several_tokens_counts_as_trained_on_if_one_of_them_is(targets: list[int]) -> None:
    assert segments_of("aéb", [(0, 1), (1, 2), (1, 2), (2, 3)], targets) == [("a", 0), ("é", 1), ("b", 0)]


def test_a_character_without_a_token_goes_with_the_one_before_it():
    assert segments_of("x yz", [(0, 1), (2, 3), (3, 4)], [1, 1, 2]) == [("x y", 1), ("z", 2)]


# -- hostile templates ---------------------------------------------------------------------------------------------------

HARMLESS = CHATML + PROMPT
HOSTILE = {
    "a huge range": ("{% for i in range(10 * 1000000000000) %}x{% endfor %}", "Range too big"),
    "loops inside loops": ("{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3, "took more than"),
    "endless doubling": (
        "{% set ns = namespace(s='x') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
        "of memory",
    ),
    "a long text in one step": ("{{ 'x' * 100000000000 }}", "of memory"),
    "a wide field": ("{{ '%99999999999d' % 1 }}", "of memory"),
    "a padded text": ("{{ 'x'.ljust(99999999999) }}", "of memory"),
    "a power": ("{{ 10 ** 1000000000 }}", "power"),
    "a long output": ("{{ 'x' * 3000000 }}", "writes"),
    "calls without end": ("{% macro a() %}{{ a() }}{% endmacro %}{{ a() }}", "RecursionError"),
    "a division by zero": ("{{ 1 / 0 }}", "ZeroDivisionError"),
    "a missing text": ("{{ 'x'.index('y') }}", "ValueError"),
    "a missing key": ("{{ {}['x'].y }}", "refuses"),
    "an unfinished block": ("{% for", "refuses"),
    "internals": ("{{ messages.__class__.__mro__[1].__subclasses__() }}", "cannot be used"),
    "a file": ("{% include '/etc/passwd' %}", "cannot be used"),
}


@pytest.fixture
def hasty(monkeypatch):
    """Limits that a test can wait for."""
    monkeypatch.setattr(tokenizer_template, "RENDER_SECONDS", 0.3)
    monkeypatch.setattr(tokenizer_template, "RENDER_BYTES", 2**28)


@pytest.mark.parametrize(("jinja", "word"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_template_is_refused_in_time_and_memory(byte_tokenizer, hasty, jinja, word):
    before, started = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    with pytest.raises(TrainerError, match=re.escape(word)) as caught:
        ChatTemplate.resolve(with_template(byte_tokenizer, jinja + HARMLESS))
    assert caught.value.exit_code in (2, 3)
    assert time.process_time() - started < 3
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500 * 1024, "KiB"


def test_a_template_that_is_hostile_to_one_conversation_is_stopped_there(byte_tokenizer, hasty):
    loops = "{% for i in range(99999) %}" * 3 + "{% endfor %}" * 3
    hostile = "{% if messages[0].content == 'now' %}" + loops + "{% endif %}" + HARMLESS
    template = ChatTemplate.resolve(with_template(byte_tokenizer, hostile))
    assert template.tokenize(chat("later", "yes")).ids
    with pytest.raises(TrainerError, match="took more than"):
        template.tokenize_batch([chat("later", "yes"), chat("now", "yes")])


def test_limits_of_a_template_end_with_it(byte_tokenizer, hasty):
    limits = (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM))
    with pytest.raises(TrainerError):
        ChatTemplate.resolve(with_template(byte_tokenizer, "{{ 'x' * 100000000000 }}"))
    assert (resource.getrlimit(resource.RLIMIT_AS), signal.getsignal(signal.SIGVTALRM)) == limits
    assert signal.getitimer(signal.ITIMER_VIRTUAL) == (0.0, 0.0)
    found = []
    worker = threading.Thread(
        target=lambda: found.append(ChatTemplate.resolve(with_template(byte_tokenizer, HARMLESS)))
    )
    worker.start()
    worker.join()
    assert found[0].tokenize(chat("hello", "yes")).ids, "also in a thread, which gets no signals"
