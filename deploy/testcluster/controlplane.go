package main

import (
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"os"
	"path/filepath"
	"time"
)

// kubeconfig writes who is who: a name, an address and a token.
func writeKubeconfig(file, server, token string) error {
	text := fmt.Sprintf(`apiVersion: v1
kind: Config
clusters: [{name: c, cluster: {server: %q, insecure-skip-tls-verify: true}}]
users: [{name: u, user: {token: %s}}]
contexts: [{name: c, context: {cluster: c, user: u}}]
current-context: c
`, server, token)
	return os.WriteFile(file, []byte(text), 0o600)
}

// api is an etcd and an API server.
type api struct {
	dir       string // of all files
	kindless  string
	prefix    []string // of commands, to enter a namespace
	address   string   // where the server listens
	advertise string
	port      string
	etcd      [2]string // ports of etcd
	token     string    // of the administrator
	tokens    string    // more lines of the token file
	more      []string  // arguments of the server
}

// args are the arguments of the two programs.
func (a *api) args() (etcd, server []string) {
	client, peer := "http://127.0.0.1:"+a.etcd[0], "http://127.0.0.1:"+a.etcd[1]
	etcd = []string{a.kindless, "etcd", "--data-dir", filepath.Join(a.dir, "etcd"), "--listen-client-urls", client, "--advertise-client-urls", client,
		"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "default=" + peer, "--unsafe-no-fsync", "--log-level", "warn"}
	key := filepath.Join(a.dir, "sa.key")
	server = []string{a.kindless, "kube-apiserver", "--etcd-servers=" + client, "--bind-address=" + a.address, "--secure-port=" + a.port,
		"--advertise-address=" + a.advertise, "--cert-dir=" + filepath.Join(a.dir, "pki"), "--service-cluster-ip-range=" + serviceNet,
		"--service-account-issuer=https://kubernetes.default.svc.cluster.local", "--service-account-key-file=" + key,
		"--service-account-signing-key-file=" + key, "--authorization-mode=Node,RBAC", "--token-auth-file=" + filepath.Join(a.dir, "tokens"),
		"--allow-privileged=true", "--kubelet-preferred-address-types=InternalIP", "--enable-admission-plugins=NodeRestriction"}
	return etcd, append(server, a.more...)
}

// start runs both and returns when the server is ready.
func (a *api) start(run func(name string, argv ...string) (*process, error)) error {
	key, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		return err
	}
	text := pem.EncodeToMemory(&pem.Block{Type: "RSA PRIVATE KEY", Bytes: x509.MarshalPKCS1PrivateKey(key)})
	if err := os.WriteFile(filepath.Join(a.dir, "sa.key"), text, 0o600); err != nil {
		return err
	}
	tokens := a.token + ",admin,admin,\"system:masters\"\n" + a.tokens
	if err := os.WriteFile(filepath.Join(a.dir, "tokens"), []byte(tokens), 0o600); err != nil {
		return err
	}
	config := filepath.Join(a.dir, "admin.kubeconfig")
	if err := writeKubeconfig(config, "https://"+a.advertise+":"+a.port, a.token); err != nil {
		return err
	}
	etcd, server := a.args()
	for name, argv := range map[string][]string{"etcd": etcd, "kube-apiserver": server} {
		if _, err := run(name, argv...); err != nil {
			return err
		}
	}
	return within(3*time.Minute, "the API server", func() error {
		_, err := do(append(append([]string{}, a.prefix...), a.kindless, "kubectl", "--kubeconfig", config, "get", "--raw", "/readyz")...)
		return err
	}, nil)
}

// startControlPlane runs what stands beside the nodes.
func (c *cluster) startControlPlane() error {
	a := &api{dir: c.dir, kindless: c.tool("kindless"), prefix: enter(routerNS), address: "0.0.0.0", advertise: routerIP, port: "6443",
		etcd: [2]string{"2379", "2380"}, token: c.token}
	for i := 1; i <= c.size; i++ {
		a.tokens += fmt.Sprintf("%s,system:node:%s,%s,\"system:nodes\"\n", c.nodeToken(i), nodeName(i), nodeName(i))
		if err := writeKubeconfig(filepath.Join(c.dir, nodeName(i)+".kubeconfig"), apiserver, c.nodeToken(i)); err != nil {
			return err
		}
	}
	if err := a.start(c.start); err != nil {
		return err
	}
	corefile := filepath.Join(c.dir, "Corefile")
	zones := ".:53 {\n bind " + routerIP + "\n errors\n kubernetes cluster.local in-addr.arpa ip6.arpa {\n  kubeconfig " + c.kubeconfig() +
		" c\n  pods insecure\n  ttl 5\n }\n cache 5\n}\n"
	proxy := filepath.Join(c.dir, "proxy.yaml")
	if err := os.WriteFile(corefile, []byte(zones), 0o644); err != nil {
		return err
	}
	if err := os.WriteFile(proxy, []byte(proxyConfig(c.kubeconfig(), routerIP, nodeName(1))), 0o644); err != nil {
		return err
	}
	kindless, config := c.tool("kindless"), "--kubeconfig="+c.kubeconfig()
	for name, argv := range map[string][]string{
		"kube-controller-manager": {kindless, "kube-controller-manager", config, "--leader-elect=false", "--use-service-account-credentials=true",
			"--service-account-private-key-file=" + filepath.Join(c.dir, "sa.key"), "--root-ca-file=" + filepath.Join(c.dir, "pki", "apiserver.crt"),
			"--allocate-node-cidrs=false", "--node-monitor-grace-period=20s", "--bind-address=127.0.0.1"},
		"kube-scheduler": {kindless, "kube-scheduler", config, "--leader-elect=false", "--bind-address=127.0.0.1"},
		"coredns":        {c.tool("coredns"), "-conf", corefile},
		// The clients of the test reach services by this one.
		"kube-proxy": {kindless, "kube-proxy", "--config=" + proxy},
	} {
		if _, err := c.start(name, argv...); err != nil {
			return err
		}
	}
	return within(3*time.Minute, "the default service account", func() error {
		_, err := c.kubectl("get", "serviceaccount", "default")
		return err
	}, c.alive)
}

// proxyConfig is a kube-proxy that needs nothing of the machine but nftables.
func proxyConfig(kubeconfig, address, name string) string {
	return fmt.Sprintf(`apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
bindAddress: %s
hostnameOverride: %s
healthzBindAddress: 127.0.0.1:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: %s}
clusterCIDR: %s
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nftables: {minSyncPeriod: 100ms}
`, address, name, kubeconfig, podNetwork)
}
