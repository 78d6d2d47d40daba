// Empty is what starting the Go runtime costs.
package main

func main() {}
