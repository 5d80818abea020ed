package report

// Plot is one diagram of a report: lines over a common axis.
type Plot struct {
	Title string `json:"title"`
	XName string `json:"x_name"`
	XUnit Unit   `json:"x_unit"`
	YUnit Unit   `json:"y_unit"`
	Lines []Line `json:"lines"`
}

// Line is one curve: as many X, ascending, as Y.
type Line struct {
	Name string    `json:"name"`
	X    []float64 `json:"x"`
	Y    []float64 `json:"y"`
}

// Plot finds a plot by its title or appends it.
func (r *Report) Plot(title, xName string, x, y Unit) *Plot {
	for _, p := range r.Plots {
		if p.Title == title {
			return p
		}
	}
	p := &Plot{Title: title, XName: xName, XUnit: x, YUnit: y}
	r.Plots = append(r.Plots, p)
	return p
}

// Add appends a line, its X multiplied by scale. A line of fewer than two
// points is left out.
func (p *Plot) Add(line Line, scale float64) {
	if len(line.X) < 2 {
		return
	}
	for i := range line.X {
		line.X[i] *= scale
	}
	p.Lines = append(p.Lines, line)
}
