// Package report shows what a scenario measured: an aligned table, JSON, and
// live progress while it runs.
package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Unit says what the numbers of a row are; it decides how they are shown.
type Unit string

// Numbers are kept in these units, also in JSON.
const (
	Nanoseconds Unit = "ns"
	Bytes       Unit = "bytes"
	Count       Unit = "count"
	PerSecond   Unit = "per_second"
	Ratio       Unit = "ratio" // shown as "1.08 ×"
	Decimal     Unit = "decimal"
)

// Report is the result of one run of one scenario.
type Report struct {
	Scenario string         `json:"scenario"`
	Summary  string         `json:"summary"` // one line: what was measured
	Started  time.Time      `json:"started"`
	Machine  Machine        `json:"machine"`
	Options  map[string]any `json:"options"`
	Columns  []string       `json:"columns"` // what was measured; the floor is the last
	Sections []*Section     `json:"sections"`
	Plots    []*Plot        `json:"plots,omitempty"`
	Notes    []string       `json:"notes,omitempty"`
	Faults   []string       `json:"faults,omitempty"` // promises that the run saw broken
}

// Machine is where it ran. No name: results are made public.
type Machine struct {
	CPUs   int    `json:"cpus"`
	Kernel string `json:"kernel"`
	Arch   string `json:"arch"`
	Go     string `json:"go"`
	// Load is the machine's load average of a minute, before the run: above
	// zero others were at work, and figures are worse than they could be.
	Load float64 `json:"load"`
}

// Section is a part of the table.
type Section struct {
	Title string `json:"title"`
	Rows  []*Row `json:"rows"`
}

// Row is one quantity for every column that has it.
type Row struct {
	Name   string             `json:"name"`
	Unit   Unit               `json:"unit"`
	Values map[string]float64 `json:"values"`          // by column; a missing one was not measured
	Texts  map[string]string  `json:"texts,omitempty"` // by column; instead of a value
	Note   string             `json:"note,omitempty"`  // at the end of the line
}

// Section finds a section by its title or appends it.
func (r *Report) Section(title string) *Section {
	for _, s := range r.Sections {
		if s.Title == title {
			return s
		}
	}
	s := &Section{Title: title}
	r.Sections = append(r.Sections, s)
	return s
}

// Set stores one value; the row is made at its first.
func (s *Section) Set(column, name string, unit Unit, value float64) {
	row := s.Row(name)
	if row == nil {
		row = &Row{Name: name, Unit: unit, Values: make(map[string]float64)}
		s.Rows = append(s.Rows, row)
	}
	row.Values[column] = value
}

// Row finds a row by its name; nil when there is none.
func (s *Section) Row(name string) *Row {
	for _, row := range s.Rows {
		if row.Name == name {
			return row
		}
	}
	return nil
}

// Note stores a remark for a row that exists.
func (s *Section) Note(name, text string) {
	if row := s.Row(name); row != nil {
		row.Note = text
	}
}

// WriteJSON writes the report as one indented object.
func (r *Report) WriteJSON(w io.Writer) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	if err := encoder.Encode(r); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

// Table writes the report for people: a heading, a column for each thing
// measured, numbers aligned on the right with their units.
func (r *Report) Table(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%s: %s\n", r.Scenario, r.Summary)
	fmt.Fprintf(&out, "%s · %d processors, load %.1f before · kernel %s · %s %s\n", r.Started.Format(time.DateOnly),
		r.Machine.CPUs, r.Machine.Load, r.Machine.Kernel, r.Machine.Go, r.Machine.Arch)
	first, widths := r.widths()
	out.WriteString("\n" + strings.Repeat(" ", first))
	for i, column := range r.Columns {
		out.WriteString("  " + padLeft(column, widths[i]))
	}
	out.WriteByte('\n')
	for _, section := range r.Sections {
		fmt.Fprintf(&out, "%s\n", section.Title)
		for _, row := range section.Rows {
			line := padRight("  "+row.Name, first)
			for i, column := range r.Columns {
				line += "  " + padLeft(row.cell(column), widths[i])
			}
			if row.Note != "" {
				line += "  " + row.Note
			}
			out.WriteString(strings.TrimRight(line, " ") + "\n")
		}
	}
	for i, note := range r.Notes {
		if i == 0 {
			out.WriteByte('\n')
		}
		fmt.Fprintf(&out, "%s\n", note)
	}
	for _, fault := range r.Faults {
		fmt.Fprintf(&out, "\nFAULT: %s\n", fault)
	}
	if _, err := io.WriteString(w, out.String()); err != nil {
		return fmt.Errorf("write the report: %w", err)
	}
	return nil
}

func (r *Report) widths() (first int, widths []int) {
	widths = make([]int, len(r.Columns))
	for i, column := range r.Columns {
		widths[i] = utf8.RuneCountInString(column)
	}
	for _, section := range r.Sections {
		for _, row := range section.Rows {
			first = max(first, utf8.RuneCountInString(row.Name)+2)
			for i, column := range r.Columns {
				widths[i] = max(widths[i], utf8.RuneCountInString(row.cell(column)))
			}
		}
	}
	return first, widths
}

func (row *Row) cell(column string) string {
	value, measured := row.Values[column]
	if text := row.Texts[column]; text != "" {
		return text
	}
	if !measured {
		return "–"
	}
	return Format(value, row.Unit)
}

func padLeft(s string, width int) string {
	return strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s))) + s
}

func padRight(s string, width int) string {
	return s + strings.Repeat(" ", max(0, width-utf8.RuneCountInString(s)))
}

// Sort puts the named rows first, in this order.
func (s *Section) Sort(names ...string) {
	place := func(row *Row) int {
		if i := slices.Index(names, row.Name); i >= 0 {
			return i
		}
		return len(names)
	}
	slices.SortStableFunc(s.Rows, func(a, b *Row) int { return place(a) - place(b) })
}
