# make         a static, stripped binary for this machine
# make demo    what a restart loses without drainit and with it, measured
# make clients what clients lose behind real servers, before and now: docs/clients.md
# make test    installs what the tests need (Debian, root) and runs all of them
# make lint    format, vet, tidy, staticcheck
# make release VERSION=v1.2.3
#              what a release publishes, into dist/; HEAD's, not the worktree's

GO ?= go

# Without cgo the binary is static.
BUILD = CGO_ENABLED=0 $(GO) build -trimpath -ldflags '-s -w'

STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

# What `make clients` measures beside this tree, which cases, and how often.
BEFORE ?= 0e188c0
RUN ?= .
RUNS ?= 1

.PHONY: drainit demo clients test lint fuzz release clean

drainit:
	$(BUILD) -o $@ .

demo:
	CGO_ENABLED=0 $(GO) run -trimpath ./examples/demo

clients: drainit
	scripts/clients-setup
	@old=$$(mktemp -d) && trap 'rm -rf $$old' EXIT && mkdir $$old/tree && \
	git archive $(BEFORE) | tar -x -C $$old/tree && \
	(cd $$old/tree && $(BUILD) -buildvcs=false -o $$old/drainit .) && \
	cd clients && $(GO) run . -before $$old/drainit -drainit ../drainit -run '$(RUN)' -n $(RUNS) $(CLIENTSFLAGS)

test:
	scripts/test-setup
	$(GO) test -race -count=1 -timeout 25m ./...

lint:
	@test -z "$$(gofmt -l .)" || { echo "not formatted (gofmt -w):"; gofmt -l .; exit 1; }
	$(GO) vet ./...
	$(GO) mod tidy -diff
	$(GO) run $(STATICCHECK) ./...

# Each fuzz target for a minute.
fuzz:
	$(GO) test -run '^$$' -fuzz FuzzParse -fuzztime 60s -fuzzminimizetime 10x ./notify
	$(GO) test -run '^$$' -fuzz FuzzConfig -fuzztime 60s -fuzzminimizetime 10x .
	$(GO) test -run '^$$' -fuzz FuzzRequest -fuzztime 60s -fuzzminimizetime 10x ./health
	for t in FuzzDecodeDump FuzzParseTable FuzzPassiveOpens; do \
		$(GO) test -run '^$$' -fuzz $$t -fuzztime 60s -fuzzminimizetime 10x ./sockets || exit 1; done

release:
	cd release && $(GO) run . -version '$(VERSION)'

clean:
	rm -rf drainit dist
