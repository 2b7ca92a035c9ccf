package main

import (
	"fmt"
	"net/http"
	"sync"
	"time"
)

// Metrics counts requests and how long they took, for whoever asks in Prometheus' text format.
type Metrics struct {
	mutex sync.Mutex
	codes map[int]int
	took  []int // by edge; the last is of all
	sum   float64
}

var edges = []float64{0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5}

func NewMetrics() *Metrics {
	return &Metrics{codes: map[int]int{}, took: make([]int, len(edges)+1)}
}

// Counting counts what next answers.
func (m *Metrics) Counting(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		recorder := &recorder{ResponseWriter: w, code: http.StatusOK}
		began := time.Now()
		next.ServeHTTP(recorder, r)
		m.count(recorder.code, time.Since(began).Seconds())
	})
}

func (m *Metrics) count(code int, seconds float64) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.codes[code]++
	m.sum += seconds
	m.took[len(edges)]++
	for i, edge := range edges {
		if seconds <= edge {
			m.took[i]++
		}
	}
}

func (m *Metrics) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	w.Header().Set("Content-Type", "text/plain; version=0.0.4")
	fmt.Fprintln(w, "# TYPE http_requests_total counter")
	for code, number := range m.codes {
		fmt.Fprintf(w, "http_requests_total{code=\"%d\"} %d\n", code, number)
	}
	fmt.Fprintln(w, "# TYPE http_request_duration_seconds histogram")
	for i, edge := range edges {
		fmt.Fprintf(w, "http_request_duration_seconds_bucket{le=\"%g\"} %d\n", edge, m.took[i])
	}
	all := m.took[len(edges)]
	fmt.Fprintf(w, "http_request_duration_seconds_bucket{le=\"+Inf\"} %d\n", all)
	fmt.Fprintf(w, "http_request_duration_seconds_sum %g\n", m.sum)
	fmt.Fprintf(w, "http_request_duration_seconds_count %d\n", all)
}

// recorder remembers the status of an answer.
type recorder struct {
	http.ResponseWriter
	code int
}

func (r *recorder) WriteHeader(code int) {
	r.code = code
	r.ResponseWriter.WriteHeader(code)
}
