#!/usr/bin/env bash
# Archives of every platform in dist/, the same bytes whenever and wherever they are made from the same commit, with what
# they were made of. TARGETS="linux/amd64 ..." makes only those; SIGN_KEY=FILE, a key of ssh, signs SHA256SUMS.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${VERSION:?run: make dist}
targets=${TARGETS:-linux/amd64 linux/arm64 linux/arm linux/386 linux/riscv64 darwin/amd64 darwin/arm64 freebsd/amd64 freebsd/arm64 windows/amd64}
commit=$(git rev-parse HEAD)
epoch=$(git log -1 --format=%ct)
# All that could change the bytes and is no source: the toolchain, the processors' variants, the state of the clone.
GOTOOLCHAIN=$(awk '$1 == "toolchain" { print $2 }' go.mod)
settings="GOTOOLCHAIN=$GOTOOLCHAIN CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0 GOARM=6 GO386=sse2 GORISCV64=rva20u64 GOEXPERIMENT="
export ${settings?} LC_ALL=C TZ=UTC
GOFLAGS="$GOFLAGS -buildvcs=false"
umask 022
rm -rf dist
mkdir -p dist

# What every archive holds beside the binary.
common=dist/common
mkdir -p $common/completions
cp README.md DESIGN.md SECURITY.md session.svg daemon.proto $common/
go build -o dist/self .
for shell in bash zsh fish; do dist/self completion $shell >$common/completions/honeydew.$shell; done
scripts/man.sh dist/self "$version" "$(date -u -d "@$epoch" +%F)" >$common/honeydew.1
HONEYDEW_HOME=/HOME dist/self service install --print |
  sed -e 's#^ExecStart=.*#ExecStart=%h/.local/bin/honeydew daemon#' -e 's#/HOME#%h/.honeydew#' >$common/honeydew.service

# licences copies those of every module that is in the binary $1, and of Go, into $2; a module without one ends it.
licences() {
  go version -m "$1" | awk '$1 == "dep" { print $2 "@" $3 }' | while read -r module; do
    dir=$(go list -m -f '{{.Dir}}' "${module%@*}")
    find "$dir" -maxdepth 1 -type f \( -name 'LICEN[CS]E*' -o -name 'COPYING*' -o -name 'NOTICE*' -o -name 'PATENTS*' \) \
      -exec install -Dm644 -t "$2/${module%@*}" {} +
    [ -d "$2/${module%@*}" ] || { echo "$module has no licence" >&2; exit 1; }
  done
  install -m644 "$(go env GOROOT)/LICENSE" "$2/go.LICENSE"
}

# sbom lists what is inside a binary, as the linker recorded it, in SPDX 2.3.
sbom() {
  go version -m "$1" | awk -v name="$2" -v version="$version" -v created="$(date -u -d "@$epoch" +%Y-%m-%dT%H:%M:%SZ)" '
    function package(path, version, id) {
      printf "\nPackageName: %s\nSPDXID: SPDXRef-%s\nPackageVersion: %s\nPackageDownloadLocation: NOASSERTION\n", path, id, version
      printf "FilesAnalyzed: false\nExternalRef: PACKAGE-MANAGER purl pkg:golang/%s@%s\n", path, version
    }
    BEGIN {
      printf "SPDXVersion: SPDX-2.3\nDataLicense: CC0-1.0\nSPDXID: SPDXRef-DOCUMENT\nDocumentName: %s\n", name
      printf "DocumentNamespace: https://honeydew.invalid/spdx/%s\nCreator: Tool: go-version-m\nCreated: %s\n", name, created
      package("honeydew", version, "honeydew")
      print "Relationship: SPDXRef-DOCUMENT DESCRIBES SPDXRef-honeydew"
    }
    NR == 1 { package("stdlib", $NF, "stdlib"); print "Relationship: SPDXRef-honeydew DEPENDS_ON SPDXRef-stdlib" }
    $1 == "dep" {
      id = $2; gsub(/[^A-Za-z0-9.]/, "-", id)
      package($2, $3, id)
      printf "Relationship: SPDXRef-honeydew DEPENDS_ON SPDXRef-%s\n", id
    }'
}

for target in $targets; do
  os=${target%/*} arch=${target#*/}
  name=honeydew-$version-$os-$arch
  cp -r $common "dist/$name"
  binary=dist/$name/honeydew
  [ "$os" != windows ] || binary=$binary.exe
  GOOS=$os GOARCH=$arch go build -ldflags "${LDFLAGS:?}" -o "$binary" .
  size=$(wc -c <"$binary")
  [ "$size" -le $((20 << 20)) ] || { echo "$target: $size bytes are over the budget of 20 MiB" >&2; exit 1; }
  go version -m "$binary" | grep -q 'CGO_ENABLED=0' # static
  licences "$binary" "dist/$name/licenses"
  sbom "$binary" "$name" >"dist/$name.spdx"
  find "dist/$name" -exec touch -h -d "@$epoch" {} +
  tar -C dist --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w -cf - "$name" | gzip -9n >"dist/$name.tar.gz"
  rm -r "dist/$name"
done
rm -r $common dist/self

# provenance says what was made, of which commit, by what, and how to make it again, as SLSA and in-toto write it.
provenance() {
  local subjects
  subjects=$(cd dist && sha256sum -- *.tar.gz *.spdx |
    awk '{ printf "%s\n    {\"name\": \"%s\", \"digest\": {\"sha256\": \"%s\"}}", n++ ? "," : "", $2, $1 }')
  cat <<END
{
  "_type": "https://in-toto.io/Statement/v1",
  "subject": [$subjects
  ],
  "predicateType": "https://slsa.dev/provenance/v1",
  "predicate": {
    "buildDefinition": {
      "buildType": "https://honeydew.invalid/dist/v1",
      "externalParameters": {
        "commit": "$commit",
        "uncommittedChanges": $uncommitted,
        "version": "$version",
        "command": "git checkout $commit && make dist VERSION=$version"
      },
      "internalParameters": {
        "go": "$(go env GOVERSION)",
        "GOFLAGS": "$GOFLAGS",
        "ldflags": "$LDFLAGS",
        "environment": "$settings",
        "tar": "$(tar --version | head -1)",
        "gzip": "$(gzip --version | head -1)"
      },
      "resolvedDependencies": [
        {"name": "go.sum", "digest": {"sha256": "$(sha256sum <go.sum | cut -d' ' -f1)"}}
      ]
    },
    "runDetails": {"builder": {"id": "https://honeydew.invalid/scripts/dist.sh"}}
  }
}
END
}
uncommitted=true
[ -n "$(git status --porcelain)" ] || uncommitted=false
provenance >dist/PROVENANCE.json
(cd dist && sha256sum -- *.tar.gz *.spdx PROVENANCE.json >SHA256SUMS)
[ -z "${SIGN_KEY:-}" ] || ssh-keygen -q -Y sign -f "$SIGN_KEY" -n honeydew dist/SHA256SUMS
ls -l dist
