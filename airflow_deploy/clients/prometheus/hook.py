"""Prometheus, through an Airflow connection of our own type."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode, urlsplit

from airflow.sdk import BaseHook

from airflow_deploy.clients.client_cache import POOL_SIZE, shared
from airflow_deploy.domain.errors import RefusedError, TemporaryError
from airflow_deploy.domain.metrics.counters import Series
from airflow_deploy.domain.values import printable

if TYPE_CHECKING:
    from prometheus_api_client import PrometheusConnect
    from requests import PreparedRequest, Response, Session

QUERY_TIMEOUT = 4
"""Seconds that one query may take, at the server and on the way: a look at a Prometheus that hangs must be completed
in time to renew the Lease. The library's own default is to wait for ever."""


class PrometheusHook(BaseHook):
    """The connection type ``prometheus``: host is the server's URL; login and password are sent as basic auth."""

    conn_name_attr = "prometheus_conn_id"
    default_conn_name = "prometheus_default"
    conn_type = "prometheus"
    hook_name = "Prometheus"

    def __init__(self, prometheus_conn_id: str = default_conn_name) -> None:
        super().__init__()
        self.prometheus_conn_id = prometheus_conn_id

    def get_conn(self) -> PrometheusConnect:
        """Return the library's client, which neither waits for ever nor tries again by itself."""
        from prometheus_api_client import PrometheusConnect
        from requests.adapters import HTTPAdapter
        from urllib3.util.retry import Retry

        connection = self.get_connection(self.prometheus_conn_id)
        url = server_url(connection.host or "", connection.port)
        auth = (connection.login, connection.password or "") if connection.login else None
        session, retry = _session(url), Retry(total=0)
        client = PrometheusConnect(
            url=url, auth=auth, timeout=QUERY_TIMEOUT, retry=retry, session=session, method="POST"
        )
        session.mount(url, HTTPAdapter(pool_maxsize=POOL_SIZE, max_retries=retry))
        return client

    def page(self) -> str:
        """Return where people open Prometheus: the extra ``ui``, or else where Airflow reaches it; never with a login.

        :raises RefusedError: the connection has no usable URL.
        """
        connection = self.get_connection(self.prometheus_conn_id)
        ui = connection.extra_dejson.get("ui")
        parts = urlsplit(server_url(str(ui)) if ui else server_url(connection.host or "", connection.port))
        return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

    def test_connection(self) -> tuple[bool, str]:
        """Ask for a constant: it takes the whole way through the query engine."""
        try:
            Prometheus(self.get_conn()).query("vector(1)")
        except (RefusedError, TemporaryError) as error:
            return False, str(error)
        return True, "Prometheus answers queries"


def _session(url: str) -> Session:
    """Return a session that sends queries as forms: a URL has no room for one that asks for everything at once."""
    from requests import Request, Session
    from requests.utils import get_netrc_auth

    class Forms(Session):
        @lru_cache(maxsize=8)  # noqa: B019 - it lives as long as the session does
        def _prepared(self, method: str, url: str, auth: Any) -> PreparedRequest:
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            return self.prepare_request(Request(method, url, headers=form, auth=auth))

        def request(self, method: Any, url: Any, params: Any = None, **kwargs: Any) -> Response:  # type: ignore[override]
            # Only the form differs from one query to the next. To prepare each anew, and to look for redirects and
            # cookies, which there are none of, takes a busy triggerer more time than to read the answer.
            request = self._prepared(method, url, kwargs["auth"]).copy()
            request.body = urlencode(params)
            request.headers["Content-Length"] = str(len(request.body))
            where: dict[str, Any] = {"verify": self.verify, "cert": self.cert, "proxies": self.proxies}
            return self.get_adapter(url).send(request, timeout=kwargs["timeout"], **where)

    session = Forms()
    # What the environment says of proxies and certificates is read here, once, and not for each query.
    settings = session.merge_environment_settings(url, {}, None, None, None)
    session.proxies, session.verify = settings["proxies"], settings["verify"]
    session.auth = get_netrc_auth(url)
    session.trust_env = False
    return session


def server_url(host: str, port: int | None = None) -> str:
    """Return the server's URL from a connection's two fields.

    :raises RefusedError: they do not make one.
    """
    try:
        parts = urlsplit(host if "://" in host else f"http://{host}")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("it has no host")
        netloc = parts.netloc if parts.port or not port else f"{parts.netloc}:{port}"
    except ValueError as error:
        raise RefusedError(f"the Prometheus connection's URL {printable(host)} is not usable: {error}") from error
    return f"{parts.scheme}://{netloc}{parts.path.rstrip('/')}"


@shared
def _client(connection: str) -> PrometheusConnect:
    """Return a client that opens a connection if all others are in use, so that no query waits."""
    return PrometheusHook(connection).get_conn()


class Prometheus:
    """Queries with a time-out, and errors of our own."""

    def __init__(self, client: PrometheusConnect) -> None:
        self._client = client

    @classmethod
    def connect(cls, connection: str) -> Prometheus:
        """Return a client for an Airflow connection."""
        return cls(_client(connection))

    def query(self, query: str, at: float | None = None) -> list[dict[str, Any]]:
        """Return the result of an instant query, as Prometheus' API gives it.

        :param at: unix seconds; None for now by Prometheus' own clock.
        :raises RefusedError: Prometheus does not accept the query.
        :raises TemporaryError: it does not answer.
        """
        from prometheus_api_client import PrometheusApiClientException
        from requests import RequestException

        params = {"timeout": f"{QUERY_TIMEOUT}s", **({} if at is None else {"time": f"{at:.3f}"})}
        try:
            result: list[dict[str, Any]] = self._client.custom_query(query, params=params)
        except PrometheusApiClientException as error:
            text = printable(str(error), 300)
            if re.match(r"HTTP Status Code (400|401|403|404|422)\b", str(error)):
                raise RefusedError(f"Prometheus does not accept the query {printable(query, 200)}: {text}") from error
            raise TemporaryError(f"Prometheus failed: {text}") from error
        except (
            RequestException,
            OSError,
            ValueError,
            KeyError,
            TypeError,
        ) as error:  # the last three: no Prometheus JSON
            raise TemporaryError(f"Prometheus does not answer: {printable(str(error), 200)}") from error
        return result

    def matrix(self, query: str, until: float | None = None) -> list[Series]:
        """Return the samples of a query that yields ranges, up to ``until`` (unix seconds) or to now."""
        result = self.query(query, until)
        try:
            return [
                Series(item["metric"], [(float(at), float(value)) for at, value in item["values"]]) for item in result
            ]
        except (KeyError, TypeError, ValueError) as error:
            raise TemporaryError(f"Prometheus gave no samples for {printable(query, 200)}") from error

    def number(self, query: str, at: float | None = None) -> float | None:
        """Return the query's one number, now or ``at`` (unix seconds); None where it has no result.

        :raises RefusedError: it has several results, or is no vector or scalar.
        """
        result = self.query(query, at)
        if not result:
            return None
        try:
            if not isinstance(result[0], dict):  # a scalar: [time, "value"]
                return float(result[1])
            (only,) = result
            return float(only["value"][1])
        except (ValueError, KeyError, TypeError) as error:
            raise RefusedError(f"the query {printable(query, 200)} must yield one number; reduce it to one") from error
