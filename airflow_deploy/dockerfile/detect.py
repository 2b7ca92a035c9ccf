"""The table of languages, and the choice of the one in which a repository is written."""

from collections.abc import Mapping

from airflow_deploy.dockerfile.go import GO
from airflow_deploy.dockerfile.python import PYTHON
from airflow_deploy.dockerfile.recipe import Files, Language, Recipe
from airflow_deploy.domain.errors import RefusedError

LANGUAGES: Mapping[str, Language] = {"go": GO, "python": PYTHON}
"""Every language for which a Dockerfile can be generated, by name."""

IGNORED = (".git", ".github", ".gitlab", ".idea", ".vscode", ".dockerignore", "Dockerfile*", "**/.env", "**/.env.*")
"""Files that no image needs: history, settings of other tools, and files that often hold secrets."""


def detect(files: Files) -> Recipe:
    """Return the recipe for the repository's language.

    :raises RefusedError: the repository has no known language or several, or leaves another decision open.
    """
    found = {name: marker for name, language in LANGUAGES.items() if (marker := language.marked(files))}
    if not found:
        known = "; ".join(f"{name} by {' or '.join(language.markers)}" for name, language in LANGUAGES.items())
        raise RefusedError(f"the repository's language is unknown ({known}); add that file, or a Dockerfile")
    if len(found) > 1:
        markers = " and ".join(f"{marker} ({name})" for name, marker in found.items())
        raise RefusedError(f"the repository has {markers}; name the folder of one of them, or add a Dockerfile")
    return LANGUAGES[next(iter(found))].recipe(files)


def dockerignore(language: str) -> str:
    """Return the text of the .dockerignore for the Dockerfile of ``language``, a key of ``LANGUAGES``."""
    return "\n".join((*IGNORED, *LANGUAGES[language].ignored)) + "\n"
