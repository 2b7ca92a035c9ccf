"""A Dockerfile is made where everything can be told, and refused where not; hostile names stay words."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.dockerfile import repository as dockerfiles
from airflow_deploy.dockerfile.languages import LANGUAGES, detect, dockerignore
from airflow_deploy.dockerfile.repository import PIP, generate, read_folder, render_dockerfile
from airflow_deploy.domain.errors import RefusedError

Tree = dict[str, str]

GO: Tree = {"go.mod": "module example.com/payments\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"}
PYTHON: Tree = {"requirements.txt": "flask==3.1.0\n", ".python-version": "3.12\n", "main.py": "print()\n"}
PACKAGE: Tree = {
    "pyproject.toml": '[project]\nname = "shop"\nrequires-python = ">=3.12"\nscripts = {shop = "shop:main"}\n',
    "src/shop/__init__.py": "",
}


def dockerfile(tree: Tree) -> str:
    return render_dockerfile(detect(tree))


def runs(text: str) -> list[list[str]]:
    """Return the RUN instructions in exec form."""
    return [json.loads(line.removeprefix("RUN ")) for line in text.splitlines() if line.startswith("RUN [")]


def start(text: str) -> list[str]:
    (line,) = [line for line in text.splitlines() if line.startswith("ENTRYPOINT ")]
    words: list[str] = json.loads(line.removeprefix("ENTRYPOINT "))
    return words


class TestGo:
    def test_the_whole_of_it(self) -> None:
        assert (
            dockerfile(GO)
            == """\
# Made by `airflow-deploy dockerfile`. It is yours: change it as you need.
FROM golang:1.26-bookworm AS build
# A static program needs nothing from the image that it runs in.
ENV CGO_ENABLED=0
# What programs expect of a system: whom to trust in TLS (an image of your own may have no list), and the time zones.
RUN mkdir -p /out/etc/ssl/certs \\
 && if [ -f /etc/ssl/certs/ca-certificates.crt ]; then cp /etc/ssl/certs/ca-certificates.crt /out/etc/ssl/certs/; fi \\
 && cp "$(go env GOROOT)/lib/time/zoneinfo.zip" /out/
WORKDIR /src
COPY . .
RUN ["go", "build", "-trimpath", "-ldflags=-s -w", "-o", "/out/app", "."]

FROM scratch
COPY --from=build /out /
ENV ZONEINFO=/zoneinfo.zip
ARG COMMIT=unknown
LABEL org.opencontainers.image.revision="$COMMIT"
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
ENTRYPOINT ["/app"]
"""
        )

    @pytest.mark.parametrize(
        ("said", "tag"),
        [
            ("go 1.26", "1.26"),
            ("go 1.27.3", "1.27.3"),
            ("go 1.26 // the latest", "1.26"),
            ("go 1.26\ntoolchain go1.27.1", "1.27.1"),
            ("go 1.13", "1.26"),
            ("go 2.0", "2.0"),
        ],
    )
    def test_the_version_is_what_go_mod_says_or_the_oldest_maintained(self, said: str, tag: str) -> None:
        text = dockerfile({**GO, "go.mod": f"module m\n{said}\n"})
        assert text.splitlines()[1] == f"FROM golang:{tag}-bookworm AS build"

    @pytest.mark.parametrize("said", ["", "go", "go latest", "// go 1.26", "go 1.26; rm", "go 1.26\"'", "go 1.26rc1"])
    def test_a_version_that_cannot_be_told_is_refused(self, said: str) -> None:
        with pytest.raises(RefusedError, match=r"^go\.mod: says no Go version; add a line such as 'go 1\.26'$"):
            detect({**GO, "go.mod": f"module m\n{said}\n"})

    def test_the_only_command_is_the_program(self) -> None:
        tree = {"go.mod": GO["go.mod"], "lib.go": "package lib\n", "cmd/server/main.go": GO["main.go"]}
        assert runs(dockerfile(tree))[-1][-1] == "./cmd/server"

    @pytest.mark.parametrize(
        "more",
        [
            {"main_test.go": "package main\n"},
            {"gen.go": "//go:build ignore\n\npackage main\n"},
            {"cmd/lib/lib.go": "/* package main */\n// package main\npackage lib\n"},
            {"cmd/a/b/main.go": "package main\n"},
            {"cmd/README.md": ""},
            {"tools/x/main.go": "package main\n"},
            {"util.go": "/* Copyright\n */\n\ufeff// Package main serves.\npackage main\n"},
            {"pyproject.toml": "[tool.ruff]\n"},
        ],
    )
    def test_what_is_no_second_program_does_not_count(self, more: Tree) -> None:
        assert runs(dockerfile({**GO, **more}))[-1][-1] == "."

    def test_several_programs_are_refused(self) -> None:
        with pytest.raises(RefusedError, match=r"several packages main \(\., \./cmd/tool\): .* add a Dockerfile$"):
            detect({**GO, "cmd/tool/main.go": "package main\n"})

    @pytest.mark.parametrize("source", ["package lib\n", "package mainly\n", "", "\0"])
    def test_no_program_is_refused(self, source: str) -> None:
        with pytest.raises(RefusedError, match="says 'package main'; add the program"):
            detect({**GO, "main.go": source})

    @pytest.mark.parametrize(
        ("more", "downloaded"),
        [
            ({"go.sum": ""}, True),
            ({}, False),
            ({"go.sum": "", "vendor/modules.txt": ""}, False),
            ({"go.sum": "", "go.mod": "module m\ngo 1.26\nreplace a => ./a\n"}, False),
        ],
    )
    def test_modules_are_downloaded_first_where_they_need_no_sources(self, more: Tree, downloaded: bool) -> None:
        text = dockerfile({**GO, **more})
        assert (["go", "mod", "download"] in runs(text)) is downloaded
        assert ("COPY go.mod go.sum ./\n" in text) is downloaded


class TestPython:
    def test_the_whole_of_it(self) -> None:
        assert (
            dockerfile(PYTHON)
            == """\
# Made by `airflow-deploy dockerfile`. It is yours: change it as you need.
FROM python:3.12-slim-bookworm AS build
RUN ["python", "-m", "venv", "--without-pip", "/venv"]
WORKDIR /app
COPY requirements.txt ./
RUN ["python", "-m", "pip", "--python", "/venv/bin/python", "install", "--no-cache-dir", "-r", "requirements.txt"]
COPY . .

FROM python:3.12-slim-bookworm
COPY --from=build /venv /venv
WORKDIR /app
# Owned by the user below, who can then read them whatever the mask of whoever checked them out.
COPY --from=build --chown=65532:65532 /app /app
# The root file system may be read-only: nothing is written beside the sources, and /tmp is the home.
ENV PATH="/venv/bin:$PATH" PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp
ARG COMMIT=unknown
LABEL org.opencontainers.image.revision="$COMMIT" org.opencontainers.image.base.name="python:3.12-slim-bookworm"
# By number, so that Kubernetes can see that it is not root.
USER 65532:65532
ENTRYPOINT ["python", "main.py"]
"""
        )

    def test_a_package_with_a_script_needs_no_sources_beside_it(self) -> None:
        text = dockerfile(PACKAGE)
        assert runs(text)[1:] == [[*PIP, "."]]
        assert " /app /app" not in text
        assert start(text) == ["shop"]

    def test_a_package_with_listed_requirements_gets_exactly_those(self) -> None:
        text = dockerfile({**PACKAGE, "requirements.txt": "flask==3.1.0\n"})
        assert runs(text)[1:] == [[*PIP, "-r", "requirements.txt"], [*PIP, "--no-deps", "."]]

    def test_requirements_that_need_the_sources_are_installed_with_the_package(self) -> None:
        text = dockerfile({**PACKAGE, "requirements.txt": "./lib\n"})
        assert runs(text)[1:] == [[*PIP, "-r", "requirements.txt", "."]]

    @pytest.mark.parametrize(
        ("line", "alone"),
        [
            ("flask==3.1.0 --hash=sha256:ab", True),
            ("flask==3.1.0 \\\n    --hash=sha256:ab", True),
            ("", True),
            ("-r base.txt", False),
            ("-e .", False),
            ("./lib", False),
            ("lib @ file:///app/lib", False),
            ("wheels/lib-1-py3-none-any.whl", False),
            ("--find-links wheels", False),
        ],
    )
    def test_requirements_are_installed_first_where_they_need_no_sources(self, line: str, alone: bool) -> None:
        text = dockerfile({**PYTHON, "requirements.txt": f"# ours\n{line}\n"})
        install = text.index('"-r", "requirements.txt"')
        assert (install < text.index("COPY . .")) is alone
        assert text.count('"-r", "requirements.txt"') == 1

    @pytest.mark.parametrize(
        ("requires", "version"),
        [(">=3.8", "3.11"), (">=3.12,<3.14", "3.12"), (">=3.11.4", "3.11"), ("~=3.13", "3.13"), ("", "3.11")],
    )
    def test_the_version_is_the_oldest_maintained_that_the_package_permits(self, requires: str, version: str) -> None:
        tree = {**PACKAGE, "pyproject.toml": PACKAGE["pyproject.toml"].replace(">=3.12", requires)}
        assert f"FROM python:{version}-slim-bookworm AS build\n" in dockerfile(tree)

    @pytest.mark.parametrize("said", ["3.12.7", "3.12.7\n3.11\n", "  3.12.7  \n"])
    def test_the_pinned_version_comes_first(self, said: str) -> None:
        assert "FROM python:3.12.7-slim-bookworm AS build\n" in dockerfile({**PACKAGE, ".python-version": said})

    @pytest.mark.parametrize("said", ["pypy3.10", "3", "2.7", "latest", "3.12 # $(id)\n", "3.12\"'", "٣.١٢"])
    def test_an_odd_version_is_refused_or_read_by_its_first_word(self, said: str) -> None:
        if said.split()[0] == "3.12":
            assert "FROM python:3.12-slim" in dockerfile({**PYTHON, ".python-version": said})
        else:
            with pytest.raises(RefusedError, match=r"^\.python-version: "):
                detect({**PYTHON, ".python-version": said})

    @pytest.mark.parametrize(
        ("project", "said"),
        [
            ('name = "x"', "the Python version cannot be told; add .python-version"),
            ("requires-python = 3.12", "the Python version cannot be told; add .python-version"),
            ('requires-python = "the latest"', "requires-python the latest is not valid"),
            ('requires-python = "<3.9"', "requires-python <3.9 fits none of 3.11"),
        ],
    )
    def test_a_version_that_cannot_be_told_is_refused(self, project: str, said: str) -> None:
        with pytest.raises(RefusedError, match=re.escape(said)):
            detect({"pyproject.toml": f"[project]\n{project}\n", "main.py": ""})

    @pytest.mark.parametrize(
        ("procfile", "words"),
        [
            ("web: gunicorn shop:app --bind 0.0.0.0:8080", ["gunicorn", "shop:app", "--bind", "0.0.0.0:8080"]),
            ("worker: x\nweb: python -m shop\nrelease: y\n", ["python", "-m", "shop"]),
            ("web: gunicorn 'shop:create_app()'", ["gunicorn", "shop:create_app()"]),
            ('web: python serve.py --title "a b # c" x#y', ["python", "serve.py", "--title", "a b # c", "x#y"]),
            ("web: python serve.py --a=b", ["python", "serve.py", "--a=b"]),
        ],
    )
    def test_the_procfile_says_how_it_starts(self, procfile: str, words: list[str]) -> None:
        assert start(dockerfile({**PACKAGE, "Procfile": procfile})) == words

    @pytest.mark.parametrize(
        "command",
        [
            "",
            "  ",
            "a && b",
            "a | b",
            "a; b",
            "a > b",
            "PORT=1 a",
            "a $PORT",
            "a `id`",
            "a 'b",
            "a \\",
            "a\tb",
            "a é",
            "a (b)",
        ],
    )
    def test_a_start_command_that_needs_a_shell_is_refused(self, command: str) -> None:
        with pytest.raises(RefusedError, match=r"^Procfile: the web line "):
            detect({**PYTHON, "Procfile": f"web: {command}\n"})

    @pytest.mark.parametrize(
        ("tree", "said"),
        [
            ({"app.py": ""}, "main.py and app.py are both there; add a Procfile with a line 'web: <command>'"),
            ({"main.py": None}, "there is no Procfile, script, main.py or app.py; add a Procfile"),
        ],
    )
    def test_a_start_command_that_cannot_be_told_is_refused(self, tree: dict[str, Any], said: str) -> None:
        merged = {**PYTHON, **tree}
        with pytest.raises(RefusedError, match=re.escape(said)):
            detect({name: text for name, text in merged.items() if text is not None})

    @pytest.mark.parametrize("scripts", ['{a = "a:a", b = "b:b"}', '{"a b" = "a:a"}', '{"$(id)" = "a:a"}'])
    def test_an_unclear_or_odd_script_is_refused(self, scripts: str) -> None:
        text = f'[project]\nname = "x"\nrequires-python = ">=3.12"\nscripts = {scripts}\n'
        with pytest.raises(RefusedError, match=r"^pyproject\.toml: project\.scripts"):
            detect({"pyproject.toml": text})

    @pytest.mark.parametrize("text", ["[project", "project = 1", "a = " + "[" * 10_000])
    def test_a_broken_pyproject_is_refused(self, text: str) -> None:
        with pytest.raises(RefusedError, match=r"^pyproject\.toml: "):
            detect({"pyproject.toml": text, "main.py": ""})


class TestDetection:
    def test_it_says_which_files_decided(self) -> None:
        assert detect(GO).because == (
            "go.mod: a Go module",
            "go.mod: Go 1.26",
            ".: the only package main, so it is the program",
        )
        assert [reason.partition(":")[0] for reason in detect(PYTHON).because] == [
            "requirements.txt",
            ".python-version",
            "main.py",
        ]

    @pytest.mark.parametrize("tree", [{}, {"package.json": "{}"}, {"main.py": ""}, {"pyproject.toml": "[tool.ruff]\n"}])
    def test_none_is_refused(self, tree: Tree) -> None:
        with pytest.raises(RefusedError, match=r"cannot be told \(go by go\.mod; python by .*\); add that file, or a"):
            detect(tree)

    def test_several_are_refused(self) -> None:
        with pytest.raises(RefusedError, match=r"has go\.mod \(go\) and requirements\.txt \(python\); name the folder"):
            detect({**GO, **PYTHON})

    @pytest.mark.parametrize("tree", [GO, PYTHON, PACKAGE])
    def test_the_base_can_be_pinned_by_digest(self, tree: Tree) -> None:
        digest = "sha256:" + "0f" * 32
        text = render_dockerfile(detect(tree), digest)
        assert all(line.endswith((f"@{digest}", f"@{digest} AS build", "scratch")) for line in _froms(text))

    @pytest.mark.parametrize("digest", ["", "latest", "sha256:00", "sha256:" + "0f" * 32 + "\nRUN id"])
    def test_what_is_no_digest_is_refused(self, digest: str) -> None:
        with pytest.raises(RefusedError, match=r"^digest: .* is no image digest"):
            render_dockerfile(detect(GO), digest)

    @pytest.mark.parametrize("language", sorted(LANGUAGES))
    def test_docker_gets_what_the_dockerfiles_need_and_no_secrets(self, language: str, tmp_path: Path) -> None:
        from docker.utils.build import exclude_paths

        needed = {"go.mod", "go.sum", "main.go", "vendor/modules.txt", "cmd/server/main.go", "README.md"}
        needed |= {"requirements.txt", "pyproject.toml", "src/shop/__init__.py", "main.py", "environment.py"}
        for name in needed | {".git/config", ".env", "deploy/.env", "deploy/.env.production", "Dockerfile"}:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        sent = exclude_paths(str(tmp_path), dockerignore(language).splitlines(), dockerfile="Dockerfile")
        assert {name for name in sent if (tmp_path / name).is_file()} == needed | {"Dockerfile"}


def _froms(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("FROM ")]


HOSTILE = st.text(st.sampled_from("ab.-_/ \"'`$#\\\n\r\t{}[]|&;<>\0é\u2028"), max_size=12)


class TestHostile:
    """Whatever the names and texts are: refused, or the same instructions as ever, with whole words in them."""

    @staticmethod
    def check(tree: Tree) -> None:
        try:
            text = dockerfile(tree)
        except RefusedError as error:
            said = str(error)
        else:
            TestHostile.check_instructions(text)
            return
        assert said.isprintable()

    @staticmethod
    def check_instructions(text: str) -> None:
        instructions = [line.split(" ")[0] for line in text.split("\n") if line and line[0] not in "# "]
        known = {"FROM", "ENV", "RUN", "WORKDIR", "COPY", "ARG", "LABEL", "USER", "ENTRYPOINT"}
        assert set(instructions) <= known
        assert instructions.count("ENTRYPOINT") == instructions.count("USER") == 1
        assert text.isascii()
        assert start(text)
        assert all(all(word for word in words) for words in runs(text))

    @given(name=HOSTILE, version=HOSTILE)
    def test_go(self, name: str, version: str) -> None:
        self.check({"go.mod": f"module m\ngo 1.26{version}\n", f"cmd/{name}/main.go": "package main\n"})

    @given(command=HOSTILE, version=HOSTILE)
    def test_python(self, command: str, version: str) -> None:
        self.check({**PYTHON, "Procfile": f"web: python {command}\n", ".python-version": f"3.12{version}"})

    @given(script=HOSTILE, requires=HOSTILE)
    def test_package(self, script: str, requires: str) -> None:
        project = f"requires-python = {json.dumps('>=3.11' + requires)}\nscripts = {{{json.dumps(script)} = 'a:b'}}\n"
        self.check({"pyproject.toml": f"[project]\nname = 'x'\n{project}"})

    @given(
        tree=st.dictionaries(st.one_of(st.sampled_from(sorted({*GO, *PYTHON, *PACKAGE, "Procfile"})), HOSTILE), HOSTILE)
    )
    def test_anything(self, tree: Tree) -> None:
        self.check(tree)


class TestReading:
    @staticmethod
    def write(folder: Path, tree: Tree) -> Path:
        for name, text in tree.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return folder

    def test_a_folder_becomes_a_dockerfile(self, tmp_path: Path) -> None:
        tree = {"go.mod": GO["go.mod"], "cmd/server/main.go": GO["main.go"], "internal/x/x.go": "package x\n"}
        made = generate(self.write(tmp_path, tree))
        assert made.dockerfile == dockerfile(tree)
        assert made.dockerignore == dockerignore("go")

    def test_only_what_decides_is_listed_and_read(self, tmp_path: Path) -> None:
        tree = {
            **GO,
            "cmd/a/main.go": "package a\n",
            "cmd/a/b/c.go": "x",
            ".git/config": "x",
            "vendor/modules.txt": "x",
        }
        read = read_folder(self.write(tmp_path, tree))
        assert read == {**GO, "cmd/a/main.go": "package a\n", "vendor/modules.txt": None}

    def test_windows_line_ends_and_byte_order_marks_are_no_part_of_the_text(self, tmp_path: Path) -> None:
        (tmp_path / "Procfile").write_bytes(b"\xef\xbb\xbfweb: a\r\n")
        assert read_folder(tmp_path) == {"Procfile": "web: a\n"}

    def test_links_are_followed_within_the_folder_only(self, tmp_path: Path) -> None:
        outside, root = tmp_path / "secret", self.write(tmp_path / "root", {"config/real.txt": "flask\n"})
        outside.mkdir()
        (outside / "main.go").write_text("package main\n")
        (root / "requirements.txt").symlink_to("config/real.txt")
        (root / "go.mod").symlink_to(outside / "main.go")
        (root / "cmd").symlink_to(outside)
        (root / "Procfile").symlink_to("Procfile")
        (root / "pyproject.toml").symlink_to("nowhere")
        (root / ".python-version").symlink_to("/dev/zero")
        assert read_folder(root) == {"requirements.txt": "flask\n"}

    def test_what_is_no_file_is_not_read(self, tmp_path: Path) -> None:
        os.mkfifo(tmp_path / "go.mod")
        (tmp_path / "requirements.txt").mkdir()
        assert read_folder(tmp_path) == {}

    def test_a_folder_given_by_a_link_is_read(self, tmp_path: Path) -> None:
        self.write(tmp_path / "root", GO)
        (tmp_path / "link").symlink_to("root")
        assert read_folder(tmp_path / "link") == GO

    def test_its_size_is_bounded(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path, {**GO, "requirements.txt": "#" * 101})
        monkeypatch.setattr(dockerfiles, "MAX_FILE_BYTES", 100)
        with pytest.raises(RefusedError, match=r"^requirements\.txt: is larger than 100 bytes; add a Dockerfile"):
            read_folder(tmp_path)
        (tmp_path / "requirements.txt").unlink()
        monkeypatch.setattr(dockerfiles, "MAX_FILES", 1)
        with pytest.raises(RefusedError, match=r"holds more than 1 files; name the folder of one service$"):
            read_folder(tmp_path)

    def test_of_a_large_go_file_the_head_is_read(self, tmp_path: Path) -> None:
        self.write(tmp_path, {"data.go": "package main\n" + "//" * 2_000_000})
        assert len(read_folder(tmp_path)["data.go"] or "") == dockerfiles.HEAD_BYTES

    def test_what_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "Procfile").write_bytes(b"web: \xff")
        with pytest.raises(RefusedError, match=r"^Procfile: is not UTF-8; save it as UTF-8$"):
            read_folder(tmp_path)
        with pytest.raises(RefusedError, match=r"nowhere: is no folder; name the one"):
            read_folder(tmp_path / "nowhere")

    def test_a_file_without_permission_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.write(tmp_path, GO)

        def refuse(path: Path, *_: object) -> None:
            raise PermissionError(13, "Permission denied", str(path))  # root, who runs the tests, may read everything

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(RefusedError, match=r"go\.mod: cannot be read"):
            read_folder(tmp_path)


@pytest.mark.parametrize(
    "tree",
    [
        GO,
        {**GO, "go.sum": ""},
        PYTHON,
        {**PYTHON, "requirements.txt": "-r base.txt\n"},
        PACKAGE,
        {**PACKAGE, "requirements.txt": "./lib\n"},
        {**PACKAGE, "requirements.txt": "", "Procfile": 'web: gunicorn "shop:app()" --bind 0.0.0.0:8080\n'},
    ],
    ids=["go", "go-modules", "requirements", "requirements-with-files", "package", "both", "procfile"],
)
def test_hadolint_has_nothing_to_say(tree: Tree) -> None:
    program = Path(sys.executable).with_name("hadolint")
    done = subprocess.run(
        [program, "--no-fail", "--format=tty", "-"], input=dockerfile(tree), capture_output=True, text=True, check=True
    )
    assert done.stdout == ""
