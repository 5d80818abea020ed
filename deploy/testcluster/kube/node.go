//go:build !quick

package main

import (
	"context"

	"k8s.io/component-base/cli"
	kcm "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func init() {
	parts["kube-controller-manager"] = func() int { return cli.Run(kcm.NewControllerManagerCommand()) }
	parts["kube-scheduler"] = func() int { return cli.Run(scheduler.NewSchedulerCommand()) }
	parts["kubelet"] = func() int { return cli.Run(kubelet.NewKubeletCommand(context.Background())) }
	parts["kube-proxy"] = func() int { return cli.Run(proxy.NewProxyCommand()) }
}
