"""The project in; the demo, records of experiments and texts for pull requests out."""
