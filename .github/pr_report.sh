#!/usr/bin/env bash
# Put a report in the one comment on the pull request that bears its mark: .github/pr_report.sh FILE
# Needs PULL_REQUEST, GH_TOKEN and GitHub's own GITHUB_REPOSITORY.
set -euo pipefail

report=$1
token=$GH_TOKEN
unset GH_TOKEN
github() { GH_TOKEN=$token gh api "$@"; }

comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
pages=$(github --paginate --slurp "$comments")
known=$(python3 "$(dirname "$0")/known_comments.py" "$report" <<<"$pages")
known=${known%%$'\n'*} # the first of them
if [ -n "$known" ]; then
  github --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$known" --field "body=@$report"
else
  github --method POST "$comments" --field "body=@$report"
fi >/dev/null
