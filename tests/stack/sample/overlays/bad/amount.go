package main

import (
	"errors"
	"fmt"
	"strconv"
)

// units says how many of its smallest unit one of a currency is.
var units = map[string]int64{"EUR": 100, "GBP": 100, "JPY": 1, "USD": 100}

// Amount is money in its currency's smallest unit: 1205 EUR are 12 euros and 5 cents, 1205 JPY are 1205 yen.
type Amount struct {
	Minor    int64  `json:"amount"`
	Currency string `json:"currency"`
}

// Check refuses amounts that cannot be charged.
func (a Amount) Check() error {
	if _, known := units[a.Currency]; !known {
		return fmt.Errorf("currency %q is not supported", a.Currency)
	}
	if a.Minor <= 0 {
		return errors.New("amount must be positive")
	}
	return nil
}

// Decimal writes the amount as the ledger takes it: with a fraction where the currency has one.
func (a Amount) Decimal() string {
	unit := units[a.Currency]
	if unit == 1 {
		return strconv.FormatInt(a.Minor, 10)
	}
	return fmt.Sprintf("%d.%d", a.Minor/unit, a.Minor%unit)
}
