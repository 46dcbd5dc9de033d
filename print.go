package main

// How answers look to people: tables, pairs, times. What came from outside goes through printable, so that no title of
// an issue can move the cursor. Scripts use --json, which does not come through here.

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"time"
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

// printTable prints rows under headers, aligned. On a terminal its widest columns are cut until a row fits a line, but the
// first, which one wants to copy, is not; a pipe gets everything.
func (p *printer) printTable(headers []string, rows [][]string) {
	widths := make([]int, len(headers))
	all := append([][]string{headers}, rows...)
	for _, row := range all {
		for i := range row {
			row[i] = printable(row[i])
			widths[i] = max(widths[i], utf8.RuneCountInString(row[i]))
		}
	}
	if p.width > 0 {
		shrink(widths[1:], p.width-widths[0]-2*(len(widths)-1))
	}
	for _, row := range all {
		var line strings.Builder
		for i, cell := range row {
			if i > 0 {
				line.WriteString("  ")
			}
			cell = cutRunes(cell, widths[i])
			line.WriteString(cell)
			line.WriteString(strings.Repeat(" ", widths[i]-utf8.RuneCountInString(cell)))
		}
		p.printf("%s", strings.TrimRight(line.String(), " "))
	}
}

// shrink takes characters from the widest column until the widths fit into room.
func shrink(widths []int, room int) {
	total := 0
	for _, w := range widths {
		total += w
	}
	for ; total > room; total-- {
		widest := 0
		for i, w := range widths {
			if w > widths[widest] {
				widest = i
			}
		}
		if widths[widest] <= minColumn {
			return
		}
		widths[widest]--
	}
}

func cutRunes(s string, n int) string {
	if utf8.RuneCountInString(s) <= n {
		return s
	}
	runes := []rune(s)
	return string(runes[:n-1]) + "…"
}

// pairs prints names and values, one pair a line, leaving out empty values.
func (p *printer) pairs(list ...string) {
	width := 0
	for i := 0; i < len(list); i += 2 {
		if list[i+1] != "" {
			width = max(width, len(list[i]))
		}
	}
	for i := 0; i < len(list); i += 2 {
		if list[i+1] != "" {
			p.printf("%-*s  %s", width+1, list[i]+":", printable(list[i+1]))
		}
	}
}

// localTime shows a timestamp of the daemon in the user's zone, and how far away it is.
func localTime(text string) string {
	t, err := parseTimeText(text)
	if err != nil || t.IsZero() {
		return ""
	}
	return t.Local().Format(time.DateTime) + " (" + relative(time.Until(t)) + ")"
}

// shortTime shows only how far away a timestamp is.
func shortTime(text string) string {
	t, err := parseTimeText(text)
	if err != nil || t.IsZero() {
		return ""
	}
	return relative(time.Until(t))
}

// relative says "in 5m" or "5m ago".
func relative(d time.Duration) string {
	if d >= 0 {
		return "in " + span(d)
	}
	return span(-d) + " ago"
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", int(d.Minutes()), int(d.Seconds())%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %dm", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%dd %dh", int(d.Hours())/24, int(d.Hours())%24)
}

// bytesText shows a size in its unit.
func bytesText(n int64) string {
	const unit = 1024
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	value, names := float64(n)/unit, "KMGT"
	for value >= unit && len(names) > 1 {
		value, names = value/unit, names[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, names[0])
}

// count says "1 job" or "2 jobs".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// indented is a JSON result for a terminal: in lines, and without the control characters that JSON lets pass (C1).
func indented(text []byte) []byte {
	var out bytes.Buffer
	if json.Indent(&out, text, "", "  ") != nil {
		return []byte(printable(string(text)))
	}
	return bytes.Map(func(r rune) rune {
		if r >= 0x7f && r <= 0x9f || r == 0x202e || r == 0x2066 || r == 0x2067 || r == 0x2068 {
			return utf8.RuneError
		}
		return r
	}, out.Bytes())
}

// logLine is a line of the log for people: time, level, message, fields.
func logLine(line []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(line))
	var head [3]string
	var rest strings.Builder
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return printable(string(line))
	}
	for decoder.More() {
		key, err := decoder.Token()
		if err != nil {
			return printable(string(line))
		}
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return printable(string(line))
		}
		text := string(value)
		var unquoted string
		if json.Unmarshal(value, &unquoted) == nil {
			text = unquoted
		}
		switch key {
		case "timestamp":
			if t, err := parseTimeText(text); err == nil {
				text = t.Local().Format(time.DateTime)
			}
			head[0] = text
		case "level":
			head[1] = strings.ToUpper(text)
		case "message":
			head[2] = text
		default:
			fmt.Fprintf(&rest, " %v=%s", key, text)
		}
	}
	return fmt.Sprintf("%s %-5s %s", printable(head[0]), printable(head[1]), printable(head[2]+rest.String()))
}
