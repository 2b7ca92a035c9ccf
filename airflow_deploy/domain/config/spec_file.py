"""Reading a spec: from a YAML file, or from data that came out of one."""

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from airflow_deploy.domain.config.spec import DeploymentSpec
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.values import SIZE_PATTERN, explain_invalid


def parse_spec(data: Any, origin: str) -> DeploymentSpec:
    """Return the spec in ``data``.

    :param origin: name of the file, for error messages.
    :raises RefusedError: one sentence for each invalid field, with its name, the cause and the remedy.
    """
    try:
        return DeploymentSpec.model_validate(data)
    except ValidationError as error:
        raise RefusedError(
            explain_invalid(origin, error, {SIZE_PATTERN: "write a size such as 512Mi or 2Gi"})
        ) from None


def load_spec(path: Path) -> DeploymentSpec:
    """Return the spec in one YAML file.

    :raises RefusedError: the file cannot be read, is not YAML, or its content is not valid.
    """
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise RefusedError(f"{path.name}: is not valid YAML; correct it: {' '.join(str(error).split())}") from error
    except OSError as error:
        raise RefusedError(f"{path.name}: cannot be read ({error.strerror}); correct its permissions") from error
    return parse_spec(data, path.name)
