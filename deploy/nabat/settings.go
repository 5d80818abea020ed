package main

import (
	"cmp"
	"fmt"
	"log/slog"
	"regexp"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"nabat/internal/config"
)

// settings are the configuration of a program as its command carries it.
type settings struct {
	app   *app
	cfg   any // pointer to the program's Config, with its defaults
	flags *pflag.FlagSet
	file  string
	print bool
}

// settings gives cmd a flag for every field of cfg, --config and --print-config.
func (a *app) settings(cmd *cobra.Command, cfg any) *settings {
	s := &settings{app: a, cfg: cfg, flags: cmd.Flags()}
	config.Register(s.flags, cfg)
	s.flags.StringVar(&s.file, "config", "", "YAML file with settings [NABAT_CONFIG]")
	s.flags.BoolVar(&s.print, "print-config", false, "print the configuration in force and end")
	return s
}

// load fills cfg from the file, the environment and the flags. printed tells
// that nothing more was wanted.
func (s *settings) load() (printed bool, err error) {
	file := cmp.Or(s.file, s.app.env("NABAT_CONFIG"))
	if err := config.Load(s.cfg, s.flags, file, s.app.environ, s.app.foreign(s.flags)...); err != nil {
		return false, err
	}
	if s.print {
		fmt.Fprint(s.app.stdout, s.effective())
	}
	return s.print, nil
}

// credentials are what stands before the host of an address.
var credentials = regexp.MustCompile(`://[^/@\s,"]+@`)

// effective is the configuration in force as YAML, secrets hidden also where
// they are part of an address.
func (s *settings) effective() string {
	return credentials.ReplaceAllString(config.Effective(s.cfg), "://•••@")
}

// logTo writes the configuration in force, in one line.
func (s *settings) logTo(log *slog.Logger) {
	lines := strings.TrimSpace(s.effective())
	log.Info("configuration in force", "settings", strings.ReplaceAll(lines, "\n", "; "))
}

// others are variables of this binary that are no setting of every program.
var others = []string{"NABAT_CONFIG", "NABAT_EDGE", "NABAT_TOKEN", "NABAT_NATS_URL", "NABAT_NATS_CREDENTIALS", "NABAT_NATS_NKEY", "NABAT_NATS_INBOX", "NABAT_NATS_TOKEN", "NABAT_BROWSER"}

// serviceLink is what Kubernetes puts into the environment for a Service whose
// name begins with nabat.
var serviceLink = regexp.MustCompile(`^NABAT_([A-Z0-9_]+_)?(SERVICE_HOST|SERVICE_PORT(_[A-Z0-9_]+)?|PORT(_[0-9]+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)$`)

// foreign lists variables that begin as settings do and are none of flags.
func (a *app) foreign(flags *pflag.FlagSet) (names []string) {
	cluster := a.env("KUBERNETES_SERVICE_HOST") != ""
	for _, entry := range a.environ {
		name, _, _ := strings.Cut(entry, "=")
		if !slices.Contains(others, name) && !(cluster && serviceLink.MatchString(name)) {
			continue
		}
		key := strings.ToLower(strings.TrimPrefix(name, config.EnvPrefix))
		if name == "NABAT_CONFIG" || flags.Lookup(strings.ReplaceAll(key, "_", "-")) == nil {
			names = append(names, name)
		}
	}
	return names
}
