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
until grep -q http "$work/api" 2>/dev/null; do kill -0 $api_pid; done

control() { # POST /control without needing curl
  local port=$(sed -n 's/^sandbox: .*:\([0-9]*\)\/.*/\1/p' "$work/api")
  exec 3<>"/dev/tcp/127.0.0.1/$port"
  printf 'POST /control HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "${#1}" "$1" >&3
  cat <&3 >/dev/null
  exec 3>&-
}

# on runs a command on a terminal of 96 columns.
on() { script -qefc "stty cols 96; $1" "$work/typescript" </dev/null >/dev/null; sed '1d;$d' "$work/typescript" | tr -d '\r'; }

session() {
  say() { printf '$ %s\n' "$*"; }
  say honeydew start && honeydew start
  honeydew env add demo "$(sed -n 's/^sandbox: //p' "$work/api")" --use >/dev/null
  say honeydew login --username ada
  echo demo | honeydew login --username demo --password-stdin | sed 's/as demo/as ada/; s/to demo/to production/'
  say honeydew github commits acme api --start-date -7d
  on 'honeydew github commits acme api --start-date 2026-01-01'
  control '{"gate":true}'
  say honeydew jira issues acme --start-date yesterday
  on 'honeydew jira issues acme --start-date 2026-01-01 --end-date 2026-01-03' >"$work/waited" &
  until grep -qa 'running for' "$work/typescript"; do kill -0 $!; done
  control '{"gate":false}'
  wait $!
  sed $'s/^.*\e\\[K\\(job[^\e]*running[^\e]*\\)\e\\[K/\\1\\n/' "$work/waited"
  say "honeydew schedule add nightly '0 2 * * *' github.commits organization=acme repository=api startDate=last-success"
  honeydew schedule add nightly '0 2 * * *' github.commits organization=acme repository=api startDate=last-success
  say honeydew job list
  on 'honeydew job list'
}
session | sed -E "/^$/d; s/\\b[a-z2-7]{16}\\b/4k2mzq7xw3p5ar2n/g; s/honeydew [^ ]+ started/honeydew started/; s/[0-9]+s ago/3s ago/
  s/running for [0-9]+s/running for 3s/; s/next at .*/next at 2026-01-09 02:00:00 CET (in 4h 12m)./" >"$work/session"

awk '
  function escape(s) {
    gsub(/&/, "\\&amp;", s); gsub(/</, "\\&lt;", s); gsub(/>/, "\\&gt;", s)
    gsub(/\033\[31m/, "<tspan fill=\"#fb4934\">", s); gsub(/\033\[32m/, "<tspan fill=\"#b8bb26\">", s); gsub(/\033\[33m/, "<tspan fill=\"#fabd2f\">", s)
    gsub(/\033\[m/, "</tspan>", s); return s
  }
  { lines[NR] = $0; plain = $0; gsub(/\033\[[0-9]*m/, "", plain); if (length(plain) > width) width = length(plain) }
  END {
    w = int(width * 8.45) + 40; h = NR * 20 + 40
    printf "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"a session with honeydew\">\n", w, h, w, h
    print "<rect width=\"100%\" height=\"100%\" rx=\"8\" fill=\"#1d2021\"/>"
    print "<g font-family=\"ui-monospace, Menlo, Consolas, monospace\" font-size=\"14\" xml:space=\"preserve\">"
    for (i = 1; i <= NR; i++)
      printf "<text x=\"20\" y=\"%d\" fill=\"%s\">%s</text>\n", 14 + i * 20, lines[i] ~ /^\$/ ? "#b8e986" : "#d5d5d5", escape(lines[i])
    print "</g>\n</svg>"
  }' "$work/session" >session.svg
