package main

import "context"

// database is a protocol that is not HTTP.
type database interface {
	command(addr string) failure
	session(addr string) failure
}

func (c *clients) command(context.Context) failure {
	return c.ask(func(addr string) failure { return c.protocol.command(addr) })
}

func (c *clients) session(context.Context) failure {
	return c.ask(func(addr string) failure { return c.protocol.session(addr) })
}

func (c *clients) ask(do func(addr string) failure) failure {
	if addr := c.pick(); addr != "" {
		return do(addr)
	}
	return nowhere
}
