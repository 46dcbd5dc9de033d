#!/usr/bin/env bash
# Renders session.svg, the picture in the README, from a real session; what differs from run to run (ids, version) is
# replaced. `make picture`; the check makes it anew and compares.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d /tmp/honeydew-picture.XXXXXX)
export HONEYDEW_HOME=$work/home TZ=UTC
unset HONEYDEW_SOCKET
PATH=$PWD/bin:$PATH
api_pid=
trap 'honeydew stop --force >/dev/null 2>&1 || true; [ -z "$api_pid" ] || kill $api_pid; rm -rf "$work"' EXIT

# A repository that is always the same.
repo=$work/repos/api
git init -q -b main "$repo"
commit() { # date, file, message
  echo "$3" >>"$repo/$2"
  git -C "$repo" add .
  GIT_AUTHOR_DATE=$1 GIT_COMMITTER_DATE=$1 git -C "$repo" -c user.name="Ada Fischer" -c user.email=ada@acme.example commit -qm "$3"
}
commit 2026-01-05T09:00:00Z server.go 'Answer health checks'
commit 2026-01-06T15:30:00Z server.go 'Close idle connections'
sandbox -addr 127.0.0.1:0 -schema queries/schema.graphql -repos "$work/repos" >"$work/api" &
api_pid=$!
until grep -q http "$work/api"; do kill -0 $api_pid; done

session() {
  say() { printf '$ %s\n' "$*"; }
  say honeydew start && honeydew start
  honeydew env add demo "$(sed -n 's/^sandbox: //p' "$work/api")" --use >/dev/null
  say honeydew login --username ada
  echo demo | honeydew login --username demo --password-stdin | sed 's/as demo/as ada/; s/to demo/to production/'
  say "honeydew github commits acme api --start-date -1w | jq -r '.commits[] | [.date, .author, .message] | @tsv'"
  honeydew github commits acme api --start-date 2026-01-01 | jq -r '.commits[] | [.date, .author, .message] | @tsv' | tr '\t' ' '
  say honeydew jira issues acme --start-date yesterday --detach
  job=$(honeydew jira issues acme --start-date 2026-01-01 --end-date 2026-01-07 --detach) && echo "$job"
  say honeydew job wait 4k2m
  honeydew job wait "$job" | sed -E 's/, [0-9.]+ [KM]?i?B/, 3.5 KiB/'
  say honeydew schedule test "'0 9 1 1 *'"
  honeydew schedule test 'CRON_TZ=UTC 0 9 1 1 *' | sed -E 's/^... 20[0-9-]+ /Fri 2027-01-01 /; s/  in .*//' | head -n 1
}
session | sed -E "s/$(printf '[a-z2-7]{16}')/4k2mzq7xw3p5ar2n/g; s/honeydew [0-9a-f]{7}[-a-z]* started/honeydew started/" >"$work/session"

awk '
  function escape(s) { gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s); return s }
  { lines[NR] = $0; if (length($0) > width) width = length($0) }
  END {
    w = int(width * 8.45) + 40; h = NR * 20 + 40
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"a session with honeydew\">\n", w, h, w, h
    print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1d2021\"/>"
    print "<g font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"14\" xml:space=\"preserve\">"
    for (i = 1; i <= NR; i++)
      printf "<text x=\"20\" y=\"%d\" fill=\"%s\">%s</text>\n", 14 + i * 20, lines[i] ~ /^\$/ ? "#b8e986" : "#d5d5d5", escape(lines[i])
    print "</g>\n</svg>"
  }' "$work/session" >session.svg
