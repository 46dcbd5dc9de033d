#!/usr/bin/env bash
# What an auditor asks first: how much there is to read, in which order, what comes with it, and every place where the
# program touches the outside or a secret. `make audit`.
set -euo pipefail
cd "$(dirname "$0")"
sources() { git ls-files '*.go' | grep -v -e / -e _test.go; }
code() { grep -v '^\s*//' "$1" | grep -vc '^\s*$'; }

echo "== lines of code (without tests, blanks and comments), and of comments, in reading order"
order="errors listen seal jwt auth graphql commands dates store store_jobs store_admin store_schema queue worker cronexpr scheduler \
  rpc rpc_jobs config log daemon main cli cli_call cli_daemon cli_jobs print help completion doctor"
total=0
for name in $order $(sources | sed 's/\.go$//' | grep -vxF "$(tr ' ' '\n' <<<"$order" | grep .)"); do
  n=$(code "$name.go")
  total=$((total + n))
  printf '%6d %5d  %s.go\n' "$n" "$(grep -c '^\s*//' "$name.go" || true)" "$name"
done
printf '%6d        in all\n' $total

echo "== modules in the binary (direct ones marked), and their share of it in KiB"
go build -o bin/audit .
direct=$(go list -m -f '{{if not .Indirect}}{{.Path}}{{end}}' all)
go tool nm -size bin/audit | awk '{ size = $2; name = $4; sub(/^go:[a-z]*\./, "", name); if (name ~ /\.[a-z]+\//) { split(name, p, "/"); m = p[1] "/" p[2]; if (p[1] == "github.com") m = m "/" p[3]; s[m] += size } } END { for (m in s) printf "%8d  %s\n", s[m] / 1024, m }' | sort -rn | head -12
go version -m bin/audit | awk '$1 == "dep" {print $2, $3}' | while read -r path version; do
  if grep -qxF "$path" <<<"$direct"; then echo "  * $path $version"; else echo "    $path $version"; fi
done
rm bin/audit

places() { printf '== %s\n' "$1"; sources | xargs grep -nE "$2" | grep -vE '^[^:]+:[0-9]+:\s*//' | sed 's/^/  /'; }
places "files and directories" 'os\.(Open|OpenFile|Create|CreateTemp|ReadFile|WriteFile|Remove|Rename|Mkdir|MkdirAll|Chmod)\('
places "sockets and connections" '(net\.(Listen|Dial)|ListenUnix|DialUnix|DialContext|RoundTrip|http\.Transport|sql\.Open)'
places "environment and processes" '(getenv\(|Getenv\(|os\.Getenv|exec\.Command|Signal\()'
places "secrets" '([Pp]assword|[Pp]assphrase|accessToken|refreshToken|\.access\b|\.refresh\b|Authorization)'
