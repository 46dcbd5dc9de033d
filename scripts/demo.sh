#!/usr/bin/env bash
# A tour of honeydew on real data, in a temporary home, against a local API. `make demo` builds and runs it.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d /tmp/honeydew-demo.XXXXXX)
home=$work/home
export HONEYDEW_HOME=$home
unset HONEYDEW_SOCKET HONEYDEW_PASSPHRASE
PATH=$PWD/bin:$PATH
sandbox_pid=

cleanup() {
  status=$?
  honeydew stop --force >/dev/null 2>&1 || true
  [ -z "$sandbox_pid" ] || kill "$sandbox_pid" 2>/dev/null || true
  if [ $status -ne 0 ]; then
    echo "the demo failed; the daemon's log ends so:" >&2
    tail -n 20 "$home/daemon.log" >&2 || true
  fi
  rm -rf "$work"
  exit $status
}
trap cleanup EXIT

say() { printf '\n\033[1m# %s\033[0m\n' "$*"; }
show() { # a command, so that it can be pasted
  local word shown=
  for word in "$@"; do
    case $word in *[!A-Za-z0-9_./:=@%+-]*) word="'$word'" ;; esac
    shown+=" $word"
  done
  printf '\033[1m$%s\033[0m\n' "$shown"
}
run() { show "$@"; "$@"; }
pull() { # on a terminal a table, into a file JSON
  show "$@"
  if [ -t 1 ]; then "$@"; else "$@" >"$home/out"; shorten "$home/out"; fi
}
# shorten shows the beginning of a long answer.
shorten() { head -c 700 "$1"; [ "$(wc -c <"$1")" -le 700 ] || printf ' ... (%s bytes)\n' "$(wc -c <"$1")"; }

bin/sandbox -addr 127.0.0.1:0 -repos . >"$work/api" 2>"$work/api.err" &
sandbox_pid=$!
until grep -q http "$work/api" 2>/dev/null; do
  kill -0 "$sandbox_pid" || { cat "$work/api.err" >&2; exit 1; }
done
api=$(sed -n 's/^sandbox: //p' "$work/api")
control=${api%/graphql}/control
repository=$(basename "$(git rev-parse --show-toplevel)")

say "Start the daemon; add an API (a local one here) and log in"
run honeydew start
run honeydew env add demo "$api" --use
run honeydew env list
printf '\033[1m$ honeydew login --username demo --password-stdin < password\033[0m\n'
echo demo | honeydew login --username demo --password-stdin

say "Pull something now: this very clone, as the API sees it"
pull honeydew github repositories acme
pull honeydew github commits acme "$repository" --start-date -2w
honeydew github commits acme "$repository" --start-date -520w >"$home/out"
grep -q "$(git rev-parse HEAD)" "$home/out" || { echo "HEAD is missing in the answer" >&2; exit 1; }
pull honeydew jira issues acme --start-date -2w

say "Or do not wait for it"
run honeydew submit linear.issues organization=acme startDate=-7d --priority 5
run honeydew schedule add nightly '0 2 * * *' github.commits organization=acme "repository=$repository" startDate=last-success
run honeydew schedule list
run honeydew job list

say "Kill the daemon while a job runs (the API is slow now), and start it again"
curl_control() { # POST /control without needing curl
  exec 3<>"/dev/tcp/127.0.0.1/$(echo "$control" | sed 's/.*:\([0-9]*\)\/.*/\1/')"
  printf 'POST /control HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %s\r\n\r\n%s' "${#1}" "$1" >&3
  cat <&3 >/dev/null
  exec 3>&-
}
curl_control '{"gate":true}'
job=$(honeydew github commits acme "$repository" --detach)
until honeydew job show "$job" | grep -q '^status: *running'; do :; done
run honeydew job show "$job"
pid=$(cat "$home/daemon.pid")
run kill -9 "$pid"
run honeydew start
curl_control '{"gate":false}'
run honeydew job wait "$job"

say "How is it doing?"
run honeydew status
run honeydew stop

say "No token and no password lies in the home in the clear"
if grep -rlE 'eyJ[A-Za-z0-9_-]{10}' "$home" --include='daemon.*'; then
  echo "a token lies there in the clear" >&2
  exit 1
fi
echo "checked: daemon.db, its write-ahead log, daemon.log"
