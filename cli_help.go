package main

// The help: one screen for newcomers, and a page for each verb, made from the table that the program obeys.

import (
	"embed"
	"flag"
	"strings"
)

// texts has what is no code: the help, the completion scripts, the files for service managers.
//
//go:embed texts
var texts embed.FS

//go:embed texts/help.txt
var helpText string

func (c *cli) help() { c.printf("%s", strings.TrimSuffix(helpText, "\n")) }

// usage is how v is called.
func (v *verb) usage() string { return strings.TrimSpace("honeydew " + v.name + " " + v.args) }

// helpGroup lists the verbs that begin with a word.
func (c *cli) helpGroup(word string, group []verb) {
	var rows [][]string
	for _, v := range group {
		rows = append(rows, []string{v.usage(), v.short})
	}
	c.columns("  ", 0, rows)
}

func (c *cli) helpVerb(v *verb, f *flag.FlagSet) {
	c.printf("%s\n\nUsage: %s [FLAG...]", v.short, v.usage())
	var rows [][]string
	f.VisitAll(func(f *flag.Flag) { // in the order of their names
		kind, usage := flag.UnquoteUsage(f)
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = name[1:]
		}
		rows = append(rows, []string{name + " " + kind, usage})
	})
	c.printf("\nFlags:")
	c.columns("  ", 0, rows)
	c.printf("\nExample:\n  %s", v.example)
}
