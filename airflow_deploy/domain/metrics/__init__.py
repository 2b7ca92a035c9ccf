"""From Prometheus' samples to counts by version: sources, the batch query, scrape windows, counters."""
