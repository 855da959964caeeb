"""The comments that are earlier forms of a report: known_comments.py REPORT

Reads the pages of a pull request's comments as GitHub gives them from standard input, and prints
the ids of those that a workflow wrote and that begin with the report's first line, oldest first.
"""

import json
import sys
from pathlib import Path

mark = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()[0]
for comment in (comment for page in json.load(sys.stdin) for comment in page):
    is_bot = (comment["user"] or {}).get("type") == "Bot"  # null: the account is gone
    if is_bot and comment["body"].startswith(mark):
        print(comment["id"])
