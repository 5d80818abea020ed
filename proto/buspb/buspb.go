// Package buspb is bus.proto as Go code: what edges report to control.
package buspb
