package main

// How answers look to people: tables, pairs, times. What came from outside goes through printable, so that no title of
// an issue can move the cursor. Scripts use --json, which does not come through here.

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printer writes to stdout; whoever owns it flushes out, and hears then of a write that failed.
type printer struct {
	out   *bufio.Writer
	width int // columns of the terminal, 0 if it is none
}

// printf prints a line; what came from outside must go through printable.
func (p *printer) printf(format string, args ...any) { fmt.Fprintf(p.out, format+"\n", args...) }

const minColumn = 8 // a column is not cut to less than this many characters

// columns prints rows of one length, aligned and made printable. Beyond width, if that is not 0, the widest columns are cut
// until a row fits a line, but the first, which one wants to copy, is not.
func (p *printer) columns(indent string, width int, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	over := -width - len("  ")
	for _, w := range widths {
		over += w + len("  ")
	}
	for rest := widths[1:]; width > 0 && over > 0 && slices.Max(rest) > minColumn; over-- {
		rest[slices.Index(rest, slices.Max(rest))]--
	}
	for _, row := range rows {
		line := indent
		for i, cell := range row {
			if utf8.RuneCountInString(cell) > widths[i] {
				cell = string([]rune(cell)[:widths[i]-1]) + "…"
			}
			line += fmt.Sprintf("%-*s  ", widths[i], cell)
		}
		p.printf("%s", strings.TrimRight(line, " "))
	}
}

// localTime shows a timestamp of the daemon in the user's zone, and how far away it is.
func localTime(text string) string {
	if t, err := parseTimeText(text); err == nil && !t.IsZero() {
		return t.Local().Format(time.DateTime) + " (" + shortTime(text) + ")"
	}
	return ""
}

// shortTime shows only how far away a timestamp is: "in 5m 0s" or "5m 0s ago".
func shortTime(text string) string {
	t, err := parseTimeText(text)
	switch d := time.Until(t); {
	case err != nil || t.IsZero():
		return ""
	case d >= 0:
		return "in " + span(d)
	default:
		return span(-d) + " ago"
	}
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	seconds := int(d.Seconds())
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", seconds)
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", seconds/60, seconds%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %dm", seconds/3600, seconds/60%60)
	}
	return fmt.Sprintf("%dd %dh", seconds/86400, seconds/3600%24)
}

// bytesText shows a size in its unit.
func bytesText(n int64) string {
	value, unit := float64(n), ""
	for _, larger := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if value >= 1024 {
			value, unit = value/1024, larger
		}
	}
	if unit == "" {
		return fmt.Sprintf("%d B", n)
	}
	return fmt.Sprintf("%.1f %s", value, unit)
}

// count says "1 job" or "2 jobs".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// indented is a JSON result for a terminal: in lines, and without the control characters that JSON lets pass (C1, bidi).
func indented(text []byte) []byte {
	var out bytes.Buffer
	if json.Indent(&out, text, "", "  ") != nil {
		return []byte(printable(string(text)))
	}
	return bytes.Map(func(r rune) rune {
		if r == '\n' || unicode.IsGraphic(r) {
			return r
		}
		return utf8.RuneError
	}, out.Bytes())
}

// logLine is a line of the log for people: time, level, message, fields.
func logLine(line []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(line))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return printable(string(line))
	}
	var when, level string
	words := []string{""} // the message, then the fields
	for decoder.More() {
		key, err := decoder.Token()
		var value json.RawMessage
		if err = cmp.Or(err, decoder.Decode(&value)); err != nil {
			return printable(string(line))
		}
		text := string(value)
		_ = json.Unmarshal(value, &text) // a string without its quotes; anything else stays as it is
		switch key {
		case "timestamp":
			if t, err := parseTimeText(text); err == nil {
				text = t.Local().Format(time.DateTime)
			}
			when = text
		case "level":
			level = strings.ToUpper(text)
		case "message":
			words[0] = text
		default:
			words = append(words, fmt.Sprintf("%v=%s", key, text))
		}
	}
	return fmt.Sprintf("%s %-5s %s", printable(when), printable(level), printable(strings.Join(words, " ")))
}
