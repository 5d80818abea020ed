// Package clientpb is client.proto as Go code, for programs that speak
// nabat.v1.proto. The edge writes and reads it by hand (proto/wire), and is
// tested against this.
package clientpb

//go:generate go test . -run Vectors -update
