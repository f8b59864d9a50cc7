//go:build tools

// Package tools names the programs of this set, so that go.mod lists their modules.
package tools

import (
	_ "github.com/coredns/coredns"
)
