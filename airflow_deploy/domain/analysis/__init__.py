"""The judgement: sequential tests, baseline, gates' verdicts, and the evidence behind them."""
