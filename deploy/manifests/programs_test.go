package manifests

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	corev1 "k8s.io/api/core/v1"
)

// nabat builds the program of the repository.
func nabat(t *testing.T) string {
	t.Helper()
	program := filepath.Join(t.TempDir(), "nabat")
	build := exec.Command("go", "build", "-o", program, "./deploy/nabat")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return program
}

// environment is what a container gets, with the secret's passwords.
func environment(c corev1.Container) []string {
	known := map[string]string{}
	var env []string
	for _, e := range c.Env {
		value := e.Value
		switch {
		case e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil:
			value = "kept" + e.ValueFrom.SecretKeyRef.Key
		case e.ValueFrom != nil:
			value = "rel-nabat-nats-0"
		}
		for name, v := range known {
			value = strings.ReplaceAll(value, "$("+name+")", v)
		}
		known[e.Name] = value
		env = append(env, e.Name+"="+value)
	}
	return env
}

// TestProgramsTakeTheirConfiguration: what the chart writes, the programs read.
func TestProgramsTakeTheirConfiguration(t *testing.T) {
	program := nabat(t)
	for name, v := range cases(t) {
		files := mustRender(t, v)
		pods := podSpecs(t, files)
		for _, part := range []string{"edge", "control"} {
			var config corev1.ConfigMap
			find(t, files, "ConfigMap", "rel-nabat-"+part, &config)
			// Files that are mounted into the pod are not here.
			text := regexp.MustCompile(`(?m)^(tls_listen|tls_cert|tls_key|tls_min_version): .*\n?`).ReplaceAllString(config.Data[part+".yaml"], "")
			text = strings.Replace(text, `listen: ""`, `listen: ":8080"`, 1)
			file := filepath.Join(t.TempDir(), part+".yaml")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			container := pods["rel-nabat-"+part].Containers[0]
			if container.Args[0] != part {
				t.Errorf("%s: %s runs %v", name, part, container.Args)
			}
			check := exec.Command(program, "check", part, "--config", file)
			check.Env = append(os.Environ(), environment(container)...)
			if out, err := check.CombinedOutput(); err != nil {
				t.Errorf("%s: nabat check %s: %v: %s\n%s", name, part, err, out, text)
			}
		}
		var policies corev1.ConfigMap
		find(t, files, "ConfigMap", "rel-nabat-policies", &policies)
		file := filepath.Join(t.TempDir(), "policies.yaml")
		if err := os.WriteFile(file, []byte(policies.Data["policies.yaml"]), 0o600); err != nil {
			t.Fatal(err)
		}
		if out, err := exec.Command(program, "check", "--policies", file).CombinedOutput(); err != nil {
			t.Errorf("%s: policies: %v: %s", name, err, out)
		}
		test := pods["rel-nabat-test"].Containers[0]
		if out, err := exec.Command(program, test.Args[0], "--help").CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		} else {
			for _, arg := range test.Args[1:] {
				if flag, _, _ := strings.Cut(arg, "="); !strings.Contains(string(out), flag+" ") {
					t.Errorf("%s: nabat %s has no %s", name, test.Args[0], flag)
				}
			}
		}
	}
}

// TestNATSTakesItsConfiguration runs a server by the rendered file: each role
// gets in with its password, and nobody without one.
func TestNATSTakesItsConfiguration(t *testing.T) {
	for name, v := range cases(t) {
		files := mustRender(t, v)
		container, ok := podSpecs(t, files)["rel-nabat-nats"]
		if !ok {
			continue
		}
		t.Run(name, func(t *testing.T) {
			for _, e := range environment(container.Containers[0]) {
				key, value, _ := strings.Cut(e, "=")
				t.Setenv(key, value)
			}
			var config corev1.ConfigMap
			find(t, files, "ConfigMap", "rel-nabat-nats", &config)
			text := config.Data["nats.conf"]
			for from, to := range map[string]string{"/data": t.TempDir(), "port: 4222": "listen: 127.0.0.1:-1", "http_port: 8222": "", "port: 6222": "listen: 127.0.0.1:-1"} {
				text = strings.Replace(text, from, to, 1)
			}
			clustered := strings.Contains(text, "cluster {")
			if clustered != (name == "production") {
				t.Errorf("clustered: %t", clustered)
			}
			file := filepath.Join(t.TempDir(), "nats.conf")
			if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			o, err := server.ProcessConfigFile(file)
			if err != nil {
				t.Fatalf("%v in\n%s", err, text)
			}
			if o.LameDuckDuration < 30*time.Second || o.ServerName != "rel-nabat-nats-0" || !o.JetStream || o.SystemAccount != "SYSTEM" {
				t.Errorf("options: %+v", o)
			}
			o.NoSigs, o.NoLog = true, true
			o.JetStreamMaxStore = 1 << 30 // of the machine of the test
			if clustered {                // alone it would wait for the others
				if len(o.Routes) != 3 || o.Routes[0].User.String() != "route:keptroute" || o.Routes[0].Host != "rel-nabat-nats-0.rel-nabat-nats-headless.prod:6222" || o.Cluster.Password != "keptroute" {
					t.Errorf("routes %v, cluster %+v", o.Routes, o.Cluster)
				}
				return
			}
			s, err := server.NewServer(o)
			if err != nil {
				t.Fatal(err)
			}
			s.Start()
			defer func() { s.Shutdown(); s.WaitForShutdown() }()
			if !s.ReadyForConnections(30 * time.Second) {
				t.Fatal("the server does not start")
			}
			for _, role := range []string{"edge", "control", "backend", "admin", "system"} {
				nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(role, "kept"+role))
				if err != nil {
					t.Errorf("%s: %v", role, err)
					continue
				}
				nc.Close()
				if nc, err := nats.Connect(s.ClientURL(), nats.UserInfo(role, "other")); err == nil {
					nc.Close()
					t.Errorf("%s gets in with another password", role)
				}
			}
			if nc, err := nats.Connect(s.ClientURL()); err == nil {
				nc.Close()
				t.Error("anybody gets in")
			}
		})
	}
}
