package natsdev

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nats-io/nats-server/v2/server"
)

// Serve runs a server by a configuration file of nats-server's own and returns
// when it has ended. It heeds the signals that nats-server does: SIGUSR2 begins
// lame duck mode, in which SIGTERM is ignored, SIGHUP reads the file again, SIGINT
// and SIGTERM end the process. A pidFile that is not empty goes before the file's.
func Serve(config, pidFile string) error {
	options, err := server.ProcessConfigFile(config)
	if err != nil {
		// What is wrong at one place names the file itself, a line for each.
		if text := strings.TrimSpace(err.Error()); strings.HasPrefix(text, config) {
			return errors.New(text)
		}
		return fmt.Errorf("%s: %w", config, err)
	}
	if pidFile != "" {
		options.PidFile = pidFile
	}
	s, err := server.NewServer(options)
	if err != nil {
		return fmt.Errorf("%s: %w", config, err)
	}
	s.ConfigureLogger()
	s.Start()
	s.WaitForShutdown()
	return nil
}

// commands are the words that Signal knows.
var commands = map[string]syscall.Signal{
	"ldm":    syscall.SIGUSR2,
	"quit":   syscall.SIGINT,
	"reload": syscall.SIGHUP,
	"reopen": syscall.SIGUSR1,
	"term":   syscall.SIGTERM,
}

// Commands are the words that Signal knows.
func Commands() []string {
	var words []string
	for word := range commands {
		words = append(words, word)
	}
	slices.Sort(words)
	return words
}

// Signal tells the server whose process id is in pidFile: "ldm" to move its
// clients away and end, "reload" to read its configuration again, "reopen" to
// open its log file again, "term" and "quit" to end.
func Signal(command, pidFile string) error {
	signal, known := commands[command]
	if !known {
		return fmt.Errorf("there is no signal %q", command)
	}
	text, err := os.ReadFile(pidFile)
	if err != nil {
		return fmt.Errorf("process id: %w", err)
	}
	// 0 and below would mean whole groups of processes.
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil || pid <= 0 {
		return fmt.Errorf("process id: %s holds %.20q, not a number above 0", pidFile, text)
	}
	switch err := syscall.Kill(pid, signal); {
	case errors.Is(err, syscall.ESRCH):
		return fmt.Errorf("process %d of %s does not run", pid, pidFile)
	case err != nil:
		return fmt.Errorf("signal process %d of %s: %w", pid, pidFile, err)
	}
	return nil
}
