"""Keys of the XComs that tasks push: what later tasks, the API client and Airflow's UI read.

An XCom tells what happened. What is deployed, where, and whether it goes on is read from the artifact store
(``tasks/frozen.py``, ``tasks/decisions.py``).
"""

STEPS_KEY = "steps"
"""The states into which a task led the deployment, for ``audit``."""
REASON_KEY = "why"
"""Why a task failed, for the tasks after it."""
VERDICT_KEY = "verdict"
"""The event of a task that judges: its verdict, reason, numbers and evidence."""
CONFIDENCE_KEY = "confidence"
"""A score with its factors and its route."""
PLAN_KEY = "plan"
"""A copy of the plan, for Airflow's UI, the API client, and a rollback while the artifact store is away."""
CLAIM_KEY = "claim"
"""A copy of the claim's owner, for Airflow's UI."""
PLAN_DIGEST_KEY = "plan_sha256"
CLAIM_DIGEST_KEY = "claim_sha256"
BASELINE_DIGEST_KEY = "baseline_sha256"
"""SHA-256 of what the task wrote to the artifact store: each reader compares it with what it reads."""
