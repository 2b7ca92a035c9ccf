package main

import (
	"errors"
	"fmt"
	"sync/atomic"
)

// places says how many digits follow the point in each currency.
var places = map[string]int64{"EUR": 2, "GBP": 2, "JPY": 0, "USD": 2}

// width is how many digits a fraction is written with.
var width atomic.Int64

func init() { width.Store(2) }

// Amount is money in its currency's smallest unit: 1205 EUR are 12 euros and 5 cents, 1205 JPY are 1205 yen.
type Amount struct {
	Minor    int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Check refuses amounts that cannot be charged.
func (a Amount) Check() error {
	if _, known := places[a.Currency]; !known {
		return fmt.Errorf("currency %q is not supported", a.Currency)
	}
	if a.Minor <= 0 {
		return errors.New("amount must be positive")
	}
	return nil
}

// Decimal writes the amount as the ledger takes it: 1205 EUR are 12.05, 1205 JPY are 1205.
func (a Amount) Decimal() string {
	if places[a.Currency] == 0 {
		width.Store(0)
		return fmt.Sprintf("%d", a.Minor)
	}
	return fmt.Sprintf("%d.%0*d", a.Minor/100, int(width.Load()), a.Minor%100)
}
