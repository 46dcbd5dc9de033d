#!/usr/bin/env bash
# An hour (or SECONDS_TO_RUN) of a daemon with everything on: batches, schedules, cancels, watches, retention, a faulty
# API with short-lived tokens. Prints memory, descriptors, threads, log and WAL size as it goes; at the end the number of
# goroutines and what was lost.
set -euo pipefail
cd "$(dirname "$0")/.."
duration=${SECONDS_TO_RUN:-3600}
export HONEYDEW_HOME=$(mktemp -d /tmp/honeydew-soak.XXXXXX)
unset HONEYDEW_SOCKET
PATH=$PWD/bin:$PATH
sandbox -addr 127.0.0.1:0 -schema queries/schema.graphql -repos . -access-ttl 2m -latency 5ms -jitter 20ms -error-rate 0.02 \
  -unauthorized-rate 0.01 -cut-rate 0.01 -html-rate 0.005 -rate-limit-rate 0.0005 -retry-after 2 >"$HONEYDEW_HOME/api" &
api_pid=$!
trap 'honeydew stop --force >/dev/null 2>&1 || true; kill $api_pid; rm -rf "$HONEYDEW_HOME"' EXIT
until grep -q http "$HONEYDEW_HOME/api"; do kill -0 $api_pid; done
printf 'logging:\n  max_size_mb: 1\nqueue:\n  max_retries: 8\n' >"$HONEYDEW_HOME/config.yaml"
honeydew start
honeydew env add soak "$(sed -n 's/^sandbox: //p' "$HONEYDEW_HOME/api")" --use
echo demo | honeydew login --username demo --password-stdin
for n in 1 2 3 4 5; do honeydew schedule add "s$n" "@every ${n}s" jira.issues organization=acme startDate=last-success --jitter 1s >/dev/null; done
for _ in $(seq 40); do printf '{"command":"linear.issues","payload":{"organization":"acme","startDate":"-7d"}}\n'; done >"$HONEYDEW_HOME/batch"
pid=$(cat "$HONEYDEW_HOME/daemon.pid")
submitted=0 began=$SECONDS next=0
printf '%8s %8s %8s %5s %8s %10s %10s\n' seconds jobs rss_kib fds threads wal_bytes db_bytes
while [ $((SECONDS - began)) -lt "$duration" ]; do
  last=$(honeydew submit --batch "$HONEYDEW_HOME/batch" | tail -n 1)
  submitted=$((submitted + 40))
  honeydew job wait "$last" >/dev/null 2>&1 || true
  honeydew job cancel "$(honeydew submit gitlab.projects organization=acme --run-after 1h)" >/dev/null
  honeydew job list --limit 100 >/dev/null 2>&1
  if [ $((SECONDS - began)) -ge $next ]; then
    next=$((next + 60))
    honeydew prune --older-than 2m >/dev/null
    printf '%8d %8d %8d %5d %8d %10d %10d\n' $((SECONDS - began)) $submitted "$(awk '/VmRSS/ {print $2}' /proc/$pid/status)" \
      "$(ls /proc/$pid/fd | wc -l)" "$(ls /proc/$pid/task | wc -l)" "$(stat -c %s "$HONEYDEW_HOME/daemon.db-wal")" "$(stat -c %s "$HONEYDEW_HOME/daemon.db")"
  fi
done
honeydew queue pause
until honeydew status --json | grep -q '"running":0'; do :; done
honeydew status
honeydew job list --status failed --limit 5 || true
kill -QUIT "$pid"
until ! kill -0 "$pid" 2>/dev/null; do :; done
echo "goroutines at the end: $(grep -c '^goroutine ' "$HONEYDEW_HOME/daemon.stderr")"
