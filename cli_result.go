package main

// How a job's result looks.

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"honeydew/daemonpb"
)

func (c *cli) jobResult(ctx context.Context, args []string) error {
	job, err := c.client.GetJobStatus(ctx, &daemonpb.GetJobStatusRequest{JobId: args[0]})
	if err != nil {
		return err
	}
	return c.printResult(ctx, job)
}

// printResult prints a completed job's result, byte for byte unless a person looks at it.
func (c *cli) printResult(ctx context.Context, job *daemonpb.JobStatus) error {
	switch job.Status {
	case statusPending, statusRunning:
		return errorf(codeFailedPrecondition, "job %s is %s and has no result yet", job.JobId, job.Status).
			hint("wait for it with: honeydew job wait %s", job.JobId)
	case statusFailed, statusCancelled:
		return jobError(job)
	}
	var whole bytes.Buffer
	var out io.Writer = c.out
	forPerson := c.terminal && !c.json
	if forPerson {
		out = &whole
	}
	line := c.newProgress()
	tells := forPerson || !c.terminal // else the result itself is written where the line would be
	got := int64(0)
	in := &daemonpb.GetJobResultRequest{JobId: job.JobId}
	err := stream(ctx, c, longTimeout, c.client.GetJobResult, in, func(chunk *daemonpb.ResultChunk) error {
		got += int64(len(chunk.Data))
		if tells && got < job.ResultBytes {
			line.say("download", fmt.Sprintf("downloading: %s of %s", bytesText(got), bytesText(job.ResultBytes)))
		}
		_, err := out.Write(chunk.Data)
		return err
	})
	line.clear()
	if err != nil {
		return err
	}
	if forPerson {
		_, items, _ := strings.Cut(job.Command, ".")
		if !strings.HasSuffix(items, "s") {
			items = "items"
		}
		c.showResult(whole.Bytes(), words(items), "in full: honeydew job result "+job.JobId+" --json")
	} else {
		fmt.Fprintln(c.out)
	}
	if job.ErrorCode == codePartial {
		c.note("warning: the result is incomplete: %s", neutral(job.Error))
	}
	return nil
}

// showResult shows a result to a person: a list as a table, one object as names and values, anything else as JSON.
// items is what to call many of a list, and whole says how to get it in full.
func (c *cli) showResult(text []byte, items, whole string) {
	r := readResult(text, items)
	switch {
	case r == nil:
		c.printf("%s", indented(text))
		return
	case r.object:
		var pairs []string
		for _, name := range r.names {
			pairs = append(pairs, name+":", r.items[0][name])
		}
		c.pairs(pairs...)
		if len(text) > maxCell || bytes.ContainsAny(text[1:], "[{") { // which are not shown whole
			c.note("%s", whole)
		}
		return
	case r.count == 0 && r.beside:
		c.note("no %s; %s", r.noun, whole)
		return
	case r.count == 0:
		c.note("no %s", r.noun)
		return
	}
	c.table(r.rows())
	many := fmt.Sprint(r.count)
	if r.count > maxRows {
		many = fmt.Sprintf("%d of %d shown", maxRows, r.count)
	}
	c.note("%s: %s; %s", r.noun, many, whole)
}

// What is shown of a result, whatever the API sends: of a list so many rows; of an item so many members, each as so
// many bytes; JSON in lines, unless it is nested so deep that its indents would be larger than itself.
const (
	maxRows  = 50
	maxNames = 200
	maxCell  = 1000
	maxList  = 64 << 10 // bytes of a list in an item
	maxDepth = 100
)

// result is one object, or the beginning of a list. The items are objects, or values, which have the name "".
type result struct {
	object bool
	noun   string // many items
	count  int    // of all items
	beside bool   // something stands beside the list
	items  []map[string]string
	names  []string
	filled map[string]bool // whether a name has a text in any item
}

// readResult reads one item of a list at a time: there may be a hundred megabytes. An object that begins with a list
// stands for it, and the list's name is what its items are called. For anything else it returns nil. The text is
// checked first, so reading it cannot fail.
func readResult(text []byte, items string) *result {
	if !json.Valid(text) {
		return nil
	}
	r := &result{
		noun:   items,
		filled: map[string]bool{},
	}
	decoder := json.NewDecoder(bytes.NewReader(text))
	start, _ := decoder.Token()
	if start == json.Delim('{') {
		name, _ := decoder.Token()
		r.noun = words(fmt.Sprint(name))
		start, _ = decoder.Token()
		r.object = start != json.Delim('[')
	}
	switch {
	case r.object:
		r.add(bytes.TrimSpace(text), localTime)
	case start != json.Delim('['):
		return nil
	}
	for ; !r.object && decoder.More(); r.count++ {
		var item json.RawMessage
		_ = decoder.Decode(&item)
		if r.count < maxRows {
			r.add(item, localDate)
		}
	}
	if !r.object {
		_, _ = decoder.Token() // the end of the list
		r.beside = decoder.More()
	}
	empty := len(r.rows()[0]) == 0 && len(r.items) > 0
	mixed := len(r.names) > 1 && slices.Contains(r.names, "")
	if empty || mixed {
		return nil
	}
	return r
}

// add takes in an item. A thing in it that has no name is shown by its members.
func (r *result) add(text json.RawMessage, date func(string) string) {
	item := map[string]string{}
	r.items = append(r.items, item)
	put := func(name string, value json.RawMessage) bool {
		text, plain := valueText(value, date)
		if !plain {
			return false
		}
		text = cutText(text, maxCell)
		_, known := r.filled[name]
		switch {
		case !known && len(r.names) == maxNames:
			return true
		case !known:
			r.names = append(r.names, name)
		}
		r.filled[name] = r.filled[name] || text != ""
		item[name] = text
		return true
	}
	if text[0] != '{' {
		put("", text)
		return
	}
	for name, value := range members(text) {
		name = words(name)
		if put(name, value) {
			continue
		}
		for inner, value := range members(value) {
			put(name+" "+words(inner), value)
		}
	}
}

// rows are a table of the items, without columns that are empty.
func (r *result) rows() [][]string {
	rows := make([][]string, len(r.items)+1)
	for _, name := range r.names {
		if !r.filled[name] {
			continue
		}
		rows[0] = append(rows[0], strings.ToUpper(name))
		for i, item := range r.items {
			rows[i+1] = append(rows[i+1], item[name])
		}
	}
	if r.filled[""] { // values have no heads
		return rows[1:]
	}
	return rows
}

// words are a name of the API for people: createdAt is "created at".
func words(name string) string {
	return neutral(strings.ReplaceAll(kebab(name), "-", " "))
}

// members ranges over the members of a valid object, in their order.
func members(object []byte) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		decoder := json.NewDecoder(bytes.NewReader(object))
		_, _ = decoder.Token()
		for decoder.More() {
			name, _ := decoder.Token()
			var value json.RawMessage
			_ = decoder.Decode(&value)
			if !yield(fmt.Sprint(name), value) {
				return
			}
		}
	}
}

// valueText is a value for people. A thing that has a name is plain, and so is a list.
func valueText(value json.RawMessage, date func(string) string) (text string, plain bool) {
	switch value[0] {
	case 'n':
		return "", true
	case '"':
		_ = json.Unmarshal(value, &text)
		return cmp.Or(date(text), text), true
	case '{':
		var thing struct{ Name, DisplayName string }
		_ = json.Unmarshal(value, &thing) // a name that is no text is none
		text = cmp.Or(thing.Name, thing.DisplayName)
		return text, text != ""
	case '[':
		var items []json.RawMessage
		if len(value) > maxList {
			return "a long list", true
		}
		_ = json.Unmarshal(value, &items)
		var texts []string
		for _, item := range items {
			text, plain := "", false
			if item[0] != '[' {
				text, plain = valueText(item, date)
			}
			if !plain {
				return count(len(items), "item"), true
			}
			texts = append(texts, text)
		}
		return strings.Join(texts, ", "), true
	}
	return string(value), true
}

// indented is a JSON result for a terminal: in lines, and without the control characters that JSON lets pass (C1,
// bidi).
func indented(text []byte) string {
	var out bytes.Buffer
	if isDeep(text) || json.Indent(&out, text, "", "  ") != nil {
		return neutral(string(text))
	}
	return neutralised(out.String(), "\n")
}

// isDeep reports whether JSON is nested deeper than maxDepth.
func isDeep(text []byte) bool {
	decoder := json.NewDecoder(bytes.NewReader(text))
	for depth := 0; depth <= maxDepth; {
		token, err := decoder.Token()
		if err != nil {
			return false
		}
		switch token {
		case json.Delim('{'), json.Delim('['):
			depth++
		case json.Delim('}'), json.Delim(']'):
			depth--
		}
	}
	return true
}
