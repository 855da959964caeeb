#!/usr/bin/env bash
# Make the report on a pull request and put it in the one comment that bears its mark.
# Needs BASE, MAY_COMMENT, PULL_REQUEST, GH_TOKEN, and GitHub's own GITHUB_REPOSITORY and
# GITHUB_STEP_SUMMARY.
set -euo pipefail

token=$GH_TOKEN
unset GH_TOKEN # the code of the pull request does not get it
report=$(mktemp)
make --silent pr-report >"$report" # takes BASE from the environment, unexpanded
cat "$report" >>"$GITHUB_STEP_SUMMARY"
if [ "$MAY_COMMENT" != true ]; then
  echo "A fork's pull request: the report is in the summary of this run."
  exit 0
fi

mark=$(head -n 1 "$report")
comments="repos/$GITHUB_REPOSITORY/issues/$PULL_REQUEST/comments"
known=$(GH_TOKEN=$token gh api --paginate "$comments" \
  --jq ".[] | select(.user.type == \"Bot\" and (.body | startswith(\"$mark\"))) | .id")
known=${known%%$'\n'*} # the first of them
if [ -n "$known" ]; then
  GH_TOKEN=$token gh api --method PATCH "repos/$GITHUB_REPOSITORY/issues/comments/$known" \
    --field "body=@$report"
else
  GH_TOKEN=$token gh api --method POST "$comments" --field "body=@$report"
fi >/dev/null
