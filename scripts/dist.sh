#!/usr/bin/env bash
# Archives of every platform in dist/, the same bytes whenever they are made from the same commit.
set -euo pipefail
cd "$(dirname "$0")/.."
version=${VERSION:?run: make dist}
epoch=$(git log -1 --format=%ct)
rm -rf dist
mkdir -p dist

# What every archive holds beside the binary.
common=dist/common
mkdir -p $common/licenses $common/completions
cp README.md DESIGN.md SECURITY.md session.svg daemon.proto $common/
go build -o dist/self .
for shell in bash zsh fish; do dist/self completion $shell >$common/completions/honeydew.$shell; done
scripts/man.sh dist/self "$version" "$(date -u -d "@$epoch" +%F)" >$common/honeydew.1
HONEYDEW_HOME=/HOME dist/self service install --print |
  sed -e 's#^ExecStart=.*#ExecStart=%h/.local/bin/honeydew daemon#' -e 's#/HOME#%h/.honeydew#' >$common/honeydew.service
go list -deps -f '{{with .Module}}{{if not .Main}}{{.Path}} {{.Version}} {{.Dir}}{{end}}{{end}}' . | sort -u |
  while read -r path _ dir; do
    for file in "$dir"/LICENSE* "$dir"/LICENCE* "$dir"/COPYING* "$dir"/NOTICE*; do
      [ ! -f "$file" ] || install -Dm644 "$file" "$common/licenses/$path/$(basename "$file")"
    done
  done
install -m644 "$(go env GOROOT)/LICENSE" $common/licenses/go.LICENSE

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

for target in linux/amd64 linux/arm64 linux/arm linux/386 linux/riscv64 darwin/amd64 darwin/arm64 freebsd/amd64 freebsd/arm64 windows/amd64; do
  os=${target%/*} arch=${target#*/}
  name=honeydew-$version-$os-$arch
  cp -r $common dist/$name
  binary=dist/$name/honeydew
  [ "$os" != windows ] || binary=$binary.exe
  GOOS=$os GOARCH=$arch GOARM=6 go build -ldflags "${LDFLAGS:?}" -o "$binary" .
  size=$(wc -c <"$binary")
  [ "$size" -le $((20 << 20)) ] || { echo "$target: $size bytes are over the budget of 20 MiB" >&2; exit 1; }
  go version -m "$binary" | grep -q 'CGO_ENABLED=0' # static
  sbom "$binary" "$name" >dist/$name.spdx
  find dist/$name -exec touch -h -d "@$epoch" {} +
  tar -C dist --sort=name --owner=0 --group=0 --numeric-owner --mode=u+rwX,go+rX,go-w -cf - $name | gzip -9n >dist/$name.tar.gz
  rm -r dist/$name
done
rm -r $common dist/self
(cd dist && sha256sum -- *.tar.gz *.spdx >SHA256SUMS)
ls -l dist
