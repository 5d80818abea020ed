package report

import (
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"
)

//go:embed page.html
var page string

// WriteHTML writes the report as one page that needs nothing else.
func (r *Report) WriteHTML(w io.Writer) error {
	parsed, err := template.New("page").Funcs(template.FuncMap{
		"cell": func(row *Row, column string) string { return row.cell(column) },
		"date": func(t time.Time) string { return t.Format("2006-01-02 15:04") },
		"svg":  func(p *Plot) template.HTML { return template.HTML(p.svg()) }, //nolint:gosec // text in it is escaped
		"sub":  func(name string) bool { return strings.HasPrefix(name, "  ") },
		"trim": strings.TrimSpace,
		"load": func(v float64) string { return fmt.Sprintf("%.1f", v) },
	}).Parse(page)
	if err != nil {
		return fmt.Errorf("template of the page: %w", err)
	}
	if err := parsed.Execute(w, r); err != nil {
		return fmt.Errorf("write the page: %w", err)
	}
	return nil
}

// Size of a plot, and what its axes take of it.
const (
	plotWidth, plotHeight   = 640.0, 300.0
	plotLeft, plotRight     = 76.0, 14.0
	plotTop, plotBottom     = 12.0, 40.0
	plotColours             = 6
	innerWidth, innerHeight = plotWidth - plotLeft - plotRight, plotHeight - plotTop - plotBottom
)

// axis maps values to positions.
type axis struct {
	low, high float64 // of what is mapped
	log       bool
	from, to  float64 // positions
}

func (a axis) at(v float64) float64 {
	if a.log {
		v = math.Log10(math.Max(v, 1))
	}
	if a.high == a.low {
		return (a.from + a.to) / 2
	}
	return a.from + (v-a.low)/(a.high-a.low)*(a.to-a.from)
}

// ticks are round values of the axis.
func (a axis) ticks() (list []float64) {
	if a.log {
		for e := math.Ceil(a.low - 1e-9); e <= a.high+1e-9; e++ {
			list = append(list, math.Pow(10, e))
		}
		return list
	}
	step := math.Pow(10, math.Floor(math.Log10((a.high-a.low)/4)))
	for _, factor := range []float64{1, 2, 5, 10} {
		if (a.high-a.low)/(step*factor) <= 5 {
			step *= factor
			break
		}
	}
	for v := math.Ceil(a.low/step-1e-9) * step; v <= a.high+step*1e-9; v += step {
		list = append(list, v)
	}
	return list
}

// percentiles are the ticks of an axis of percentiles, which is stretched
// towards 100.
var percentiles = []float64{0, 50, 75, 90, 95, 99, 99.9, 99.99}

// stretch maps a percentile so that each nine has as much room.
func stretch(p float64) float64 { return -math.Log10(math.Max(1-p/100, 5e-5)) }

// svg draws the plot.
func (p *Plot) svg() string {
	x, y, percentile := p.axes()
	var out strings.Builder
	fmt.Fprintf(&out, `<svg viewBox="0 0 %g %g" role="img" aria-label="%s">`, plotWidth, plotHeight, template.HTMLEscapeString(p.Title))
	for _, v := range y.ticks() {
		at := y.at(v)
		fmt.Fprintf(&out, `<line class="grid" x1="%g" x2="%g" y1="%.1f" y2="%.1f"/><text class="y" x="%g" y="%.1f">%s</text>`,
			plotLeft, plotWidth-plotRight, at, at, plotLeft-6, at+4, template.HTMLEscapeString(Format(v, p.YUnit)))
	}
	ticks, position := x.ticks(), x.at
	if percentile {
		ticks, position = percentiles, func(v float64) float64 { return x.at(stretch(v)) }
	}
	for _, v := range ticks {
		label := Format(v, p.XUnit)
		if percentile {
			label = fmt.Sprintf("p%g", v)
		}
		fmt.Fprintf(&out, `<line class="grid" x1="%.1f" x2="%.1f" y1="%g" y2="%g"/><text class="x" x="%.1f" y="%g">%s</text>`,
			position(v), position(v), plotTop, plotTop+innerHeight, position(v), plotHeight-plotBottom+18, template.HTMLEscapeString(label))
	}
	fmt.Fprintf(&out, `<text class="x name" x="%g" y="%g">%s</text>`, plotLeft+innerWidth/2, plotHeight-4, template.HTMLEscapeString(p.XName))
	for i, line := range p.Lines {
		var points strings.Builder
		for k := range line.X {
			fmt.Fprintf(&points, "%.1f,%.1f ", position(line.X[k]), y.at(line.Y[k]))
		}
		fmt.Fprintf(&out, `<polyline class="line c%d" points="%s"/>`, i%plotColours, strings.TrimSpace(points.String()))
	}
	out.WriteString("</svg>")
	return out.String()
}

// axes fit the lines. Latencies have a logarithmic axis.
func (p *Plot) axes() (x, y axis, percentile bool) {
	percentile = p.XName == "percentile"
	x = axis{low: math.Inf(1), high: math.Inf(-1), from: plotLeft, to: plotWidth - plotRight}
	y = axis{low: math.Inf(1), high: math.Inf(-1), from: plotTop + innerHeight, to: plotTop, log: p.YUnit == Nanoseconds}
	for _, line := range p.Lines {
		for k := range line.X {
			x.low, x.high = math.Min(x.low, line.X[k]), math.Max(x.high, line.X[k])
			y.low, y.high = math.Min(y.low, line.Y[k]), math.Max(y.high, line.Y[k])
		}
	}
	switch {
	case y.log:
		y.low, y.high = math.Floor(math.Log10(math.Max(y.low, 1))), math.Ceil(math.Log10(math.Max(y.high, 10)))
		if y.high == y.low {
			y.high++
		}
	default:
		y.low = 0
		if y.high <= 0 {
			y.high = 1
		}
		y.high *= 1.05
	}
	if percentile {
		x.low, x.high = 0, stretch(100)
	} else if x.high <= x.low {
		x.high = x.low + 1
	}
	return x, y, percentile
}
