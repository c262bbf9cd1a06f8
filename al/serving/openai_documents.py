"""The documents of OpenAI's API: what a request may hold, and what an answer holds.

A parameter that this server does not support may have the value at which it does nothing; any other value, and any unknown parameter, is
an error. Those that never change an answer (`user`, `metadata`, …) are accepted.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from al.serving.models import MOST_ANSWERS


def well_formed(text: str) -> str:
    """The text itself. Raises ValueError for half of a surrogate pair, which JSON may spell and no tokenizer reads."""
    if not text.isascii():
        text.encode("utf-8")
    return text


def whole(value: Any) -> Any:
    """1.0 as 1: JSON has one kind of number. Everything else unchanged."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


String = Annotated[str, AfterValidator(well_formed)]
Stop = Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(well_formed)]
Zero = Annotated[float, Field(ge=0, le=0)]
Whole = BeforeValidator(whole)
One = Annotated[int, Field(ge=1, le=1), Whole]
Positive = Annotated[int, Field(ge=1), Whole]
Natural = Annotated[int, Field(ge=0), Whole]
Seed = Annotated[int, Whole]
Top = Annotated[int, Field(ge=0, le=20), Whole]
Answers = Annotated[int, Field(ge=1, le=MOST_ANSWERS), Whole]
Tokens = Annotated[list[Natural], Field(min_length=1)]


class Strict(BaseModel):
    """JSON as it is written: no other parameters, no conversions, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class StreamOptions(Strict):
    """`include_usage`: a last chunk with the number of tokens."""

    include_usage: bool = False
    include_obfuscation: Literal[False] | None = None


class ResponseFormat(Strict):
    """Only free text."""

    type: Literal["text"]


class Common(Strict):
    """What both kinds of completion take."""

    model: String = Field(description="One of the names in /v1/models.")
    temperature: Annotated[float, Field(ge=0, le=2)] | None = Field(
        None, description="Default 1; 0: the most probable tokens."
    )
    top_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None, description="Draw from the most probable tokens of this total."
    )
    top_k: Positive | None = Field(None, description="Not in OpenAI's API: draw from this many tokens.")
    seed: Seed | None = Field(None, description="The same seed gives the same answer.")
    n: Answers | None = Field(None, description="Answers to each prompt; default 1.")
    stop: Stop | Annotated[list[Stop], Field(max_length=4)] | None = Field(
        None, description="The answer ends before these."
    )
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Annotated[dict[str, Any], Field(max_length=0)] | None = None
    user: String | None = None

    @property
    def stops(self) -> list[str]:
        """The stop sequences."""
        return [self.stop] if isinstance(self.stop, str) else list(self.stop or ())


class TextPart(Strict):
    """A part of a message."""

    type: Literal["text"]
    text: String


class Message(Strict):
    """One turn. `developer` is another name of `system`."""

    role: Literal["system", "developer", "user", "assistant"]
    content: String | Annotated[list[TextPart], Field(min_length=1)]

    def plain(self) -> dict[str, str]:
        """As the chat template reads it."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(Common):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_tokens: Positive | None = None
    max_completion_tokens: Positive | None = None
    logprobs: bool | None = None
    top_logprobs: Top | None = Field(None, description="Needs logprobs.")
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[Any], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    metadata: dict[String, String] | None = None
    service_tier: Literal["auto", "default"] | None = None
    safety_identifier: String | None = None
    prompt_cache_key: String | None = None


class CompletionRequest(Common):
    """POST /v1/completions."""

    prompt: (
        String | Annotated[list[String], Field(min_length=1)] | Tokens | Annotated[list[Tokens], Field(min_length=1)]
    )
    max_tokens: Natural | None = Field(None, description="Default 16.")
    logprobs: Top | None = Field(None, description="With this many of the most probable tokens.")
    echo: bool | None = Field(None, description="The prompt is part of the text, and of the logprobs.")
    suffix: Literal[""] | None = None
    best_of: One | None = None

    @property
    def prompts(self) -> list[str | list[int]]:
        """Every prompt, as text or tokens."""
        given = self.prompt
        if isinstance(given, str) or isinstance(given[0], int):
            return [given]
        return list(given)


class Usage(BaseModel):
    """Tokens of all prompts, and of all answers with their end tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class TopLogprob(BaseModel):
    """A token with its log-probability; `bytes`: its UTF-8, or null if it is a part of a character."""

    token: str
    logprob: float
    bytes: list[int] | None


class TokenLogprob(TopLogprob):
    """A token of an answer, and the most probable ones in its place."""

    top_logprobs: list[TopLogprob]


class ChatLogprobs(BaseModel):
    """Tokens of an answer."""

    content: list[TokenLogprob]
    refusal: None = None


class ChatMessage(BaseModel):
    """An answer."""

    role: Literal["assistant"] = "assistant"
    content: str
    refusal: None = None


class ChatChoice(BaseModel):
    """One of n answers."""

    index: int
    message: ChatMessage
    logprobs: ChatLogprobs | None
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """The response of /v1/chat/completions without `stream`."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class TextLogprobs(BaseModel):
    """Tokens of an answer; null for the first token of an echoed prompt."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None]
    text_offset: list[int]


class TextChoice(BaseModel):
    """One of the answers; n to each prompt."""

    index: int
    text: str
    logprobs: TextLogprobs | None
    finish_reason: Literal["stop", "length"] | None


class Completion(BaseModel):
    """The response of /v1/completions, and each chunk of its stream."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[TextChoice]
    usage: Usage | None = None


class ModelCard(BaseModel):
    """A model by name."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["winnow"] = "winnow"


class ModelList(BaseModel):
    """All models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]
