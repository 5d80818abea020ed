package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// nodeSpec is what a node is told: it is given on the command line.
type nodeSpec struct {
	Name       string
	IP         string
	Dir        string // of the node's files
	Bin        string
	Images     string // folder of images to load
	Kubeconfig string
	Values     map[string]string // of files below /proc/sys, as the node shall see them
}

func command(argv ...string) *exec.Cmd { return exec.Command(argv[0], argv[1:]...) }

func (c *cluster) nodeToken(i int) string { return fmt.Sprintf("%s-%d", c.token, i) }

// startNode runs node i: containerd, kubelet and kube-proxy, in namespaces of
// their own.
func (c *cluster) startNode(i int) error {
	spec := nodeSpec{Name: nodeName(i), IP: nodeIP(i), Dir: filepath.Join(c.dir, nodeName(i)), Bin: c.bin, Images: c.images,
		Kubeconfig: filepath.Join(c.dir, nodeName(i)+".kubeconfig"),
		// kubelet would set these for the whole machine.
		Values: map[string]string{"vm/overcommit_memory": "1", "kernel/panic": "10", "kernel/panic_on_oops": "1"}}
	if err := makeNode(i); err != nil {
		return err
	}
	if err := makeGroups(nodeNS(i)); err != nil {
		return err
	}
	if err := c.nodeFiles(i, spec.Dir); err != nil {
		return err
	}
	text, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	// The first process of the namespace of processes: all others die with it.
	cmd := command(append(enter(nodeNS(i)), self, "-node", string(text))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC}
	p, err := launch("node-"+spec.Name, c.logs(), cmd)
	if err == nil {
		c.processes = append(c.processes, p)
	}
	return err
}

// nodeFiles writes the settings of a node's programs.
func (c *cluster) nodeFiles(i int, dir string) error {
	runc, err := exec.LookPath("runc")
	if err != nil {
		return err
	}
	for name, text := range map[string]string{
		"cni/10-test.conflist": fmt.Sprintf(`{"cniVersion":"1.0.0","name":"test","plugins":[{"type":"bridge","bridge":"cni0","isGateway":true,"ipMasq":false,"hairpinMode":true,
 "ipam":{"type":"host-local","dataDir":"%s/cnidata","ranges":[[{"subnet":"%s"}]],"routes":[{"dst":"0.0.0.0/0"}]}}]}`, dir, podSubnet(i)),
		"containerd.toml": containerdConfig(dir, runc, c.bin),
		"kubelet.yaml":    kubeletConfig(dir, nodeNS(i)),
		"resolv.conf":     "nameserver " + dnsAddress + "\n",
		"proxy.yaml":      proxyConfig(c.kubeconfig(), "0.0.0.0", nodeName(i)),
		"logs/.keep":      "",
	} {
		file := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

func containerdConfig(dir, runc, bin string) string {
	return fmt.Sprintf(`version = 3
root = '%[1]s/containerd'
state = '%[1]s/state'
disabled_plugins = ['io.containerd.nri.v1.nri','io.containerd.internal.v1.tracing','io.containerd.tracing.processor.v1.otlp','io.containerd.snapshotter.v1.erofs','io.containerd.snapshotter.v1.blockfile']
imports = []
[grpc]
  address = '%[1]s/c.sock'
[ttrpc]
  address = '%[1]s/c.ttrpc.sock'
[metrics]
  address = ''
[plugins.'io.containerd.internal.v1.opt']
  path = '%[1]s/opt'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = '%[4]s'
[plugins.'io.containerd.cri.v1.runtime']
  netns_mounts_under_state_dir = true
  disable_apparmor = true
  restrict_oom_score_adj = true
  [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
    runtime_type = 'io.containerd.runc.v2'
    [plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
      BinaryName = '%[2]s'
  [plugins.'io.containerd.cri.v1.runtime'.cni]
    bin_dirs = ['%[3]s']
    conf_dir = '%[1]s/cni'
[plugins.'io.containerd.metadata.v1.bolt']
  no_sync = true
`, dir, runc, bin, pauseName)
}

func kubeletConfig(dir, group string) string {
	return fmt.Sprintf(`apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
authentication: {anonymous: {enabled: true}, webhook: {enabled: false}, x509: {clientCAFile: ""}}
authorization: {mode: AlwaysAllow}
cgroupDriver: cgroupfs
cgroupRoot: /%[2]s
failCgroupV1: false
failSwapOn: false
enforceNodeAllocatable: [pods]
containerRuntimeEndpoint: unix://%[1]s/c.sock
clusterDNS: [%[3]s]
clusterDomain: cluster.local
resolvConf: %[1]s/resolv.conf
evictionHard: {memory.available: "100Mi", nodefs.available: "0%%", imagefs.available: "0%%", nodefs.inodesFree: "0%%", imagefs.inodesFree: "0%%"}
imageGCHighThresholdPercent: 100
nodeStatusUpdateFrequency: 4s
nodeStatusReportFrequency: 5s
volumePluginDir: %[1]s/volplugins
podLogsDir: %[1]s/podlogs
maxPods: 110
`, dir, group, dnsAddress)
}

// makeGroups makes a control group in each hierarchy of the machine.
func makeGroups(name string) error {
	const root = "/sys/fs/cgroup"
	if _, err := os.Stat(filepath.Join(root, "cgroup.controllers")); err == nil { // version 2: one hierarchy
		return os.MkdirAll(filepath.Join(root, name), 0o755)
	}
	hierarchies, err := filepath.Glob(root + "/*/cgroup.procs")
	if err != nil {
		return err
	}
	for _, procs := range hierarchies {
		parent := filepath.Dir(procs)
		if filepath.Base(parent) == "unified" {
			continue
		}
		if err := os.MkdirAll(filepath.Join(parent, name), 0o755); err != nil {
			return err
		}
		for _, file := range []string{"cpuset.cpus", "cpuset.mems"} { // empty at first, and then of no use
			if text, err := os.ReadFile(filepath.Join(parent, file)); err == nil {
				if err := os.WriteFile(filepath.Join(parent, name, file), text, 0o644); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// removeGroups removes what makeGroups made, and what a kubelet made below it.
func removeGroups(name string) error {
	return within(10*time.Second, "the control groups of "+name+" to be empty", func() error {
		left := errNotYet
		groups := func() (dirs []string) {
			for _, pattern := range []string{"/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
				found, _ := filepath.Glob(pattern) // the pattern is fine
				dirs = append(dirs, found...)
			}
			return dirs
		}
		for _, dir := range groups() {
			removeTree(dir)
		}
		if len(groups()) == 0 {
			left = nil
		}
		return left
	}, nil)
}

// removeTree removes folders from the bottom up: control groups have files that
// cannot be removed.
func removeTree(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
	_ = syscall.Rmdir(dir) // busy ones are tried again
}
