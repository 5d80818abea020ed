# The tasks of this repository. `make` alone lists them.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.7.0
FUZZTIME    ?= 10s
BENCH       ?= .
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)

.DEFAULT_GOAL := help
.PHONY: help build dev test race one lint fmt fuzz bench system e2e cluster image browser ci clean

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

system: ## Run the tests of the whole system, in the browser too
	NABAT_BROWSER=required $(GO) test -count=1 ./deploy/...

e2e: ## Install the chart in a real Kubernetes and hold it to its promises (as root)
	cd deploy/testcluster && $(GO) run . e2e

cluster: ## Hold the chart against a Kubernetes API server
	cd deploy/testcluster && $(GO) run . quick

image: ## Write the container image dist/nabat.tar, and what is in it
	mkdir -p dist
	cd deploy/image && $(GO) run . -o ../../dist/nabat.tar -version "$(VERSION)" -tag "nabat:$(VERSION)"

browser: ## Run the tests that need a browser
	.ci/run browser

ci: ## Everything that must be green before a change is merged
	.ci/run

clean: ## Remove what was built
	rm -rf bin dist
