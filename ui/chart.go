package ui

import (
	"math"
	"strconv"
	"strings"
)

// Chart is a series of numbers, drawn at the server. What is not known is a gap,
// drawn as one, and stands as unknown in the table.
type Chart struct {
	ID      string
	Label   string // what it shows, for those who do not see it
	Caption string
	Names   []string  // of the points, such as days
	Values  []float64 // NaN: unknown
	Unit    string    // of values
	Digits  int
	Goal    float64 // NaN or 0: none
	Most    float64 // upper end; 0: of the values
	Bars    []Bar   // instead of a line, made by bars

	Width, Height int
	Paths         []Path
	Grid          []Gridline
	Gaps          []Gap
	GoalY         string
}

// Path is a line of a chart.
type Path struct{ D, Class string }

// Bar is a bar of a chart.
type Bar struct{ X, Y, W, H, Class, Title string }

// Gridline is a line across.
type Gridline struct{ Y string }

// Gap is where nothing is known.
type Gap struct{ X, W string }

const (
	chartWidth  = 600
	chartHeight = 120
)

func coord(x float64) string { return strconv.FormatFloat(x, 'f', 1, 64) }

// draw works out where lines and bars go.
func (c *Chart) draw(bars bool) *Chart {
	c.Width, c.Height = chartWidth, chartHeight
	top := c.Most
	if top == 0 {
		for _, v := range c.Values {
			if !math.IsNaN(v) {
				top = max(top, v)
			}
		}
		top = max(top*1.1, c.Goal*1.1)
	}
	if top <= 0 {
		top = 1
	}
	n := len(c.Values)
	y := func(v float64) float64 { return chartHeight - v/top*(chartHeight-4) }
	for i := 0; i <= 2; i++ {
		c.Grid = append(c.Grid, Gridline{coord(min(chartHeight-.5, y(top*float64(i)/2)))})
	}
	if c.Goal > 0 {
		c.GoalY = coord(y(c.Goal))
	}
	step := chartWidth / float64(max(n, 1))
	var d strings.Builder
	pen := false
	for i, v := range c.Values {
		x := step * float64(i)
		if math.IsNaN(v) {
			c.Gaps = append(c.Gaps, Gap{coord(x), coord(step)})
			pen = false
			continue
		}
		if bars {
			c.Bars = append(c.Bars, Bar{X: coord(x + step*.1), Y: coord(y(v)), W: coord(step * .8), H: coord(chartHeight - y(v)), Class: "bar", Title: c.Names[i] + ": " + c.value(v)})
			continue
		}
		if pen {
			d.WriteString("L")
		} else {
			d.WriteString("M")
		}
		d.WriteString(coord(x+step/2) + " " + coord(y(v)))
		if !pen && (i+1 == n || math.IsNaN(c.Values[i+1])) { // a point by itself
			d.WriteString("h.1")
		}
		pen = true
	}
	if d.Len() > 0 {
		c.Paths = append(c.Paths, Path{d.String(), "series"})
	}
	return c
}

func (c *Chart) value(v float64) string {
	return strings.TrimSpace(strconv.FormatFloat(v, 'f', c.Digits, 64) + " " + c.Unit)
}

// Table is the chart's numbers.
func (c *Chart) Table() *Table {
	t := &Table{Columns: []Column{{Key: "at", Name: "At"}, {Key: "value", Name: "Value", Number: true}}}
	for i, v := range c.Values {
		cell := unknown("nothing was measured")
		if !math.IsNaN(v) {
			cell = Cell{Text: c.value(v), Value: v}
		}
		t.Rows = append(t.Rows, []Cell{text(c.Names[i]), cell})
	}
	return t
}

// Section is the table of a chart, as a section has one.
func (c *Chart) Section() *Section { return &Section{Title: c.Label, Table: c.Table()} }
