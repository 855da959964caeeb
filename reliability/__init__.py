"""What the pipeline survives, measured: the figures of docs/reliability.md (`make reliability`)."""
