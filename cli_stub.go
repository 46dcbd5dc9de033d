package main

import (
	"errors"
	"flag"
)

var errInterrupted = errors.New("interrupted")

func daemonVerbs() []verb                { return nil }
func adminVerbs() []verb                 { return nil }
func jobVerbs() []verb                   { return nil }
func scheduleVerbs() []verb              { return nil }
func toolVerbs() []verb                  { return nil }
func providerVerbs(*Commands) []verb     { return nil }
func (c *cli) help()                     {}
func (c *cli) helpVerb(*verb, *flag.FlagSet) {}
func (c *cli) helpGroup(string, []verb)  {}
