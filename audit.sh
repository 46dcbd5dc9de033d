#!/usr/bin/env bash
# What an auditor asks first: how much there is to read, in which order, what comes with it, and every place where the
# program touches the outside or a secret. `make audit`.
set -euo pipefail
cd "$(dirname "$0")"
budget=4000 file_budget=500 function_budget=60
order="errors files listen seal jwt auth graphql commands dates store store_jobs store_admin store_schema queue worker cronexpr scheduler \
  rpc rpc_jobs config log daemon main cli cli_call cli_daemon cli_admin cli_submit cli_jobs cli_schedule cli_print cli_help cli_complete cli_doctor"
sources() { git ls-files '*.go' | grep -v -e / -e _test.go; }
rest() { sources | sed 's/\.go$//' | grep -vxF "$(tr -s ' ' '\n' <<<"$order")"; } # what differs between systems
report() { if [ "$1" -gt 0 ]; then echo "EXCEEDED: $2"; else echo "kept: $2"; fi; }

echo "== hand-written Go in the order to read it: lines of code (no tests, blanks, comments), lines of comments, their share"
for name in $order $(rest); do
  awk -v most=$file_budget '/^[ \t]*\/\// { comments++; next } NF { code++ }
    END { printf "%6d %5d %3d%%  %s%s\n", code, comments, 100 * comments / (code + comments), FILENAME, (code > most ? "  OVER " most : "") }' "$name.go"
done | awk '{ print; code += $1; comments += $2 } END { printf "%6d %5d %3d%%  in all\n", code, comments, 100 * comments / (code + comments) }'
echo "== beside it: texts that are no code, and the protocol (all lines)"
git ls-files texts schema.sql daemon.proto queries | xargs wc -l | awk '$2 ~ /^queries/ { q += $1; n++; next } $2 != "total" { print } END { printf "%6d queries, in %d files\n", q, n }'

echo "== functions of more than $function_budget lines"
long=$(sources | xargs awk -v most=$function_budget '/^func / { name = $0; first = FNR } /^}/ && name != "" {
  if (FNR - first + 1 > most) printf "%6d  %s:%d  %s\n", FNR - first + 1, FILENAME, first, name; name = "" }')
echo "${long:-  none}"

echo "== the budget"
sources | xargs awk -v most=$file_budget '!/^[ \t]*\/\// && NF { code[FILENAME]++; all++ }
  END { for (f in code) if (code[f] > most) over++; print all, over + 0 }' | {
  read -r all files
  report $((all - budget)) "$budget lines in all: $all"
  report "$files" "$file_budget lines a file: $files longer"
}
report "$(grep -c . <<<"$long" || true)" "$function_budget lines a function: $(grep -c . <<<"$long" || true) longer"

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
go build -trimpath -ldflags '-s -w' -o bin/audit .
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
