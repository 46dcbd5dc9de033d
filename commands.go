package main

// The command table, read from the files in queries/ at start-up: one file is one command, named after it. Its first
// comment line is the description, its one operation's variables are the arguments. There is no second list.

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

const maxPayloadBytes = 1 << 20 // as JSON

// Argument is a variable of a command's operation.
type Argument struct {
	Name     string
	Type     string // as GraphQL writes it: String!, [Int!]!
	Required bool
}

// Command is one operation of the API.
type Command struct {
	Name        string
	Description string
	Query       string // the text to send, as a JSON string
	Field       string // the one root field
	Mutation    bool
	Args        []Argument
}

// Commands is the table; it does not change.
type Commands struct {
	byName map[string]*Command
	public []*Command // by name
}

// loadCommands reads every file of dir queries in fsys that is named provider.command.graphql.
func loadCommands(fsys fs.FS) (*Commands, error) {
	files, err := fs.Glob(fsys, "queries/*.*.graphql") // sorted
	if err != nil {
		return nil, err
	}
	t := &Commands{byName: map[string]*Command{}}
	head := queryHead()
	for _, file := range files {
		text, err := fs.ReadFile(fsys, file)
		if err != nil {
			return nil, err
		}
		name := strings.TrimSuffix(path.Base(file), ".graphql")
		c, err := parseCommand(head, name, string(text))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		t.byName[c.Name] = c
		if provider(c.Name) != "auth" {
			t.public = append(t.public, c)
		}
	}
	return t, nil
}

// provider is the part of a command's name before the dot.
func provider(command string) string {
	p, _, _ := strings.Cut(command, ".")
	return p
}

// queryHead matches a command's name and the beginning of its file: description, kind, variables and root field. It is
// as much of GraphQL as is needed here; the sandbox's tests hold the whole text against the schema.
func queryHead() *regexp.Regexp {
	return regexp.MustCompile(`^[a-z][a-z0-9_]*\.[a-z]\w*\n# +(\S.*)\n` +
		`\s*(query|mutation)\s+\w+\s*(?:\(((?:\s*\$\w+\s*:\s*(?:\w+|\[\w+!?\])!?\s*,?)+)\))?\s*\{\s*(\w+)`)
}

func parseCommand(head *regexp.Regexp, name, text string) (*Command, error) {
	named := name + "\n" + text
	m := head.FindStringSubmatch(named)
	if m == nil || !endsAfterRootField(named[len(m[0]):]) {
		return nil, errors.New("not named provider.command.graphql, or not `# description` " +
			"and one named query or mutation with one root field")
	}
	_, query, _ := strings.Cut(text, "\n")
	quotedQuery, _ := json.Marshal(query) // no string fails to encode
	c := &Command{
		Name:        name,
		Description: strings.TrimSpace(m[1]),
		Query:       string(quotedQuery),
		Field:       m[4],
		Mutation:    m[2] == "mutation",
	}
	variables := strings.FieldsFunc(m[3], func(r rune) bool {
		return unicode.IsSpace(r) || strings.ContainsRune("$:,", r)
	})
	for pair := range slices.Chunk(variables, 2) {
		variable, typ := pair[0], pair[1]
		if allowedValue(typ) == "" || c.argument(variable) != nil {
			return nil, fmt.Errorf("$%s: declared twice, or of the unknown type %q", variable, typ)
		}
		c.Args = append(c.Args, Argument{
			Name:     variable,
			Type:     typ,
			Required: strings.HasSuffix(typ, "!"),
		})
	}
	return c, nil
}

// endsAfterRootField holds the text behind a root field's name against one that has at most arguments and a selection,
// closes the operation, and is all: a second field or operation would be sent, and its result lost.
func endsAfterRootField(text string) bool {
	depth := 0
	for i, r := range text {
		switch {
		case r == '(', r == '{':
			depth++
		case r == '}' && depth == 0:
			return strings.TrimSpace(text[i+1:]) == ""
		case (r == ')' || r == '}') && depth > 0:
			depth--
		case depth == 0 && !unicode.IsSpace(r) && r != ',':
			return false
		}
	}
	return false
}

// Lookup finds a command that can be submitted.
func (t *Commands) Lookup(name string) (*Command, error) {
	c := t.byName[name]
	if c != nil && provider(name) != "auth" {
		return c, nil
	}
	e := errorf(codeUnknownCommand, "no command %s", quoted(name)).hint("list them with: honeydew commands")
	var names []string
	for _, c := range t.public {
		names = append(names, c.Name)
		if provider(c.Name) == provider(name) {
			e = e.hint("see what there is of %s with: honeydew %s", provider(name), provider(name))
		}
	}
	e.Message += didYouMean(name, names)
	return nil, e
}

// All lists the commands that can be submitted, by name.
func (t *Commands) All() []*Command {
	return t.public
}

// internal finds one of the daemon's own operations, which are part of the binary.
func (t *Commands) internal(name string) *Command {
	return t.byName[name]
}

// argument finds an argument by name, nil if there is none.
func (c *Command) argument(name string) *Argument {
	for i := range c.Args {
		if c.Args[i].Name == name {
			return &c.Args[i]
		}
	}
	return nil
}

// Check holds a payload against the command's arguments; its errors are INVALID_ARGUMENT and name the key.
func (c *Command) Check(payload map[string]any) error {
	var unknown, known []string
	for key := range payload {
		if c.argument(key) == nil {
			unknown = append(unknown, key)
		}
	}
	if unknown != nil { // before what is missing, which may be what was meant
		for _, a := range c.Args {
			known = append(known, a.Name)
		}
		key := slices.Min(unknown)
		return c.misfit("%s has no argument %q%s", c.Name, cutText(key, 100), didYouMean(key, known))
	}
	for _, a := range c.Args {
		v, given := payload[a.Name]
		if a.Required && (!given || v == "") {
			return c.misfit("%s is missing", a.Name)
		}
		if given && !fits(a.Type, v) {
			return c.misfit("%s must be %s", a.Name, allowedValue(a.Type))
		}
	}
	return nil
}

// didYouMean is the end of a message about s, which is none of the names, if one of them is near.
func didYouMean(s string, names []string) string {
	near := nearest(s, names)
	if near == "" {
		return ""
	}
	return "; did you mean " + near + "?"
}

func (c *Command) misfit(format string, args ...any) error {
	return invalidf(format, args...).hint("%s", c.usage())
}

// invalidf refuses what was asked for.
func invalidf(format string, args ...any) *Error {
	return errorf(codeInvalidArgument, format, args...)
}

// badField refuses the value of a request's field.
func badField(field, value, allowed string) *Error {
	return invalidf("%s: %w", field, refused(quoted(value), allowed))
}

func tooLarge(payload int) *Error {
	return invalidf("payload: it has %d bytes; allowed: at most %d", payload, maxPayloadBytes)
}

// usage lists the arguments, in brackets those that may be left out.
func (c *Command) usage() string {
	if len(c.Args) == 0 {
		return c.Name + " takes no arguments"
	}
	var list []string
	for _, a := range c.Args {
		name := a.Name
		if !a.Required {
			name = "[" + name + "]"
		}
		list = append(list, name)
	}
	return c.Name + " takes " + strings.Join(list, " ")
}

// refuse returns what is allowed where v is not.
func (a *Argument) refuse(v any) string {
	if fits(a.Type, v) {
		return ""
	}
	return allowedValue(a.Type)
}

// allowedValue says in words what a GraphQL type takes, "" for a type that no command has.
func allowedValue(typ string) string {
	allowed := ""
	switch strings.Trim(typ, "[]!") {
	case "String", "ID":
		allowed = "a string"
	case "Int":
		allowed = "a whole number"
	case "Float":
		allowed = "a number"
	case "Boolean":
		allowed = "true or false"
	default:
		return ""
	}
	if typ[0] == '[' {
		return "a list, each item " + allowed
	}
	return allowed
}

// fits holds a value out of JSON against a GraphQL type (GraphQL, section 3.5), without coercions.
func fits(typ string, v any) bool {
	typ, required := strings.CutSuffix(typ, "!")
	switch v := v.(type) {
	case nil:
		return !required
	case []any:
		item, isList := strings.CutPrefix(strings.TrimSuffix(typ, "]"), "[")
		for _, one := range v {
			isList = isList && fits(item, one)
		}
		return isList
	case string:
		return typ == "String" || typ == "ID"
	case bool:
		return typ == "Boolean"
	case float64:
		if typ == "Float" {
			return !math.IsNaN(v) && !math.IsInf(v, 0)
		}
		whole := v == math.Trunc(v) && v >= math.MinInt32 && v <= math.MaxInt32
		return whole && (typ == "Int" || typ == "ID")
	}
	return false
}

const maxNameBytes = 64 // of a name, as far as likeness goes

// nearest is the name that s was most likely meant to be, letter case apart; "" if none is near: a third of s may be
// wrong.
func nearest(s string, names []string) string {
	s = strings.ToLower(cutText(s, maxNameBytes))
	name := ""
	least := max(1, (len(s)+1)/3) + 1
	for _, n := range names {
		distance := editDistance(s, strings.ToLower(n))
		swapped := name != "" && distance == least && len(n) == len(s) // two letters changed places
		if swapped || distance < least {
			name = n
			least = distance
		}
	}
	return name
}

// editDistance counts the insertions, deletions and substitutions between two texts (Wagner and Fischer, 1974).
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(row[j]+1, row[j+1]+1, cost)
		}
	}
	return row[len(b)]
}

// payloadJSON is a payload as it is stored and sent.
func payloadJSON(payload map[string]any) ([]byte, error) {
	text, err := json.Marshal(payload)
	if err != nil {
		return nil, invalidf("payload: a value in it is not JSON")
	}
	if len(text) > maxPayloadBytes {
		return nil, tooLarge(len(text))
	}
	return text, nil
}

// checkName holds names of environments and schedules to what fits a line and a command: 1 to 100 printable
// characters without blanks at the ends, not beginning with a dash.
func checkName(field, name string) error {
	n := utf8.RuneCountInString(name)
	bad := !utf8.ValidString(name)
	for _, r := range name {
		bad = bad || !unicode.IsPrint(r)
	}
	if bad || n < 1 || n > 100 || strings.TrimSpace(name) != name || name[0] == '-' {
		const allowed = "1 to 100 printable characters, no blanks at the ends, no dash in front"
		return badField(field, name, allowed)
	}
	return nil
}
