package main

// The help: one screen for newcomers, and a page for each verb, made from the table that the program obeys.

import (
	"cmp"
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

// help prints the one screen. All help is for people, whatever flags stand beside it.
func (c *cli) help() {
	c.json = false
	c.printf("%s", strings.TrimSuffix(helpText, "\n"))
}

// usage is how v is called.
func (v *verb) usage() string {
	return strings.TrimSpace("honeydew " + v.name + " " + v.args)
}

// helpGroup lists the verbs that begin with one word.
func (c *cli) helpGroup(group []verb) {
	c.json = false
	var rows [][]string
	for _, v := range group {
		rows = append(rows, []string{
			v.usage(),
			v.short,
		})
	}
	c.columns("  ", 0, rows)
}

func (c *cli) helpVerb(v *verb, f *flag.FlagSet) {
	c.json = false
	c.printf("%s\n\nUsage: %s [FLAG...]", v.short, v.usage())
	var rows [][]string
	f.VisitAll(func(f *flag.Flag) { // in the order of their names
		kind, usage := flag.UnquoteUsage(f)
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = "-" + f.Name
		}
		rows = append(rows, []string{
			name + " " + kind,
			usage,
		})
	})
	c.printf("\nFlags:")
	c.columns("  ", 0, rows)
	c.printf("\nExample:\n  %s", cmp.Or(v.example, v.usage()))
}
