package report

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"strings"
)

// Read reads what WriteJSON wrote.
func Read(in io.Reader) (*Report, error) {
	r := new(Report)
	if err := json.NewDecoder(in).Decode(r); err != nil {
		return nil, fmt.Errorf("not a report: %w", err)
	}
	if r.Scenario == "" || len(r.Sections) == 0 {
		return nil, fmt.Errorf("not a report: no scenario, no sections")
	}
	return r, nil
}

// quietNoise is how far apart the two floors of a comparison may be for it to
// say something about the servers.
const quietNoise = 0.10

// Compare makes a report of what two have in common: for each figure the
// first, the second, and the second in the first. Their floors tell how far
// the machine itself was another one: that is the noise. Reports of different
// scenarios are refused.
func Compare(a, b *Report) (*Report, error) {
	if a.Scenario != b.Scenario {
		return nil, fmt.Errorf("one report is of %s, the other of %s", a.Scenario, b.Scenario)
	}
	r := &Report{Scenario: "compare " + a.Scenario, Summary: a.Summary, Started: b.Started, Machine: b.Machine,
		Columns: []string{"first", "second", "second / first"}}
	if a.Summary != b.Summary {
		r.Notes = append(r.Notes, "The second measured something else: "+b.Summary)
	}
	if a.Machine.CPUs != b.Machine.CPUs || a.Machine.Kernel != b.Machine.Kernel || a.Machine.Go != b.Machine.Go {
		r.Notes = append(r.Notes, fmt.Sprintf("The first ran elsewhere: %d processors, kernel %s, %s.", a.Machine.CPUs, a.Machine.Kernel, a.Machine.Go))
	}
	var noise []string
	found := false
	for _, column := range b.Columns {
		for _, section := range b.Sections {
			before := a.find(section.Title)
			if before == nil {
				continue
			}
			for _, row := range section.Rows {
				old := before.Row(row.Name)
				if old == nil {
					continue
				}
				x, has := old.Values[column]
				y, too := row.Values[column]
				if !has || !too {
					continue
				}
				found = true
				r.figure(column+", "+section.Title, row, x, y)
				if column == floorColumn && row.Unit == Nanoseconds && strings.HasPrefix(row.Name, "server CPU") && x > 0 && math.Abs(y/x-1) > quietNoise {
					noise = append(noise, fmt.Sprintf("%s, %s: %.2f ×", section.Title, row.Name, y/x))
				}
			}
		}
	}
	if !found {
		return nil, fmt.Errorf("the two reports have no figure in common")
	}
	if len(noise) > 0 {
		r.Notes = append(r.Notes, "The floors differ by more than 10 %, so the machine did, too ("+strings.Join(noise, "; ")+"): trust ratios to the floor only.")
	}
	return r, nil
}

// floorColumn is the column that every scenario calls so.
const floorColumn = "floor"

func (r *Report) find(title string) *Section {
	for _, s := range r.Sections {
		if s.Title == title {
			return s
		}
	}
	return nil
}

// figure adds one row. A ratio is not in the unit of the row: it is a text.
func (r *Report) figure(title string, row *Row, x, y float64) {
	section := r.Section(title)
	section.Set("first", row.Name, row.Unit, x)
	section.Set("second", row.Name, row.Unit, y)
	if x != 0 {
		section.Row(row.Name).Texts = map[string]string{"second / first": Format(y/x, Ratio)}
	}
}
