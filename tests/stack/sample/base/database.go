package main

import (
	"fmt"
	"math/big"
	"time"
)

// What the database takes for each of its parts.
const (
	handshake = 200 * time.Millisecond // a new connection: TLS and login
	statement = 20 * time.Millisecond
	reset     = 60 * time.Millisecond // a used connection, before it may be used again
)

// digits says how many digits each currency has after the point.
var digits = map[string]int64{"EUR": 2, "GBP": 2, "JPY": 0, "USD": 2}

// largest is the least amount that the ledger's column, a NUMERIC(9,2), does not hold.
var largest = big.NewRat(10_000_000, 1)

// Connection is one session with the (simulated) database.
type Connection struct{ pooled bool }

// Book writes one payment; the database checks that the decimal says what was charged.
func (c *Connection) Book(charged Amount, decimal string) error {
	time.Sleep(statement)
	booked, ok := new(big.Rat).SetString(decimal)
	unit := new(big.Int).Exp(big.NewInt(10), big.NewInt(digits[charged.Currency]), nil)
	if !ok || booked.Cmp(new(big.Rat).SetFrac(big.NewInt(charged.Minor), unit)) != 0 {
		return fmt.Errorf("ledger: %s booked for a charge of %d %s", decimal, charged.Minor, charged.Currency)
	}
	if booked.Cmp(largest) >= 0 {
		return fmt.Errorf("ledger: numeric field overflow: %s", decimal)
	}
	return nil
}
