"""JSON documents of one deployment in the artifact store: the one place that turns a store's errors into ours."""

from __future__ import annotations

import json
from typing import Any

from airflow_deploy.clients.artifacts import DeploymentFolder
from airflow_deploy.domain.errors import TemporaryError
from airflow_deploy.domain.values import printable


def write_document(folder: DeploymentFolder, name: str, content: dict[str, Any]) -> str:
    """Write a document as a whole, and return its SHA-256.

    :raises TemporaryError: the store did not take it.
    """
    try:
        return folder.write(name, json.dumps(content, indent=2, sort_keys=True) + "\n")
    except Exception as error:  # each store has errors of its own
        raise TemporaryError(f"artifact store: cannot write {name} to {folder.path}: {_said(error)}") from error


def read_document(folder: DeploymentFolder, name: str) -> str | None:
    """Return a document's text, None if there is none, as in a store that is not mounted.

    :raises TemporaryError: the store did not give it.
    """
    try:
        return folder.read(name)
    except FileNotFoundError:
        return None
    except Exception as error:  # each store has errors of its own
        raise TemporaryError(f"artifact store: cannot read {name} in {folder.path}: {_said(error)}") from error


def _said(error: Exception) -> str:
    return printable(str(error) or type(error).__name__, 300)
