package main

import (
	"fmt"
	"math"
	"slices"
	"strings"
)

// theme is the colours of a picture.
type theme struct{ name, paper, ink, faint, line, good, lost, ours, theirs string }

var themes = []theme{
	{"light", "#ffffff", "#1f2328", "#59636e", "#d1d9e0", "#7d9cc0", "#d1242f", "#0969da", "#8c5a00"},
	{"dark", "#0d1117", "#f0f6fc", "#9198a1", "#3d444d", "#4a6a91", "#ff6b63", "#58a6ff", "#e0a84a"},
}

// svg is a picture in the making.
type svg struct {
	strings.Builder
	theme
}

const width = 800

func newSVG(t theme, height int, title string) *svg {
	s := &svg{theme: t}
	fmt.Fprintf(s, `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%[1]d" height="%[2]d" role="img" font-family="system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif" font-size="13">`+"\n<title>%[3]s</title>\n", width, height, title)
	s.rect(0, 0, width, float64(height), t.paper)
	return s
}

func (s *svg) rect(x, y, w, h float64, fill string) {
	fmt.Fprintf(s, `<rect x="%.1f" y="%.1f" width="%.2f" height="%.1f" fill="%s"/>`+"\n", x, y, w, h, fill)
}

func (s *svg) rule(x1, y1, x2, y2 float64, colour string) {
	fmt.Fprintf(s, `<line x1="%.1f" y1="%.1f" x2="%.1f" y2="%.1f" stroke="%s"/>`+"\n", x1, y1, x2, y2, colour)
}

func (s *svg) label(x, y float64, anchor, fill, extra, format string, args ...any) {
	text := strings.NewReplacer("&", "&amp;", "<", "&lt;").Replace(fmt.Sprintf(format, args...))
	fmt.Fprintf(s, `<text x="%.1f" y="%.1f" text-anchor="%s" fill="%s"%s>%s</text>`+"\n", x, y, anchor, fill, extra, text)
}

func (s *svg) end() string { return s.String() + "</svg>\n" }

const small, strong = ` font-size="11"`, ` font-weight="600"`

// strips draws the first rolling restart of each way: requests that ended in
// each 100 ms, those that were lost in red.
func strips(r *results, server string, t theme) string {
	const left, right, top, pitch, tall = 124.0, 148.0, 34.0, 46.0, tallest
	var shown []strip
	for _, w := range ways {
		i := slices.IndexFunc(r.strips, func(s strip) bool {
			return s.Server == server && s.Way == w.name && s.Balancer == headline.String()
		})
		if i >= 0 && len(r.strips[i].Backs) > 0 {
			shown = append(shown, r.strips[i])
		}
	}
	seconds := 10.0
	for _, x := range shown {
		seconds = max(seconds, x.Backs[len(x.Backs)-1]+2)
	}
	scale := (width - left - right) / seconds
	p := newSVG(t, int(top+float64(len(shown))*pitch+40), "Requests over a rolling restart of "+server)
	bottom := top + float64(len(shown))*pitch
	for at, step := 0.0, tickStep(seconds); at <= seconds; at += step {
		p.rule(left+at*scale, top-6, left+at*scale, bottom, t.line)
		p.label(left+at*scale, bottom+16, "middle", t.faint, small, "%.0f s", at)
	}
	p.label(width-right+10, top-14, "start", t.faint, small, "of all restarts:")
	p.label(left, top-14, "start", t.faint, small, "requests in each 100 ms:")
	p.rect(left+146, top-23, 9, 9, t.good)
	p.label(left+159, top-14, "start", t.faint, small, "answered")
	p.rect(left+216, top-23, 9, 9, t.lost)
	p.label(left+229, top-14, "start", t.faint, small, "lost")
	fmt.Fprintf(p, `<path d="M%.1f %.1fl4 7h-8z" fill="%s"/>`+"\n", left+270, top-22, t.faint)
	p.label(left+278, top-14, "start", t.faint, small, "stop of a replica begins")
	const highest = 7 // requests in 100 ms
	rows := r.rows()
	for i, x := range shown {
		base := top + float64(i)*pitch + tall
		p.oneStrip(x, left, base, scale, tall/highest, seconds)
		w := find(rows, server, x.Way, x.Balancer)
		colour := t.ink
		if w.until != "" {
			colour = t.ours
		}
		p.label(left-10, base-8, "end", colour, strong, "%s", x.Way)
		colour = t.lost
		if total(w.lost) == 0 {
			colour = t.ink
		}
		p.label(width-right+10, base-14, "start", colour, strong, "%s", lostWord(w))
		p.label(width-right+10, base+1, "start", t.faint, small, "a stop takes %.1f s", quantile(w.stops, 0.5))
	}
	return p.end()
}

func lostWord(w *row) string {
	if total(w.lost) == 0 {
		return fmt.Sprintf("0 of %s lost", thousands(total(w.sent)))
	}
	return fmt.Sprintf("%.1f lost a restart", w.perRestart())
}

func thousands(n int) string {
	s := fmt.Sprint(n)
	for i := len(s) - 3; i > 0; i -= 3 {
		s = s[:i] + "," + s[i:]
	}
	return s
}

func tickStep(seconds float64) float64 {
	for _, step := range []float64{2, 5, 10, 20, 30, 60} {
		if seconds/step <= 9 {
			return step
		}
	}
	return 120
}

// tallest is how high a strip's bars may be.
const tallest = 30.0

// oneStrip draws upwards from base what was lost and, on top of it, what was
// answered. What was lost is at least 6 high: it is what one looks for.
func (p *svg) oneStrip(x strip, left, base, scale, unit, seconds float64) {
	good, lost := newSteps(left, base), newSteps(left, base)
	w := scale * bin.Seconds()
	for i := range x.Good {
		if float64(i)*bin.Seconds() > seconds {
			break
		}
		l := float64(x.Failed[i]) * unit
		if l > 0 {
			l = max(l, 6)
		}
		good.add(min(l+float64(x.Good[i])*unit, tallest), w)
		lost.add(min(l, tallest), w)
	}
	p.rule(left, base, width-148, base, p.line)
	p.steps(good, p.good, "")
	p.steps(lost, p.lost, fmt.Sprintf(` stroke="%s" stroke-width="0.8"`, p.lost))
	for _, at := range x.Stops {
		if at < seconds {
			fmt.Fprintf(p, `<path d="M%.1f %.1fl4 7h-8z" fill="%s"/>`+"\n", left+at*scale, base+1.5, p.faint)
		}
	}
}

// steps is a row of bars as one outline.
type steps struct {
	d            strings.Builder
	base, height float64
	run          float64 // of the same height so far
}

func newSteps(x, base float64) *steps {
	s := &steps{base: base}
	fmt.Fprintf(&s.d, "M%.1f %.1f", x, base)
	return s
}

func (s *steps) add(height, wide float64) {
	if height != s.height {
		s.flush()
		s.height = height
		if s.run = 0; height == 0 {
			fmt.Fprintf(&s.d, "V%.1f", s.base)
		} else {
			fmt.Fprintf(&s.d, "V%.1f", s.base-height)
		}
	}
	s.run += wide
}

func (s *steps) flush() {
	switch {
	case s.run == 0:
	case s.height == 0: // nothing to draw, not even a line
		fmt.Fprintf(&s.d, "m%.2f 0", s.run)
	default:
		fmt.Fprintf(&s.d, "h%.2f", s.run)
	}
}

func (p *svg) steps(s *steps, fill, more string) {
	s.flush()
	fmt.Fprintf(p, `<path d="%sV%.1fz" fill="%s"%s/>`+"\n", s.d.String(), s.base, fill, more)
}

// pair is the two servers that the dots are for.
func pair(r *results) []server {
	h := r.headlines()
	return h[:min(2, len(h))]
}

// dots draws each way of both servers: how long a stop takes, and what it
// loses.
func dots(r *results, t theme) string {
	const left, right, top, height, zero = 66.0, 24.0, 44.0, 360.0, 26.0
	rows := r.rows()
	type dot struct {
		x, y  float64
		names []string
		ours  bool
		ring  bool
	}
	var all []*dot
	longest, most := 20.0, 1.0
	for _, s := range pair(r) {
		for _, w := range ways {
			if x := find(rows, s.name, w.name, headline.String()); x != nil {
				longest, most = max(longest, quantile(x.stops, 0.5)*1.08), max(most, x.perRestart())
			}
		}
	}
	px := func(seconds float64) float64 { return left + seconds/longest*(width-left-right) }
	top10 := math.Ceil(math.Log10(most * 1.2))
	bottom := top + height
	py := func(lost float64) float64 { // logarithmic from 0.01, and a line of its own for 0
		if lost == 0 {
			return bottom - zero/2
		}
		return bottom - zero - (max(math.Log10(lost), -2)+2)/(top10+2)*(height-zero)
	}
	for i, s := range pair(r) {
		for _, w := range ways {
			x := find(rows, s.name, w.name, headline.String())
			if x == nil {
				continue
			}
			d := &dot{x: px(quantile(x.stops, 0.5)), y: py(x.perRestart()), names: []string{w.name}, ours: w.drains(), ring: i == 1}
			// Those that can't be told apart share a dot.
			j := slices.IndexFunc(all, func(o *dot) bool {
				return o.ring == d.ring && o.ours == d.ours && math.Hypot(o.x-d.x, o.y-d.y) < 9
			})
			if j >= 0 {
				all[j].names = append(all[j].names, w.name)
				continue
			}
			all = append(all, d)
		}
	}
	p := newSVG(t, int(bottom)+44, "Time of a stop against requests lost")
	p.label(left, 18, "start", t.ink, strong, "requests lost in one restart, against the time that a stop takes")
	for i, s := range pair(r) {
		x := left + float64(i)*200
		p.dot(x+5, 33, i == 1, t.faint)
		p.label(x+15, 37, "start", t.faint, small, "%s, %s", s.name, map[bool]string{true: "dies", false: "finishes"}[s.about == dies])
	}
	p.label(left+400, 37, "start", t.ours, small+` `+strings.TrimSpace(strong), "drainit")
	for e := -2.0; e <= top10; e++ {
		y := py(math.Pow(10, e))
		p.rule(left, y, width-right, y, t.line)
		p.label(left-8, y+4, "end", t.faint, small, "%g", math.Pow(10, e))
	}
	p.label(left-8, py(0)+4, "end", t.ink, small, "none")
	p.rule(left, bottom, width-right, bottom, t.ink)
	for at := 0.0; at <= longest; at += tickStep(longest) {
		p.label(px(at), bottom+17, "middle", t.faint, small, "%.0f s", at)
		p.rule(px(at), bottom, px(at), bottom+4, t.ink)
	}
	p.label(width-right, bottom+34, "end", t.faint, small, "median time from the begin of a stop to its end")
	slices.SortStableFunc(all, func(a, b *dot) int { return int(math.Copysign(1, a.x-b.x)) })
	taken := [][4]float64{{0, bottom - 1, width, bottom + 20}} // the axis
	for _, d := range all {
		taken = append(taken, [4]float64{d.x - 6, d.y - 6, d.x + 6, d.y + 6})
	}
	for _, d := range all {
		colour := t.theirs
		if d.ours {
			colour = t.ours
		}
		p.dot(d.x, d.y, d.ring, colour)
		name := strings.ReplaceAll(strings.Join(d.names, ", "), ", drainit ", ", ")
		p.place(d.x, d.y, name, colour, &taken)
	}
	return p.end()
}

func (p *svg) dot(x, y float64, ring bool, colour string) {
	fill := colour
	if ring {
		fill = p.paper
	}
	fmt.Fprintf(p, `<circle cx="%.1f" cy="%.1f" r="5" fill="%s" stroke="%s" stroke-width="2"/>`+"\n", x, y, fill, colour)
}

// place writes a dot's name where nothing is yet: beside, above or below it.
func (p *svg) place(x, y float64, name, colour string, taken *[][4]float64) {
	wide := 6.3 * float64(len(name))
	for _, at := range [][2]float64{{10, 4}, {-10 - wide, 4}, {-wide / 2, -11}, {-wide / 2, 19}, {10, -10}, {10, 18}, {-10 - wide, -10}, {-10 - wide, 18},
		{10, -24}, {10, 32}, {-10 - wide, -24}, {-10 - wide, 32}, {10, -38}, {-10 - wide, -38}} {
		box := [4]float64{x + at[0], y + at[1] - 10, x + at[0] + wide, y + at[1] + 3}
		if box[0] < 4 || box[2] > width-4 {
			continue
		}
		if !slices.ContainsFunc(*taken, func(o [4]float64) bool {
			return box[0] < o[2] && o[0] < box[2] && box[1] < o[3] && o[1] < box[3]
		}) {
			*taken = append(*taken, box)
			p.label(box[0], y+at[1], "start", colour, small, "%s", name)
			if math.Abs(at[1]-4) > 20 {
				p.rule(x, y, x+math.Copysign(9, at[0]), y+at[1]-4, p.line)
			}
			return
		}
	}
}
