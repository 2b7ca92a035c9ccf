"""Clients are shared for a limited time; later ones use the connection's present settings."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from airflow_deploy.clients import client_cache as sharing
from airflow_deploy.clients.client_cache import CLIENT_LIFETIME, shared


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


def test_client_of_a_connection_is_shared_for_its_lifetime(clock: SimpleNamespace) -> None:
    first = connect("a")
    clock.now += CLIENT_LIFETIME - 1
    assert connect("a") is first
    clock.now += 1
    assert connect("a") is not first


def test_each_connection_and_purpose_has_its_own_client(clock: SimpleNamespace) -> None:
    assert len({id(found) for found in (connect("b"), connect("c"), connect("b", "brake"))}) == 3


def test_error_is_not_cached(clock: SimpleNamespace) -> None:
    for _ in range(2):
        with pytest.raises(ValueError, match="wrong"):
            connect("wrong")
