package main

import (
	"slices"
	"time"
)

// fullBudget is the GRACE_PERIOD of the table.
const fullBudget = 60 * time.Second

// The latest moments allowed by which a stop that nothing certain holds has to
// be forwarded: the window of 5 s and 20 s more, and a little for the machine.
const soon = 25*time.Second + slack

// slack is allowed for a busy machine.
const slack = time.Second

// scenario is a case: a server, its clients, and what is in front of it.
type scenario struct {
	name   string
	kind   string // too early, too late, stays
	server func(w *world) []string
	env    []string      // of drainit, without the prefix, and of the server
	newer  []string      // of a drainit that is newer than the one before
	denied bool          // netlink is
	tls    bool          // clients speak TLS
	trip   time.Duration // the round trip; 0: as fast as the kernel
	warm   time.Duration
	late   time.Duration // the balancer moves on so long after readiness turned
	// traffic starts the clients, and returns.
	traffic func(w *world)
	rows    []row
	// unwindowed leaves DRAIN_WINDOW to drainit.
	unwindowed bool
}

// row is a value of DRAIN_UNTIL, and what is expected under it.
type row struct {
	until string
	want  want
}

// want is what a stop must come to. The zero value expects nothing.
type want struct {
	lossless bool
	by       time.Duration // forwarded no later
	from     time.Duration // forwarded no earlier
	why      string
	physics  string // why losses can't be avoided here, and what bounds them
}

// lossless is expected of the values.
func lossless(until ...string) []row { return each(want{lossless: true}, until) }

// by is expected of the values: forwarded in time.
func by(latest time.Duration, until ...string) []row { return each(want{by: latest}, until) }

func each(w want, until []string) (rows []row) {
	for _, u := range until {
		rows = append(rows, row{u, w})
	}
	return rows
}

var cases = slices.Concat(poolCases, http1Cases, http2Cases, streamCases, lateCases, probeCases, steadyCases)

func find(name string) *scenario {
	i := slices.IndexFunc(cases, func(c scenario) bool { return c.name == name })
	if i < 0 {
		return nil
	}
	return &cases[i]
}

// budgets are those the default rule is measured at: Docker's, Kubernetes', and
// the table's.
var budgets = []time.Duration{10 * time.Second, 30 * time.Second, fullBudget}

// want is what a stop under a value must come to. At other budgets nothing is
// expected.
func (c *scenario) want(until string, budget time.Duration) want {
	for _, r := range c.rows {
		if r.until == until && budget == fullBudget {
			return r.want
		}
	}
	return want{}
}
