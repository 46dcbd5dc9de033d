#!/usr/bin/env bash
# Runs every example client against a daemon and a local API in a temporary home; `make examples`.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d /tmp/honeydew-examples.XXXXXX)
export HONEYDEW_HOME=$work/home
unset HONEYDEW_SOCKET
PATH=$PWD/../bin:$PATH
sandbox -schema ../queries/schema.graphql -repos .. -addr 127.0.0.1:0 >"$work/api" &
api_pid=$!
trap 'honeydew stop --force >/dev/null 2>&1 || true; kill $api_pid; rm -rf "$work"' EXIT
until grep -q http "$work/api"; do kill -0 $api_pid; done
honeydew start
honeydew env add sandbox "$(sed -n 's/^sandbox: //p' "$work/api")" --use
echo demo | honeydew login --username demo --password-stdin

echo "== Go"
(cd go && go run . jira.projects organization=acme) | grep '"key":"HON"' >/dev/null
echo "== Node"
if command -v npm >/dev/null; then
  (cd node && npm ci --silent --ignore-scripts && node submit.mjs jira.projects organization=acme) | grep '"key":"HON"' >/dev/null
else
  echo "skipped: npm is not installed"
fi
echo "== Python"
if command -v protoc >/dev/null && /usr/bin/python3 -c 'import grpc' 2>/dev/null; then
  protoc -I .. --python_out="$work" daemon.proto
  PYTHONPATH=$work python/submit.py jira.projects organization=acme | grep '"key":"HON"' >/dev/null
else
  echo "skipped: protoc or Python's grpc is not installed"
fi
echo "== buf curl"
go tool -modfile=../tools/go.mod buf curl --protocol grpc --http2-prior-knowledge --unix-socket "$HONEYDEW_HOME/daemon.sock" \
  http://localhost/honeydew.Daemon/Ping | grep '"version"' >/dev/null
