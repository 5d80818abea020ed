package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// reaper starts programs and waits for whatever ends, as the first process of a
// namespace has to: orphans become its children.
type reaper struct {
	mu    sync.Mutex                      // guards ended
	ended map[int]chan syscall.WaitStatus // of programs that start started
}

// start runs argv with its output in file.
func (r *reaper) start(file string, argv ...string) (<-chan syscall.WaitStatus, error) {
	out, err := os.Create(file)
	if err != nil {
		return nil, err
	}
	defer func() { _ = out.Close() }() // the program has its own
	r.mu.Lock()                        // reap must not be faster than the note
	defer r.mu.Unlock()
	p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{nil, out, out}})
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", argv[0], err)
	}
	end := make(chan syscall.WaitStatus, 1)
	r.ended[p.Pid] = end
	return end, nil
}

// reap waits for children for ever.
func (r *reaper) reap() {
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err != nil { // none is there
			time.Sleep(50 * time.Millisecond)
			continue
		}
		r.mu.Lock()
		if end := r.ended[pid]; end != nil {
			end <- status
			delete(r.ended, pid)
		}
		r.mu.Unlock()
	}
}

// beNode is the first process of a node. It returns only with an error.
func beNode(_ context.Context, args []string) error {
	var s nodeSpec
	if len(args) != 1 || os.Getpid() != 1 {
		return errors.New("-node is for the first process of a node")
	}
	if err := json.Unmarshal([]byte(args[0]), &s); err != nil {
		return err
	}
	if err := s.see(); err != nil {
		return err
	}
	path := s.Bin + ":" + os.Getenv("PATH")
	if err := os.Setenv("PATH", path); err != nil {
		return err
	}
	r := &reaper{ended: make(map[int]chan syscall.WaitStatus)}
	go r.reap()
	log := func(name string) string { return filepath.Join(s.Dir, "logs", name+".log") }
	tool := func(name string) string { return filepath.Join(s.Bin, name) }

	containerd, err := r.start(log("containerd"), tool("containerd"), "-c", filepath.Join(s.Dir, "containerd.toml"))
	if err != nil {
		return err
	}
	if err := s.load(r, tool("ctr"), log("import")); err != nil {
		return err
	}
	proxy, err := r.start(log("kube-proxy"), tool("kindless"), "kube-proxy", "--config="+filepath.Join(s.Dir, "proxy.yaml"))
	if err != nil {
		return err
	}
	kubelet, err := r.start(log("kubelet"), tool("kindless"), "kubelet", "--config="+filepath.Join(s.Dir, "kubelet.yaml"), "--kubeconfig="+s.Kubeconfig,
		"--hostname-override="+s.Name, "--node-ip="+s.IP, "--root-dir="+filepath.Join(s.Dir, "kubelet"), "--cert-dir="+filepath.Join(s.Dir, "kubelet", "pki"),
		"--node-labels=topology.kubernetes.io/zone=zone-"+s.Name)
	if err != nil {
		return err
	}
	select {
	case <-containerd:
		return fmt.Errorf("containerd has ended: %s", tail(log("containerd")))
	case <-proxy:
		return fmt.Errorf("kube-proxy has ended: %s", tail(log("kube-proxy")))
	case <-kubelet:
		return fmt.Errorf("kubelet has ended: %s", tail(log("kubelet")))
	}
}

// see makes the node's view of the machine: its own processes, name and values.
func (s *nodeSpec) see() error {
	// What is mounted here must not reach the machine, but the node's containers.
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := syscall.Mount("", "/", "", syscall.MS_REC|syscall.MS_SHARED, ""); err != nil {
		return fmt.Errorf("share mounts: %w", err)
	}
	if err := syscall.Mount("proc", "/proc", "proc", syscall.MS_NOSUID|syscall.MS_NODEV|syscall.MS_NOEXEC, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := syscall.Sethostname([]byte(s.Name)); err != nil {
		return fmt.Errorf("set the name: %w", err)
	}
	for name, value := range s.Values {
		file := filepath.Join(s.Dir, "sys-"+strings.ReplaceAll(name, "/", "-"))
		if err := os.WriteFile(file, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := syscall.Mount(file, filepath.Join("/proc/sys", name), "", syscall.MS_BIND, ""); err != nil {
			return fmt.Errorf("show %s: %w", name, err)
		}
	}
	return nil
}

// load waits for containerd and gives it the images.
func (s *nodeSpec) load(r *reaper, ctr, log string) error {
	socket := filepath.Join(s.Dir, "c.sock")
	err := within(2*time.Minute, "containerd", func() error {
		conn, err := net.Dial("unix", socket)
		if err == nil {
			err = conn.Close()
		}
		return err
	}, nil)
	if err != nil {
		return err
	}
	images, err := filepath.Glob(filepath.Join(s.Images, "*.tar"))
	if err != nil {
		return err
	}
	for _, image := range images {
		end, err := r.start(log, ctr, "-a", socket, "-n", "k8s.io", "images", "import", image)
		if err != nil {
			return err
		}
		if status := <-end; status != 0 {
			return fmt.Errorf("load %s: %s", image, tail(log))
		}
	}
	return nil
}
