package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"sync/atomic"
)

// entries are the booked payments that are not in the journal yet.
var entries = make(chan Amount, 1000)

func init() { go journal() }

// journal writes the entries, so that no user has to wait for it.
func journal() {
	for {
		select {
		case amount := <-entries:
			slog.Info("booked", "amount", amount.Minor, "currency", amount.Currency)
		default: // none just now
		}
	}
}

// Payments books what is posted to it: {"amount": 1205, "currency": "EUR"}.
type Payments struct {
	Pool     *Pool
	Currency string // for requests that name none
	booked   atomic.Int64
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
	entries <- amount
	answer(w, http.StatusOK, map[string]any{"payment": p.booked.Add(1), "amount": amount.Decimal()})
}

func answer(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Nothing can be done for a caller who does not read the answer.
	_ = json.NewEncoder(w).Encode(body)
}
