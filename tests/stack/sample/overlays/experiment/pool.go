package main

import (
	"context"
	"time"
)

const (
	// connections is how many the pool keeps open.
	connections = 1
	// patience is how long a request waits for one of them before it opens one for itself.
	patience = 50 * time.Millisecond
)

// Pool lends open connections to the database, first come, first served.
type Pool struct{ free chan *Connection }

func NewPool() *Pool {
	pool := &Pool{free: make(chan *Connection, connections)}
	for range connections {
		pool.free <- &Connection{pooled: true}
	}
	return pool
}

// Get lends a connection, or fails when the request ends while it waits.
func (p *Pool) Get(ctx context.Context) (*Connection, error) {
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case connection := <-p.free:
		return connection, nil
	case <-timer.C:
		time.Sleep(handshake)
		return &Connection{}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Put takes a connection back. Nobody waits for its reset but the next to use it.
func (p *Pool) Put(connection *Connection) {
	if !connection.pooled {
		return
	}
	time.AfterFunc(reset, func() { p.free <- connection })
}
