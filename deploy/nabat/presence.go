package main

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nabat/proto/subject"
)

// maxAsked is the page that control gives at most.
const maxAsked = 1000

func checkLimit(cmd *cobra.Command, limit int) error {
	if limit < 0 || limit > maxAsked {
		return usage(cmd, "--limit %d: must be 0 to %d", limit, maxAsked)
	}
	return nil
}

func presenceCommand(a *app) *cobra.Command {
	var request struct {
		Room  string `json:"room"`
		Limit int    `json:"limit"`
		After string `json:"after,omitempty"`
	}
	cmd := &cobra.Command{
		Use:     "presence ROOM",
		Short:   "Print who is in a room, over all nodes",
		Long:    "Print who is in a room, over all nodes, by name. Only rooms whose policy has\npresence are counted.",
		Example: "  nabat presence chat.42\n  nabat presence chat.42 --limit 1000 --after alice --json",
		Args:    exactly("ROOM"),
	}
	cmd.Flags().IntVar(&request.Limit, "limit", 100, "print at most so many users; 0 for counts only")
	cmd.Flags().StringVar(&request.After, "after", "", "the users behind this one")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		request.Room = args[0]
		if err := subject.CheckRoom(request.Room); err != nil {
			return usage(cmd, "%v", err)
		}
		if err := checkLimit(cmd, request.Limit); err != nil {
			return err
		}
		var p struct {
			Users, Anonymous, Connections uint32
			Members                       []struct {
				User        string
				Connections uint32
				Info        json.RawMessage
			}
			Next string
		}
		if printed, err := q.ask(cmd, "presence", request, &p); printed || err != nil {
			return err
		}
		var rows [][]string
		for _, m := range p.Members {
			rows = append(rows, []string{plain(m.User), strconv.Itoa(int(m.Connections)), plain(string(m.Info))})
		}
		if len(rows) > 0 {
			if err := q.table([]string{"USER", "CONNECTIONS", "INFO"}, rows); err != nil {
				return err
			}
		}
		if p.Next != "" {
			if err := q.say("more: --after %q", p.Next); err != nil {
				return err
			}
		}
		return q.say("%s, %d anonymous, %s", counted(p.Users, "user"), p.Anonymous, counted(p.Connections, "connection"))
	}
	return cmd
}

func roomsCommand(a *app) *cobra.Command {
	var request struct {
		Prefix string `json:"prefix,omitempty"`
		Search string `json:"search,omitempty"`
		Sort   string `json:"sort,omitempty"`
		Limit  int    `json:"limit"`
		After  string `json:"after,omitempty"`
	}
	cmd := &cobra.Command{
		Use:     "rooms",
		Short:   "Print the rooms that have members, over all nodes",
		Example: "  nabat rooms\n  nabat rooms --prefix chat. --sort name --limit 1000",
		Args:    exactly(),
	}
	f := cmd.Flags()
	f.StringVar(&request.Prefix, "prefix", "", "only rooms that begin so")
	f.StringVar(&request.Search, "search", "", "only rooms that contain this")
	f.StringVar(&request.Sort, "sort", "members", "members (the largest first), rate (the most messages first) or name")
	f.IntVar(&request.Limit, "limit", 50, "print at most so many rooms; 0 for the count only")
	f.StringVar(&request.After, "after", "", "go on behind a page: what it printed as more")
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		if err := checkLimit(cmd, request.Limit); err != nil {
			return err
		}
		if request.Sort != "members" && request.Sort != "rate" && request.Sort != "name" {
			return usage(cmd, "--sort %q: must be members, rate or name", request.Sort)
		}
		var p struct {
			Rooms []struct {
				Room                      string
				Members, Users, Anonymous uint32
				Rate                      float64
				Nodes                     int
			}
			Total int
			Next  string
		}
		if printed, err := q.ask(cmd, "rooms", request, &p); printed || err != nil {
			return err
		}
		var rows [][]string
		for _, r := range p.Rooms {
			rows = append(rows, []string{plain(r.Room), strconv.Itoa(int(r.Members)), strconv.Itoa(int(r.Users)), fmt.Sprintf("%.1f/s", r.Rate), strconv.Itoa(r.Nodes)})
		}
		if len(rows) > 0 {
			if err := q.table([]string{"ROOM", "MEMBERS", "USERS", "MESSAGES", "NODES"}, rows); err != nil {
				return err
			}
		}
		if p.Next != "" {
			if err := q.say("more: --after %q", p.Next); err != nil {
				return err
			}
		}
		return q.say("%s in all", counted(p.Total, "room"))
	}
	return cmd
}

func nodesCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "nodes",
		Short: "Print the edges and the control replicas that run",
		Args:  exactly(),
	}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		var c struct {
			Nodes []struct {
				Node, State, Version, Listen string
				Connections, Rooms           int
				OutRate                      float64 `json:"deliveries_rate"`
				CPU                          float64
				Memory                       uint64  `json:"memory_bytes"`
				Heard                        float64 `json:"heard_seconds"`
			}
			Control []struct {
				ID, State, Version, Listen string
				Started                    int64
			}
		}
		if printed, err := q.ask(cmd, "nodes", struct{}{}, &c); printed || err != nil {
			return err
		}
		var rows [][]string
		for _, n := range c.Nodes {
			rows = append(rows, []string{plain(n.Node), plain(n.State), strconv.Itoa(n.Connections), strconv.Itoa(n.Rooms), fmt.Sprintf("%.0f/s", n.OutRate),
				fmt.Sprintf("%.2f", n.CPU), fmt.Sprintf("%d MiB", n.Memory>>20), fmt.Sprintf("%.1fs", n.Heard), plain(n.Version), plain(n.Listen)})
		}
		if err := q.table([]string{"NODE", "STATE", "CONNECTIONS", "ROOMS", "DELIVERIES", "CORES", "MEMORY", "HEARD", "VERSION", "LISTEN"}, rows); err != nil {
			return err
		}
		rows = nil
		for _, r := range c.Control {
			rows = append(rows, []string{plain(r.ID), plain(r.State), time.UnixMilli(r.Started).UTC().Format(time.RFC3339), plain(r.Version), plain(r.Listen)})
		}
		if err := q.say(""); err != nil {
			return err
		}
		return q.table([]string{"CONTROL", "STATE", "STARTED", "VERSION", "LISTEN"}, rows)
	}
	return cmd
}

func userCommand(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "user ID",
		Short:   "Print where a user is connected, and the rooms with presence that they are in",
		Example: "  nabat user alice",
		Args:    exactly("ID"),
	}
	q := a.asker(cmd)
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if args[0] == "" {
			return usage(cmd, "ID is empty: whose connections?")
		}
		var u struct {
			Connections int
			Sessions    []struct {
				Session, Node string
				Connected     int64
				Rooms         []string
			}
		}
		if printed, err := q.ask(cmd, "user.presence", map[string]string{"user": args[0]}, &u); printed || err != nil {
			return err
		}
		var rows [][]string
		for _, s := range u.Sessions {
			rows = append(rows, []string{s.Session, plain(s.Node), time.UnixMilli(s.Connected).UTC().Format(time.RFC3339), plain(strings.Join(s.Rooms, " "))})
		}
		if len(rows) > 0 {
			if err := q.table([]string{"SESSION", "NODE", "CONNECTED", "ROOMS"}, rows); err != nil {
				return err
			}
		}
		return q.say("%s", counted(u.Connections, "connection"))
	}
	return cmd
}
