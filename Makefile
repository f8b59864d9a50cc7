# Short names for what people do here. Each target is one command that can be run by hand.
CLUSTER := tests/cluster/cluster

SEEDS ?= 10000
SECONDS ?= 600

.PHONY: build test unit sim fuzz node conformance demo demo-down bench up down faults storm parity systemd kubeadm static-uids measures nightly deb

build: ## the release binary, target/release/rkubelet
	cargo build --release

deb: build ## the package for Debian and Ubuntu, target/debian/rkubelet_VERSION_ARCH.deb
	tests/tools.sh deb target/debian

test: ## everything: style, unit tests, scenarios, laws, and the cases on real containerd and a real API server
	tests/run

nightly: ## hours: also the whole suites that `test` has samples of; NIGHTLY="conformance faults" picks some
	tests/run nightly

unit: ## what needs neither root nor a cluster
	cargo test --workspace --lib --test it

sim: ## the simulation of a node with many seeds: SEEDS=10000, SIM_FIRST=1
	SEEDS=$(SEEDS) cargo test --profile sim --test it sim::seeds -- --nocapture

measures: ## the code's measures beside other codebases'; BEFORE=COMMIT compares, with samples for readers (AFTER=COMMIT)
	cargo test --test it measures::the_table -- --nocapture

fuzz: ## hostile input: every fuzz target for SECONDS=600, or TARGET="quantity config"; finds are in fuzz/artifacts
	fuzz/run $(SECONDS) $(TARGET)

node: ## only the cases on real parts (root); FOCUS=text picks some
	tests/run node

conformance: ## upstream's e2e_node suite, compared with its verdict about upstream's kubelet; KUBELET=upstream FOCUS= PROCS= PASS=features
	$(if $(filter upstream,$(KUBELET)),,cargo build --release)
	KUBELET='$(KUBELET)' FOCUS='$(FOCUS)' PROCS='$(PROCS)' PASS='$(PASS)' tests/conformance/run

faults: build ## kill -9 at every call, calls that hang, answers lost, peers away; KUBELET=upstream FOCUS=text QUICK=1
	cargo test --test faults

storm: build ## 60 pods stay, 5 come and go each second, 100 kills; STORM_{PODS,RATE,KILLS,SEED}=N
	FOCUS=storm cargo test --test faults

parity: build ## the same manifests through upstream's kubelet and ours, compared by field (root); ARGS="--manifests DIR", FOCUS=text
	cargo test --test parity -- --both $(ARGS)

static-uids: ## the UIDs that upstream's code gives static pods, for the test that compares them
	tests/static-uids

systemd: build ## the README's commands on a node whose init is systemd: upstream's kubelet replaced under a pod, and back
	cargo test --test systemd

kubeadm: build ## kubeadm init, join, certs renew, upgrade node and reset on two hosts with systemd; KUBELET=upstream
	KUBELET='$(or $(KUBELET),ours)' cargo test --test kubeadm

demo: build ## a cluster of one node run by rkubelet, and an application on it
	$(CLUSTER) demo

demo-down:
	$(CLUSTER) demo-down

bench: build ## rkubelet and upstream's kubelet side by side
	tests/bench/run

up: build ## a cluster to play with: make up, then tests/cluster/cluster kubectl get nodes
	$(CLUSTER) up

down:
	$(CLUSTER) down --all
