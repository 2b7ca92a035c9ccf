"""Watches: events from the start or from a version on."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
from kubernetes import client, watch
from kubernetes.client import ApiException
from urllib3.exceptions import ReadTimeoutError

from tests.support.kubernetes_api import KubernetesApi
from tests.unit.kubernetes_api.objects import config_map, route


class TestWatch:
    def events(self, api: Any, **query: Any) -> Iterator[tuple[str, str]]:
        listing = client.CoreV1Api(api).list_namespaced_config_map
        for event in watch.Watch().stream(listing, "shop", **query):
            yield event["type"], event["object"].metadata.name

    def test_watch_without_a_version_begins_with_existing_objects(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map("one"), config_map("two"))
        assert [*self.events(api, timeout_seconds=0.01)] == [("ADDED", "one"), ("ADDED", "two")]

    def test_watch_from_a_version_yields_later_writes(self, server: KubernetesApi, api: Any) -> None:
        version = server.add(config_map("one"), config_map("two"))["metadata"]["resourceVersion"]
        server.edit("ConfigMap", "shop", "one", lambda body: body["data"].update(a="2"))
        server.add(route())
        server.remove("ConfigMap", "shop", "two")
        found = [*self.events(api, resource_version=version, timeout_seconds=0.01)]
        assert found == [("MODIFIED", "one"), ("DELETED", "two")]

    def test_watch_yields_writes_during_the_watch(self, server: KubernetesApi, api: Any) -> None:
        events = self.events(api, timeout_seconds=30)
        writer = threading.Timer(0.02, lambda: server.add(config_map("late")))
        writer.start()
        assert next(events) == ("ADDED", "late")
        writer.join()
        events.close()  # type: ignore[attr-defined]

    def test_object_that_no_longer_matches_the_selector_is_deleted(self, server: KubernetesApi, api: Any) -> None:
        version = server.add(config_map(labels={"a": "b"}))["metadata"]["resourceVersion"]
        server.edit("ConfigMap", "shop", "settings", lambda body: body["metadata"].update(labels={}))
        found = self.events(api, label_selector="a=b", resource_version=version, timeout_seconds=0.01)
        assert [*found] == [("DELETED", "settings")]

    def test_watch_from_a_compacted_version_is_refused(self, server: KubernetesApi, api: Any) -> None:
        server.add(config_map())
        server.compact()
        with pytest.raises(ApiException, match="too old"):
            [*self.events(api, resource_version="1", timeout_seconds=0.01)]

    def test_watch_without_events_ends_at_the_clients_timeout(self, api: Any) -> None:
        with pytest.raises(ReadTimeoutError):
            [*self.events(api, timeout_seconds=30, _request_timeout=(1, 0.01))]
