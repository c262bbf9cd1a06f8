"""Who is let in, by the headers of a request alone."""

from __future__ import annotations

import pytest
from starlette.datastructures import Headers

from al.errors import ConfigError
from al.serving.guard import Access
from al.web import host_names, is_loopback

HOSTS = host_names("127.0.0.1", 8000)


def status(access, path="/process", **headers):
    found = access.refusal(path, Headers({name: value for name, value in headers.items()}))
    return found and found.status


@pytest.mark.parametrize(
    ("hosts", "host", "origin", "expected"),
    [
        (HOSTS, "127.0.0.1:8000", None, None),
        (HOSTS, "LOCALHOST:8000", "http://localhost:8000", None),
        (HOSTS, "[::1]:8000", None, None),
        (HOSTS, "127.0.0.1", None, 400),
        (HOSTS, "127.0.0.1:8000", "https://localhost:8000", 403),
        (HOSTS, "127.0.0.1:8000", "null", 403),
        (host_names("127.0.0.1", 80), "localhost", None, None),
        (None, "any.name:8000", None, None),
        (None, "any.name:8000", "http://any.name:8000", 403),
    ],
)
def test_host_and_origin(hosts, host, origin, expected):
    """On an address that other machines reach (None) names are unknown, and no page of any site is answered."""
    headers = {"host": host} | ({} if origin is None else {"origin": origin})
    assert status(Access(None, hosts, 100), **headers) == expected


def test_the_scheme_of_the_token_is_written_in_any_case():
    access = Access("secret", None, 100)
    assert (
        status(access, authorization="bearer secret") is None
        and status(access, authorization="BEARER  secret ") is None
    )
    assert status(access, authorization="Token secret") == 401 and status(access, path="/health") is None


def test_only_addresses_say_who_reaches_them():
    assert [is_loopback(host) for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.1")] == [False] * 3
    with pytest.raises(ConfigError, match="expected an IP address"):
        is_loopback("example.org")
