package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// cluster is a Kubernetes that runs.
type cluster struct {
	// Set by up, never changed.
	dir, bin, images string
	size             int    // nodes
	token            string // of the administrator
	lock             *os.File

	processes []*process // in the order of their start; nodes are the last
}

// up builds what is missing, Nabat's image from root among it, and starts a
// cluster with so many nodes. What an earlier one left behind is removed first.
func up(ctx context.Context, root string, size int) (c *cluster, err error) {
	if err := needed(); err != nil {
		return nil, err
	}
	if size < 1 || size > 9 {
		return nil, fmt.Errorf("%d nodes: must be 1 to 9", size)
	}
	kept, err := cache()
	if err != nil {
		return nil, err
	}
	b := &builder{cache: kept, say: say}
	if err := b.build(ctx, everything); err != nil {
		return nil, err
	}
	c = &cluster{dir: filepath.Join(kept, "run"), bin: b.bin(), images: filepath.Join(kept, "images"), size: size, token: rand.Text()}
	if err := c.claim(kept); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, c.down())
		}
	}()
	if err := c.prepare(root); err != nil {
		return nil, err
	}
	return c, c.boot(ctx)
}

// claim takes the lock of all clusters of this machine: they share names.
func (c *cluster) claim(dir string) error {
	file, err := os.OpenFile(filepath.Join(os.TempDir(), "nabat-testcluster.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return errors.Join(errors.New("another test cluster runs on this machine"), file.Close())
	}
	c.lock = file
	return nil
}

// prepare makes files, folders and images anew.
func (c *cluster) prepare(root string) error {
	if err := c.clean(); err != nil {
		return err
	}
	for _, dir := range []string{c.logs(), c.images} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	begin := time.Now()
	digest, err := buildImage(root, filepath.Join(c.images, "nabat.tar"))
	if err != nil {
		return err
	}
	say("image %s, built in %s", digest, time.Since(begin).Round(time.Second))
	return pauseImage(filepath.Join(c.images, "pause.tar"), c.tool("pause"))
}

func (c *cluster) boot(ctx context.Context) error {
	begin := time.Now()
	if err := makeRouter(); err != nil {
		return err
	}
	if err := c.startControlPlane(); err != nil {
		return err
	}
	say("control plane after %s", time.Since(begin).Round(100*time.Millisecond))
	for i := 1; i <= c.size; i++ {
		if err := c.startNode(i); err != nil {
			return err
		}
	}
	for i := 1; i <= c.size && ctx.Err() == nil; i++ {
		err := within(4*time.Minute, "node "+nodeName(i), func() error {
			out, err := c.kubectl("get", "node", nodeName(i), "-o", `jsonpath={.status.conditions[?(@.type=="Ready")].status}`)
			if err == nil && out != "True" {
				err = errNotYet
			}
			return err
		}, c.alive)
		if err != nil {
			return err
		}
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	argv := []string{self, "-policy", c.token}
	for i := 1; i <= c.size; i++ {
		argv = append(argv, nodeNS(i))
	}
	if _, err := c.start("policy", argv...); err != nil {
		return err
	}
	if err := c.makeVolumes(); err != nil {
		return err
	}
	say("%d nodes ready after %s", c.size, time.Since(begin).Round(100*time.Millisecond))
	return ctx.Err()
}

// start runs a program in the namespace of the control plane.
func (c *cluster) start(name string, argv ...string) (*process, error) {
	p, err := launch(name, c.logs(), command(append(enter(routerNS), argv...)...))
	if err == nil {
		c.processes = append(c.processes, p)
	}
	return p, err
}

// alive fails when a part has ended that should not.
func (c *cluster) alive() error {
	for _, p := range c.processes {
		if err := p.ended(); err != nil {
			return err
		}
	}
	return nil
}

// makeVolumes provides volumes that every node reaches, as those of a network
// storage: the nodes share a disk.
func (c *cluster) makeVolumes() error {
	text := "apiVersion: storage.k8s.io/v1\nkind: StorageClass\nmetadata: {name: shared, annotations: {storageclass.kubernetes.io/is-default-class: \"true\"}}\n" +
		"provisioner: kubernetes.io/no-provisioner\nvolumeBindingMode: WaitForFirstConsumer\n"
	for i := range 6 {
		dir := filepath.Join(c.dir, "volumes", fmt.Sprint(i))
		// Kubernetes changes no owner of such a volume: whoever comes may write.
		if err := errors.Join(os.MkdirAll(dir, 0o777), os.Chmod(dir, 0o777)); err != nil {
			return err
		}
		text += fmt.Sprintf("---\napiVersion: v1\nkind: PersistentVolume\nmetadata: {name: shared-%d}\nspec: {capacity: {storage: 20Gi}, accessModes: [ReadWriteOnce], "+
			"persistentVolumeReclaimPolicy: Retain, storageClassName: shared, hostPath: {path: %q}}\n", i, dir)
	}
	return c.apply(text)
}

// down ends everything and removes every trace but the logs.
func (c *cluster) down() error {
	for _, p := range slices.Backward(c.processes) {
		if strings.HasPrefix(p.name, "node-") {
			p.kill() // its processes die with their first, their mounts with them
			continue
		}
		p.stop(3 * time.Second)
	}
	c.processes = nil
	return errors.Join(c.clean(), c.lock.Close())
}

// clean removes namespaces, control groups and files; logs are kept as logs.old.
func (c *cluster) clean() error {
	errs := []error{removeNamespace(routerNS)}
	for i := 1; i <= 9; i++ {
		errs = append(errs, removeNamespace(nodeNS(i)), removeGroups(nodeNS(i)))
	}
	old := filepath.Join(filepath.Dir(c.dir), "logs.old")
	if _, err := os.Stat(c.logs()); err == nil {
		errs = append(errs, os.RemoveAll(old), os.Rename(c.logs(), old))
	}
	return errors.Join(append(errs, os.RemoveAll(c.dir))...)
}

func (c *cluster) logs() string            { return filepath.Join(c.dir, "logs") }
func (c *cluster) kubeconfig() string      { return filepath.Join(c.dir, "admin.kubeconfig") }
func (c *cluster) tool(name string) string { return filepath.Join(c.bin, name) }

// inside is a command line that runs in the cluster's network.
func (c *cluster) inside(argv ...string) string {
	return strings.Join(append(enter(routerNS), argv...), " ")
}

func (c *cluster) kubectl(args ...string) (string, error) { return c.kubectlWith("", args...) }

func (c *cluster) kubectlWith(input string, args ...string) (string, error) {
	return feed(input, append(append(enter(routerNS), c.tool("kindless"), "kubectl", "--kubeconfig", c.kubeconfig()), args...)...)
}

func (c *cluster) apply(text string) error {
	_, err := c.kubectlWith(text, "apply", "-f", "-")
	return err
}

func (c *cluster) helm(args ...string) (string, error) {
	home := filepath.Join(c.dir, "helm") // settings of the person are not ours
	return do(append(append([]string{"env", "HELM_CACHE_HOME=" + home, "HELM_CONFIG_HOME=" + home, "HELM_DATA_HOME=" + home}, enter(routerNS)...),
		append([]string{c.tool("helm"), "--kubeconfig", c.kubeconfig()}, args...)...)...)
}
