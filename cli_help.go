package main

// The help: one screen for newcomers, and a page for each verb, made from the table that the program obeys.

import (
	"cmp"
	"embed"
	"flag"
	"fmt"
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

// usages prints how verbs are called and what they do, a line each. Where both do not fit, the latter is cut, or left
// out.
func (c *cli) usages(rows [][]string) {
	const most = 48 // columns of the first part that the second is aligned behind
	pad := 0
	for _, row := range rows {
		width := len(row[0])
		if width <= most {
			pad = max(pad, width)
		}
	}
	for _, row := range rows {
		usage := row[0]
		line := fmt.Sprintf("%-*s  %s", pad, usage, row[1])
		switch {
		case c.width == 0:
		case c.width < max(pad, len(usage))+12:
			line = usage
		default:
			line = cut(line, c.width)
		}
		c.printf("%s", line)
	}
}

func (c *cli) helpVerb(v *verb, f *flag.FlagSet) {
	c.json = false
	width := cmp.Or(c.width, usualWidth)
	c.printf("%s\n\nUsage: %s [FLAG...]\n\nFlags:", v.short, v.usage())
	f.VisitAll(func(f *flag.Flag) { // in the order of their names
		kind, usage := flag.UnquoteUsage(f)
		if kind != strings.ToUpper(kind) {
			kind = placeOf(f.Name)
		}
		name := "--" + f.Name
		if len(f.Name) == 1 {
			name = "-" + f.Name
		}
		head := fmt.Sprintf("  %s %s", name, kind)
		c.printf("%s", hanging(head, usage, width))
	})
	c.printf("\nExample:\n  %s", cmp.Or(v.example, v.usage()))
}

// hanging puts text beside head, in lines of that width that begin one below the other.
func hanging(head, text string, width int) string {
	const pad = 26
	done := ""
	line := fmt.Sprintf("%-*s", pad, head)
	for _, word := range strings.Fields(text) {
		full := len(line)+1+len(word) > width
		if full && strings.TrimSpace(line) != "" {
			done += line + "\n"
			line = strings.Repeat(" ", pad)
		}
		line += " " + word
	}
	return done + line
}
