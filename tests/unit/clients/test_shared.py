"""Loops that begin together have one client; those that begin later have one that knows what the connection says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_deploy.clients import shared as sharing
from airflow_deploy.clients.shared import CLIENT_LIFETIME, shared


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    clock = SimpleNamespace(now=10 * CLIENT_LIFETIME)
    monkeypatch.setattr(sharing, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


@shared
def connect(connection: str, purpose: str = "") -> object:
    if connection == "wrong":
        raise ValueError(connection)
    return object()


def test_the_same_is_shared_for_a_while(clock: SimpleNamespace) -> None:
    first = connect("a")
    clock.now += CLIENT_LIFETIME - 1
    assert connect("a") is first
    clock.now += 1
    assert connect("a") is not first


def test_others_and_other_purposes_have_their_own(clock: SimpleNamespace) -> None:
    assert len({id(found) for found in (connect("b"), connect("c"), connect("b", "brake"))}) == 3


def test_an_error_is_not_remembered(clock: SimpleNamespace) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            connect("wrong")
