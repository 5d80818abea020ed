# The tasks of this repository. `make` alone lists them.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
FUZZTIME    ?= 10s
BENCH       ?= .
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.DEFAULT_GOAL := help
.PHONY: help build dev test race one lint fmt fuzz bench e2e browser ci clean

help: ## List the tasks
	@awk -F ':.*## ' '/^[a-z0-9_-]+:.*## / { printf "  %-9s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

build: ## Build bin/nabat
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "-s -w -X main.version=$(VERSION)" -o bin/nabat ./deploy/nabat

dev: ## Run NATS, control and an edge in one process
	$(GO) run ./deploy/nabat dev

test: ## Run the tests
	$(GO) test ./...

race: ## Run the tests under the race detector
	$(GO) test -race ./...

one: ## Run the edge's and the end-to-end tests on one processor
	GOMAXPROCS=1 $(GO) test ./edge/... ./deploy/...

lint: ## gofmt, go vet, staticcheck
	@bad="$$(gofmt -l $$(git ls-files '*.go'))"; test -z "$$bad" || { echo "not gofmt'ed:"; echo "$$bad"; exit 1; }
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

fmt: ## Format the Go files
	gofmt -w $$(git ls-files '*.go')

fuzz: ## Run every fuzz target for FUZZTIME (10s)
	.ci/fuzz $(FUZZTIME)

bench: ## Run the benchmarks that match BENCH (all)
	$(GO) test -run '^$$' -bench '$(BENCH)' -benchmem ./...

e2e: ## Run the end-to-end tests, in the browser too
	NABAT_BROWSER=required $(GO) test -count=1 ./deploy/...

browser: ## Run the tests that need a browser
	.ci/run browser

ci: ## Everything that must be green before a change is merged
	.ci/run

clean: ## Remove what was built
	rm -rf bin dist
