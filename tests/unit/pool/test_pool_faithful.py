"""What a row says becomes the right conversation: the inputs that were once read wrongly, one by one."""

from __future__ import annotations

from typing import Any

import pytest

from al.config.pool import PoolConfig
from al.errors import DataError
from al.pool.convert import Converter, Record
from al.pool.formats import RowError
from al.pool.importer import import_pool
from al.pool.sources import find_sources, make_sources

SOURCE = make_sources(["a.jsonl"])[0]
Q, A = "How many boats are left?", "Five."
CALLS = [{"id": name, "type": "function", "function": {"name": name, "arguments": ""}} for name in ("tide", "wind")]


def record(row: Any, **counted: int) -> Record:
    """The only record of a row, whose adjustments are `counted`."""
    converter = Converter(SOURCE)
    (found,) = converter.convert(row)
    assert converter.adjusted == counted
    return found


def turns(row: Any, **counted: int) -> list[tuple[str, str]]:
    return record(row, **counted).turns


def says(*contents: str) -> list[tuple[str, str]]:
    """A conversation of user and assistant in turn."""
    return [(("user", "assistant")[at % 2], content) for at, content in enumerate(contents)]


def chat(*contents: str, **last: Any) -> list[dict[str, Any]]:
    """The same as messages; the last one has further fields."""
    messages: list[dict[str, Any]] = [{"role": role, "content": content} for role, content in says(*contents)]
    messages[-1].update(last)
    return messages


def refusal(row: Any) -> RowError:
    with pytest.raises(RowError) as caught:
        Converter(SOURCE).convert(row)
    return caught.value


@pytest.mark.parametrize("answer", [5, 5.0, "5"])
def test_the_body_is_in_front_of_its_question_and_a_whole_number_has_no_fraction(answer):
    row = {"Body": "Nine boats lie here and four sail off.", "Question": Q, "Answer": answer}
    assert turns(row, renamed_fields=1) == says(f"Nine boats lie here and four sail off.\n\n{Q}", "5")
    assert turns({"question": Q, "answer": 5.25}) == says(Q, "5.25")


@pytest.mark.parametrize("field", ["context", "passage", "documents", "article", "background"])
@pytest.mark.parametrize("names", [("question", "answer"), ("query", "response"), ("prompt", "completion")])
def test_a_passage_is_in_front_of_its_question(field, names):
    row = {names[0]: Q, field: "Nine boats lay in the bay.", names[1]: A}
    assert turns(row) == says(f"Nine boats lay in the bay.\n\n{Q}", A)
    assert turns({**row, names[0]: f"Nine boats lay in the bay. {Q}"}) == says(f"Nine boats lay in the bay. {Q}", A)


def test_documents_may_be_a_list_of_texts_or_of_objects():
    row = {"question": Q, "answer": A, "documents": ["Nine came.", {"title": "Evening", "text": "Four left."}]}
    assert turns(row) == says(f"Nine came.\n\nEvening\nFour left.\n\n{Q}", A)


TEAS = "Which is tea?\n\nA. coal\nB. sencha"


@pytest.mark.parametrize(
    "choices",
    [
        {"options": ["coal", "sencha"]},
        {"A": "coal", "B": "sencha"},
        {"choices": [{"label": "A", "text": "coal"}, {"label": "B", "text": "sencha"}]},
        {"options": {"A": "coal", "B": "sencha"}},
        {"options": ["A) coal", "B) sencha"]},
    ],
)
@pytest.mark.parametrize("answer", ["B", "b", "(B)", "1", 1, 1.0, "B) sencha", "sencha"])
def test_choices_are_shown_and_the_answer_is_one_of_them(choices, answer):
    found = record({"question": "Which is tea?", **choices, "answer": answer})
    assert found.turns == says(TEAS, "B") and found.alternatives == ["sencha", "B. sencha"]


def test_a_passage_belongs_to_a_multiple_choice_question():
    row = {"passage": "Leaves are steamed.", "question": "Which is tea?", "options": ["coal", "sencha"], "answer": 1}
    assert turns(row) == says(f"Leaves are steamed.\n\n{TEAS}", "B")


def test_a_short_map_of_choices_stops_the_import(importing):
    row = {"question": "Which is tea?", "choices": ["coal", "sencha"], "answerKey": "B"}
    with pytest.raises(DataError, match="`choices`"):
        importing({"a.jsonl": [row]}, map={"question": "question", "answer": "answerKey"})


@pytest.mark.parametrize("mark", [False, "False"])
def test_trap_43_a_response_that_is_marked_bad_is_set_aside(mark):
    found = record({"prompt": Q, "completion": "Ninety.", "label": mark}, rejected_set_aside=1)
    assert found.turns == says(Q) and not found.labelled and '"rejected":"Ninety."' in found.metadata
    assert turns({"prompt": Q, "completion": A, "label": True}) == says(Q, A)
    assert turns({"messages": chat(Q, "Ninety."), "label": mark}, rejected_set_aside=1) == says(Q)


@pytest.mark.parametrize("flag", [{"weight": 0}, {"train": False}])
def test_trap_43_a_turn_that_is_not_to_be_trained_on_is_context(importing, flag):
    row = {"messages": [*chat(Q, "Ninety.", **flag), *chat("Sure?", A, weight=1, train=True)]}
    assert record(row).unlearned == (1,)
    (messages,) = importing({"a.jsonl": [row]}).pool.messages([0])
    assert messages == [*chat(Q, "Ninety.", train=False), *chat("Sure?", A)]
    assert record({"messages": [*chat(Q, "Ninety."), *chat("Sure?", A)]}).id != record(row).id


@pytest.mark.parametrize(
    ("mapping", "row", "expected"),
    [
        ({"messages": "m", "system": "s"}, {"m": chat(Q, A), "s": "Be brief."}, [("system", "Be brief."), *says(Q, A)]),
        (
            {"question": "q", "answer": "a", "context": "c"},
            {"q": Q, "a": A, "c": "In the bay."},
            says(f"In the bay.\n\n{Q}", A),
        ),
        (
            {"question": "q", "answer": "a", "history": "h"},
            {"q": Q, "a": A, "h": [["Hi", "Ahoy"]]},
            says("Hi", "Ahoy", Q, A),
        ),
    ],
)
def test_a_mapped_field_is_used(importing, mapping, row, expected):
    assert importing({"a.jsonl": [row]}, map=mapping).only == expected


def test_two_mapped_fields_of_which_one_can_be_used_are_a_counted_refusal(importing, good):
    rows = [{"q": Q, "a": "", "b": A}, {"q": Q, "a": A, "b": "Six."}]
    imported = importing({"a.jsonl": rows}, map={"question": "q", "answer": "a", "response": "b"})
    assert imported.only == says(Q, A) and imported.refused == [("in/a.jsonl:2", "mapped_field_not_used")]


@pytest.mark.parametrize("name", ["system", "system_prompt"])
@pytest.mark.parametrize(
    "row",
    [
        {"messages": chat(Q, A)},
        {"conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
        {"instruction": Q, "context": "", "response": A},
        {"instruction": Q, "input": "", "output": A},
    ],
)
def test_a_system_prompt_in_its_own_field_comes_first(name, row):
    assert turns({**row, name: "Be brief."}) == [("system", "Be brief."), *says(Q, A)]


def test_the_history_comes_before_the_instruction():
    row = {"instruction": Q, "input": "", "output": A, "history": [["Who is there?", "The harbour."]]}
    assert turns(row) == says("Who is there?", "The harbour.", Q, A)


def test_the_tools_of_a_prompt_are_in_its_system_message():
    (first, *rest) = turns({"prompt": Q, "completion": A, "tools": [{"name": "tide"}]})
    assert first[0] == "system" and '{"name": "tide"}' in first[1] and rest == says(Q, A)


def test_results_of_tools_follow_the_order_of_their_calls():
    results = [
        {"role": "tool", "tool_call_id": name, "content": said} for name, said in (("wind", "west"), ("tide", "low"))
    ]
    messages = [*chat(Q), {"role": "assistant", "content": None, "tool_calls": CALLS}, *results, *chat("", A)[1:]]
    assert turns({"messages": messages}, tool_results_reordered=1, merged_turns=1)[2] == ("tool", "low\n\nwest")


@pytest.mark.parametrize("tail", [chat("And then?"), chat("And then?", "")])
def test_an_unanswered_tail_is_cut_and_kept_as_metadata(tail):
    found = record({"messages": [*chat(Q, A), *tail]}, unanswered_turn_cut=1)
    assert found.turns == says(Q, A) and found.labelled and found.metadata == '{"unanswered_turns":["And then?"]}'


def test_an_opening_of_the_assistant_is_context_that_is_not_trained_on():
    opening = {"role": "assistant", "content": "Ahoy."}
    found = record({"messages": [opening, *chat(Q, A)]}, opening_as_context=1)
    assert found.turns == [("assistant", "Ahoy."), *says(Q, A)] and found.unlearned == (0,)


@pytest.mark.parametrize(
    "row",
    [
        {"question": Q, "answer": A, "image": "boats.png"},
        {"messages": chat(Q, A), "images": [{"path": "boats.png"}]},
        {"conversations": [{"from": "human", "value": f"<image>\n{Q}"}, {"from": "gpt", "value": A}]},
    ],
)
def test_rows_with_an_image_are_refused(row):
    assert refusal(row).reason == "not_text"


def test_a_row_without_its_image_or_with_the_word_in_markup_is_text(importing):
    assert turns({"question": Q, "answer": A, "image": None}) == says(Q, A)
    assert turns({"question": "What is <image>x</image>?", "answer": A})[0][1] == "What is <image>x</image>?"
    assert importing({"a.jsonl": [{"question": Q, "answer": A, "image": "x.png"}]}, ignore=["image"]).only == says(Q, A)


@pytest.mark.parametrize(
    ("row", "asked"),
    [
        ({"question": "Count them.", "input": "oar oar", "answer": A}, "Count them.\n\noar oar"),
        ({"prompt": "You are a harbour master.", "question": Q, "answer": A}, f"You are a harbour master.\n\n{Q}"),
        ({"prompt": f"Q: {Q} A:", "question": Q, "answer": A}, f"Q: {Q} A:"),
        ({"instruction": None, "input": Q, "output": A}, Q),
        ({"instruction": "", "input": Q, "output": A}, Q),
    ],
)
def test_all_fields_of_a_prompt_are_used_once(row, asked):
    assert turns(row) == says(asked, A)


RESPONSES = ["response", "generation", "canonical_solution", "correct_answer", "chosen_response"]


@pytest.mark.parametrize("name", RESPONSES)
@pytest.mark.parametrize("asked", [{"messages": chat(Q)}, {"prompt": Q}, {"question": Q}])
def test_responses_are_seen_by_all_their_names(name, asked):
    assert turns({**asked, name: A}) == says(Q, A)


@pytest.mark.parametrize("name", ["generations", "completions"])
def test_of_several_responses_the_first_is_trained_on_and_the_others_are_accepted(name):
    found = record({"prompt": Q, name: [A, "5"]})
    assert found.turns == says(Q, A) and found.alternatives == ["5"]


def test_empty_arguments_of_a_call_are_no_arguments():
    found = turns({"messages": [*chat(Q), {"role": "assistant", "content": None, "tool_calls": CALLS[:1]}]})
    assert found[1][1] == '<tool_call>\n{"name": "tide", "arguments": {}}\n</tool_call>'


def test_system_messages_in_front_become_one():
    messages = [{"role": "system", "content": "Be brief."}, {"role": "system", "content": "Be kind."}, *chat(Q, A)]
    assert turns({"messages": messages}, merged_turns=1) == [("system", "Be brief.\n\nBe kind."), *says(Q, A)]


@pytest.mark.parametrize("chosen", [{"role": "assistant", "content": A}, [{"role": "assistant", "content": A}], A])
@pytest.mark.parametrize(
    "asked", [{"prompt": Q}, {"conversations": [{"from": "human", "value": Q}]}, {"messages": chat(Q)}]
)
def test_a_preference_pair_may_hold_single_messages(chosen, asked):
    assert turns({**asked, "chosen": chosen, "rejected": "Six."}, rejected_set_aside=1) == says(Q, A)


def test_a_column_called_items_is_no_conversation_next_to_a_question():
    assert turns({"question": Q, "items": "3", "answer": A}) == says(Q, A)


@pytest.mark.parametrize("written", [str(chat(Q, A)), "[{'role': 'user'}\n {'role': 'assistant'}]"])
def test_a_list_in_python_s_notation_is_read_or_named(written):
    if "}\n" in written:
        assert "neither JSON nor Python" in str(refusal({"messages": written}))
    else:
        assert turns({"messages": written}) == says(Q, A)


def test_a_row_may_be_a_bare_list_of_messages(importing):
    assert turns(chat(Q, A)) == says(Q, A)
    assert importing({"a.json": f"[{str(chat(Q, A)).replace(chr(39), chr(34))}]"}).only == says(Q, A)


def test_scores_of_choices_are_a_multiple_choice_question():
    found = record({"input": "Which is tea?", "target_scores": {"coal": 0, "sencha": 1}})
    assert found.turns == says(TEAS, "B") and "sencha" in found.alternatives


@pytest.mark.parametrize(
    ("row", "advice"),
    [
        ({"row_id": "r 1", "turns": ["Say it.", "Again."]}, "--map instruction=turns.0,output=turns.1"),
        ({"uid": 3, "doc_id": "x", "ask": Q, "said": A}, "--map instruction=ask,output=said"),
        ({"log": [{"who": "me", "what": Q}]}, "--map conversations=log"),
        (
            {"ask": ["a", "b"], "said": ["c", "d"]},
            "a table column by column (`ask`, `said`: 2 values each), not one row",
        ),
    ],
)
def test_the_hint_for_an_unknown_row_names_a_map_that_can_work(row, advice):
    assert advice in str(refusal(row))


CHATML = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n"
LLAMA_3 = "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\n{q}<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
GEMMA = "<bos><start_of_turn>user\n{q}<end_of_turn>\n<start_of_turn>model\n"


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        (CHATML, "{a}<|im_end|>"),
        (LLAMA_3, "{a}<|eot_id|>"),
        (GEMMA, "{a}<end_of_turn>"),
        ("<|user|>\n{q}</s>\n<|assistant|>\n", "{a}</s>"),
        ("<s>[INST] <<SYS>>\nBe brief.\n<</SYS>>\n\n{q} [/INST]", " {a} </s>"),
        ("[INST] {q} [/INST]", "{a}"),
    ],
)
def test_text_in_a_chat_template_is_taken_apart(prompt, response):
    expected = [("system", "Be brief."), *says(Q, A)] if "brief" in prompt else says(Q, A)
    prompt, response = prompt.format(q=Q), response.format(a=A)
    assert turns({"prompt": prompt, "completion": response}, template_taken_apart=1) == expected
    assert turns({"text": prompt + response}, template_taken_apart=1) == expected
    assert turns({"instruction": prompt, "input": "", "output": ""}, template_taken_apart=1) == expected[:-1]


def test_a_text_that_leaves_its_template_is_refused_with_the_name_of_the_template():
    broken = CHATML.format(q=Q).replace("<|im_end|>", "", 1)
    found = refusal({"prompt": broken, "completion": A})
    assert found.reason == "already_templated" and "ChatML" in str(found)


def test_an_end_token_at_the_end_of_a_response_is_not_written_twice():
    assert turns({"question": Q, "answer": f"{A}<|im_end|>"}, template_taken_apart=1) == says(Q, A)


@pytest.mark.parametrize("said", ["<s>Six</s>", "It ends with <|im_end|> there.", "[INST is no marker", "<b>Five</b>"])
def test_markers_that_are_only_mentioned_are_text(said):
    assert turns({"question": said, "answer": said}) == says(said, said)


def test_a_file_in_a_folder_that_is_no_data_is_skipped_and_listed(importing):
    files = {
        "a.jsonl": [{"question": Q, "answer": A}],
        "dataset_info.json": '{"features": {"question": {"dtype": "string"}}, "splits": {}}',
        "empty.jsonl": "",
    }
    stats = importing(files).stats
    assert stats.examples == 1 and [file["file"] for file in stats.skipped] == [
        "in/dataset_info.json",
        "in/empty.jsonl",
    ]
    assert "contains no rows" in stats.skipped[1]["reason"]
    with pytest.raises(DataError, match=r"in/dataset_info\.json:1: .*no known format"):
        importing(files, strict=True)


def test_a_file_that_is_named_is_never_skipped(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"question": "Who?", "answer": "I."}')
    (tmp_path / "empty.jsonl").write_text("")
    sources = find_sources(PoolConfig(files=[str(tmp_path / "a.jsonl"), str(tmp_path / "empty.jsonl")]))
    with pytest.raises(DataError, match="contains no rows"):
        import_pool(sources, tmp_path)


def test_a_task_file_of_inputs_and_targets_is_read(importing):
    task = '{"name": "teas", "description": "Teas of the world", "examples": [{"input": "Tea?", "target": ["sencha", "yes"]}]}'
    imported = importing({"task.json": task})
    assert imported.only == says("Tea?", "sencha") and imported.pool.alternatives([0]) == [["yes"]]


def test_two_rows_on_one_line_are_two_rows(importing):
    rows = f'{{"question": "{Q}", "answer": "{A}"}}{{"question": "Who?", "answer": "{{}}{{"}}\n'
    imported = importing({"a.jsonl": rows + '{"question": "Cut", "answer": "off}{\n'})
    assert sorted(imported.conversations) == sorted([says(Q, A), says("Who?", "{}{")]) and imported.refused == [
        ("in/a.jsonl:2", "invalid_json")
    ]


@pytest.mark.parametrize("order", [("prompt", "completion", "rows"), ("rows", "prompt", "completion")])
def test_an_object_with_a_row_and_a_list_loses_neither(importing, order):
    values = {"prompt": f'"{Q}"', "completion": f'"{A}"', "rows": '[{"question": "Who?", "answer": "I."}]'}
    imported = importing(
        {"a.json": "{{{}}}".format(", ".join(f'"{key}": {values[key]}' for key in order))}, leftover="warn"
    )
    assert says(Q, A) in imported.conversations
    assert says("Who?", "I.") in imported.conversations or "rows" in imported.pool.metadata([0])[0]


def test_xml_is_named_as_such(importing_one):
    with pytest.raises(DataError, match="XML"):
        importing_one("a.xml", "<?xml version='1.0'?><a/>")
