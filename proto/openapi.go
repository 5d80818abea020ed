// Package proto is the contract between clients, edges, control and backends:
// PROTOCOL.md, BUS.md, and what follows from them in code.
package proto

import _ "embed"

//go:generate go test . -run Generated -update

// OpenAPI describes control's HTTP API (OpenAPI 3.1).
//
//go:embed openapi.yaml
var OpenAPI []byte
