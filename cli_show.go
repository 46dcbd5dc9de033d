package main

// Answers for people: the templates of texts/answers.txt, and what they need beside Go's own functions.

import (
	_ "embed"
	"slices"
	"strings"
	"text/template"
	"time"
	"unicode"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

//go:embed texts/answers.txt
var answers string

// render prints what the template of that name makes of data.
func (c *cli) render(name string, data any) error {
	marked := func(e *daemonpb.Environment) string { return e.Name + map[bool]string{true: " (active)"}[e.Active] }
	templates, err := template.New("").Funcs(template.FuncMap{
		"bytes": bytesText, "local": localTime, "short": shortTime, "marked": marked,
		"count": func(n int64, what string) string { return count(int(n), what) },
		"moment": func(text string) string {
			t, _ := parseTimeText(text)
			return t.Local().Format("Mon " + time.DateTime + " MST")
		},
		"payload": func(s *structpb.Struct) string { return protojson.MarshalOptions{}.Format(s) },
		"span":    func(seconds int64) string { return span(time.Duration(seconds) * time.Second) },
		"wider":   func(width int, s string) int { return max(width, len([]rune(s))) },
	}).Parse(answers)
	if err != nil {
		return err
	}
	var out strings.Builder
	if err := templates.ExecuteTemplate(&out, name, data); err != nil {
		return err
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) || r == '\n' || r == '\t' {
			return r
		}
		return -1
	}, strings.TrimSuffix(out.String(), "\n"))
	first, _, _ := strings.Cut(text, "\n")
	columns := 1 + strings.Count(first, "\t")
	var rows [][]string
	for line := range strings.SplitSeq(text, "\n") {
		cells := append(strings.Split(line, "\t"), make([]string, columns)...)
		rows = append(rows, cells[:columns]) // whatever a value has in it
	}
	switch columns {
	case 1:
		c.printf("%s", text)
	case 2:
		c.pairs(slices.Concat(rows...)...)
	default:
		c.printTable(rows[0], rows[1:])
	}
	return nil
}
