package integration_test

import "testing"

func drainDenied(t *testing.T) {}
