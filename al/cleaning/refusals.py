"""Detection of responses that decline the request, by how they begin.

The idea and most of the phrases come from unfiltered chat data sets (ShareGPT Vicuna unfiltered, WizardLM unfiltered,
OpenAssistant). They searched for phrases anywhere in a conversation, which also removes stories and letters with an
apology. Here only the start of the response counts, and an apology alone is not enough: it must be followed by
something that cannot be done *for the user*. Refusals in unusual words are missed; precision has priority over recall.
"""

from __future__ import annotations

import re

LOOKED_AT = 240
STRAIGHT = str.maketrans({"’": "'", "‘": "'", "ʼ": "'", "´": "'", "`": "'", "“": '"', "”": '"', "*": None, "_": None})
_DRESSING = "\"' #>-"

_SORRY = (
    r"(?:(?:oh|well|hmm|no|hello|hi)\b[,.!]* )?"
    r"(?:i(?:'m| am) (?:(?:so|very|really|truly|terribly|deeply) )?sorry|sorry|(?:my )?(?:sincere )?apologies|"
    r"i (?:sincerely )?apologi[sz]e|unfortunately|i regret)"
    r"(?: (?:for|about) [^,.;!]{1,60})?[,.;!:]*(?: (?:but|however|to inform you(?: that)?)\b,?)? "
)
_AI = (
    r"(?:as|i(?:'m| am)(?: just| only| simply)?) (?:an? )?(?:(?:responsible|ethical|helpful|harmless) )*"
    r"(?:ai|a\.i\.|artificial intelligence|(?:large )?language model)\b"
    r"(?: (?:language|text|chat|model|assistant|chatbot|bot|program|system))*"
    r"(?: (?:trained|created|developed|designed) by \w+)?(?:[,.;]| and| but| so|(?= i\b)) [^.!?]{0,60}?\b"
)
_CANNOT = (
    r"i (?:(?:simply|just|really|also) )?(?:can't|cannot|can not|could not|couldn't|will not|won't|"
    r"must (?:decline|refuse) to|decline to|refuse to|"
    r"am (?:not able|unable|not allowed|not permitted|not programmed|not designed) to|am incapable of)|"
    r"i'm (?:not able|unable|not allowed|not permitted|not programmed|not designed) to|"
    r"i(?:'m| am) (?:afraid|sorry)(?: that)? i can(?:'t|not)"
)
_LACKS = (
    r"i (?:do not|don't) (?:have|possess|experience|condone|support|promote|encourage|hold)|"
    r"(?:it is|it's) (?:not within|outside|beyond) my|my (?:programming|purpose|capabilities|training)"
)
_THAT = r"(?:that|this|it|such|your|any)\b"
_DONE_FOR_YOU = (
    r" (?:(?:in good conscience|ethically|knowingly|be able to) )*"
    rf"(?:assist|help(?: you)?(?: out)?(?: with {_THAT}|[.!,]|$)|comply|fulfil|provid|generat|engage in|participate in|condone|"
    rf"answer {_THAT}|respond to {_THAT}|writ(?:e|ing) (?:{_THAT}|an? )|creat(?:e|ing) (?:{_THAT}|an? |content)|produce {_THAT}|"
    rf"continue (?:with )?{_THAT}|do that\b|complete {_THAT}|process {_THAT}|share {_THAT}|discuss {_THAT}|"
    r"give (?:you )?(?:advice|medical|legal|instructions)|offer (?:advice|medical|legal))"
)
_PLAINLY = (
    r" (?:(?:in good conscience|ethically|knowingly) )*"
    rf"(?:assist (?:you )?(?:with|in)|help (?:you )?with {_THAT}|comply with|fulfill? {_THAT}|"
    rf"provide (?:(?:you with )?{_THAT}|instructions|guidance|assistance|information (?:on|about) how)|"
    r"engage in|participate in|condone|promote|respond to (?:that|this) (?:request|prompt))"
)
_REFUSAL = re.compile(
    rf"(?:{_SORRY})?{_AI}(?:{_CANNOT}|{_LACKS})"
    rf"|{_SORRY}(?:{_CANNOT}){_DONE_FOR_YOU}"
    rf"|(?:{_CANNOT}){_PLAINLY}"
    r"|it (?:is|would be) (?:unethical|inappropriate|not (?:appropriate|ethical)(?: or \w+)?|against my \w+) for me to "
)


def is_refusal(response: str) -> bool:
    """Whether `response` begins by declining the request. Reads its first 240 characters; English only."""
    start = response[: 2 * LOOKED_AT].translate(STRAIGHT).lower().split()
    return _REFUSAL.match(" ".join(start).lstrip(_DRESSING)[:LOOKED_AT]) is not None
