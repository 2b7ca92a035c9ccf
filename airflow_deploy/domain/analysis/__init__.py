"""The analysis of one candidate: sequential tests, baseline, verdicts, and the evidence behind each verdict."""
