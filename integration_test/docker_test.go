package integration_test

func cleanDocker() {}
