"""Reliability tests with measured results, for docs/reliability.md: `make reliability`."""
