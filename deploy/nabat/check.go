package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"nabat/control"
	"nabat/edge"
	"nabat/internal/config"
	"nabat/proto/policy"
)

func (a *app) checkCommand() *cobra.Command {
	var file, policies string
	programs := []string{"edge", "control", "dev"}
	cmd := &cobra.Command{
		Use:   "check [edge|control|dev]",
		Short: "Check configuration and policies, and print what would be in force",
		Long: "Check configuration and policies, and print what would be in force.\n\n" +
			"With the name of a program, --config and the environment are read as that\n" +
			"program reads them. Without one the file must fit edge or control.",
		Example: "  nabat check edge --config edge.yaml\n  nabat check --policies policies.yaml",
		Args: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 1:
				return exactly("PROGRAM")(cmd, args)
			case len(args) == 1 && !slices.Contains(programs, args[0]):
				return usage(cmd, "there is no program %q: edge, control or dev", args[0])
			case len(args) == 0 && file == "" && policies == "":
				return usage(cmd, "nothing to check: name a program, or give --config or --policies")
			}
			return nil
		},
	}
	cmd.Flags().StringVar(&file, "config", "", "YAML file with settings")
	cmd.Flags().StringVar(&policies, "policies", "", "YAML file with room policies")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var errs []error
		if len(args) == 1 || file != "" {
			errs = append(errs, a.checkConfig(file, args))
		}
		if policies != "" {
			errs = append(errs, a.checkPolicies(policies))
		}
		return errors.Join(errs...)
	}
	return cmd
}

// checkConfig prints the configuration of the programs that file fits.
func (a *app) checkConfig(file string, programs []string) error {
	named := len(programs) > 0
	if !named {
		programs = []string{"edge", "control"}
	}
	var errs []error
	for _, name := range programs {
		text, err := a.effective(name, file)
		if err != nil {
			errs = append(errs, fmt.Errorf("as %s: %w", name, err))
			continue
		}
		fmt.Fprintf(a.stdout, "# nabat %s: in force\n%s\n", name, text)
	}
	if len(errs) < len(programs) {
		return nil
	}
	return errors.Join(errs...)
}

// effective is the configuration that a program would run with.
func (a *app) effective(name, file string) (string, error) {
	edgeConfig, controlConfig, devConfig := edge.Defaults(), control.Defaults(), devDefaults()
	cfg := map[string]any{"edge": &edgeConfig, "control": &controlConfig, "dev": &devConfig}[name]
	flags := pflag.NewFlagSet(name, pflag.ContinueOnError) // which settings there are
	config.Register(flags, cfg)
	s := &settings{app: a, cfg: cfg, flags: flags, file: file}
	if _, err := s.load(); err != nil {
		return "", err
	}
	text := strings.TrimSpace(s.effective())
	if certificate, err := edgeConfig.Certificate(); err != nil {
		return "", err
	} else if certificate != "" {
		text += "\n# certificate of tls_listen: " + certificate
	}
	return text, nil
}

func (a *app) checkPolicies(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	set, err := policy.ParseYAML(file, text)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "# policies: %d, in force\n", len(set.Rooms))
	for _, p := range set.Rooms {
		fmt.Fprintf(a.stdout, "%s\n", describePolicy(p))
	}
	return nil
}

// describePolicy is one policy in words.
func describePolicy(p policy.Policy) string {
	var allowed []string
	for _, right := range []struct {
		given bool
		words string
	}{
		{p.Publish, "clients publish with a grant"},
		{p.Anonymous.Subscribe, "anyone subscribes"},
		{p.Anonymous.Publish, "anyone publishes"},
	} {
		if right.given {
			allowed = append(allowed, right.words)
		}
	}
	if len(allowed) == 0 {
		allowed = []string{"clients only subscribe, with a grant"}
	}
	words := strings.Join(allowed, ", ")
	if p.Latest {
		words += "; a new subscriber gets the last message"
	}
	return fmt.Sprintf("%-24s slow: %-10s  %s%s", p.Match, p.SlowRule(), words, describeHistory(p.History)+describeMore(&p))
}

// describeMore is all else that a policy says, a line each.
func describeMore(p *policy.Policy) (text string) {
	line := func(format string, args ...any) {
		text += fmt.Sprintf("\n%-24s "+format, append([]any{""}, args...)...)
	}
	if c := p.Conflation; c != nil && c.Every > 0 {
		line("conflate: the newest message of each key, every %s", c.Every)
	} else if c != nil {
		line("conflate: the newest message of each key for who reads slowly")
	}
	if one := p.Presence; one != nil {
		to := "who has the grant"
		if one.Anonymous {
			to = "everybody"
		}
		line("presence: shown to %s; grace %s; up to %d users are listed", to, one.GraceTime(), one.FullAt())
	}
	switch {
	case p.AsksSubscribe() && p.AsksPublish():
		line("hooks: a backend decides who joins and what clients publish")
	case p.AsksSubscribe():
		line("hooks: a backend decides who joins")
	case p.AsksPublish():
		line("hooks: a backend decides what clients publish")
	}
	if r := p.Rates; r != nil {
		line("rates: a client publishes %d messages in a second, %d at once", r.Publish, max(r.Burst, r.Publish))
	}
	if p.MaxMessageBytes > 0 {
		line("max_message_bytes: a client's message has at most %s", config.Bytes(p.MaxMessageBytes))
	}
	if p.Compress {
		line("compress: messages go out compressed to who can read that")
	}
	return text
}

// describeHistory is what is kept, in words; nothing when nothing is.
func describeHistory(h *policy.History) string {
	if h == nil {
		return ""
	}
	var bounds []string
	if h.Messages > 0 {
		bounds = append(bounds, fmt.Sprintf("%d messages of a room", h.Messages))
	}
	if h.Age > 0 {
		bounds = append(bounds, h.Age.String())
	}
	if h.Bytes > 0 {
		bounds = append(bounds, config.Bytes(h.Bytes).String()+" in all")
	}
	return fmt.Sprintf("\n%-24s history: %s; replicas: %d", "", strings.Join(bounds, ", "), max(h.Replicas, 1))
}
