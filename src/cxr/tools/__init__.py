"""Project in; demo, experiment records, result tables and pull-request reports out."""
