#!/usr/bin/env bash
# What an auditor asks first: how much there is to read, in which order, what comes with it, and every place where the
# program touches the outside or a secret. `make audit`.
set -euo pipefail
cd "$(dirname "$0")/.."
order=$(sed -n '/^Reading order for an audit:/,/;/p' DESIGN.md | tr '\n' ' ' | sed 's/.*audit: //; s/;.*//; s/,//g')
sources() { git ls-files '*.go' | grep -v -e / -e _test.go; }
families() { for name in $order; do sources | grep -E "^$name(_.*)?\.go$"; done; } # as DESIGN.md has them

echo "== hand-written Go in the order to read it, as the check measures it; lines are of code, without blanks and comments"
figures=$(go test -count=1 -run '^TestCodeStaysSmallAndCalm$' -v . | sed -n 's/^ *walls_test.go:[0-9]*: \( *[0-9]* tokens.*\)/\1/p' || true)
for file in $(families) $(sources | grep -vxF "$(families)"); do grep "  $file$" <<<"$figures"; done
grep 'in all$' <<<"$figures"
echo "== beside it: texts that are no code, and the protocol (all lines)"
git ls-files texts schema.sql daemon.proto queries | xargs wc -l | awk '$2 ~ /^queries/ { q += $1; n++; next } $2 != "total" { print } END { printf "%6d queries, in %d files\n", q, n }'

echo "== modules in the binary (* direct), and the KiB of their code and data in it; the rest is Go's own library and tables"
mkdir -p bin
go build -o bin/audit .
go list -m -f '{{if not (or .Indirect .Main)}}{{.Path}}{{end}}' all >bin/audit.direct
go version -m bin/audit | awk '$1 == "dep" { print $2, $3 }' >bin/audit.modules
go tool nm -size bin/audit | awk '
  FILENAME == ARGV[1] { direct[$1] = 1; next }
  FILENAME == ARGV[2] { version[$1] = $2; next }
  { best = "" # the longest module path in the symbol: generic and generated symbols begin with another name
    for (m in version) if (index($0, m) && length(m) > length(best)) best = m
    if (best) size[best] += $2; else if ($4 ~ /^main\./) ours += $2 }
  END { printf "%8d  honeydew itself\n", ours / 1024
    for (m in version) printf "%8d %s %s %s\n", size[m] / 1024, direct[m] ? "*" : " ", m, version[m] }' bin/audit.direct bin/audit.modules - | sort -rn
go build -ldflags '-s -w' -o bin/audit .
printf '%8d  the whole binary, as released\n' $(($(wc -c <bin/audit) / 1024))
rm bin/audit bin/audit.direct bin/audit.modules

places() { # heading, pattern, and what the pattern finds without being meant
  printf '== %s\n' "$1"
  sources | xargs grep -nE "$2" | grep -vE "^[^:]+:[0-9]+:\s*//${3:+|$3}" | sed 's/^/  /' || echo '  none'
}
places "files and directories" '\bos\.(Open|Create|Read(File|Dir|link)|WriteFile|Remove|Rename|Mkdir|Chmod|Chown|Chtimes|Truncate|Link|Symlink|CopyFS|DirFS)|\.Chmod\(|VACUUM INTO'
places "sockets, connections, the database" '\bnet\.(Listen|Dial|FileConn|Lookup)|\.Dial(er|Context)?\b|http\.(Transport|Client|Get|Post|Listen|ProxyFrom)|RoundTrip|grpc\.(NewClient|NewServer)|\.Serve\(|sql\.Open'
places "processes, signals, system calls" '\bexec\.(Command|LookPath)|os\.(StartProcess|FindProcess|Exit)|signal\.|syscall\.[A-Z]\w+\(|\bunsafe\.'
places "the environment of the process" '[gG]etenv|os\.(LookupEnv|Environ|UserHomeDir|Executable|Args)|ProxyFromEnvironment'
places "secrets" '[pP]assword|[pP]assphrase|[tT]oken\b|accessToken|refreshToken|\.access\b|\.refresh\b|tokenPair|aead|Authorization|[sS]ecret' '[pP]ageToken|page[_-]token|decoder.Token'
