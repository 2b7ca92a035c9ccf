"""One deployment from trigger to end: its states, plan, confidence, approvals and result."""
