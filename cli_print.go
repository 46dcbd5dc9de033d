package main

// How answers look to people: tables, pairs, times. What came from outside goes through neutralised, so that no title of
// an issue can move the cursor. Scripts use --json, which does not come through here.

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// printer writes to stdout; whoever owns it flushes out, and hears then of a write that failed.
type printer struct {
	out      *bufio.Writer
	terminal bool // a person looks at it
	width    int  // columns of the terminal, 0 if it is none
}

const usualWidth = 80 // of a terminal that does not know its own

// newPrinter prints to out, a terminal of that many columns, or none.
func newPrinter(out io.Writer, terminal bool, columns int) printer {
	p := printer{
		out:      bufio.NewWriterSize(out, 64<<10),
		terminal: terminal,
	}
	if terminal {
		p.width = cmp.Or(columns, usualWidth)
	}
	return p
}

// printf prints a line, without what a terminal would obey.
func (p *printer) printf(format string, args ...any) {
	fmt.Fprintln(p.out, neutralised(fmt.Sprintf(format, args...), "\n\t", dropped))
}

const dropped rune = -1 // in place of a character: nothing

// neutralised is s with instead in place of each character that a terminal obeys (C0, C1) or that turns the order of
// the others (bidi controls), except those of keep. Joiners that hold a word or an emoji together stay.
func neutralised(s, keep string, instead rune) string {
	var out strings.Builder
	before := rune(0)
	for i, r := range s { // bytes that are no UTF-8 become U+FFFD
		switch {
		case unicode.IsGraphic(r), strings.ContainsRune(keep, r), joins(before, r, s[i:]):
			out.WriteRune(r)
		case unicode.IsSpace(r) && instead == dropped:
			out.WriteRune(' ')
		case instead != dropped:
			out.WriteRune(instead)
		}
		before = r
	}
	return out.String()
}

// joins reports whether r, with which rest begins, is a joiner between two characters of one word or emoji: U+200C
// divides letters in Persian, U+200D joins them in Indian scripts, and the parts of a family.
func joins(before, r rune, rest string) bool {
	if r != '\u200c' && r != '\u200d' {
		return false
	}
	after, _ := utf8.DecodeRuneInString(rest[utf8.RuneLen(r):])
	return joinable(before) && joinable(after)
}

func joinable(r rune) bool {
	return r > unicode.MaxASCII && r != utf8.RuneError && (unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsSymbol(r))
}

// neutral makes one line of s, without what a terminal would obey.
func neutral(s string) string {
	return strings.Join(strings.Fields(neutralised(s, "", dropped)), " ")
}

const minColumn = 8 // a column is not cut to less than this many characters

// columns prints rows of one length, aligned and made printable. Beyond width, if that is not 0, the widest columns are cut
// until a row fits a line, but the first, which one wants to copy, is not.
func (p *printer) columns(indent string, width int, rows [][]string) {
	widths := make([]int, len(rows[0]))
	for _, row := range rows {
		for i := range row {
			row[i] = neutral(row[i])
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
		return []byte(neutral(string(text)))
	}
	return []byte(neutralised(out.String(), "\n", utf8.RuneError))
}

// logLine is a line of the log for people: time, level, message, fields.
func logLine(line []byte) string {
	decoder := json.NewDecoder(bytes.NewReader(line))
	if t, err := decoder.Token(); err != nil || t != json.Delim('{') {
		return neutral(string(line))
	}
	var when, level string
	words := []string{""} // the message, then the fields
	for decoder.More() {
		key, err := decoder.Token()
		var value json.RawMessage
		if err = cmp.Or(err, decoder.Decode(&value)); err != nil {
			return neutral(string(line))
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
	return fmt.Sprintf("%s %-5s %s", neutral(when), neutral(level), neutral(strings.Join(words, " ")))
}
