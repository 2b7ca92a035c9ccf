"""The journal of requests."""

from __future__ import annotations

import threading
from typing import Any

from tests.support.kubernetes_api import KubernetesApi
from tests.unit.kubernetes_api.calls import CONFIG_MAPS, MERGE_PATCH, call, refused
from tests.unit.kubernetes_api.objects import config_map


class TestJournal:
    def test_request_is_recorded_as_it_was_sent(self, server: KubernetesApi, api: Any) -> None:
        api.set_default_header("X-Test", "yes")
        with server.recorded() as found:
            call(api, "POST", CONFIG_MAPS, config_map(), fieldManager="me")
        (request,) = found
        assert (request.method, request.path, request.query) == ("POST", CONFIG_MAPS, {"fieldManager": "me"})
        assert (request.body, request.content_type, request.timeout) == (config_map(), "application/json", (1.0, 3.0))
        assert (request.headers["X-Test"], request.status, request.done) == ("yes", 201, True)

    def test_writes_exclude_reads_and_dry_runs(self, server: KubernetesApi, api: Any) -> None:
        call(api, "POST", CONFIG_MAPS, config_map(), dryRun="All")
        call(api, "POST", CONFIG_MAPS, config_map())
        call(api, "GET", CONFIG_MAPS)
        refused(api, "POST", CONFIG_MAPS, config_map())
        assert [(request.method, request.status, request.done) for request in server.writes] == [
            ("POST", 201, True),
            ("POST", 409, False),
        ]

    def test_threads_write_one_after_the_other(self, server: KubernetesApi, api: Any) -> None:
        server.add({**config_map(), "data": {}})
        bodies = [{"data": {str(number): "x"}} for number in range(40)]
        threads = [
            threading.Thread(target=call, args=(api, "PATCH", f"{CONFIG_MAPS}/settings", body, MERGE_PATCH))
            for body in bodies
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.get("ConfigMap", "shop", "settings")["data"]) == 40
        assert server.store.revision == 2 + 40
