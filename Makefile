# The commands of the README, and those that a contributor needs.
# Everything is built from the module proxy, Debian's packages and nothing else.

GO       ?= go
VERSION  ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo devel)
LDFLAGS  := -s -w -X main.release=$(VERSION)
BUILD    := CGO_ENABLED=0 $(GO) build -trimpath -ldflags '$(LDFLAGS)'
COUNT    ?= 1
# The frozen module with a CAVP and CMVP record (https://go.dev/doc/security/fips140).
GOFIPS140 ?= v1.0.0

.PHONY: build image bin/image/assay cross plugins pkcs11 fips demo demo-k8s test bench lint e2e fuzz clean

build: ## bin/assay, static
	$(BUILD) -o bin/assay ./cmd/assay

# Which program wraps the build, what it may be told (--server, --subject …), and the
# certificates of the authorities that the image's TLS clients trust.
ASSAY    ?= bin/assay
RUNFLAGS ?=
CERTS    ?= /etc/ssl/certs/ca-certificates.crt

image: $(ASSAY) ## Assay's own image, built, described, signed and pushed by Assay: make image IMAGE=HOST/REPOSITORY:TAG
	@test -n "$(IMAGE)" || { echo "want IMAGE=HOST/REPOSITORY:TAG" >&2; exit 64; }
	$(ASSAY) run $(RUNFLAGS) --materials go.mod,go.sum --products bin/image/assay --image $(IMAGE) --image-certs $(CERTS) -- $(MAKE) --no-print-directory bin/image/assay

bin/assay:
	$(BUILD) -o $@ ./cmd/assay

bin/image/assay: # anew each time: go build knows what changed
	$(BUILD) -o $@ ./cmd/assay

cross: ## the server for linux/arm64, the command line for macOS and Windows
	GOOS=linux GOARCH=arm64 $(BUILD) -o bin/assay-linux-arm64 ./cmd/assay
	GOOS=darwin GOARCH=arm64 $(BUILD) -o bin/assay-darwin-arm64 ./cmd/assay
	GOOS=windows GOARCH=amd64 $(BUILD) -o bin/assay-windows-amd64.exe ./cmd/assay

plugins: ## the executables for keys of AWS, GCP, Azure and Vault: bin/sigstore-kms-*
	mkdir -p bin && cp -- "$$(tools/install.sh kms-plugins)"/sigstore-kms-* bin/

pkcs11: ## bin/assay-pkcs11, with PKCS #11 tokens: needs a C compiler and links libc
	CGO_ENABLED=1 $(GO) build -tags pkcs11 -trimpath -ldflags '$(LDFLAGS)' -o bin/assay-pkcs11 ./cmd/assay

fips: ## bin/assay-fips, with Go's FIPS 140-3 module, which is in force by default
	GOFIPS140=$(GOFIPS140) $(BUILD) -o bin/assay-fips ./cmd/assay

demo: build ## the main flow on real input; bin/demo.json is its summary
	$(GO) run ./examples/demo -assay bin/assay -out bin/demo.json

demo-k8s: build ## what may run in a real Kubernetes control plane, and what not
	PATH="$$(tools/install.sh kubernetes):$$PATH" $(GO) run ./examples/kubernetes -assay bin/assay

test: ## every package, on SQLite and on a throwaway PostgreSQL
	PATH="$$(tools/install.sh postgresql):$$PATH" $(GO) test -count=$(COUNT) ./...

e2e: build fips pkcs11 ## real clients against the real binary
	PATH="$$(tools/install.sh versitygw):$$PATH" ASSAY_REQUIRE_S3=1 $(GO) test -count=1 ./blob/s3/... ./backup ./registry/retention
	PATH="$$(tools/install.sh softhsm2):$$PATH" ASSAY_REQUIRE_SOFTHSM=1 CGO_ENABLED=1 $(GO) test -tags pkcs11 -count=1 ./internal/keyring/...
	PATH="$$(tools/install.sh cosign crane oras skopeo conformance postgresql litewitness versitygw kms-plugins transit softhsm2 actionlint shellcheck olareg distribution osv-scanner govulncheck kubernetes helm playwright otelcol):$$PATH" ASSAY_REQUIRE_S3=1 \
		ASSAY_FIPS_BIN=$(CURDIR)/bin/assay-fips ASSAY_PKCS11_BIN=$(CURDIR)/bin/assay-pkcs11 \
		ASSAY_BIN=$(CURDIR)/bin/assay $(GO) test -tags e2e -count=1 -timeout 30m ./e2e/...

bench: build ## figures as JSON lines in bin/bench.json; compare, do not quote
	PATH="$$(tools/install.sh olareg distribution osv-scanner govulncheck):$$PATH" \
		$(GO) run ./bench -assay bin/assay -out bin/bench.json

lint: ## gofmt, vet and the linters of .golangci.yml
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "gofmt these:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet -tags e2e ./...
	PATH="$$(tools/install.sh golangci-lint):$$PATH" golangci-lint run

fuzz: ## each fuzz target for FUZZTIME (10s)
	@for pkg in $$($(GO) list ./...); do \
		for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
			$(GO) test -run '^$$' -fuzz "^$$target\$$" -fuzztime $(or $(FUZZTIME),10s) $$pkg || exit 1; \
		done; \
	done

clean:
	rm -rf bin
