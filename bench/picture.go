package main

import (
	"fmt"
	"strings"
)

// palette is the picture's colours, for a light page or a dark one.
type palette struct{ text, faint, bar, own string }

var (
	light = palette{"#1f2328", "#d1d9e0", "#8c959f", "#0969da"}
	dark  = palette{"#f0f6fc", "#3d444d", "#656c76", "#4493f8"}
)

// pictured are the rows that the picture shows.
var pictured = []string{"start-up", "signal", "exit", "5,000 orphans", "anonymous memory", "RSS", "PSS of 20 copies", "context switches", "binary"}

const (
	panelWidth, panelHeight = 290, 128
	perLine, margin         = 3, 16
)

// picture draws a small bar chart for each row, each to its own scale.
func (r *report) picture(p palette) string {
	var rows []row
	for _, name := range pictured {
		for _, w := range r.Rows {
			if w.Name == name {
				rows = append(rows, w)
			}
		}
	}
	lines := (len(rows) + perLine - 1) / perLine
	var b strings.Builder
	fmt.Fprintf(&b, `<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" font-family="system-ui, sans-serif" font-size="12" role="img" aria-label="What each init costs">`+"\n",
		perLine*panelWidth+margin, lines*panelHeight+margin)
	for i, w := range rows {
		panel(&b, p, w, margin+i%perLine*panelWidth, margin+i/perLine*panelHeight)
	}
	b.WriteString("</svg>\n")
	return b.String()
}

func panel(b *strings.Builder, p palette, w row, x, y int) {
	const label, bar, step = 66, 150, 22
	title := w.Name
	if w.Unit != "" {
		title += ", " + w.Unit
	}
	fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s" font-weight="600">%s</text>`+"\n", x, y+12, p.text, title)
	most := 0.0
	for _, name := range columns {
		most = max(most, median(w.Values[name]))
	}
	for i, name := range columns {
		v, colour := median(w.Values[name]), p.bar
		if name == "drainit" {
			colour = p.own
		}
		length := 0.0
		if most > 0 {
			length = max(0, v) / most * bar
		}
		top := y + 20 + i*step
		fmt.Fprintf(b, `<text x="%d" y="%d" fill="%s" text-anchor="end">%s</text>`, x+label-6, top+13, p.text, name)
		fmt.Fprintf(b, `<rect x="%d" y="%d" width="%.1f" height="16" rx="2" fill="%s"/>`, x+label, top, max(1, length), colour)
		fmt.Fprintf(b, `<text x="%.1f" y="%d" fill="%s">%s</text>`+"\n", float64(x+label)+length+5, top+13, p.text, figure(v))
	}
	fmt.Fprintf(b, `<path d="M%d %dv%d" stroke="%s"/>`+"\n", x+label, y+17, len(columns)*step, p.faint)
}
