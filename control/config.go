package control

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"time"

	"nabat/internal/bus"
	"nabat/proto/subject"
)

// Config is everything that can be set for one control service. Every field is
// a flag, an environment variable NABAT_… and a key of the configuration file.
type Config struct {
	// Listen serves the HTTP API and the pages. A host and a port.
	Listen string `config:"listen" help:"address of the HTTP API and the pages, host:port"`
	// OpsListen serves health, readiness, metrics and profiles. Empty: not served.
	OpsListen string `config:"ops_listen" help:"address of the operations port (health, metrics, pprof); empty for none"`

	// NATSURL names the servers, separated by commas.
	NATSURL string `config:"nats_url" help:"NATS servers, comma separated"`
	// NATSCredentials is a credentials file (JWT and nkey seed).
	NATSCredentials string `config:"nats_credentials" help:"file with NATS credentials"`
	// NATSNKey is a file with the seed of an nkey, as nabat nkeys writes it.
	NATSNKey string `config:"nats_nkey" help:"file with the seed of a NATS nkey"`
	// NATSInbox stands before the subjects that replies come to: a permission of
	// this role alone. Default _INBOX_control.
	NATSInbox string `config:"nats_inbox" help:"prefix of the subjects that NATS replies come to"`
	// NATSToken authenticates at NATS.
	NATSToken string `config:"nats_token" help:"NATS token" secret:"true"`
	// SubjectPrefix stands before the room in subjects.
	SubjectPrefix string `config:"subject_prefix" help:"subject prefix of rooms"`
	// LivePrefix stands before shard and room in the subjects of stored copies.
	LivePrefix string `config:"live_prefix" help:"subject prefix of the stored copies that edges read"`
	// Replicas of the key-value buckets in NATS. Default 1; 3 in production.
	Replicas int `config:"replicas" help:"copies of configuration and keys in NATS (1, 3 or 5)"`

	// Policies is the YAML file with the policies of rooms.
	Policies string `config:"policies" help:"YAML file with the policies of rooms"`
	// StreamVerify is how often the streams of history are held against the
	// policies. Default 10 s. At least 100 ms.
	StreamVerify time.Duration `config:"stream_verify" help:"how often the streams of history are verified"`
	// StreamGrace is how long a stream stores on when its policy is gone: one that
	// comes back meanwhile has lost nothing. Default 10 min.
	StreamGrace time.Duration `config:"stream_grace" help:"how long a stream stores on when its policy is gone, in case it comes back"`
	// EventsAge and EventsBytes bound the stream of lifecycle events. Default 24 h
	// and 1 GiB.
	EventsAge   time.Duration `config:"events_age" help:"for how long lifecycle events are kept"`
	EventsBytes int           `config:"events_bytes" help:"so many bytes of lifecycle events are kept"`
	// APIKey opens the HTTP API; APIKeyFile holds it in a file.
	APIKey     string `config:"api_key" help:"key of the HTTP API" secret:"true"`
	APIKeyFile string `config:"api_key_file" help:"file with the key of the HTTP API"`
	// TokenTTL is the life of a token whose request names none. Default 1 h.
	TokenTTL time.Duration `config:"token_ttl" help:"life of a token whose request names none"`
	// MaxTokenTTL bounds what a request may name. Default 30 days.
	MaxTokenTTL time.Duration `config:"max_token_ttl" help:"longest life of a token"`
	// Issuer and Audience are written into tokens, when set.
	Issuer   string `config:"issuer" help:"issuer written into tokens (iss)"`
	Audience string `config:"audience" help:"audience written into tokens (aud)"`
	// KeyAge is after what time a signing key gets a successor. Default 0: only by
	// nabat keys rotate. At least an hour.
	KeyAge time.Duration `config:"key_age" help:"age at which signing keys are rotated, such as 720h; 0 for only by command"`
	// KeyLead is how long a new key is published before it signs, so that every
	// edge has it by then. Default 1 min.
	KeyLead time.Duration `config:"key_lead" help:"how long a new signing key is published before it signs"`
	// Issuers is the YAML file with other issuers whose tokens are accepted.
	Issuers string `config:"issuers" help:"YAML file with other issuers whose tokens are accepted"`
	// EdgeURL is where the pages find an edge. Empty: this host, port 8080.
	EdgeURL string `config:"edge_url" help:"where the pages find an edge, such as https://edge.example.com; this host at port 8080 when empty"`
	// Dev opens the API without a key on a loopback address, and lets everybody
	// do everything where no policies are given.
	Dev bool `config:"dev" help:"development: open API on a loopback address, open policies when none are given"`

	// LogLevel is debug, info, warn or error; LogFormat is text or json.
	LogLevel  string `config:"log_level" help:"debug, info, warn or error"`
	LogFormat string `config:"log_format" help:"text or json"`
}

// Defaults returns the configuration of a control that was told nothing.
func Defaults() Config {
	return Config{Listen: "127.0.0.1:8090", OpsListen: "127.0.0.1:9091", NATSURL: "nats://127.0.0.1:4222", NATSInbox: bus.InboxControl, SubjectPrefix: subject.RoomPrefix, LivePrefix: bus.LivePrefix,
		StreamVerify: 10 * time.Second, StreamGrace: 10 * time.Minute, Replicas: 1, EventsAge: 24 * time.Hour, EventsBytes: 1 << 30, TokenTTL: time.Hour, MaxTokenTTL: 30 * 24 * time.Hour, KeyLead: time.Minute, LogLevel: "info", LogFormat: "text"}
}

// Check reports the first setting that cannot work, by its key.
func (c *Config) Check() error {
	switch {
	case c.Listen == "":
		return errors.New("listen is empty: give host:port, or :port for every address")
	case c.NATSURL == "":
		return errors.New("nats_url is empty: give at least one server, such as nats://127.0.0.1:4222")
	case c.Replicas != 1 && c.Replicas != 3 && c.Replicas != 5:
		return fmt.Errorf("replicas is %d: must be 1, 3 or 5", c.Replicas)
	case c.TokenTTL < time.Second || c.TokenTTL > c.MaxTokenTTL:
		return fmt.Errorf("token_ttl is %s: must be 1s to max_token_ttl (%s)", c.TokenTTL, c.MaxTokenTTL)
	case c.KeyAge != 0 && c.KeyAge < time.Hour:
		return fmt.Errorf("key_age is %s: must be 0, or at least 1h", c.KeyAge)
	case c.KeyLead < 0 || c.KeyAge != 0 && c.KeyLead > c.KeyAge/2:
		return fmt.Errorf("key_lead is %s: must not be negative, and at most half of key_age", c.KeyLead)
	case c.StreamVerify < 100*time.Millisecond:
		return fmt.Errorf("stream_verify is %s: must be at least 100ms", c.StreamVerify)
	case c.StreamGrace < 0:
		return fmt.Errorf("stream_grace is %s: must not be negative", c.StreamGrace)
	case strings.HasPrefix(c.LivePrefix, c.SubjectPrefix), strings.HasPrefix(c.SubjectPrefix, c.LivePrefix):
		return fmt.Errorf("live_prefix %q and subject_prefix %q: neither may begin with the other, or stored copies would be stored again", c.LivePrefix, c.SubjectPrefix)
	case c.EventsAge < time.Minute:
		return fmt.Errorf("events_age is %s: must be at least 1m", c.EventsAge)
	case c.EventsBytes < 1<<20:
		return fmt.Errorf("events_bytes is %d: must be at least 1MiB", c.EventsBytes)
	case c.APIKey != "" && c.APIKeyFile != "":
		return errors.New("api_key and api_key_file are both given: give one")
	}
	return errors.Join(checkPrefix("subject_prefix", c.SubjectPrefix), checkPrefix("live_prefix", c.LivePrefix))
}

// checkPrefix: a prefix is whole tokens.
func checkPrefix(key, prefix string) error {
	name, ok := strings.CutSuffix(prefix, ".")
	if encoded, err := subject.Encode("", name); !ok || err != nil || encoded != name {
		return fmt.Errorf("%s is %q: must be tokens of a subject with a dot behind each, as %q has", key, prefix, subject.RoomPrefix)
	}
	return nil
}

// minKeyBytes keeps people from guarding an API with "admin".
const minKeyBytes = 16

// apiKey is the key that callers must show; empty means that none is needed.
func (c *Config) apiKey() (string, error) {
	key := c.APIKey
	if c.APIKeyFile != "" {
		data, err := os.ReadFile(c.APIKeyFile)
		if err != nil {
			return "", fmt.Errorf("api_key_file: %w", err)
		}
		if key = strings.TrimSpace(string(data)); key == "" {
			return "", fmt.Errorf("api_key_file %s is empty", c.APIKeyFile)
		}
	}
	switch {
	case key == "" && c.Dev && loopback(c.Listen):
		return "", nil
	case key == "":
		return "", errors.New("the HTTP API needs a key: give api_key_file or api_key (only dev on a loopback address goes without)")
	case len(key) < minKeyBytes:
		return "", fmt.Errorf("the API key has %d bytes: at least %d", len(key), minKeyBytes)
	}
	return key, nil
}

func loopback(address string) bool {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return false
	}
	if host == "localhost" {
		return true
	}
	ip, err := netip.ParseAddr(host)
	return err == nil && ip.IsLoopback()
}
