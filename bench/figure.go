package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"text/tabwriter"
)

// Figure is one line of the output: something measured in this run, against
// its aim and, where there is one, a peer measured in turns with it.
type Figure struct {
	Name   string  `json:"name"`  // "log.append.1024", "registry.pull.1mb"
	Value  float64 `json:"value"` // median over the rounds
	Unit   string  `json:"unit"`  // "1/s", "ms", "µs", "MB" (10^6 bytes)
	Min    float64 `json:"min"`   // over the rounds, or the samples where one round has them all
	Max    float64 `json:"max"`
	Rounds int     `json:"rounds"`

	Aim *Aim  `json:"aim,omitempty"`
	Met *bool `json:"met,omitempty"` // whether Value, or Ratio where there is a peer, reaches the aim

	Peer      string  `json:"peer,omitempty"`
	PeerValue float64 `json:"peer_value,omitempty"` // median of the peer's rounds
	// Ratio is Value over the peer's, as the median of the rounds' own ratios: a
	// round compares slots that are seconds apart, the medians might not.
	Ratio    float64 `json:"ratio,omitempty"`
	RatioMin float64 `json:"ratio_min,omitempty"`
	RatioMax float64 `json:"ratio_max,omitempty"`

	// CPU is what the measured process used for one operation, in µs: it moves
	// far less with what else the machine does than rates do.
	CPU     float64 `json:"cpu_us,omitempty"`
	PeerCPU float64 `json:"peer_cpu_us,omitempty"`
	// Others is the share of the machine's processors, in percent, that went to
	// processes outside the benchmark while it measured.
	Others float64 `json:"others_percent"`
	Note   string  `json:"note,omitempty"`
	// What a write has reached when it is answered, here and at the peer.
	Durable     string `json:"durable,omitempty"`
	PeerDurable string `json:"peer_durable,omitempty"`
}

// Aim is what a figure is to reach; with a peer it is about the ratio.
type Aim struct {
	Op    string  `json:"op"` // ">=", ">" or "<="
	Value float64 `json:"value"`
}

func (a Aim) met(v float64) bool {
	switch a.Op {
	case ">=":
		return v >= a.Value
	case ">":
		return v > a.Value
	}
	return v <= a.Value
}

// samples are one value a round.
type samples []float64

// quantile is the value at 0..1 with the nearest rank; 0 without samples.
func (s samples) quantile(q float64) float64 {
	if len(s) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s))
	rank := int(math.Ceil(q * float64(len(sorted))))
	return sorted[max(0, rank-1)]
}

func (s samples) median() float64 { return s.quantile(0.5) }

// over divides sample by sample; the shorter one counts.
func (s samples) over(t samples) samples {
	var out samples
	for i := range min(len(s), len(t)) {
		if t[i] > 0 {
			out = append(out, s[i]/t[i])
		}
	}
	return out
}

// figure makes a Figure of samples without a peer.
func figure(name, unit string, s samples, aim *Aim) Figure {
	f := Figure{Name: name, Value: round(s.median()), Unit: unit, Rounds: len(s), Aim: aim}
	if len(s) > 0 {
		f.Min, f.Max = round(slices.Min(s)), round(slices.Max(s))
	}
	if aim != nil && len(s) > 0 {
		met := aim.met(f.Value)
		f.Met = &met
	}
	return f
}

// against compares with a peer's samples of the same rounds; the aim is about
// the ratio.
func (f Figure) against(peer string, own, theirs samples, aim *Aim) Figure {
	ratios := own.over(theirs)
	f.Peer, f.PeerValue, f.Aim, f.Met = peer, round(theirs.median()), aim, nil
	if len(ratios) == 0 {
		return f
	}
	f.Ratio, f.RatioMin, f.RatioMax = round(ratios.median()), round(slices.Min(ratios)), round(slices.Max(ratios))
	if aim != nil {
		met := aim.met(f.Ratio)
		f.Met = &met
	}
	return f
}

// round keeps four significant digits: more would claim a precision that no run
// has.
func round(v float64) float64 {
	if v == 0 || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0
	}
	scale := math.Pow(10, 3-math.Floor(math.Log10(math.Abs(v))))
	return math.Round(v*scale) / scale
}

// writeLines writes one JSON object a line.
func writeLines(w io.Writer, figures []Figure) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	for _, f := range figures {
		if err := enc.Encode(f); err != nil {
			return err
		}
	}
	return nil
}

// writeTable writes the same for people.
func writeTable(w io.Writer, figures []Figure) error {
	t := tabwriter.NewWriter(w, 2, 8, 2, ' ', 0)
	fmt.Fprintln(t, "figure\tmin\tmedian\tmax\tunit\tCPU µs\tpeer\tits median\tits CPU µs\tratio\taim\t\tothers")
	for _, f := range figures {
		ratio, peerValue, aim, verdict := "", "", "", ""
		if f.Peer != "" {
			ratio = fmt.Sprintf("%s (%s..%s)", plain(f.Ratio), plain(f.RatioMin), plain(f.RatioMax))
			peerValue = plain(f.PeerValue)
		}
		if f.Aim != nil {
			aim = f.Aim.Op + " " + plain(f.Aim.Value)
			if f.Peer != "" {
				aim += " x"
			}
		}
		if f.Met != nil {
			verdict = map[bool]string{true: "met", false: "MISSED"}[*f.Met]
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%.0f%%\n", f.Name, plain(f.Min), plain(f.Value), plain(f.Max), f.Unit,
			orEmpty(f.CPU), f.Peer, peerValue, orEmpty(f.PeerCPU), ratio, aim, verdict, f.Others)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	said := map[string]bool{}
	say := func(who, what string) {
		if line := who + ": " + what; what != "" && !said[line] {
			said[line] = true
			fmt.Fprintln(w, line)
		}
	}
	for _, f := range figures {
		say(f.Name, f.Note)
	}
	for _, f := range figures {
		say("durable in assay", f.Durable)
		say("durable in "+f.Peer, f.PeerDurable)
	}
	return nil
}

func plain(v float64) string { return strconv.FormatFloat(round(v), 'f', -1, 64) }

func orEmpty(v float64) string {
	if v == 0 {
		return ""
	}
	return plain(v)
}
