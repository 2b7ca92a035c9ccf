// Payments takes card payments and books each in the ledger.
package main

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	// idle outlasts what gateways keep unused connections for (90 s is common), so that it is never us who close one just
	// as a request arrives on it.
	idle = 3 * time.Minute
	// drain is how long requests in hand may take to end after SIGTERM.
	drain = 5 * time.Second
)

func main() {
	if err := run(); err != nil {
		slog.Error("stopped", "error", err)
		os.Exit(1)
	}
}

func run() error {
	stop, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer cancel()

	start, err := time.ParseDuration(cmp.Or(os.Getenv("START"), "0s"))
	if err != nil {
		return err
	}
	time.Sleep(start)

	version := cmp.Or(os.Getenv("VERSION"), "unknown")
	payments := &Payments{Pool: NewPool(), Currency: cmp.Or(os.Getenv("CURRENCY"), "EUR")}
	var draining atomic.Bool

	routes := http.NewServeMux()
	metrics := NewMetrics()
	routes.Handle("POST /payments", metrics.Counting(payments))
	routes.Handle("GET /metrics", metrics)
	routes.HandleFunc("GET /healthz", func(http.ResponseWriter, *http.Request) {})
	routes.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if draining.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	})

	server := &http.Server{
		Handler:           versioned(version, routes),
		ReadHeaderTimeout: 5 * time.Second,
		IdleTimeout:       idle,
	}
	listener, err := net.Listen("tcp", cmp.Or(os.Getenv("LISTEN"), ":8080"))
	if err != nil {
		return err
	}
	slog.Info("serving", "address", listener.Addr(), "version", version)
	failed := make(chan error, 1)
	go func() { failed <- server.Serve(listener) }()

	select {
	case err := <-failed:
		return err
	case <-stop.Done():
	}
	draining.Store(true)
	limit, done := context.WithTimeout(context.Background(), drain)
	defer done()
	return server.Shutdown(limit)
}

// versioned names in every answer the version that gave it.
func versioned(version string, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Version", version)
		next.ServeHTTP(w, r)
	})
}
