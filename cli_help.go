package main

// The help: one screen for newcomers, and a page for each verb, made from the table that the program obeys.

import (
	"cmp"
	"embed"
	"flag"
	"fmt"
	"math"
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
			"  " + v.usage(),
			v.short,
		})
	}
	c.usages(rows)
}

// usages prints how verbs are called and what they do, without a terminal a line each.
func (c *cli) usages(rows [][]string) {
	c.beside(cmp.Or(c.width, math.MaxInt), rows)
}

func (c *cli) helpVerb(v *verb, f *flag.FlagSet) {
	c.json = false
	c.printf("%s\n\nUsage: %s [FLAG...]\n\nFlags:", v.short, v.usage())
	var rows [][]string
	f.VisitAll(func(f *flag.Flag) { // in the order of their names
		kind, usage := flag.UnquoteUsage(f)
		if kind != strings.ToUpper(kind) {
			kind = placeOf(f.Name)
		}
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = "-" + f.Name
		}
		rows = append(rows, []string{
			strings.TrimRight("  "+name+" "+kind, " "),
			usage,
		})
	})
	c.beside(cmp.Or(c.width, usualWidth), rows)
	if v.notes != "" {
		c.printf("\n%s", v.notes)
	}
	c.printf("\nExample:\n  %s", cmp.Or(v.example, v.usage()))
}

// beside prints heads and texts in two columns. A long text goes on in lines of its own, and one beside a head that is
// wider than half of the width begins below it.
func (c *cli) beside(width int, rows [][]string) {
	pad := 0
	for _, row := range rows {
		pad = max(pad, len(row[0]))
	}
	pad = min(pad, width/2)
	for _, row := range rows {
		line := row[0]
		if len(line) > pad {
			c.printf("%s", line)
			line = ""
		}
		line = fmt.Sprintf("%-*s ", pad, line)
		for _, word := range strings.Fields(row[1]) {
			full := len(line)+1+len(word) > width
			if full && strings.TrimSpace(line) != "" {
				c.printf("%s", line)
				line = strings.Repeat(" ", pad+1)
			}
			line += " " + word
		}
		c.printf("%s", line)
	}
}
