"""Refusals: detected by how a response begins; an apology, or something the writer cannot do for themselves, does not count."""

from __future__ import annotations

import pytest

from al.cleaning.refusals import is_refusal

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, but I cannot assist with that request.",
    "I'm sorry, but I can't fulfill this request.",
    "**I'm sorry**, but I can't help with that.",
    '"I am sorry, but I am unable to provide that information."',
    "Sorry, I can't assist with that.",
    "Sorry, but I can't continue with that.",
    "SORRY, BUT I CANNOT HELP WITH THAT.",
    "  \n I apologize, but I cannot generate explicit content.",
    "My apologies, but I cannot comply with that request.",
    "Unfortunately, I am not able to provide legal advice on this.",
    "I’m really sorry, but I won’t be able to help you with this.",
    "As an AI language model, I cannot provide medical advice.",
    "As an AI, I don't have personal opinions.",
    "As a large language model trained by OpenAI, I do not have feelings.",
    "As a responsible AI language model, I can't provide instructions on how to hack.",
    "I'm sorry, but as an AI language model, it is not within my capabilities to do that.",
    "I am sorry, as an AI language model, I am not programmed to generate harmful content.",
    "I'm just an AI, I cannot condone violence.",
    "I am an AI language model and I do not have personal preferences.",
    "I cannot fulfill this request.",
    "I can't help with that.",
    "I can’t assist with that.",
    "I'm unable to assist with that request.",
    "I'm afraid I can't help with that.",
    "I must decline to assist with this.",
    "I will not provide instructions for that.",
    "It would be unethical for me to write such a letter.",
)
ANSWERS = (
    "",
    "Sorry",
    "No",
    "No I can't",
    "I'm sorry to hear that. Here are some ideas.",
    "I'm sorry, I can't come to your party tonight.",
    "I'm sorry I can't help you with the move on Saturday, I have to work.",
    "I'm sorry, I forgot your name.",
    "Sorry for the delay. The answer is 4.",
    "Sorry, I meant 5.",
    "Sorry, I don't have feelings for you.",
    "Sorry, I can't access my account",
    "I apologize for the inconvenience, your order will arrive tomorrow.",
    "Unfortunately, the train was late.",
    "Unfortunately, I cannot recommend this restaurant.",
    "Unfortunately we cannot offer you the position.",
    "I can't help falling in love with you.",
    "I cannot believe it!",
    "I cannot provide for my family, he said.",
    "I cannot assist Henry, said the doctor",
    "I cannot emphasize enough how much sleep matters.",
    "I can't access my account, please help.",
    "I am afraid I can't swim.",
    "I'm unable to sleep.",
    "I do not support the war.",
    "I do not have enough information to tell.",
    "I don't have access to a car, so I take the bus.",
    "I can provide that information.",
    "As an AI researcher, I study neural networks.",
    "As an AI researcher, I cannot ignore this.",
    "I am an AI engineer and I do not have a car.",
    "As AI systems grow, I do not have a clue",
    "As an artist, I cannot stop painting.",
    "As a language teacher, I suggest reading.",
    "I'm a language model called Vicuna.",
    "It is illegal to provide alcohol to minors.",
    "It is not appropriate to joke about it.",
    "The model said: I'm sorry, but I can't help with that.",
)


@pytest.mark.parametrize("response", REFUSALS)
def test_a_response_that_declines_is_a_refusal(response):
    assert is_refusal(response)


@pytest.mark.parametrize("response", ANSWERS)
def test_an_answer_is_no_refusal(response):
    assert not is_refusal(response)


def test_only_the_start_of_a_response_counts():
    assert not is_refusal("Here is the scene you asked for. " * 10 + "I'm sorry, but I can't help with that.")


def test_a_huge_response_is_judged_at_once():
    import time

    started = time.perf_counter()
    assert not is_refusal("i'm sorry for " * 1_000_000)
    assert time.perf_counter() - started < 0.5
