"""The question that a person reads before the answer; hostile text in it never becomes structure."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airflow_deploy.domain.analysis.count_tests import BETA
from airflow_deploy.domain.analysis.judge import Judge, Terms
from airflow_deploy.domain.analysis.sequential import trials_needed, upper_bound
from airflow_deploy.domain.lifecycle.confidence import PastDeployments, ScoreInputs, score
from airflow_deploy.domain.lifecycle.plan import DeploymentPlan
from airflow_deploy.domain.lifecycle.question import (
    MAX_SHOWN_CHARACTERS,
    About,
    Question,
    escaped,
    markdown_table,
    verbatim,
)
from airflow_deploy.domain.metrics.counters import Counts, Tick
from tests.support.builders import MISSING, make_plan, make_request, make_spec

PUNCTUATION = re.compile(r"[!-/:-@\[-`{-~]")


def question(about: About, plan: DeploymentPlan | None = None, **changes: Any) -> Question:
    plan = plan or make_plan()
    fields: dict[str, Any] = {"confidence": score(ScoreInputs(plan, PastDeployments())), "timeout": 3600, **changes}
    return Question(plan=plan, about=about, **fields)


class TestBody:
    @pytest.mark.parametrize(
        ("about", "subject", "approve", "reject"),
        [
            (
                "deployment",
                "Deploy the new version of payments?",
                "deploy it and shift 5 % of traffic to it first",
                "deploy nothing",
            ),
            (
                25,
                "Shift 25 % of traffic to the new version of payments?",
                "shift 25 % of traffic to it; the watch continues and rolls back on harm",
                "roll back; all traffic returns to `payments`",
            ),
            (
                "promotion",
                "Promote the new version of payments?",
                "make it the stable version; `payments` stays warm for a rollback",
                "roll back; all traffic returns to `payments`",
            ),
        ],
    )
    def test_body_names_what_each_answer_does(self, about: About, subject: str, approve: str, reject: str) -> None:
        made = question(about)
        assert made.subject == subject
        assert f"- **Approve**: {approve}\n- **Reject**, or no answer within 60 minutes: {reject}\n" in made.body()

    @pytest.mark.parametrize(
        ("about", "subject", "approve", "reject"),
        [
            (
                "deployment",
                "Deploy the new version of payments?",
                "deploy it and shift 100 % of traffic to it first",
                "deploy nothing",
            ),
            (
                25,
                "Keep all traffic on the first version of payments?",
                "keep all traffic on it; the watch continues and rolls back on harm",
                "roll back; no version has traffic, as before",
            ),
            (
                "promotion",
                "Promote the new version of payments?",
                "make it the stable version",
                "roll back; no version has traffic, as before",
            ),
        ],
    )
    def test_body_of_a_first_version_speaks_of_all_traffic(
        self, about: About, subject: str, approve: str, reject: str
    ) -> None:
        made = question(about, make_plan(stable=""), undecided={"requests": 9, "errors": 0, "findings": []})
        assert made.subject == subject
        assert f"- **Approve**: {approve}\n- **Reject**, or no answer within 60 minutes: {reject}\n" in made.body()
        assert ", commit `0123456789ab`, the service's first version\n" in made.body()
        assert "with 100 % of traffic on this version." in made.body()

    def test_body_names_incident_version_and_requester(self) -> None:
        body = question("deployment").body()
        assert "- Incident `INC-001` (critical): `Payments time out`\n" in body
        assert f"- New version: `{make_plan().candidate}`, commit `0123456789ab`, replaces `payments`\n" in body
        assert "- Emergency, as stated by the requester: `customers cannot pay`\n" in body
        assert "- Requested by `ada`, whose own approval **does not count**\n" in body

    def test_body_leaves_out_empty_parts(self) -> None:
        plan = make_plan(request=make_request(("emergency",), MISSING), requester=None)
        body = question("deployment", plan).body()
        assert "Emergency" not in body
        assert "- Requested without authentication, so every authenticated user may approve it\n" in body
        assert "Results so far" not in body
        assert "Why a person is asked" not in body

    def test_body_names_the_time_to_answer(self) -> None:
        assert "no answer within 90 seconds:" in question("deployment", timeout=90).body()


class TestScore:
    def test_body_shows_every_factor_with_weight_value_and_reason(self) -> None:
        made = question("deployment")
        body = made.body()
        assert f"**Confidence {made.confidence.score:g} of 100**" in body
        rows = body[body.index("| factor |") :].splitlines()[2:]
        assert len(rows) == len(made.confidence.factors) == 6
        for row, factor in zip(rows, made.confidence.factors, strict=True):
            value = "unknown" if factor.value is None else f"{factor.value:.2f}"
            shown = [re.sub(r"\\(.)", r"\1", cell.strip()) for cell in re.split(r"(?<!\\)\|", row)[1:-1]]
            assert shown == [factor.name, f"{factor.weight:.0%}", value, factor.reason]


class TestResults:
    def test_body_shows_results_of_gates_and_people(self) -> None:
        seen = [("canary_5.gate", "HEALTHY: 0 of 90 bad"), ("canary_25.ask", "grace approved")]
        body = question(50, seen=seen).body()
        assert "| canary\\_5\\.gate | HEALTHY\\: 0 of 90 bad |\n| canary\\_25\\.ask | grace approved |\n" in body

    def test_body_shows_what_an_undecided_gate_lacks(self) -> None:
        """With what a real judge finds after 25 good requests."""
        plan = make_plan(make_spec())
        judge = Judge(Terms(plan.spec.limits, plan.candidate, plan.stable))
        edges = dict.fromkeys(plan.spec.latency_limits.values(), 25.0)
        judge.observe(Tick(0.0, {plan.candidate: Counts(25, 0, 25, edges), plan.stable: Counts(475, 0)}), 5)
        findings = [finding.dump() for finding in judge.health(25)]
        cost = escaped(f"{upper_bound(0, 25, BETA) / 4:.2%}")
        body = question(25, plan, undecided={"requests": 25, "errors": 0, "findings": findings}).body()
        assert "The gate is UNDECIDED after 25 requests, 0 of them with an error." in body
        assert "| gate | passed | bad requests so far | upper bound at 25 \\% | limit | requests needed |" in body
        assert f"| error\\_rate | not yet | 0 of 25 | {cost} | 1\\.00\\% | {trials_needed(0, 0.04, BETA)} |" in body
        assert f"| latency\\_p95 | yes | 0 of 25 | {cost} | 5\\.00\\% | {trials_needed(0, 0.2, BETA)} |" in body
        assert "| cpu\\_saturation | not yet | no value yet \\(limit 0\\.9\\) |  |  |  |" in body

    def test_body_says_that_a_skipped_gate_has_no_verdict(self) -> None:
        body = question(25, undecided={}).body()
        assert (
            "**Why a person is asked.** The gate has no verdict, because its task was marked as done by hand." in body
        )


HOSTILE = [
    "![x](https://evil.example/pixel)",
    "[click](javascript:alert(1))",
    "<script>alert(1)</script><img src=x onerror=alert(1)>",
    "`` ` ``` code",
    "a | b |\n|---|---|\n# heading",
    "**Approve** - [ ] > quote ~~no~~ &lt; \\",
    "https://evil.example www.evil.example",
    "{{ 7 * 7 }} {% raw %}",
    "\u202etxt.exe \u200b\u2028\u0000\ud800",
]


class TestHostileText:
    @pytest.mark.parametrize("text", HOSTILE)
    def test_hostile_text_stays_in_its_line_and_cell(self, text: str) -> None:
        (row,) = markdown_table(["a"], [[text]])[2:]
        assert len(re.findall(r"(?<!\\)(?:\\\\)*\|", row)) == 2
        assert "\n" not in row

    @given(st.text())
    def test_every_character_of_markdown_is_escaped(self, text: str) -> None:
        made = escaped(text)
        assert not PUNCTUATION.search(re.sub(r"\\[!-/:-@\[-`{-~]", "", made))
        assert made.isprintable()

    @given(st.text(alphabet="`a \n\u202e"))
    def test_text_cannot_leave_its_code_span(self, text: str) -> None:
        made = verbatim(text)
        fence = re.match("`+", made)
        assert fence is not None
        inside = made[len(fence[0]) : -len(fence[0])]
        assert made.endswith(fence[0])
        assert fence[0] not in re.findall("`+", inside)
        assert made.isprintable()

    def test_long_text_is_cut(self) -> None:
        assert verbatim("x" * 10_000) == f"`{'x' * MAX_SHOWN_CHARACTERS}…`"

    @pytest.mark.parametrize("text", HOSTILE[:5])
    def test_text_of_a_caller_is_always_in_code_spans(self, text: str) -> None:
        title = " ".join(text.split())
        plan = make_plan(request=make_request(("incident", "title"), title), requester=title)
        body = question("deployment", plan).body()
        lines = [line for line in body.splitlines() if "Incident" in line or "Requested" in line]
        assert [line.count(verbatim(title)) for line in lines] == [1, 1]
        rest = "".join(line.replace(verbatim(title), "") for line in lines)
        assert title not in rest
