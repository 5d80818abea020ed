package main

import (
	"context"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"nabat/loadtest/report"
	"nabat/loadtest/scenario"
	"nabat/loadtest/target"
)

var errNoNATS = errors.New("--target needs --nats, the NATS server to which messages are published, or --publish-url, where they are posted")

func (a *app) idleCommand() *cobra.Command {
	c := new(common)
	idle := new(scenario.Idle)
	cmd := &cobra.Command{
		Use: "idle", Short: "Memory of connections that do nothing", Args: noArguments,
		Long: "Opens connections, each in some rooms, waits until the server's memory has come to\nrest, and shows what each connection costs the server and the kernel, and what it\ncost to open it.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				idle.Setting = c.setting
				return idle.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "connections", 10_000)
	cmd.Flags().IntVar(&idle.Rooms, "rooms", 2, "rooms that each connection joins")
	cmd.Flags().DurationVar(&idle.Settle, "settle", 10*time.Second, "longest wait for memory to come to rest")
	c.registerTargets(cmd)
	return cmd
}

func (a *app) fanoutCommand() *cobra.Command {
	c := new(common)
	fanout := new(scenario.Fanout)
	cmd := &cobra.Command{
		Use: "fanout", Short: "Messages to one room with many members", Args: noArguments,
		Long: "Opens members of one room, publishes to it over NATS, and shows the server's\nprocessor time per delivery, deliveries per second and latency; every message is\nchecked at every member: once, and in order.\n\n" +
			"Messages go one at a time (the next when all members have the last), k in flight,\nor at a fixed rate, where latency counts from the time at which a message was due.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.external.URL != "" && !c.external.Publishes() {
				return &usageError{cmd.CommandPath(), errNoNATS}
			}
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				fanout.Setting = c.setting
				return fanout.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "members", 10_000)
	registerRounds(cmd, &fanout.Publishing, 5)
	cmd.Flags().IntSliceVar(&fanout.InFlight, "in-flight", []int{1, 16}, "messages in flight, a measurement for each")
	cmd.Flags().Float64Var(&fanout.Rate, "rate", 0, "also publish at this fixed rate, messages per second")
	c.registerTargets(cmd)
	return cmd
}

func (a *app) roomsCommand() *cobra.Command {
	c := new(common)
	rooms := new(scenario.Fanout)
	cmd := &cobra.Command{
		Use: "rooms", Short: "Messages to many rooms with few members each", Args: noArguments,
		Long: "Opens clients, each in many rooms, publishes to all rooms over NATS, and shows what\na delivery costs when a message reaches few. One message in flight is one in each\nroom: the next ones follow when all members of all rooms have theirs.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.external.URL != "" && !c.external.Publishes() {
				return &usageError{cmd.CommandPath(), errNoNATS}
			}
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				rooms.Setting = c.setting
				return rooms.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "clients", 2000)
	cmd.Flags().IntVar(&rooms.Rooms, "rooms", 2000, "rooms in all")
	cmd.Flags().IntVar(&rooms.Each, "rooms-each", 10, "rooms of each client")
	registerRounds(cmd, &rooms.Publishing, 3)
	cmd.Flags().IntSliceVar(&rooms.InFlight, "in-flight", []int{1, 4}, "messages in flight in each room, a measurement for each")
	cmd.Flags().Float64Var(&rooms.Rate, "rate", 5000, "also publish at this fixed rate, messages per second over all rooms")
	c.registerTargets(cmd)
	return cmd
}

func registerRounds(cmd *cobra.Command, p *scenario.Publishing, rounds int) {
	cmd.Flags().IntVar(&p.Payload, "payload", 128, "bytes of a message")
	cmd.Flags().IntVar(&p.Rounds, "rounds", rounds, "rounds of each measurement; the best and the median count")
	cmd.Flags().DurationVar(&p.Round, "round", 2*time.Second, "time of publishing in each round")
	cmd.Flags().DurationVar(&p.WarmUp, "warm-up", 15*time.Second, "longest wait for the first message that reaches every member")
}

func (a *app) connectCommand() *cobra.Command {
	c := &common{shape: target.Shape{TLS: true, Quick: true}}
	connect := new(scenario.Connect)
	cmd := &cobra.Command{
		Use: "connect", Short: "Handshakes: plain, with tokens, with TLS", Args: noArguments,
		Long: "Opens connections as fast as they go, closes them and does it again: plainly, with an\nHS256 token each, with TLS, with both. Shows handshakes per second and the server's\nprocessor time for each. What a target cannot do has no figure.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				connect.Setting = c.setting
				return connect.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "connections", 4000)
	cmd.Flags().IntVar(&connect.Rooms, "rooms", 2, "rooms that each connection joins")
	cmd.Flags().IntVar(&connect.Rounds, "rounds", 3, "rounds of each measurement; the best and the median count")
	cmd.Flags().StringSliceVar(&connect.Only, "only", nil, "only these ways: "+strings.Join(scenario.Ways, ", "))
	c.registerTargets(cmd)
	return cmd
}

func (a *app) slowCommand() *cobra.Command {
	c := &common{shape: target.Shape{Long: true}}
	slow := new(scenario.Slow)
	cmd := &cobra.Command{
		Use: "slow", Short: "Members that stop reading, and what the others notice", Args: noArguments,
		Long: "Publishes to one room at a fixed rate, by turns with all members reading and with some\nof them stalled, and shows the latency of the others, the memory that the stalled\ntake, and whether they get everything when they read again.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.external.URL != "" && !c.external.Publishes() {
				return &usageError{cmd.CommandPath(), errNoNATS}
			}
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				slow.Setting = c.setting
				return slow.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "members", 2000)
	cmd.Flags().IntVar(&slow.Every, "stall-every", 100, "one of so many members stalls")
	cmd.Flags().Float64Var(&slow.Rate, "rate", 40, "messages per second")
	registerRounds(cmd, &slow.Publishing, 3)
	for flag, value := range map[string]string{"payload": "2048", "round": "6s"} {
		f := cmd.Flags().Lookup(flag)
		f.DefValue = value
		_ = f.Value.Set(value) // a constant that fits
	}
	cmd.Flags().DurationVar(&slow.CatchUp, "catch-up", 30*time.Second, "longest wait for the stalled to have everything")
	c.registerTargets(cmd)
	return cmd
}

func (a *app) soakCommand() *cobra.Command {
	c := new(common)
	soak := new(scenario.Soak)
	cmd := &cobra.Command{
		Use: "soak", Short: "A long time at a fixed rate: what grows", Args: noArguments,
		Long: "Publishes to one room at a fixed rate for as long as you like, takes samples of memory,\ngoroutines, descriptors and latency, and shows what grew from the first third of the\ntime to the last.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.external.URL != "" && !c.external.Publishes() {
				return &usageError{cmd.CommandPath(), errNoNATS}
			}
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				soak.Setting = c.setting
				return soak.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "members", 2000)
	cmd.Flags().Float64Var(&soak.Rate, "rate", 20, "messages per second")
	cmd.Flags().IntVar(&soak.Payload, "payload", 128, "bytes of a message")
	cmd.Flags().DurationVar(&soak.For, "for", 48*time.Second, "how long in all")
	cmd.Flags().DurationVar(&soak.Round, "sample", 4*time.Second, "time between two samples")
	cmd.Flags().DurationVar(&soak.WarmUp, "warm-up", 15*time.Second, "longest wait for the first message that reaches every member")
	c.registerTargets(cmd)
	return cmd
}

func (a *app) mixedCommand() *cobra.Command {
	c := &common{shape: target.Shape{Long: true}}
	mixed := new(scenario.Mixed)
	cmd := &cobra.Command{
		Use: "mixed", Short: "A chat: clients publish, leave, join and page back", Args: noArguments,
		Long: "Clients of rooms with history publish over their own connections, leave rooms, join\nthem again and read history, at a fixed rate in all. Shows the latency of deliveries and\nof answers, and whether each message came back to its sender, once and in order.\nTargets must speak Nabat's protocol and let anybody publish.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.external.Dialect != target.Plain {
				return &usageError{cmd.CommandPath(), errors.New("--dialect: only servers that speak Nabat's protocol can chat")}
			}
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				if c.external.URL == "" && (len(c.peers) != 1 || c.peers[0] != target.NameNabat) {
					return nil, errors.New("only nabat and --target can chat")
				}
				mixed.Setting = c.setting
				return mixed.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "clients", 1000)
	p := &mixed.Plan
	cmd.Flags().IntVar(&p.Rooms, "rooms", 200, "rooms in all")
	cmd.Flags().IntVar(&p.RoomsEach, "rooms-each", 4, "rooms of each client")
	cmd.Flags().Float64Var(&p.Rate, "rate", 200, "acts per second, of all clients together")
	cmd.Flags().IntVar(&p.Leave, "leave-every", 20, "one act of so many is to leave a room and to join it again; 0: none")
	cmd.Flags().IntVar(&p.Page, "page-every", 10, "one act of so many is to page back; 0: none")
	cmd.Flags().IntVar(&p.Payload, "payload", 100, "bytes of text in a message")
	cmd.Flags().DurationVar(&p.For, "for", 30*time.Second, "how long")
	c.registerTargets(cmd)
	return cmd
}

func (a *app) stormCommand() *cobra.Command {
	c := new(common)
	storm := new(scenario.Storm)
	cmd := &cobra.Command{
		Use: "storm", Short: "An edge dies, and all of its clients come back elsewhere", Args: noArguments,
		Long: "Starts NATS, control and two edges, kills one, and lets all of its clients come back to\nthe other at once, each to two rooms with history, while messages go on. Shows the time\nuntil the last one is back against the floor, whether all was recovered, what JetStream\nwas asked, and what the other edge's own clients noticed.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				storm.Setting = c.setting
				return storm.Run(ctx)
			})
		},
	}
	c.registerSwarm(cmd, "clients", 5000)
	cmd.Flags().IntVar(&storm.Survivors, "survivors", 1000, "clients of the edge that lives on")
	cmd.Flags().IntVar(&storm.Rooms, "rooms", 100, "rooms of the clients that come back, each in two")
	cmd.Flags().Float64Var(&storm.Rate, "rate", 20, "messages per second to the survivors' room")
	cmd.Flags().Float64Var(&storm.ReturnRate, "return-rate", 20, "messages per second over the rooms of those that come back")
	cmd.Flags().IntVar(&storm.Payload, "payload", 128, "bytes of a message")
	cmd.Flags().IntVar(&storm.Pace, "accept-rate", 0, "connections that the edge takes in a second, while others wait; 0 for its default")
	cmd.Flags().IntVar(&storm.Nice, "nice", 10, "how far the processes of the clients that come back give way to the servers and the other clients (nice 0 to 19): elsewhere they have processors of their own")
	cmd.Flags().DurationVar(&storm.Quiet, "quiet", 4*time.Second, "time before the storm, to compare with")
	cmd.Flags().IntVar(&storm.Rounds, "rounds", 3, "storms, each with a system of its own")
	cmd.Flags().BoolVar(&storm.TLS, "tls", true, "also with TLS")
	cmd.Flags().BoolVar(&storm.NoPlain, "no-plain", false, "not without TLS")
	cmd.Flags().DurationVar(&storm.WarmUp, "warm-up", 15*time.Second, "longest wait for the first message that reaches every member")
	c.registerRun(cmd)
	return cmd
}

func (a *app) floorCommand() *cobra.Command {
	c := new(common)
	fanout := new(scenario.Fanout)
	cmd := &cobra.Command{
		Use: "floor", Short: "What this machine can do at all", Args: noArguments,
		Long: "Makes the system calls that no server can avoid, and nothing else, towards the\nsame clients as the other scenarios: accept4, epoll_ctl, read and write of 129\nbytes for each connection, one sendto for each delivery.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return a.measure(cmd, c, func(ctx context.Context) (*report.Report, error) {
				fanout.Setting, fanout.InFlight = c.setting, []int{1}
				r, err := fanout.Run(ctx)
				if err == nil {
					r.Scenario = target.NameFloor
				}
				return r, err
			})
		},
	}
	c.registerSwarm(cmd, "members", 10_000)
	registerRounds(cmd, &fanout.Publishing, 5)
	return cmd
}
