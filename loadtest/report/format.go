package report

import (
	"fmt"
	"math"
	"strconv"
	"strings"
)

// Format shows value in the unit that reads best, three digits or more.
func Format(value float64, unit Unit) string {
	switch unit {
	case Nanoseconds:
		return scaled(value, []scale{{1e9, "s"}, {1e6, "ms"}, {1e3, "µs"}, {1, "ns"}})
	case Bytes:
		return scaled(value, []scale{{1 << 30, "GiB"}, {1 << 20, "MiB"}, {10 << 10, "KiB"}, {1, "B"}})
	case PerSecond:
		return Thousands(value) + "/s"
	case Ratio:
		return strconv.FormatFloat(value, 'f', digits(value), 64) + " ×"
	case Decimal:
		return strconv.FormatFloat(value, 'f', digits(value), 64)
	}
	return Thousands(value)
}

type scale struct {
	from float64 // shown in this unit from here on
	name string
}

func scaled(value float64, scales []scale) string {
	for _, s := range scales {
		if math.Abs(value) < s.from && s.from != 1 {
			continue
		}
		factor := s.from
		if s.name == "KiB" {
			factor = 1 << 10
		}
		v := value / factor
		if s.name == "B" || s.name == "ns" {
			return Thousands(v) + " " + s.name
		}
		return strconv.FormatFloat(v, 'f', digits(v), 64) + " " + s.name
	}
	return "0"
}

// digits is how many decimals give three significant digits.
func digits(v float64) int {
	switch v = math.Abs(v); {
	case v >= 100:
		return 0
	case v >= 10:
		return 1
	}
	return 2
}

// Thousands writes a rounded number with commas.
func Thousands(v float64) string {
	if math.IsNaN(v) || math.IsInf(v, 0) {
		return "–"
	}
	text := fmt.Sprintf("%.0f", math.Abs(v))
	var out strings.Builder
	if v <= -0.5 {
		out.WriteByte('-')
	}
	for i, c := range text {
		if i > 0 && (len(text)-i)%3 == 0 {
			out.WriteByte(',')
		}
		out.WriteRune(c)
	}
	return out.String()
}
