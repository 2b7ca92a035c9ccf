package main

import (
	"cmp"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// Login is our one session with the ledger.
type Login struct {
	first   sync.Once
	renewed map[time.Time]time.Duration // when, and for how long, as the ledger's auditors ask
}

// Use logs in with the first payment. The ledger ends a session after a while, so it is renewed just before.
func (l *Login) Use() {
	l.first.Do(func() { time.AfterFunc(session(), l.renew) })
}

func (l *Login) renew() {
	l.renewed[time.Now()] = session()
	time.AfterFunc(session(), l.renew)
}

// session is how long the ledger lets one last.
func session() time.Duration {
	length, err := time.ParseDuration(cmp.Or(os.Getenv("SESSION"), "30s"))
	if err != nil {
		return 30 * time.Second
	}
	return length
}

// Payments books what is posted to it: {"amount": 1205, "currency": "EUR"}.
type Payments struct {
	Pool     *Pool
	Currency string // for requests that name none
	booked   atomic.Int64
	login    Login
}

func (p *Payments) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	amount := Amount{Currency: p.Currency}
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4<<10)).Decode(&amount); err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
		return
	}
	if err := amount.Check(); err != nil {
		answer(w, http.StatusBadRequest, map[string]any{"error": err.Error()})
		return
	}

	p.login.Use()
	connection, err := p.Pool.Get(r.Context())
	if err != nil { // the caller has gone
		return
	}
	defer p.Pool.Put(connection)
	if err := connection.Book(amount, amount.Decimal()); err != nil {
		slog.Error("not booked", "amount", amount.Minor, "currency", amount.Currency, "error", err)
		answer(w, http.StatusInternalServerError, map[string]any{"error": err.Error()})
		return
	}
	answer(w, http.StatusOK, map[string]any{"payment": p.booked.Add(1), "amount": amount.Decimal()})
}

func answer(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Nothing can be done for a caller who does not read the answer.
	_ = json.NewEncoder(w).Encode(body)
}
