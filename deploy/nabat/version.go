package main

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/spf13/cobra"
)

// version is set by the linker: -X main.version=v1.2.3.
var version = ""

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Args:  exactly(),
		RunE: func(*cobra.Command, []string) error {
			info, _ := debug.ReadBuildInfo()
			fmt.Fprint(a.stdout, describe(info))
			return nil
		},
	}
}

// describe says what was built. info is nil when the build said nothing.
func describe(info *debug.BuildInfo) string {
	number, commit, changed, when := version, "", "", ""
	if info != nil {
		if number == "" && info.Main.Version != "" {
			number = info.Main.Version
		}
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = s.Value
			case "vcs.time":
				when = s.Value
			case "vcs.modified":
				if s.Value == "true" {
					changed = " with changes"
				}
			}
		}
	}
	if number == "" || number == "(devel)" {
		number = "development"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "nabat     %s\n", number)
	if commit != "" {
		fmt.Fprintf(&b, "commit    %s%s, %s\n", commit[:min(12, len(commit))], changed, when)
	} else {
		fmt.Fprintf(&b, "commit    not recorded\n")
	}
	fmt.Fprintf(&b, "protocol  v1\n%s %s/%s\n", strings.Replace(runtime.Version(), "go", "go        ", 1), runtime.GOOS, runtime.GOARCH)
	return b.String()
}
