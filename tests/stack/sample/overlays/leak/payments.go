package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
)

// A receipt is a picture, as its printer takes it: one byte for each dot.
const (
	width  = 384
	height = 128
	white  = 0xff
)

// Payments books what is posted to it: {"amount": 1205, "currency": "EUR"}.
type Payments struct {
	Pool     *Pool
	Currency string // for requests that name none
	booked   atomic.Int64
	receipts sync.Map // by the payment's number, to be printed once more where one gets lost
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
	payment := p.booked.Add(1)
	p.receipts.Store(payment, receipt(payment, amount))
	answer(w, http.StatusOK, map[string]any{"payment": payment, "amount": amount.Decimal()})
}

// receipt leaves the text in the first dots: the printer draws it over the rest.
func receipt(payment int64, amount Amount) []byte {
	picture := bytes.Repeat([]byte{white}, width*height)
	copy(picture, fmt.Sprintf("%d: %s %s", payment, amount.Decimal(), amount.Currency))
	return picture
}

func answer(w http.ResponseWriter, status int, body map[string]any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// Nothing can be done for a caller who does not read the answer.
	_ = json.NewEncoder(w).Encode(body)
}
