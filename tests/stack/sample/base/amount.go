package main

import (
	"errors"
	"fmt"
)

// Amount is money in its currency's smallest unit: 1205 EUR are 12 euros and 5 cents.
type Amount struct {
	Minor    int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Check refuses amounts that cannot be charged.
func (a Amount) Check() error {
	switch a.Currency {
	case "EUR", "GBP", "USD":
	default:
		return fmt.Errorf("currency %q is not supported", a.Currency)
	}
	if a.Minor <= 0 {
		return errors.New("amount must be positive")
	}
	return nil
}

// Decimal writes the amount as the ledger takes it: 1205 EUR are 12.05.
func (a Amount) Decimal() string {
	return fmt.Sprintf("%d.%02d", a.Minor/100, a.Minor%100)
}
