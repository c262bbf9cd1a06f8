"""Personal data: each kind is found by its form and replaced by its name; numbers of arithmetic and code are no personal data."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("presidio_analyzer", reason="needs the extra pii")

from al.config.cleaning import ENTITIES, CleanConfig, Entity
from al.pool.pii import KINDS, masker
from al.pool.repair import Repair

ROOT = Path(__file__).resolve().parents[3]
FOUND = (
    ("Write to anna.lee@example.com.", "Write to <EMAIL_ADDRESS>."),
    ("Call (212) 555-0147 or 212-555-0147.", "Call <PHONE_NUMBER> or <PHONE_NUMBER>."),
    ("Call +49 30 901820 or +442079460958.", "Call <PHONE_NUMBER> or <PHONE_NUMBER>."),
    ("Card 4111 1111 1111 1111 it is.", "Card <CREDIT_CARD> it is."),
    ("To DE89 3704 0044 0532 0130 00, please", "To <IBAN_CODE>, please"),
    ("From 192.168.10.25 and 2001:db8::ff00:42:8329", "From <IP_ADDRESS> and <IP_ADDRESS>"),
    ("SSN 536-90-4399", "SSN <US_SSN>"),
    ("Pay 1A1zP1eP5QGefi2DMPTfTL5SLmv7DivfNa", "Pay <CRYPTO>"),
    ("MAC 00:1A:2B:3C:4D:5E", "MAC <MAC_ADDRESS>"),
)
NOT_PERSONAL = (
    "3000-1500=<<3000-1500=1500>>1500 and 0.621371 miles, in 2013-2014",
    "There were 23786 - 17509 = 6277 of them, or 1800 - 1200 = 600.",
    "pi is 3.1415926535, e is 2.7182818284; 360,000 - 270,000",
    "0123456789 1 2 3 4 5 6 7 8 9 10",
    "std::vector<a::b> x; letters[::2] + letters[1::2]",
    "at 12:30:45 on 2024-01-31, version 1.2.3",
    "me@localhost and x @ y = z",
    "Card 4111 1111 1111 1112 has a wrong checksum",
)


@pytest.fixture(scope="module")
def mask():
    return masker(sorted(KINDS))


@pytest.mark.parametrize(("text", "masked"), FOUND)
def test_personal_data_is_replaced_by_its_kind(mask, text, masked):
    after, counts = mask(text)
    assert after == masked
    assert counts.total() == masked.count("<")


@pytest.mark.parametrize("text", NOT_PERSONAL)
def test_numbers_and_code_are_left_alone(mask, text):
    assert mask(text) == (text, Counter())


def test_only_the_kinds_that_were_asked_for_are_masked():
    assert masker(["US_SSN"])("536-90-4399 of a@example.com")[0] == "<US_SSN> of a@example.com"


def test_masking_twice_is_masking_once(mask):
    text = " ".join(text for text, _ in FOUND)
    once, _ = mask(text)
    assert mask(once) == (once, Counter())


def test_examples_and_places_are_counted():
    turns, counts = [("user", "I am a@example.com"), ("assistant", "Hello a@example.com, or 536-90-4399?")], Counter()
    after = Repair(CleanConfig(mask_pii=True)).apply(turns, counts)
    assert after == [("user", "I am <EMAIL_ADDRESS>"), ("assistant", "Hello <EMAIL_ADDRESS>, or <US_SSN>?")]
    assert counts == {"masked_pii": 1, "masked_pii_email_address": 2, "masked_pii_us_ssn": 1}


def test_the_list_of_domains_is_not_fetched_from_the_network(tmp_path):
    code = """
import socket
def refuse(*arguments, **more):
    print("a connection was tried")
    raise OSError
socket.getaddrinfo = socket.socket.connect = refuse
from al.pool.pii import _offline
print(_offline(object)().validate_result("a@example.com"))
"""
    child = {**os.environ, "TLDEXTRACT_CACHE": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=child, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == "True\n", done.stderr


def test_every_kind_of_the_config_can_be_found():
    from typing import get_args

    assert set(get_args(Entity)) == set(KINDS) and set(ENTITIES) == set(KINDS) - {"MAC_ADDRESS"}
