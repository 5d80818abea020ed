package main

import (
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"nabat/loadtest/report"
)

func (a *app) compareCommand() *cobra.Command {
	var html, json string
	cmd := &cobra.Command{
		Use: "compare FIRST.json SECOND.json", Short: "Two results side by side",
		Long: "Shows what two results of one scenario have in common, as they are and as a ratio. How\nfar their floors differ is how far the machine was another one.",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) != 2 {
				return &usageError{cmd.CommandPath(), errors.New("needs two files that --json wrote")}
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			var both [2]*report.Report
			for i, name := range args {
				file, err := os.Open(name)
				if err != nil {
					return err
				}
				both[i], err = report.Read(file)
				_ = file.Close() // it was only read
				if err != nil {
					return fmt.Errorf("%s: %w", name, err)
				}
			}
			r, err := report.Compare(both[0], both[1])
			if err != nil {
				return err
			}
			return a.deliver(r, json, html)
		},
	}
	cmd.Flags().StringVar(&json, "json", "", "also write the result to this file")
	cmd.Flags().StringVar(&html, "html", "", "also write the result to this file, as a page")
	return cmd
}
