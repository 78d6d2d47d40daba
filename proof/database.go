package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

// database is a protocol that is not HTTP: one command on a connection of its
// own, and a session that takes a while.
type database interface {
	command(addr string) failure
	session(addr string) failure
}

const sessionTakes = 4 * time.Second

func (c *clients) command(context.Context) failure { return c.ask(c.protocol.command) }

func (c *clients) session(context.Context) failure { return c.ask(c.protocol.session) }

func (c *clients) ask(do func(addr string) failure) failure {
	if addr := c.pick(); addr != "" {
		return do(addr)
	}
	return nowhere
}

// redis speaks as much of RESP as is needed.
type redis struct{}

func (redis) command(addr string) failure { return respond(addr, "PING", "+PONG") }

// session waits at a list that stays empty, as workers do.
func (redis) session(addr string) failure {
	return respond(addr, fmt.Sprintf("BLPOP nothing %d", int(sessionTakes.Seconds())), "*-1")
}

func respond(addr, command, want string) failure {
	c, err := net.DialTimeout("tcp", addr, patience)
	if err != nil {
		return failed(err, refused)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(sessionTakes + patience))
	if _, err := fmt.Fprintf(c, "%s\r\n", command); err != nil {
		return failed(err, reset)
	}
	line, err := bufio.NewReader(c).ReadString('\n')
	switch {
	case err != nil:
		return failed(err, cut)
	case strings.TrimSpace(line) != want:
		return bad
	}
	return good
}

type postgres struct{}

func (postgres) command(addr string) failure { return query(addr, "SELECT 1") }

func (postgres) session(addr string) failure {
	return query(addr, "BEGIN", fmt.Sprintf("SELECT pg_sleep(%g)", sessionTakes.Seconds()), "COMMIT")
}

func query(addr string, statements ...string) failure {
	ctx, cancel := context.WithTimeout(context.Background(), sessionTakes+patience)
	defer cancel()
	c, err := pgx.Connect(ctx, "postgres://server@"+addr+"/postgres?sslmode=disable")
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return refused
	case err != nil:
		return failed(err, reset)
	}
	defer c.Close(ctx)
	for _, s := range statements {
		if _, err := c.Exec(ctx, s); err != nil {
			return failed(err, cut)
		}
	}
	return good
}
