#!/usr/bin/env bash
# Put a report in the one comment on the pull request that bears its mark: .github/pr_report.sh FILE
# Needs PULL_REQUEST, GH_TOKEN and GitHub's own GITHUB_REPOSITORY.
set -euo pipefail

report=$1
mark=$(head -n 1 "$report")
comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
known=$(gh api --paginate "$comments" \
  --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$mark\"))) | .id")
known=${known%%$'\n'*} # the first of them
if [ -n "$known" ]; then
  gh api --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$known" --field "body=@$report"
else
  gh api --method POST "$comments" --field "body=@$report"
fi >/dev/null
