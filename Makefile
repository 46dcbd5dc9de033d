# Every line is a command that one could type. `make build` first; `make demo` shows it all.

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
export CGO_ENABLED = 0
export ARCHIVE # as it is: it may be a stranger's
# One setting for all, so that nothing is compiled twice. Without gRPC's tracing the linker drops what only that needs.
export GOFLAGS = -trimpath -tags=grpcnotrace
# The tools are pinned with all that they are made of: tools/go.mod, and the sums of its go.sum.
TOOL = go tool -modfile=$(CURDIR)/tools/go.mod

.PHONY: build proto graphql test race e2e demo sandbox lint vulns cover examples emulated audit picture dist verify fuzz bench clean

build: ## bin/honeydew, and bin/daemon, the same binary under the name that makes it the daemon
	go build -ldflags '$(LDFLAGS)' -o bin/honeydew .
	ln -sf honeydew bin/daemon

proto: ## daemonpb/ from daemon.proto
	$(TOOL) buf generate --template daemonpb/buf.gen.yaml

graphql: ## every file in queries/ against queries/schema.graphql
	go test -C sandbox -run 'Quer' .

test:
	go test ./...

race:
	CGO_ENABLED=1 go test -race -shuffle=on ./...

e2e: build ## the built binary against the sandbox
	HONEYDEW_BIN=$(CURDIR)/bin/honeydew go test -C sandbox -count=1 ./...

demo: build ## a tour in a temporary home
	go build -C sandbox -o ../bin/sandbox .
	scripts/demo.sh

sandbox: build ## a local Honeydew API for your own experiments; it serves this clone as acme/api
	go build -C sandbox -o ../bin/sandbox .
	mkdir -p bin/repos && ln -sfn ../.. bin/repos/api
	@echo 'Now type in another terminal; the password is demo:'
	@echo '  cd $(CURDIR)'
	@echo '  export HONEYDEW_HOME=$${TMPDIR:-/tmp}/honeydew-try PATH=$(CURDIR)/bin:$$PATH'
	@echo '  honeydew start && honeydew env add sandbox http://127.0.0.1:8931/graphql --use && honeydew login --username demo'
	@echo '  honeydew organizations list'
	@echo '  honeydew github commits acme api --start-date -7d'
	@echo '  honeydew jira issues acme --start-date -7d'
	@echo 'At the end, here: Ctrl-C; there: honeydew stop && rm -r $$HONEYDEW_HOME'
	bin/sandbox -repos bin/repos

cover: ## how much of the root package the tests and the transcripts run together; by line in cover/all.html
	rm -rf cover && mkdir -p cover/unit cover/e2e
	go build -cover -ldflags '$(LDFLAGS)' -o cover/honeydew . && ln -sf honeydew cover/daemon
	go test -count=1 -cover . -args -test.gocoverdir=$(CURDIR)/cover/unit
	GOCOVERDIR=$(CURDIR)/cover/e2e HONEYDEW_BIN=$(CURDIR)/cover/honeydew go test -C sandbox -count=1 .
	go tool covdata textfmt -i=cover/unit,cover/e2e -pkg=honeydew -o cover/all.txt
	go tool cover -html=cover/all.txt -o cover/all.html
	go tool cover -func=cover/all.txt | awk 'END { print; if ($$3 + 0 < 90) { print "less than 90 %"; exit 1 } }'

lint:
	test -z "$$(gofmt -l $$(git ls-files '*.go'))"
	go vet ./...
	for target in darwin/arm64 freebsd/amd64 windows/amd64; do GOOS=$${target%/*} GOARCH=$${target#*/} go vet . || exit 1; done
	for m in sandbox torture examples/go; do go vet -C $$m ./... || exit 1; done
	$(TOOL) staticcheck ./...
	for m in sandbox torture; do (cd $$m && $(TOOL) staticcheck ./...) || exit 1; done

vulns: ## known vulnerabilities in what is called; says so where their database cannot be reached
	go build -modfile=tools/go.mod -o bin/govulncheck golang.org/x/vuln/cmd/govulncheck
	scripts/vulns.sh

examples: build ## the example clients, against the sandbox
	go build -C sandbox -o ../bin/sandbox .
	examples/run.sh

emulated: ## the main path on other processors; needs qemu-user-static and binfmt
	for arch in arm64 arm 386 riscv64; do GOARM=6 GOARCH=$$arch go build -ldflags '$(LDFLAGS)' -o bin/$$arch/honeydew . && \
	  ln -sf honeydew bin/$$arch/daemon && bin/$$arch/honeydew version && HONEYDEW_BIN=$(CURDIR)/bin/$$arch/honeydew \
	  go test -C sandbox -count=1 -run 'TestScripts/(start|login|provider|jobs|kill)$$' . || exit 1; done

audit: ## the figures, the reading order, and every place that touches the outside or a secret
	scripts/audit.sh

picture: build ## session.svg for the README, from a real session
	go build -C sandbox -o ../bin/sandbox .
	scripts/picture.sh

dist: ## archives of every platform, reproducible; TARGETS='linux/arm64 ...' for some, SIGN_KEY=FILE to sign their sums
	VERSION='$(VERSION)' LDFLAGS='$(LDFLAGS)' TARGETS='$(TARGETS)' SIGN_KEY='$(SIGN_KEY)' scripts/dist.sh

verify: ## make ARCHIVE=FILE again from the commit that it names, and compare
	scripts/verify.sh "$$ARCHIVE"

fuzz: ## every fuzz target, FUZZTIME each
	for t in $$(go test -list '^Fuzz' . | grep ^Fuzz); do go test -run '^$$' -fuzz "^$$t$$" -fuzztime $${FUZZTIME:-30s} . || exit 1; done

bench:
	go test -run '^$$' -bench . -benchmem .

clean:
	rm -rf bin cover dist

# ── torture/: kills, full disks, broken networks. TORTURE='-seed N' repeats a run ────────────────────────────────────

.PHONY: torture torture-short faults service-test

torture: build ## kill the daemon 500 times at bad moments and hold it to its word; about ten minutes
	go build -C torture -o ../bin/torture .
	bin/torture -bin bin/honeydew -n 500 $(TORTURE)

torture-short: build ## the same with 25 kills, for CI
	go build -C torture -o ../bin/torture .
	timeout 90 bin/torture -bin bin/honeydew -n 25 $(TORTURE)

faults: build ## disks, databases, lifecycle, network, order of system calls; what cannot be tried here says SKIPPED
	HONEYDEW_BIN=$(CURDIR)/bin/honeydew go test -C torture -count=1 -v ./...

service-test: ## README from Verify to Uninstall under a real systemd, in a virtual machine; root, qemu and mmdebstrap
	torture/service.sh
