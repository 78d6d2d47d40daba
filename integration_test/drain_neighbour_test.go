package integration_test

import "testing"

func drainNeighbours(t *testing.T) {}
