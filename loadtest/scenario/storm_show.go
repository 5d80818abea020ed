package scenario

import (
	"fmt"
	"slices"

	"nabat/loadtest/report"
	"nabat/loadtest/target"
)

// show adds the storms of one kind to the report.
func (s *Storm) show(r *report.Report, title string, sum, floor *storms) error {
	section := r.Section(title)
	const (
		rowBack  = "all are back, best round"
		rowCPU   = "server CPU per client, best round"
		rowRatio = "  p99 in the storm / quiet, median"
		in       = "  in floors"
		also     = "  in floors of a handshake"
	)
	name := target.NameNabat
	section.Set(name, rowBack, report.Nanoseconds, slices.Min(sum.took))
	if floor != nil {
		section.Set(target.NameFloor, rowBack, report.Nanoseconds, slices.Min(floor.took))
		section.Set(target.NameFloor, rowCPU, report.Nanoseconds, slices.Min(floor.handshake))
		inFloors(section, in, rowBack, slices.Min(floor.took))
	}
	section.Set(name, "  median round", report.Nanoseconds, median(sum.took))
	section.Set(name, rowCPU, report.Nanoseconds, slices.Min(sum.handshake))
	if floor != nil {
		inFloors(section, also, rowCPU, slices.Min(floor.handshake))
	}
	section.Set(name, "rooms recovered", report.Count, float64(sum.recovered))
	section.Set(name, "  not recovered", report.Count, float64(sum.lost))
	section.Set(name, "  messages missing", report.Count, float64(sum.missing))
	section.Set(name, "  twice or out of order", report.Count, float64(sum.doubled))
	section.Set(name, "requests to JetStream, median", report.Count, median(sum.requests))
	section.Set(name, "  of them for clients", report.Count, median(sum.replays))
	quiet, err := sum.quiet.Histogram()
	if err != nil {
		return err
	}
	during, err := sum.during.Histogram()
	if err != nil {
		return err
	}
	section.Set(name, "survivors' p50, quiet", report.Nanoseconds, float64(quiet.ValueAtQuantile(50))*1000)
	section.Set(name, "survivors' p50, in the storm", report.Nanoseconds, float64(during.ValueAtQuantile(50))*1000)
	section.Set(name, "survivors' p99, quiet", report.Nanoseconds, p99(quiet))
	section.Set(name, "survivors' p99, in the storm", report.Nanoseconds, p99(during))
	section.Set(name, rowRatio, report.Ratio, median(sum.p99Ratio))
	plotLatency(r, "survivors, "+title, "quiet", quiet)
	plotLatency(r, "survivors, "+title, "in the storm", during)
	section.Sort(rowBack, in, "  median round", rowCPU, also)
	want := s.Rounds * s.Clients * roomsEach
	for _, text := range sum.failures {
		r.Notes = append(r.Notes, title+": "+text)
	}
	if sum.missing+sum.doubled+sum.survivorsMiss > 0 || sum.recovered < want {
		r.Faults = append(r.Faults, fmt.Sprintf("%s: %d of %d rooms recovered; clients that came back miss %d messages and got %d twice or out of order; survivors miss %d",
			title, sum.recovered, want, sum.missing, sum.doubled, sum.survivorsMiss))
	}
	return nil
}
