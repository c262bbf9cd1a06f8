"""Published instruction sets by name: location, format, licence, and whether the LLM Efficiency Challenge allowed them.

Survey: github.com/Zjh-819/LLMDataHub and the cards of the sets. `rows` is the card's count for the training split. An uncertain
licence says "see the card"; an uncertain count is omitted. `allowed` follows the rules of the NeurIPS 2023 LLM Efficiency
Challenge (llm-efficiency-challenge.github.io/challenge): open data, and no text written by another language model unless
that model's terms of use allow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Group = Literal["conversation", "QA", "reasoning", "code", "math"]

NAMED = "yes: named in its rules"
PEOPLE = "yes: written by people"
TASKS = "yes: made of open tasks that people wrote"
CHATGPT = "no: written by ChatGPT"
GPT3 = "no: written by GPT-3"
GPT4 = "no: written by GPT-4"


@dataclass(frozen=True)
class Preset:
    """One published set.

    `path` is its owner/name on the hub. `config` and `files` (a pattern that may contain {split}) select what is read; with `only`,
    (field, values), only rows that have one of the values there. `split` is used as a pool, `test` as a target or holdout. `map`,
    `ignore` and `text_template` are as in the `pool:` section. `also`: other names that people use for it. For `plan`: `examples`, if they
    are fewer than the rows, and `tokens`, the mean length of an example as measured on a copy.
    """

    name: str
    path: str
    group: Group
    format: str
    licence: str
    written: str
    allowed: str
    rows: int | None = None
    config: str | None = None
    split: str = "train"
    test: str | None = None
    files: str | None = None
    only: tuple[str, tuple[str, ...]] | None = None
    revision: str | None = None
    map: Mapping[str, str] = field(default_factory=dict)
    ignore: tuple[str, ...] = ()
    text_template: str | None = None
    gated: bool = False
    note: str = ""
    also: tuple[str, ...] = ()
    examples: int | None = None
    tokens: int | None = None


_FLAN = {"group": "reasoning", "format": "flan", "licence": "CC BY 4.0", "written": "tasks and templates by people",
         "allowed": "yes: named in its rules (The Flan Collection)"}  # fmt: skip

PRESETS = (
    # conversation
    Preset("databricks-dolly-15k", "databricks/databricks-dolly-15k", "conversation", "dolly", "CC BY-SA 3.0", "people", NAMED, 15_011,
           also=("dolly", "dolly-15k")),
    Preset("oasst1", "OpenAssistant/oasst1", "conversation", "oasst", "Apache-2.0", "people", NAMED, 84_437,
           test="validation", note="rows are messages; one best-ranked thread per tree", examples=9_846),
    Preset("oasst2", "OpenAssistant/oasst2", "conversation", "oasst", "Apache-2.0", "people", PEOPLE, 128_575,
           test="validation", note="rows are messages; published after the challenge"),
    Preset("openassistant-guanaco", "timdettmers/openassistant-guanaco", "conversation", "text", "Apache-2.0", "people", PEOPLE,
           9_846, test="test", text_template="### Human: {user}### Assistant: {assistant}", note="best threads of oasst1 as text",
           also=("guanaco",)),
    Preset("lima", "GAIR/lima", "conversation", "sharegpt", "CC BY-NC-SA, or stricter where a source is", "people", NAMED, 1_030,
           files="{split}.jsonl", gated=True),
    Preset("no_robots", "HuggingFaceH4/no_robots", "conversation", "messages", "CC BY-NC 4.0", "people", PEOPLE, 9_500, test="test"),
    Preset("aya", "CohereLabs/aya_dataset", "conversation", "flan", "Apache-2.0", "people, in 65 languages", PEOPLE, 202_362,
           test="test", note="published after the challenge"),
    Preset("alpaca-cleaned", "yahma/alpaca-cleaned", "conversation", "alpaca", "CC BY 4.0", "GPT-3", GPT3, 51_760),
    Preset("alpaca", "tatsu-lab/alpaca", "conversation", "alpaca", "CC BY-NC 4.0", "GPT-3", GPT3, 52_002),
    Preset("self-instruct", "yizhongw/self_instruct", "conversation", "prompt_completion", "Apache-2.0", "GPT-3", GPT3,
           files="self_instruct/{split}/*.parquet", revision="refs/convert/parquet", note="the hub's Parquet copy"),
    Preset("ultrachat_200k", "HuggingFaceH4/ultrachat_200k", "conversation", "messages", "MIT", "ChatGPT", CHATGPT, 207_865,
           split="train_sft", test="test_sft",
           also=("ultrachat",)),
    Preset("tulu-3-sft-mixture", "allenai/tulu-3-sft-mixture", "conversation", "messages",
           "ODC-BY 1.0; parts are non-commercial", "people and models", "partly: models wrote much of it; see `source`", 939_343),
    Preset("tulu-v2-sft-mixture", "allenai/tulu-v2-sft-mixture", "conversation", "messages", "ODC-BY 1.0; parts differ",
           "people and models", "partly: models wrote much of it; see `dataset`", 326_154),
    Preset("openhermes-2.5", "teknium/OpenHermes-2.5", "conversation", "sharegpt", "see the card", "mostly GPT-4", GPT4, 1_001_551,
           also=("openhermes",)),
    Preset("sharegpt", "anon8231489123/ShareGPT_Vicuna_unfiltered", "conversation", "sharegpt", "see the card",
           "ChatGPT, in chats that users shared", CHATGPT, files="ShareGPT_V3_unfiltered_cleaned_split.json",
           note="cleaned of HTML, split where too long"),
    Preset("wildchat", "allenai/WildChat-1M", "conversation", "sharegpt", "ODC-BY 1.0", "ChatGPT, in real chats", CHATGPT),
    Preset("lmsys-chat-1m", "lmsys/lmsys-chat-1m", "conversation", "sharegpt", "its own, see the card",
           "25 models, in real chats", "no: written by models", 1_000_000, gated=True),
    Preset("hh-rlhf", "Anthropic/hh-rlhf", "conversation", "preference", "MIT", "a model, chosen by people",
           "no: written by a model", 160_800, test="test", note="the chosen conversations; made for preference models"),
    Preset("hermes-function-calling", "NousResearch/hermes-function-calling-v1", "conversation", "sharegpt", "Apache-2.0",
           "models", "no: written by models", config="func_calling_singleturn", ignore=("task",), note="tool calls"),
    # QA
    Preset("squad", "rajpurkar/squad", "QA", "squad", "CC BY-SA 4.0", "people", PEOPLE, 87_599, test="validation"),
    Preset("squad_v2", "rajpurkar/squad_v2", "QA", "squad", "CC BY-SA 4.0", "people", PEOPLE, 130_319, test="validation",
           note="a third of the questions have no answer: unlabelled"),
    Preset("boolq", "google/boolq", "QA", "question_answer", "CC BY-SA 3.0", "people", PEOPLE, 9_427, test="validation",
           map={"question": "{passage}\n\n{question}?", "answer": "answer"}),
    Preset("sciq", "allenai/sciq", "QA", "question_answer", "CC BY-NC 3.0", "people", PEOPLE, 11_679, test="test",
           map={"question": "question", "answer": "correct_answer"}),
    Preset("arc-challenge", "allenai/ai2_arc", "QA", "multiple_choice", "CC BY-SA 4.0", "people", PEOPLE, 1_119,
           config="ARC-Challenge", test="test"),
    Preset("arc-easy", "allenai/ai2_arc", "QA", "multiple_choice", "CC BY-SA 4.0", "people", PEOPLE, 2_251, config="ARC-Easy",
           test="test"),
    Preset("openbookqa", "allenai/openbookqa", "QA", "multiple_choice", "see the card", "people", PEOPLE, 4_957, config="main",
           test="test"),
    Preset("commonsense_qa", "tau/commonsense_qa", "QA", "multiple_choice", "MIT", "people", PEOPLE, 9_741, test="validation"),
    Preset("mmlu", "cais/mmlu", "QA", "multiple_choice", "MIT", "people", PEOPLE, 99_842, config="all",
           split="auxiliary_train", test="test", note="exams; as a pool its auxiliary_train"),
    Preset("truthful_qa", "truthfulqa/truthful_qa", "QA", "question_answer", "Apache-2.0", "people", PEOPLE, 817,
           config="generation", split="validation", test="validation", map={"question": "question", "answer": "best_answer"},
           note="made to evaluate; has no training split"),
    # reasoning
    Preset("Open-Platypus", "garage-bAInd/Open-Platypus", "reasoning", "alpaca", "differs by part, see the card",
           "mostly people, a part by GPT-4", "partly: GPT-4 wrote a part; see `data_source`", 24_926,
           also=("platypus",)),
    Preset("open-platypus-people", "garage-bAInd/Open-Platypus", "reasoning", "alpaca", "differs by part, see the card", "people",
           PEOPLE, only=("data_source", ("MATH/PRM-800K", "scienceqa", "scibench", "reclor", "theoremqa", "ARB", "guanaco")),
           note="Open-Platypus without the parts that models wrote or may have written (airoboros and programming)"),
    Preset("natural-instructions", "Muennighoff/natural-instructions", "reasoning", "natural_instructions",
           "Apache-2.0 (the original's)", "people", TASKS, test="test"),
    Preset("flan-cot", "Open-Orca/FLAN", files="cot_zsopt_data/*", **_FLAN, note="chains of thought"),
    Preset("flan-2021", "Open-Orca/FLAN", files="flan_zsopt_data/*", **_FLAN),
    Preset("flan-t0", "Open-Orca/FLAN", files="t0_zsopt_data/*", **_FLAN, note="P3 (T0) as Flan mixes it"),
    Preset("flan-niv2", "Open-Orca/FLAN", files="niv2_zsopt_data/*", **_FLAN, note="Super-NaturalInstructions as Flan mixes it"),
    Preset("slimorca", "Open-Orca/SlimOrca", "reasoning", "sharegpt", "MIT", "GPT-4, on Flan's questions", GPT4, 517_982),
    Preset("openorca", "Open-Orca/OpenOrca", "reasoning", "question_answer", "MIT", "GPT-4 and ChatGPT, on Flan's questions", GPT4),
    # code
    Preset("code_alpaca", "sahil2801/CodeAlpaca-20k", "code", "alpaca", "CC BY 4.0", "GPT-3", GPT3, 20_022,
           also=("code-alpaca", "codealpaca")),
    Preset("magicoder-oss-instruct", "ise-uiuc/Magicoder-OSS-Instruct-75K", "code", "prompt_completion", "MIT", "ChatGPT", CHATGPT,
           75_197, ignore=("seed",)),
    Preset("magicoder-evol-instruct", "ise-uiuc/Magicoder-Evol-Instruct-110K", "code", "alpaca", "Apache-2.0", "GPT-4", GPT4, 111_183),
    Preset("mbpp", "google-research-datasets/mbpp", "code", "prompt_completion", "CC BY 4.0", "people", PEOPLE, 374,
           config="full", test="test", map={"prompt": "text", "completion": "code"}),
    # math
    Preset("gsm8k", "openai/gsm8k", "math", "question_answer", "MIT", "people", PEOPLE, 7_473, config="main", test="test",
           tokens=141),
    Preset("MetaMathQA", "meta-math/MetaMathQA", "math", "prompt_completion", "MIT", "ChatGPT, from GSM8K and MATH", CHATGPT, 395_000,
           ignore=("original_question",),
           also=("metamath",)),
    Preset("numinamath-cot", "AI-MO/NuminaMath-CoT", "math", "messages", "Apache-2.0", "people, rewritten by GPT-4", GPT4, 859_494,
           test="test",
           also=("numinamath",)),
)  # fmt: skip
