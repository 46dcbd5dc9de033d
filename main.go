// Command honeydew is both the daemon and its command line.
package main

func main() {}
