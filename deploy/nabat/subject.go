package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"nabat/proto/subject"
)

func (a *app) subjectCommand() *cobra.Command {
	var prefix string
	var decode bool
	cmd := &cobra.Command{
		Use:     "subject ROOM…",
		Short:   "Print the NATS subject of a room",
		Example: "  nabat subject 'team chat 1'\n  nabat subject --decode room.team%20chat%201",
		Args: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usage(cmd, "ROOM is missing")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			convert := subject.Encode
			if decode {
				convert = subject.Decode
			}
			for _, arg := range args {
				text, err := convert(prefix, arg)
				if err != nil {
					return err
				}
				fmt.Fprintln(a.stdout, text)
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&decode, "decode", false, "the other way: print the room of a subject")
	cmd.Flags().StringVar(&prefix, "subject-prefix", subject.RoomPrefix, "subject prefix of rooms")
	return cmd
}
