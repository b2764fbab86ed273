"""Which addresses may be downloaded."""

from __future__ import annotations

import ipaddress

import pytest

from subtitled.config.url_rules import (
    UrlError,
    check_url,
    is_allowed_address,
    is_allowed_host,
    without_queries,
)

HOSTS = ("example.org", "2001:db8::1", "192.0.2.1")


@pytest.mark.parametrize(
    ("url", "checked"),
    [
        ("https://example.org/talk.mp4", "https://example.org/talk.mp4"),
        ("HTTPS://WWW.Example.ORG./a?b=c#t=3", "https://www.example.org/a?b=c"),
        ("http://example.org:8080", "http://example.org:8080/"),
        ("https://example.org/käse?q=ü", "https://example.org/k%C3%A4se?q=%C3%BC"),
        ("https://example.org/a%20b?x=[1]", "https://example.org/a%20b?x=[1]"),
        ("https://[2001:DB8:0::1]/a", "https://[2001:db8::1]/a"),
        ("https://192.0.2.1/a", "https://192.0.2.1/a"),
    ],
)
def test_allowed_url_is_returned_in_its_canonical_form(url: str, checked: str) -> None:
    assert check_url(url, HOSTS) == checked


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("file:///etc/passwd", "the scheme 'file' is not supported; use https:// or http://"),
        ("ftp://example.org/a", "the scheme 'ftp'"),
        ("data:text/plain,a", "the scheme 'data'"),
        ("javascript:alert(1)", "the scheme 'javascript'"),
        ("example.org/a", "the scheme ''"),
        ("https://user:secret@example.org/a", "user name or password"),
        ("https://example.org@127.0.0.1/", "user name or password"),
        ("https://evil.org/a?token=secret", "'https://evil.org/a?…': the host 'evil.org' is not allowed"),
        ("https://example.org/a?b=1 token=secret", "'https://example.org/a?…' contains a space"),
        ("https://evil.org/a", "'evil.org' is not allowed; url.allowed_hosts on the server: example.org"),
        ("https://notexample.org/a", "'notexample.org' is not allowed"),
        ("https://example.org.evil.org/a", "is not allowed"),
        ("https://evil.org\\@example.org/", "backslash"),
        ("https://example.org/\r\nHost: a", "control character"),
        ("https://2130706433/", "'2130706433' is not an IPv4 address"),
        ("https://0x7f000001/", "is not an IPv4 address"),
        ("https://0x7f.1/", "is not an IPv4 address"),
        ("https://127.1/", "is not an IPv4 address"),
        ("https://0177.0.0.1/", "is not an IPv4 address"),
        ("https://[::1]/", "'::1' is not allowed"),
        ("https://[::1%25lo]/", ""),
        ("https://[2001:db8::1/", "is invalid"),
        ("https://example.org:99999/", "is invalid"),
        ("https:///a", "is not a host name"),
        ("https://-a.example.org/", "is not a host name"),
        ("https://\uff11\uff12\uff17.0.0.1/", "is not allowed"),
        ("https://example.org/" + "a" * 2048, "the limit is 2048"),
    ],
)
def test_refused_url_is_named_with_the_reason(url: str, reason: str) -> None:
    with pytest.raises(UrlError) as refused:
        check_url(url, HOSTS)
    assert reason in str(refused.value)
    assert "secret" not in str(refused.value)


def test_queries_of_urls_are_cut_from_a_text() -> None:
    text = 'Unsupported URL: https://example.org/a?token=secret#t (see "HTTP://example.org?X-Amz-Signature=1")? no'
    assert (
        without_queries(text) == 'Unsupported URL: https://example.org/a?… (see "HTTP://example.org?…")? no'
    )


def test_a_list_of_hosts_covers_subdomains_but_not_parts_of_names() -> None:
    assert is_allowed_host("www.example.org", ["example.org"])
    assert not is_allowed_host("badexample.org", ["example.org"])
    assert is_allowed_host("anything.net", ["*"])
    assert not is_allowed_host("1.192.0.2", ["0.2"])
    assert not is_allowed_host("example.org", [])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.1.2.3", "172.16.0.1", "192.168.0.1", "169.254.169.254",  # noqa: S104
        "100.64.0.1", "100.100.100.200", "168.63.129.16", "192.0.0.192", "198.18.0.1", "203.0.113.1", "224.0.0.1",
        "240.0.0.1", "255.255.255.255", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "::ffff:127.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe", "64:ff9b:1::1", "2001:db8::1", "2001:0:1:1:1:1:80ff:fffe", "localhost", "", "127.1",
        "2130706433", "0x7f.0.0.1", "fec0::1", "192.88.99.1", "2606:4700:4700::5efe:169.254.169.254",
        "2606:4700:4700::200:5efe:127.0.0.1", "fe80::5efe:8.8.8.8",
    ],
)  # fmt: skip
def test_addresses_that_are_not_public_are_refused(address: str) -> None:
    assert not is_allowed_address(address, ())


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "2606:4700:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700:4700::5efe:8.8.8.8"],
)
def test_public_addresses_are_allowed(address: str) -> None:
    assert is_allowed_address(address, ())


def test_a_network_of_the_configuration_is_allowed() -> None:
    networks = [ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/16")]
    assert is_allowed_address("10.1.2.3", networks)
    assert is_allowed_address("::ffff:10.1.2.3", networks)
    assert is_allowed_address("fd00::7", networks)
    assert not is_allowed_address("192.168.0.1", networks)
    assert not is_allowed_address("127.0.0.1", networks)
