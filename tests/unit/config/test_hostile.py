"""Hostile confs are refused with one sentence for each invalid field; unusual but valid ones arrive unchanged."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings

from airflow_deploy.domain.config.request import DeployRequest, parse_request
from airflow_deploy.domain.errors import RefusedError
from airflow_deploy.domain.lifecycle.confidence import PastDeployments, ScoreInputs, score
from airflow_deploy.domain.workloads.manifests import render_version
from tests.support.builders import CONF, MISSING, changed, make_plan
from tests.support.hostile import FIELDS, NULLABLE, PARTS, WHOLE, Hostile, drawn, hostile_confs, odd_confs, seconds

MANY = settings(max_examples=2000, suppress_health_check=list(HealthCheck))

SECRET = "s3cr" + "3t"
"""Written so that a traceback's source lines do not hold it."""

MEANT: dict[str, Callable[[Any], Any]] = {"for": seconds, "value": float}
"""Fields that may be written in more than one way."""


def check_sentence(message: str, named: tuple[str, ...]) -> None:
    """One printable line of bounded length, one sentence for each of the named fields and for nothing else."""
    assert (message.replace("…", "").isascii(), message.isprintable()) == (True, True)
    assert len(message) <= 1000
    for field in named:
        assert f"conf: {field} " in message
    assert message.count("conf: ") == len(named) + "".join(named).count("conf: ")


class TestHostileConf:
    @MANY
    @given(hostile_confs)
    def test_each_invalid_field_is_named_in_one_sentence(self, hostile: Hostile) -> None:
        with pytest.raises(RefusedError) as caught:
            parse_request(hostile.conf)
        check_sentence(str(caught.value), hostile.named)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__ or not caught.value.__context__

    @pytest.mark.parametrize("hostile", WHOLE, ids=range(len(WHOLE)))
    def test_invalid_conf_as_a_whole_is_named_in_one_sentence(self, hostile: Hostile) -> None:
        with pytest.raises(RefusedError) as caught:
            parse_request(hostile.conf)
        check_sentence(str(caught.value), hostile.named)

    @pytest.mark.parametrize("place", sorted(FIELDS), ids=".".join)
    def test_refusal_and_its_traceback_never_repeat_a_value(self, place: tuple[str, ...]) -> None:
        with pytest.raises(RefusedError) as caught:
            parse_request(changed(CONF, place, {SECRET: SECRET}))
        assert SECRET not in "".join(traceback.format_exception(caught.value))

    def test_refusal_contains_no_control_sequence(self) -> None:
        with pytest.raises(RefusedError) as caught:
            parse_request({**CONF, "\x1b[2J\u202e": "\x1b[2J\u202e"})
        shown = "".join(traceback.format_exception(caught.value))
        assert not {"\x1b", "\u202e"} & set(shown)

    def test_generated_confs_cover_every_field_and_kind_of_mistake(self) -> None:
        """Without this, the tests above might cover little."""
        examples = drawn(hostile_confs, 500)
        named = {field for hostile in examples for field in hostile.named}
        assert len(examples) == 500
        assert {".".join(place) for place in [*FIELDS, *PARTS]} <= named
        assert sum(len(hostile.named) > 1 for hostile in examples) > 50
        assert sum("'" in field for field in named) > 50


class TestUnusualConf:
    @settings(MANY, max_examples=500)
    @given(odd_confs())
    @example(CONF)
    def test_valid_values_arrive_unchanged(self, conf: dict[str, Any]) -> None:
        request = parse_request(conf)
        arrived = request.dump()
        for place in [*FIELDS, *NULLABLE]:
            sent = _at(conf, place)
            if sent is not MISSING and not isinstance(sent, dict):
                assert _at(arrived, place) == MEANT.get(place[-1], lambda value: value)(sent)
        assert DeployRequest.load(json.loads(json.dumps(arrived, allow_nan=False))) == request

    @settings(MANY, max_examples=50)
    @given(odd_confs())
    def test_no_value_of_the_conf_reaches_a_manifest(self, conf: dict[str, Any]) -> None:
        assert render_version(make_plan(request=parse_request(conf))) == render_version(make_plan())

    @settings(MANY, max_examples=200)
    @given(odd_confs())
    def test_score_depends_on_numbers_not_on_free_text(self, conf: dict[str, Any]) -> None:
        request = parse_request(conf)
        confidence = score(ScoreInputs(make_plan(request=request), PastDeployments()))
        assert 0 <= confidence.score <= 100
        plain = request.model_copy(update={"incident": parse_request(CONF).incident, "emergency": None})
        assert score(ScoreInputs(make_plan(request=plain), PastDeployments())) == confidence


def _at(conf: Any, place: tuple[str, ...]) -> Any:
    """Return the value at a place; MISSING if there is none."""
    for key in place:
        conf = conf.get(key, MISSING) if isinstance(conf, dict) else MISSING
    return conf
