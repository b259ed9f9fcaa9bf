"""Text without secrets and without control characters."""

import json
import time

import pytest

from mae.base.redaction import (
    for_record,
    lacks_secret,
    redacted,
    shown,
    unsigned,
    without_secrets,
)

SECRET = "s3cr3tW0rd"

URLS = [
    ("https://host/a.tar?X-Amz-Signature=abc&b=c", "https://host/a.tar"),
    ("https://host/a.tar?TOKEN", "https://host/a.tar"),
    ("https://host/a.tar#part", "https://host/a.tar"),
    ("https://me:secret@host:80/a.tar", "https://host:80/a.tar"),
    ("https://me:p@ss@host/a.tar", "https://host/a.tar"),
    ("s3://key:secret@bucket/a.tar", "s3://bucket/a.tar"),
    ("s3://bucket/a.tar?versionId=1", "s3://bucket/a.tar"),
    ("s3://bucket/a-??.tar", "s3://bucket/a-??.tar"),
    ("az://box/a.tar?sv=2022&sig=abc", "az://box/a.tar"),
    ("hf://datasets/who/what@main/a.tar", "hf://datasets/who/what@main/a.tar"),
    ("Cannot get https://h/a?s=1, really", "Cannot get https://h/a really"),
    ("/data/what?=a@b.tar", "/data/what?=a@b.tar"),
]


@pytest.mark.parametrize(("text", "expected"), URLS)
def test_secrets_of_addresses_are_left_out(text, expected):
    assert redacted(text) == expected == redacted(redacted(text))


@pytest.mark.parametrize(
    "text",
    [
        "pipe:curl -s 'https://u:{}@h/a' | cat",
        "pipe:curl -H 'X-Key: {}' https://h/a.tar",
        "pipe:TOKEN={} fetch a.tar",
        "pipe:/opt/{}\nfetch --key {}".replace("/opt/{}\n", "/opt/get\n"),
        "data.train: pipe:curl -u me:{} x: exit code 22",
        "URL('https://h/a.tar?X-Amz-Credential=AKIA&X-Amz-Signature={}')",
        "GET /a.tar?sv=2022&sig={} failed",
        "Authorization: Bearer {}",
        "{{'authorization': 'x', 'X-Auth-Token: {}'}}",
        "AWS_SECRET_ACCESS_KEY={} is set",
        "x-goog-signature={}",
        "bearer {} refused",
        "token hf_{}aaaaaaaaaaaaaaaa",
    ],
)
def test_a_text_loses_the_secret(text):
    text = text.format(*[SECRET] * text.count("{}"))
    assert SECRET in text
    assert SECRET not in redacted(text) and SECRET not in shown(text)
    assert SECRET not in json.dumps(without_secrets({"a": [text]}))
    assert SECRET not in json.dumps(for_record({"a": (text,)}))


@pytest.mark.parametrize(
    "text",
    [
        "allow `pipe:COMMAND` shards, which run shell commands on this machine",
        "class_token=False reg_tokens=4 mask_token=1",
        "--pool token: the class token: position embeddings",
        "https://arxiv.org/abs/2111.06377",
        "key a=b, signature of the shard",
    ],
)
def test_other_words_stay(text):
    assert redacted(text) == text


def test_commands_keep_their_program_and_stay_apart():
    one, two = (redacted(f"pipe:/usr/bin/aws s3 cp s3://b/{name} -") for name in "ab")
    assert one != two and one.startswith("pipe:aws…") and redacted(one) == one
    assert redacted(f"{one}: would run") == f"{one}: would run"


def test_the_name_in_fingerprints_stays_that_of_earlier_versions():
    assert unsigned("pipe:curl 'https://u:p@h/a?s=1'") == "pipe:curl 'https://h/a'"
    for text, _ in URLS:
        if "p@ss" not in text:
            assert unsigned(text) == redacted(text)


def test_settings_are_recorded_with_a_mark_where_a_secret_was():
    recorded = for_record(["https://h/a.tar?sig=x", "https://h/b.tar", "pipe:cat x", "/a/b.tar"])
    assert recorded == ["https://h/a.tar?…", "https://h/b.tar", redacted("pipe:cat x"), "/a/b.tar"]
    assert [lacks_secret(one) for one in recorded] == [True, False, True, False]
    assert for_record(recorded) == recorded
    assert not lacks_secret("/photos/a….tar")


def test_shown_text_keeps_its_lines():
    assert shown("a\n\tb\x1b") == "a\n\tb\\x1b"


PIECES = (
    "?",
    "a-",
    "x-token",
    "?x-amz-",
    "://",
    "pipe:a ",
    "a@",
    "http://a",
    "eyJ-",
    "a+",
    "s3://b",
)


@pytest.mark.parametrize("piece", PIECES)
def test_long_names_take_little_time(piece):
    start = time.process_time()
    redacted(piece * (100_000 // len(piece)))
    assert time.process_time() - start < 5  # quadratic: minutes
