# make         a static, stripped binary for this machine
# make demo    what a restart loses without drainit and with it, measured
# make clients what clients lose behind real servers, before and now: docs/clients.md
# make proof   restarts real servers behind real balancers; writes docs/proof.md
#              (25 minutes; Debian, root); proof-quick (2 minutes) checks the rows
#              that lose nothing, proof-mutants that the rig would notice,
#              proof-kubernetes does it in the cluster that kubectl points at
# make test    installs what the tests need (Debian, root) and runs all of them
# make test-kernels test-arches test-gvisor
#              the same on Debian's kernels in emulated machines, on other
#              architectures, in gVisor; test-elsewhere is a short form (minutes)
# make bench   what it costs beside other inits, into docs/cost.md (minutes, root)
# make soak    one long run, into docs: make soak FOR=2h
# make lint    format, vet for all architectures, tidy, staticcheck, errorlint
# make release VERSION=v1.2.3
#              what a release publishes, into dist/; HEAD's, not the worktree's;
#              release-test (Debian, root) installs it, pulls it, builds it again

GO ?= go

# Without cgo the binary is static. disablethp keeps transparent huge pages out of
# the heap: where the kernel gives them to all ("always", as Debian and Red Hat
# have it), drainit had 4.4 MB of anonymous memory in place of 1.1. Only the linker
# can set that for every start: go.mod and "go:debug" do not know it, and GODEBUG
# would be the server's as well.
LDFLAGS = -s -w -X runtime.godebugDefault=disablethp=1
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'

# Two small linters and a test (imports_test.go) in place of golangci-lint, which
# would take CI longer to build than to test everything.
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOVULNCHECK = golang.org/x/vuln/cmd/govulncheck@v1.9.0
# A == on an error misses the one that a later change wraps.
ERRORLINT = github.com/polyfloyd/go-errorlint@v1.8.0

# Modules of their own, so that what they need is not in the binary's go.mod.
MODULES = clients proof release

# Besides this machine's: raw system calls, unsafe and byte order are where an
# architecture differs. 386 and arm have 32 bits, s390x is big-endian.
ARCHES = 386 arm arm64 riscv64 s390x

# What `make clients` measures beside this tree, which cases, and how often.
BEFORE ?= 0e188c0
RUN ?= .
RUNS ?= 1

.PHONY: bench soak test-kernels test-arches test-gvisor test-elsewhere drainit demo proof proof-quick proof-mutants proof-kubernetes clients test lint vulnerabilities fuzz release release-test clean

drainit:
	$(BUILD) -o $@ .

demo:
	@echo "compiling the demo"
	@CGO_ENABLED=0 $(GO) run -trimpath ./examples/demo

clients: drainit
	scripts/clients-setup
	@old=$$(mktemp -d) && trap 'rm -rf $$old' EXIT && mkdir $$old/tree && \
	git archive $(BEFORE) | tar -x -C $$old/tree && \
	(cd $$old/tree && $(BUILD) -buildvcs=false -o $$old/drainit .) && \
	cd clients && $(GO) run . -before $$old/drainit -drainit ../drainit -run '$(RUN)' -n $(RUNS) $(CLIENTSFLAGS)

proof:
	proof/setup
	cd proof && $(GO) run . run

proof-quick proof-mutants proof-kubernetes:
	proof/setup
	cd proof && $(GO) run . $(@:proof-%=%)

test:
	scripts/test-setup
	$(GO) test -race -count=1 -timeout 25m ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted (gofmt -w):"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...
	$(GO) run $(ERRORLINT) ./...
	for m in $(MODULES); do (cd $$m && $(GO) vet ./...) || exit 1; done
	for a in $(ARCHES); do GOOS=linux GOARCH=$$a CGO_ENABLED=0 $(GO) vet ./... || exit 1; done

# Needs vuln.go.dev, so it is not part of lint.
vulnerabilities:
	$(GO) run $(GOVULNCHECK) ./...

test-kernels test-arches test-gvisor:
	scripts/$@

test-elsewhere:
	scripts/test-arches arm64
	scripts/test-kernels short

# Needs gcc, strace, and the other inits; a machine with nothing else to do.
bench:
	$(GO) run ./bench -docs docs

FOR ?= 1h
soak:
	$(GO) run ./bench soak -for $(FOR) -docs docs

# Each fuzz target for a minute.
fuzz:
	set -e; for t in $$(grep -ro --include='*_test.go' '^func Fuzz[A-Za-z]*' . | sed 's/:func /:/'); do \
		$(GO) test -run '^$$' -fuzz "^$${t#*:}$$" -fuzztime 60s -fuzzminimizetime 10x "$$(dirname "$${t%:*}")"; done

release:
	cd release && $(GO) run . -version '$(VERSION)'

release-test:
	release/test-setup
	cd release && $(GO) test -count=1 -timeout 60m ./...

clean:
	rm -rf drainit dist
