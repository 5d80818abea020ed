package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/nats-io/nkeys"
	"github.com/spf13/cobra"
)

// roles of deploy/nats/accounts.conf.
var roles = []string{"edge", "control", "backend", "admin", "publisher"}

func (a *app) nkeysCommand() *cobra.Command {
	var dir string
	cmd := &cobra.Command{
		Use:   "nkeys",
		Short: "Make the keys by which programs are known to NATS",
		Long: "Make the keys by which programs are known to NATS: for each role of\n" +
			"deploy/nats/accounts.conf a file with a seed, which is secret, and nkeys.conf\n" +
			"with the public keys, which the servers include. What is there already stays.",
		Example: "  nabat nkeys --dir /etc/nats\n  nabat edge --nats-nkey /etc/nats/edge.nk",
		Args:    exactly(),
		RunE:    func(*cobra.Command, []string) error { return a.makeNKeys(dir) },
	}
	cmd.Flags().StringVar(&dir, "dir", ".", "folder for the files")
	return cmd
}

func (a *app) makeNKeys(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	var conf strings.Builder
	fmt.Fprintln(&conf, "# Public keys of the roles in accounts.conf, made by nabat nkeys.")
	for _, role := range roles {
		file := filepath.Join(dir, role+".nk")
		public, made, err := nkey(file)
		if err != nil {
			return err
		}
		what := "kept"
		if made {
			what = "made"
		}
		fmt.Fprintf(a.stdout, "%s  %s  %s\n", what, public, file)
		fmt.Fprintf(&conf, "NABAT_NKEY_%s: %s\n", strings.ToUpper(role), public)
	}
	file := filepath.Join(dir, "nkeys.conf")
	if err := os.WriteFile(file, []byte(conf.String()), 0o644); err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "wrote %s: put it beside nabat.conf and accounts.conf\n", file)
	return nil
}

// nkey returns the public key of the seed in file, which it makes if there is
// none.
func nkey(file string) (public string, made bool, err error) {
	seed, err := os.ReadFile(file)
	if os.IsNotExist(err) {
		pair, err := nkeys.CreateUser()
		if err != nil {
			return "", false, fmt.Errorf("make a key: %w", err)
		}
		if seed, err = pair.Seed(); err != nil {
			return "", false, fmt.Errorf("make a key: %w", err)
		}
		if err := os.WriteFile(file, append(seed, '\n'), 0o600); err != nil {
			return "", false, err
		}
		made = true
	} else if err != nil {
		return "", false, err
	}
	pair, err := nkeys.ParseDecoratedUserNKey(seed)
	if err != nil {
		return "", false, fmt.Errorf("%s holds no seed of a user: %w", file, err)
	}
	public, err = pair.PublicKey()
	return public, made, err
}
