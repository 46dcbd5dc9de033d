#!/usr/bin/env bash
# Makes an archive again, from the commit that the PROVENANCE.json beside it names, and compares the bytes:
# `make verify ARCHIVE=FILE`, in a clone that has the commit.
set -euo pipefail
archive=$(realpath -- "${1:?run: make verify ARCHIVE=FILE}")
cd "$(dirname "$0")/.."
fail() { printf '%s\n' "$@" >&2; exit 1; }

name=$(basename "$archive" .tar.gz)
provenance=$(dirname "$archive")/PROVENANCE.json
[ -f "$provenance" ] || fail "there is no $provenance, which says what the archive was made from; put it beside the archive"
stated() { sed -n "s/^ *\"$1\": \"\{0,1\}\([^\"]*[^\",]\)\"\{0,1\},\{0,1\}\$/\1/p" "$provenance"; }
commit=$(stated commit) version=$(stated version)
[[ $commit =~ ^[0-9a-f]{40}$ && $version =~ ^[0-9A-Za-z][0-9A-Za-z._+-]*$ ]] || # nothing that make or a shell would obey
  fail "$provenance names no commit and version"
[ "$(stated uncommittedChanges)" = false ] || fail "$name was made from changes that are in no commit, so it cannot be made again"
sum=$(sha256sum <"$archive" | cut -d' ' -f1)
grep -qF "{\"name\": \"$name.tar.gz\", \"digest\": {\"sha256\": \"$sum\"}}" "$provenance" ||
  fail "$provenance is of another archive: the name $name.tar.gz with the sum $sum is not in it"
target=${name#"honeydew-$version-"}
[[ $target =~ ^[a-z]+-[a-z0-9]+$ ]] || fail "$name is not named honeydew-$version-OS-ARCHITECTURE"
git cat-file -e "$commit^{commit}" 2>/dev/null || fail "this clone does not have commit $commit; run: git fetch --all --tags"

work=$(mktemp -d)
trap 'git worktree remove --force "$work/tree" 2>/dev/null || true; rm -rf "$work"' EXIT
git worktree add -q --detach "$work/tree" "$commit"
echo "making $name again from $commit, with $(stated go)"
make -s -C "$work/tree" dist VERSION="$version" TARGETS="${target%-*}/${target#*-}" SIGN_KEY= >"$work/log" 2>&1 || {
  cat "$work/log" >&2
  fail "commit $commit could not be built"
}
again=$work/tree/dist/$name.tar.gz
if cmp -s "$archive" "$again"; then
  echo "the same: all $(wc -c <"$archive") bytes of $name.tar.gz come from $commit"
  exit
fi
mkdir "$work/given" "$work/made"
tar -C "$work/given" -xzf "$archive"
tar -C "$work/made" -xzf "$again"
if diff -rq "$work/given" "$work/made" >"$work/differences"; then
  fail "the files are the same, and packed otherwise: by $(stated tar), $(stated gzip);" \
    "here are $(tar --version | head -1), $(gzip --version | head -1)"
fi
sed -e "s#$work/given#the archive#g" -e "s#$work/made#what was made#g" "$work/differences" >&2
fail "$name is NOT what $commit makes"
