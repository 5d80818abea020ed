// Kindless is the parts of a Kubernetes in one program, which share most of their
// code: the first argument says which part to be. Built with the tag quick it has
// only what an API server needs.
package main

import (
	"fmt"
	"maps"
	"os"
	"slices"
	_ "time/tzdata"

	"go.etcd.io/etcd/server/v3/etcdmain"
	_ "k8s.io/client-go/plugin/pkg/client/auth"
	"k8s.io/component-base/cli"
	"k8s.io/component-base/logs"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
)

// parts returns the exit code of each part.
var parts = map[string]func() int{
	"etcd":           func() int { etcdmain.Main(os.Args); return 0 },
	"kube-apiserver": func() int { return cli.Run(apiserver.NewAPIServerCommand()) },
	"kubectl": func() int {
		_, _ = logs.GlogSetter(cmd.GetLogVerbosity(os.Args)) // it has no other place to say what is wrong
		if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
			util.CheckErr(err)
		}
		return 0
	},
}

func main() {
	if len(os.Args) > 1 && parts[os.Args[1]] != nil {
		os.Args = os.Args[1:]
		os.Exit(parts[os.Args[0]]())
	}
	fmt.Fprintf(os.Stderr, "usage: kindless PART [ARGUMENT…], where PART is one of %v\n", slices.Sorted(maps.Keys(parts)))
	os.Exit(2)
}
