package main

// How answers look: lines, tables, pairs and times for people, or one JSON document for scripts. What came from outside
// goes through neutralised before people see it, so that no title of an issue can move the cursor.

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
)

// printer writes answers to stdout. Each verb prints its answer twice, and one of the two is shown: what is for people
// is silent with --json, and the document is silent without. Whoever owns a printer flushes out, and hears then of a
// write that failed.
type printer struct {
	out      *bufio.Writer
	json     bool // --json: scripts read it
	terminal bool // a person looks at it
	width    int  // columns of the terminal, 0 if it is none
	colour   bool // states are coloured
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

// printf prints a line for people, without what a terminal would obey.
func (p *printer) printf(format string, args ...any) {
	p.line(neutralised(fmt.Sprintf(format, args...), "\n"))
}

// document prints an answer for scripts, as the one JSON document of this run.
func (p *printer) document(answer any) error {
	if !p.json {
		return nil
	}
	if message, ok := answer.(proto.Message); ok {
		text, err := protojson.MarshalOptions{EmitUnpopulated: true}.Marshal(message)
		if err != nil {
			return err
		}
		answer = json.RawMessage(text) // loses protojson's spaces, which differ from build to build
	}
	encoder := json.NewEncoder(p.out)
	encoder.SetEscapeHTML(false)
	return encoder.Encode(answer)
}

// answer prints an answer that is one line for people.
func (p *printer) answer(document any, format string, args ...any) error {
	p.printf(format, args...)
	return p.document(document)
}

// text prints an answer that is a text for people, and for scripts the one member of their document.
func (p *printer) text(key, text string) error {
	return p.answer(map[string]string{key: text}, "%s", text)
}

// note prints to stderr what is not the answer itself.
func (c *cli) note(format string, args ...any) {
	_ = c.out.Flush() // its error comes up again at the end
	fmt.Fprintln(c.stderr, neutralised(fmt.Sprintf(format, args...), "\n\t"))
}

// neutralised is s without the characters that a terminal obeys (C0, C1) or that turn the order of the others (bidi
// controls), except those of keep. Joiners that hold a word or an emoji together stay.
func neutralised(s, keep string) string {
	var out strings.Builder
	before := rune(0)
	for i, r := range s { // bytes that are no UTF-8 become U+FFFD
		switch {
		case unicode.IsGraphic(r), strings.ContainsRune(keep, r), joins(before, r, s[i:]):
			out.WriteRune(r)
		case unicode.IsSpace(r):
			out.WriteRune(' ')
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
	if r <= unicode.MaxASCII || r == utf8.RuneError {
		return false
	}
	return unicode.IsLetter(r) || unicode.IsMark(r) || unicode.IsSymbol(r)
}

// neutral makes one line of s, without what a terminal would obey.
func neutral(s string) string {
	return strings.Join(strings.Fields(neutralised(s, "")), " ")
}

// pairs prints neutral names and their values, given in turn. An empty value is left out with its name.
func (p *printer) pairs(both ...string) {
	width := 0
	for pair := range slices.Chunk(both, 2) {
		width = max(width, textWidth(pair[0]))
	}
	for pair := range slices.Chunk(both, 2) {
		if pair[1] != "" {
			p.line(fitted(pair[0], width) + columnGap + p.painted(pair[0], neutral(pair[1])))
		}
	}
}

// table prints rows of one length for people, aligned and made printable. The first has the heads of the columns. On a
// terminal, each fits a line.
func (p *printer) table(rows [][]string) {
	var all []column
	for i, head := range rows[0] {
		widest := 0
		for _, row := range rows {
			row[i] = neutral(row[i])
			widest = max(widest, textWidth(row[i]))
		}
		if p.width > 0 {
			widest = min(widest, p.width)
		}
		all = append(all, newColumn(i, head, widest))
	}
	if p.width > 0 {
		all = fit(all, p.width)
	}
	for _, row := range rows {
		line := ""
		for _, c := range all {
			line += p.painted(rows[0][c.index], fitted(row[c.index], c.width)) + columnGap
		}
		p.line(strings.TrimRight(line, " "))
	}
}

// line prints a line for people that is neutral already, but for our own colours.
func (p *printer) line(text string) {
	if !p.json {
		fmt.Fprintln(p.out, text)
	}
}

// stateLine is printf, with the state in colour where it first occurs.
func (p *printer) stateLine(state, format string, args ...any) {
	text := neutralised(fmt.Sprintf(format, args...), "\n")
	p.line(strings.Replace(text, state, p.painted("STATUS", state), 1))
}

// painted is a neutral text in its colour, if what bears that name is a state.
func (p *printer) painted(name, text string) string {
	const red, yellow, green = "31", "33", "32"
	colour := ""
	switch name {
	case "STATUS", "LAST JOB", "status:":
		state, _, _ := strings.Cut(text, " ")
		switch state {
		case statusFailed, statusFailed + ",", "FAIL":
			colour = red
		case statusPending + ",": // and for what, follows
			colour = yellow
		case statusCompleted, "ok":
			colour = green
		}
	case "held:", "waits for:":
		colour = yellow
	case "problems:":
		colour = red
	}
	if colour == "" || !p.colour {
		return text
	}
	return "\x1b[" + colour + "m" + text + "\x1b[m"
}

const zonedTime = time.DateTime + " MST"

// localTime shows a timestamp of the daemon in the user's zone, and how far away it is.
func localTime(text string) string {
	local := formatted(text, zonedTime)
	if local == "" {
		return ""
	}
	return fmt.Sprintf("%s (%s)", local, shortTime(text))
}

// localDate shows only the day of a timestamp in the user's zone.
func localDate(text string) string {
	return formatted(text, time.DateOnly)
}

// formatted is a timestamp in the user's zone, "" if the text is none.
func formatted(text, layout string) string {
	t, err := parseTimeText(text)
	if err != nil || t.IsZero() {
		return ""
	}
	return t.Local().Format(layout)
}

// shortTime shows only how far away a timestamp is: "in 5m 0s" or "5m 0s ago".
func shortTime(text string) string {
	t, err := parseTimeText(text)
	if err != nil || t.IsZero() {
		return ""
	}
	away := time.Until(t)
	if away >= 0 {
		return "in " + span(away)
	}
	return span(-away) + " ago"
}

// span is a duration in its two largest units.
func span(d time.Duration) string {
	total := int(d.Seconds())
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", total)
	case d < time.Hour:
		return fmt.Sprintf("%dm %ds", total/60, total%60)
	case d < 24*time.Hour:
		return fmt.Sprintf("%dh %dm", total/3600, total/60%60)
	}
	return fmt.Sprintf("%dd %dh", total/86400, total/3600%24)
}

// seconds shows a number of seconds.
func seconds(n int64) string {
	return span(time.Duration(n) * time.Second)
}

// bytesText shows a size in its unit.
func bytesText(n int64) string {
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value := float64(n) / 1024
	units := "KMGT"
	for value >= 1024 && len(units) > 1 {
		value /= 1024
		units = units[1:]
	}
	return fmt.Sprintf("%.1f %ciB", value, units[0])
}

// count says "1 job" or "2 jobs".
func count(n int, what string) string {
	if n == 1 {
		return "1 " + what
	}
	return fmt.Sprintf("%d %ss", n, what)
}

// logLine is a line of the log for people: time, level, message, fields.
func logLine(line []byte) string {
	if !json.Valid(line) || line[0] != '{' {
		return neutral(string(line))
	}
	var when, level, message string
	var fields []string
	for key, value := range members(line) {
		text := string(value)
		_ = json.Unmarshal(value, &text) // a string without its quotes; anything else stays as it is
		switch key {
		case "timestamp":
			when = cmp.Or(formatted(text, zonedTime), text)
		case "level":
			level = strings.ToUpper(text)
		case "message":
			message = text
		default:
			fields = append(fields, key+"="+text)
		}
	}
	rest := neutral(message + " " + strings.Join(fields, " "))
	return fmt.Sprintf("%s %-5s %s", neutral(when), neutral(level), rest)
}
