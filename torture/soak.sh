#!/usr/bin/env bash
# An hour (or SECONDS_TO_RUN) of a daemon with everything on: batches, schedules, cancels, retention, backups, a faulty
# API with short-lived tokens. At random: the API is gone for 10 s, the daemon is stopped for 3 s, and, in the first
# quarter, killed. From then on it is one process, so that its last quarter can be held against its second.
#
#   1st quarter   kills; ends with SIGQUIT, which tells the goroutines
#   2nd           what a young process takes
#   3rd, 4th      what it takes when it is old; the end is SIGQUIT again
#
# Prints a line a minute, and exits with 1 when an acked job is lost, or when memory, descriptors, threads, goroutines
# or the WAL have grown. RANDOM_SEED repeats the choice of the faults.
set -euo pipefail
cd "$(dirname "$0")/.."
make -s build
go build -C sandbox -o ../bin/sandbox .
duration=${SECONDS_TO_RUN:-3600}
RANDOM=${RANDOM_SEED:=$RANDOM}
echo "$duration seconds, RANDOM_SEED=$RANDOM_SEED"
export HONEYDEW_HOME=$(mktemp -d /tmp/honeydew-soak.XXXXXX)
unset HONEYDEW_SOCKET
PATH=$PWD/bin:$PATH
samples=$HONEYDEW_HOME/samples

api() { # on the address given
  rm -f "$HONEYDEW_HOME/api" # what the last one said
  sandbox -addr "$1" -schema queries/schema.graphql -repos . -access-ttl 2m -latency 5ms -jitter 20ms \
    -error-rate 0.02 -unauthorized-rate 0.01 -cut-rate 0.01 -html-rate 0.005 -rate-limit-rate 0.0005 -retry-after 2 \
    >"$HONEYDEW_HOME/api" &
  api_pid=$!
  until grep -qs http "$HONEYDEW_HOME/api"; do kill -0 $api_pid; done
  url=$(sed -n 's/^sandbox: //p' "$HONEYDEW_HOME/api")
}
login() { echo demo | honeydew login --username demo --password-stdin >/dev/null; }
up() {
  honeydew start >/dev/null
  pid=$(cat "$HONEYDEW_HOME/daemon.pid")
}
gone() { until ! kill -0 "$1" 2>/dev/null; do :; done; }
lost() { echo "FAILED: $*" && exit 1; }

# quit waits until nothing runs, so that the goroutines are those that are always there.
quit() {
  honeydew queue pause >/dev/null
  until honeydew status --json | grep -q '"running":0'; do :; done
  : >"$HONEYDEW_HOME/daemon.stderr"
  kill -QUIT "$pid"
  gone "$pid"
  goroutines=$(grep -c '^goroutine ' "$HONEYDEW_HOME/daemon.stderr")
}

killed=0 stopped=0 apis=0 backups=0
fault() {
  case $((RANDOM % 4)) in
  0)
    [ "$quarter" = 1 ] || return 0
    kill -9 "$pid"
    gone "$pid"
    up
    killed=$((killed + 1)) ;;
  1)
    kill -STOP "$pid"
    timeout 3 honeydew status >/dev/null 2>&1 || true # it takes its time, and says so
    kill -CONT "$pid"
    stopped=$((stopped + 1)) ;;
  2)
    kill $api_pid
    gone $api_pid
    timeout 10 honeydew job wait "$last" >/dev/null 2>&1 || true
    api "$(sed 's|http://||; s|/.*||' <<<"$url")"
    login
    apis=$((apis + 1)) ;;
  3)
    rm -f "$HONEYDEW_HOME/backup.db"
    honeydew backup "$HONEYDEW_HOME/backup.db" >/dev/null
    backups=$((backups + 1)) ;;
  esac
}

sample() {
  printf '%d %d %d %d %d %d %d %d\n' "$quarter" $((SECONDS - began)) $submitted \
    "$(awk '/VmRSS/ {print $2}' /proc/$pid/status)" "$(ls /proc/$pid/fd | wc -l)" "$(ls /proc/$pid/task | wc -l)" \
    "$(stat -c %s "$HONEYDEW_HOME/daemon.db-wal")" "$(stat -c %s "$HONEYDEW_HOME/daemon.db")" >>"$samples"
  tail -n 1 "$samples" | xargs printf '%7d %8d %8d %8d %5d %8d %10d %10d\n'
}

# median of a column of the samples of a quarter.
median() {
  awk -v q="$1" -v c="$2" '$1 == q {print $c}' "$samples" | sort -n | awk '{v[NR] = $1} END {print v[int((NR + 1) / 2)]}'
}
grown=0
compare() { # name, figure then, figure now, how much more is no growth
  printf '%-12s %10d %10d\n' "$1" "$2" "$3"
  if [ "$3" -gt $(($2 + $4)) ]; then echo "FAILED: $1 has grown by more than $4" && grown=1; fi
}

api_pid= pid=
trap 'honeydew stop --force >/dev/null 2>&1 || true; kill $api_pid; rm -rf "$HONEYDEW_HOME"' EXIT
api 127.0.0.1:0
printf 'logging:\n  max_size_mb: 1\nqueue:\n  max_retries: 8\n' >"$HONEYDEW_HOME/config.yaml"
up
honeydew env add soak "$url" --use
login
for n in 1 2 3 4 5; do
  honeydew schedule add "s$n" "@every ${n}s" jira.issues organization=acme startDate=last-success --jitter 1s >/dev/null
done
for _ in $(seq 40); do
  printf '{"command":"linear.issues","payload":{"organization":"acme","startDate":"-7d"}}\n'
done >"$HONEYDEW_HOME/batch"
submitted=0 began=$SECONDS step=$((duration < 3600 ? duration / 60 + 1 : 60)) next=0 nextfault=0 quarter=1
printf '%7s %8s %8s %8s %5s %8s %10s %10s\n' quarter seconds jobs rss_kib fds threads wal_bytes db_bytes
while [ $((SECONDS - began)) -lt "$duration" ]; do
  last=$(honeydew submit --batch "$HONEYDEW_HOME/batch" | tail -n 1)
  submitted=$((submitted + 40))
  now=$(((SECONDS - began) * 4 / duration + 1))
  if [ "$quarter" = 1 ] && [ "$now" -gt 1 ]; then
    quit
    goroutines_young=$goroutines
    up
    honeydew queue resume >/dev/null
  fi
  quarter=$now
  if [ $((SECONDS - began)) -ge $nextfault ]; then
    nextfault=$((SECONDS - began + RANDOM % (2 * step) + 1))
    fault
  fi
  honeydew job show "$last" >/dev/null || lost "job $last was acked and is not there"
  honeydew job wait "$last" >/dev/null 2>&1 || true
  honeydew job cancel "$(honeydew submit gitlab.projects organization=acme --run-after 1h)" >/dev/null
  honeydew job list --limit 100 >/dev/null 2>&1
  if [ $((SECONDS - began)) -ge $next ]; then
    next=$((SECONDS - began + step))
    honeydew prune --older-than 2m >/dev/null
    sample
  fi
done
quarter=4
sample
honeydew status
honeydew job list --status failed --limit 5 || true
quit
echo "$killed kills, $stopped stops, $apis times without the API, $backups backups; $submitted jobs"
printf '%-12s %10s %10s\n' '' young old
compare memory_kib "$(median 2 4)" "$(median 4 4)" $(($(median 2 4) / 6 + 4096))
compare descriptors "$(median 2 5)" "$(median 4 5)" 4
compare threads "$(median 2 6)" "$(median 4 6)" 4
compare wal_bytes "$(median 2 7)" "$(median 4 7)" $((4 << 20))
compare goroutines "$goroutines_young" "$goroutines" 8
exit $grown
