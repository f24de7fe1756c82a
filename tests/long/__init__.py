"""Slow proofs that `make test` leaves out: `make test-long` runs them, `make test-long PART=kills` one of them."""
