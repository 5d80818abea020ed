// Package config fills a program's configuration struct from a YAML file, the
// environment and flags, in that order of rising weight.
package config

import (
	"cmp"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/knadh/koanf/parsers/yaml"
	"github.com/knadh/koanf/providers/file"
	"github.com/knadh/koanf/v2"
	"github.com/spf13/pflag"
	yamlv3 "go.yaml.in/yaml/v3"
)

// EnvPrefix begins the name of every environment variable.
const EnvPrefix = "NABAT_"

// Bytes is a size: a number, with an optional unit KB, MB, GB (powers of 1000)
// or KiB, MiB, GiB (powers of 1024).
type Bytes int64

var units = []struct {
	suffix string
	size   Bytes
}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}}

// ParseBytes reads a size.
func ParseBytes(s string) (Bytes, error) {
	text, size := strings.TrimSpace(s), Bytes(1)
	for _, u := range units {
		if t, ok := strings.CutSuffix(text, u.suffix); ok {
			text, size = strings.TrimSpace(t), u.size
			break
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > int64(1<<62)/int64(size) {
		return 0, fmt.Errorf("%q is not a size such as 65536, 64KiB or 1MB", s)
	}
	return Bytes(n) * size, nil
}

// String writes the size in the largest binary unit that divides it.
func (b Bytes) String() string {
	for _, u := range []int{2, 1, 0} {
		if size := units[u].size; b >= size && b%size == 0 {
			return strconv.FormatInt(int64(b/size), 10) + units[u].suffix
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Set implements pflag.Value.
func (b *Bytes) Set(s string) (err error) { *b, err = ParseBytes(s); return err }

// Type implements pflag.Value.
func (b *Bytes) Type() string { return "size" }

// field is one setting of a configuration struct.
type field struct {
	key, help string
	secret    bool
	value     reflect.Value
}

// fields lists the settings of a pointer to struct: those with a config tag.
func fields(cfg any) []field {
	v := reflect.ValueOf(cfg).Elem()
	var list []field
	for i := range v.NumField() {
		f := v.Type().Field(i)
		if key := f.Tag.Get("config"); key != "" {
			list = append(list, field{key, f.Tag.Get("help"), f.Tag.Get("secret") == "true", v.Field(i)})
		}
	}
	return list
}

func flagName(key string) string { return strings.ReplaceAll(key, "_", "-") }

// EnvName is the environment variable of a key.
func EnvName(key string) string { return EnvPrefix + strings.ToUpper(key) }

// Register adds a flag for every setting of cfg, a pointer to a struct that
// holds the defaults. The flags write to cfg only in Load.
func Register(fs *pflag.FlagSet, cfg any) {
	for _, f := range fields(cfg) {
		name, help := flagName(f.key), f.help+" ["+EnvName(f.key)+"]"
		switch d := f.value.Interface().(type) {
		case string:
			fs.String(name, d, help)
		case bool:
			fs.Bool(name, d, help)
		case int:
			fs.Int(name, d, help)
		case time.Duration:
			fs.Duration(name, d, help)
		case []string:
			fs.StringSlice(name, d, help)
		case Bytes:
			fs.Var(&d, name, help)
		default:
			panic(fmt.Sprintf("config: setting %s has type %T", f.key, d))
		}
	}
}

// Load fills cfg: what it holds are the defaults; path is a YAML file, or empty;
// environ is as from os.Environ; fs has the flags of Register, parsed, or is
// nil. Other programs' variables are left alone only if they are listed in
// known. It then calls cfg's Check method, if it has one.
func Load(cfg any, fs *pflag.FlagSet, path string, environ []string, known ...string) error {
	list := fields(cfg)
	if err := loadFile(list, path); err != nil {
		return err
	}
	if err := loadEnvironment(list, environ, known); err != nil {
		return err
	}
	for _, f := range list {
		if fs == nil {
			break
		}
		flag := fs.Lookup(flagName(f.key))
		if flag == nil || !flag.Changed {
			continue
		}
		text := flag.Value.String()
		if s, ok := flag.Value.(pflag.SliceValue); ok {
			text = strings.Join(s.GetSlice(), ",")
		}
		if err := set(f, text); err != nil {
			return fmt.Errorf("--%s: %w", flag.Name, err)
		}
	}
	if c, ok := cfg.(interface{ Check() error }); ok {
		return c.Check()
	}
	return nil
}

func loadFile(list []field, path string) error {
	if path == "" {
		return nil
	}
	k := koanf.New("\x00") // keys are flat: nothing is a path
	if err := k.Load(file.Provider(path), yaml.Parser()); err != nil {
		return fmt.Errorf("configuration file %s: %w", path, err)
	}
	raw := k.Raw()
	keys := make([]string, 0, len(raw))
	for key := range raw {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	for _, key := range keys {
		f := find(list, key)
		if f == nil {
			return fmt.Errorf("configuration file %s: unknown key %q%s", path, key, suggest(key, list, func(f field) string { return f.key }))
		}
		if err := set(*f, raw[key]); err != nil {
			return fmt.Errorf("configuration file %s: %s: %w", path, key, err)
		}
	}
	return nil
}

func loadEnvironment(list []field, environ, known []string) error {
	for _, entry := range environ {
		name, value, _ := strings.Cut(entry, "=")
		if !strings.HasPrefix(name, EnvPrefix) || slices.Contains(known, name) {
			continue
		}
		f := find(list, strings.ToLower(strings.TrimPrefix(name, EnvPrefix)))
		if f == nil || EnvName(f.key) != name {
			return fmt.Errorf("environment: unknown variable %s%s", name, suggest(name, list, func(f field) string { return EnvName(f.key) }))
		}
		if err := set(*f, value); err != nil {
			return fmt.Errorf("environment: %s: %w", name, err)
		}
	}
	return nil
}

func find(list []field, key string) *field {
	for i := range list {
		if list[i].key == key {
			return &list[i]
		}
	}
	return nil
}

// set writes a value from a file (typed by YAML) or a text.
func set(f field, value any) error {
	if items, ok := value.([]any); ok {
		if _, ok := f.value.Interface().([]string); !ok {
			return errors.New("must be one value, not a list")
		}
		texts := make([]string, len(items))
		for i, item := range items {
			texts[i] = fmt.Sprint(item)
		}
		f.value.Set(reflect.ValueOf(texts))
		return nil
	}
	if _, ok := value.(map[string]any); ok || value == nil {
		return errors.New("must be a value, not a mapping or nothing")
	}
	text := fmt.Sprint(value)
	switch f.value.Interface().(type) {
	case string:
		f.value.SetString(text)
	case bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q is not true or false", text)
		}
		f.value.SetBool(b)
	case int:
		n, err := strconv.Atoi(text)
		if err != nil {
			return fmt.Errorf("%q is not a whole number", text)
		}
		f.value.SetInt(int64(n))
	case time.Duration:
		d, err := time.ParseDuration(text)
		if err != nil {
			return fmt.Errorf("%q is not a duration such as 250ms, 10s or 1h", text)
		}
		f.value.SetInt(int64(d))
	case Bytes:
		n, err := ParseBytes(text)
		if err != nil {
			return err
		}
		f.value.SetInt(int64(n))
	case []string:
		f.value.Set(reflect.ValueOf(splitList(text)))
	}
	return nil
}

func splitList(text string) (list []string) {
	for _, s := range strings.Split(text, ",") {
		if s = strings.TrimSpace(s); s != "" {
			list = append(list, s)
		}
	}
	return list
}

// suggest names the setting whose name is nearest to an unknown one.
func suggest(name string, list []field, spell func(field) string) string {
	best, at := "", 4
	for _, f := range list {
		if d := distance(name, spell(f)); d < at {
			best, at = spell(f), d
		}
	}
	if best == "" {
		return ""
	}
	return "; did you mean " + best + "?"
}

// distance is Levenshtein's.
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		last := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := last
			if a[i] != b[j] {
				cost = 1 + min(last, row[j], row[j+1])
			}
			last, row[j+1] = row[j+1], cost
		}
	}
	return row[len(b)]
}

// Effective is the configuration in force as YAML, with secrets hidden.
func Effective(cfg any) string {
	list := fields(cfg)
	slices.SortFunc(list, func(a, b field) int { return cmp.Compare(a.key, b.key) })
	var out strings.Builder
	for _, f := range list {
		value := f.value.Interface()
		switch v := value.(type) {
		case time.Duration:
			value = v.String()
		case Bytes:
			value = v.String()
		}
		if f.secret && !f.value.IsZero() {
			value = "•••"
		}
		line, err := yamlv3.Marshal(map[string]any{f.key: value})
		if err != nil {
			panic("config: " + err.Error()) // strings, numbers and lists of strings always encode
		}
		out.Write(line)
	}
	return out.String()
}
