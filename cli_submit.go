package main

// The verbs that submit jobs. Those of the providers have no code of their own: they are derived from the command
// table, required arguments by position, the others as flags.

import (
	"cmp"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"honeydew/daemonpb"
)

func (c *cli) submitVerbs() []verb {
	return []verb{
		{
			name:    "submit",
			args:    "[COMMAND] [KEY=VALUE...]",
			short:   "Submit a job, or many from a file",
			example: "honeydew submit github.commits organization=acme repository=api startDate=-7d --wait",
			setup:   c.submitVerb,
		},
		{
			name:  "commands",
			short: "List every command and its arguments",
			run:   c.listCommands,
		},
	}
}

// providerVerbs turns the command table into verbs.
func (c *cli) providerVerbs() []verb {
	examples := strings.NewReplacer(
		"ORGANIZATION", "acme",
		"WORKSPACE", "acme",
		"REPOSITORY", "api",
		"REPO", "api",
		"PROJECT", "web",
		"START_DATE", "-7d",
		"END_DATE", "today",
		"COMMIT_ID", "4f2a91c",
		"PR_ID", "7",
		"IDS...", "7 8",
		"ID", "7",
	)
	var all []verb
	for _, cmd := range c.commands().All() {
		var args []string
		for _, a := range cmd.Args {
			if a.Required {
				args = append(args, a.place())
			}
		}
		v := verb{
			name:  kebab(strings.Replace(cmd.Name, ".", " ", 1)),
			args:  strings.Join(args, " "),
			short: cmd.Description,
			setup: func(f *flag.FlagSet) action {
				return c.providerVerb(f, cmd)
			},
		}
		v.example = examples.Replace(v.usage())
		since := cmd.argument("startDate")
		if since != nil && !since.Required {
			v.example += " --start-date -7d"
		}
		all = append(all, v)
	}
	return all
}

// place is what the help calls the argument. A list may be given in several words; of the required ones it is the last.
func (a *Argument) place() string {
	if a.isList() {
		return placeOf(a.Name) + "..."
	}
	return placeOf(a.Name)
}

func (a *Argument) isList() bool {
	return strings.HasPrefix(a.Type, "[")
}

// placeOf is a name of the API or of a flag as the help writes what stands in its place: startDate is START_DATE.
func placeOf(name string) string {
	return strings.ToUpper(strings.ReplaceAll(kebab(name), "-", "_"))
}

// kebab is a name of the API as a flag or verb: pullRequests is pull-requests.
func kebab(name string) string {
	var out []rune
	for _, r := range name {
		if unicode.IsUpper(r) {
			out = append(out, '-')
		}
		out = append(out, unicode.ToLower(r))
	}
	return string(out)
}

// providerVerb is the verb of one command: it submits a job, waits for it and prints its result.
func (c *cli) providerVerb(f *flag.FlagSet, cmd *Command) action {
	in := submitFlags(f)
	in.Command = cmd.Name
	var required, given []string
	for _, a := range cmd.Args {
		add := func(text string) error {
			given = append(given, a.Name+"="+text)
			return nil
		}
		name := kebab(a.Name)
		allowed := allowedValue(a.Type)
		switch {
		case a.Required:
			required = append(required, a.Name)
		case strings.HasPrefix(a.Type, "Boolean"):
			f.BoolFunc(name, words(name), add)
		case a.isDate():
			f.Func(name, "a `DATE`: "+allowedDates, add)
		case a.isList():
			f.Func(name, allowed+"; repeat it, or separate them by commas", add)
		default:
			f.Func(name, allowed, add)
		}
	}
	detach := f.Bool("detach", false, "print the job's id and do not wait")
	return func(ctx context.Context, args []string) error {
		for i, arg := range args { // those beyond the last name are more of a list
			key, _, named := strings.Cut(arg, "=")
			if named && slices.Contains(required, key) {
				typed := strings.Join(namesOf(args, shellQuoted), " ")
				return usagef("%s takes no KEY=VALUE", f.Name()).
					hint("write the values alone, or: honeydew submit %s %s", cmd.Name, typed)
			}
			place := required[min(i, len(required)-1)]
			given = append(given, place+"="+arg)
		}
		out, err := c.submit(ctx, in, "", given)
		if err != nil {
			return err
		}
		if *detach {
			return c.submitted(out, out.JobId)
		}
		job, err := c.wait(ctx, out.JobId)
		if err != nil {
			return err
		}
		return c.printResult(ctx, job)
	}
}

// submitFlags declares what every submit may say.
func submitFlags(f *flag.FlagSet) *daemonpb.SubmitJobRequest {
	in := &daemonpb.SubmitJobRequest{}
	environmentFlag(f, &in.Environment)
	number(f, "priority", math.MinInt32, "higher `N` run first (default: 0)", func(n int32) { in.Priority = n })
	f.StringVar(&in.Timeout, "timeout", "", "`DURATION` of one attempt, such as 90s (default: api.timeout)")
	number(f, "max-retries", 0,
		"`N` retries after a failure that may pass (default: queue.max_retries);"+
			" waits that the API asks for do not count",
		func(n int32) { in.MaxRetries = &n })
	return in
}

// environmentFlag declares --environment of a job or schedule.
func environmentFlag(f *flag.FlagSet, name *string) {
	f.StringVar(name, "environment", "", "`NAME` of the environment (default: the active one)")
}

// payloadFlag declares --payload, which method payload reads.
func payloadFlag(f *flag.FlagSet) *string {
	return f.String("payload", "", "arguments as `JSON`, @FILE, or - for stdin")
}

func (c *cli) submitVerb(f *flag.FlagSet) action {
	in := submitFlags(f)
	payload := payloadFlag(f)
	f.StringVar(&in.IdempotencyKey, "idempotency-key", "", "submit at most once under this `KEY`")
	f.Func("run-after", "not before `TIME`: RFC 3339, or a duration from now such as 2h", func(text string) error {
		in.RunAfter = text
		d, err := parseDuration(text)
		if err == nil {
			in.RunAfter = timeText(time.Now().Add(d))
			return nil
		}
		_, err = time.Parse(time.RFC3339, text)
		if err != nil {
			return fmt.Errorf("%q is neither an RFC 3339 time nor a duration such as 2h", text)
		}
		return nil
	})
	wait := f.Bool("wait", false, "wait for the end of the job")
	batch := f.String("batch", "",
		"submit all jobs of a `FILE` or -: one {\"command\":..., \"payload\":{...}} a line, all or none")
	return func(ctx context.Context, args []string) error {
		switch {
		case *batch != "" && (len(args) > 0 || *wait):
			return usagef("submit: --batch takes neither a command nor --wait")
		case *batch != "":
			return c.submitBatch(ctx, *batch)
		case len(args) == 0:
			return usagef("submit: COMMAND is missing").hint("list them with: honeydew commands")
		}
		in.Command = args[0]
		out, err := c.submit(ctx, in, *payload, args[1:])
		if err != nil {
			return err
		}
		if *wait {
			return c.waitAll(ctx, []string{out.JobId})
		}
		return c.submitted(out, out.JobId)
	}
}

// submit submits a job with the arguments that text and words say.
func (c *cli) submit(
	ctx context.Context,
	in *daemonpb.SubmitJobRequest,
	text string,
	words []string,
) (*daemonpb.SubmitJobResponse, error) {
	payload, err := c.payload(ctx, in.Command, text, words)
	if err != nil {
		return nil, err
	}
	in.Payload = payload
	out, err := c.client.SubmitJob(ctx, in)
	if err != nil {
		return nil, err
	}
	if out.Existing {
		c.note("this key was used before; nothing new was submitted")
	}
	return out, nil
}

// submitBatch submits the jobs of a file, one a line, and prints their ids.
func (c *cli) submitBatch(ctx context.Context, name string) error {
	text, err := c.readInput(ctx, name)
	if err != nil {
		return err
	}
	if name == "-" {
		name = "stdin"
	}
	const oneLine = `write one job a line, as {"command":"jira.projects","payload":{"organization":"acme"}}`
	in := &daemonpb.SubmitJobsRequest{}
	var lines []int // where each job stands
	for i, line := range strings.Split(text, "\n") {
		if strings.TrimSpace(line) == "" {
			continue
		}
		job := &daemonpb.SubmitJobRequest{}
		if err := protojson.Unmarshal([]byte(line), job); err != nil {
			fault := strings.TrimPrefix(jsonFault(err), "line 1, ")
			return usagef("%s:%d: %s", name, i+1, fault).hint(oneLine)
		}
		in.Jobs = append(in.Jobs, job)
		lines = append(lines, i+1)
	}
	if len(in.Jobs) == 0 {
		return usagef("%s holds no job", name).hint(oneLine)
	}
	out, err := c.client.SubmitJobs(ctx, in)
	if err != nil {
		return lineError(name, lines, err)
	}
	for _, job := range out.Jobs {
		c.printf("%s", job.JobId)
	}
	return c.document(out)
}

// lineError is the daemon's refusal of one of several jobs, with the line of the file that it stands in.
func lineError(name string, lines []int, err error) error {
	e, _ := asError(err)
	var n int
	_, other := fmt.Sscanf(e.Message, "job %d of the batch: ", &n)
	if other != nil || n < 1 || n > len(lines) {
		return err
	}
	_, fault, _ := strings.Cut(e.Message, ": ")
	return errorf(e.Code, "%s:%d: %s", name, lines[n-1], fault).hint("%s", e.Hint)
}

// jsonFault is what protojson says of a text, without its own name in front.
func jsonFault(err error) string {
	if strings.HasSuffix(err.Error(), "EOF") {
		return "the end is missing"
	}
	place := regexp.MustCompile(`^proto:.(?:syntax error )?\(line (\d+):(\d+)\): `)
	return place.ReplaceAllString(err.Error(), "line $1, column $2: ")
}

// readInput reads a file, or stdin for -. Either may be a pipe that nobody writes to.
func (c *cli) readInput(ctx context.Context, name string) (string, error) {
	text, err := interruptible(ctx, func() ([]byte, error) {
		if name == "-" {
			return io.ReadAll(c.stdin)
		}
		return os.ReadFile(expandPath(name, c.userHome))
	})
	if err != nil {
		return "", err
	}
	return plainText(name, text)
}

// plainText is what an editor saved, without the mark that some put in front of UTF-8.
func plainText(name string, saved []byte) (string, error) {
	text := string(saved)
	if strings.HasPrefix(text, "\xff\xfe") || strings.HasPrefix(text, "\xfe\xff") {
		return "", usagef("%s is UTF-16", name).hint("save it as UTF-8")
	}
	text = strings.TrimPrefix(text, "\xef\xbb\xbf")
	if !utf8.ValidString(text) {
		return "", usagef("%s is no UTF-8", name).hint("save it as UTF-8")
	}
	return text, nil
}

// payload makes a command's arguments of --payload and key=value words, which win.
func (c *cli) payload(ctx context.Context, command, text string, words []string) (*structpb.Struct, error) {
	text = cmp.Or(text, "{}")
	if text == "-" || text[0] == '@' {
		read, err := c.readInput(ctx, strings.TrimPrefix(text, "@"))
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(read) == "" {
			return nil, usagef("--payload %s: it holds nothing", text)
		}
		text = read
	}
	payload := &structpb.Struct{}
	if err := protojson.Unmarshal([]byte(text), payload); err != nil {
		return nil, usagef("--payload: not a JSON object: %s", jsonFault(err))
	}
	given, err := c.arguments(command, words)
	if err != nil {
		return nil, err
	}
	fields, err := structpb.NewStruct(given)
	if err != nil {
		return nil, usagef("payload: %s", err)
	}
	proto.Merge(payload, fields)
	return payload, nil
}

// arguments reads key=value words.
func (c *cli) arguments(command string, words []string) (map[string]any, error) {
	cmd, err := c.commands().Lookup(command)
	if err != nil {
		cmd = &Command{} // the daemon may know it, and says so if not
	}
	given := map[string]any{}
	for _, word := range words {
		key, text, ok := strings.Cut(word, "=")
		if !ok {
			_, joined := c.commands().Lookup(command + "." + word)
			if err != nil && joined == nil {
				return nil, usagef("no command %q; did you mean %s.%s?", command, command, word)
			}
			return nil, usagef("%q is not of the form KEY=VALUE", word).
				hint("write each argument with its name: organization=acme")
		}
		a := cmp.Or(cmd.argument(key), &Argument{Name: key, Type: "String"})
		before, twice := given[key]
		if twice && !a.isList() {
			return nil, usagef("%s is given twice", key)
		}
		value, err := argumentValue(a, text, before)
		if err != nil {
			return nil, err
		}
		given[key] = value
	}
	return given, nil
}

// argumentValue converts text to the argument's type; a list grows by what text says.
func argumentValue(a *Argument, text string, before any) (any, error) {
	value := itemValue(a.Type, text)
	if a.isList() {
		list, _ := before.([]any)
		for word := range strings.SplitSeq(strings.ReplaceAll(text, ", ", ","), ",") {
			list = append(list, itemValue(a.Type, word))
		}
		value = list
	}
	if a.refuse(value) != "" {
		return nil, usagef("%s: %q is not %s", a.Name, text, a.refuse(struct{}{}))
	}
	return value, nil
}

// itemValue is a word as JSON, unless the type is text. What is no JSON stays a text, and is refused as such.
func itemValue(typ, word string) any {
	var value any
	kind := strings.Trim(typ, "[]!")
	if kind == "String" || kind == "ID" || json.Unmarshal([]byte(word), &value) != nil {
		return word
	}
	return value
}

// listCommands answers as the daemon of this release does, which need not run for that.
func (c *cli) listCommands(ctx context.Context, _ []string) error {
	daemon := &rpcServer{parts: parts{commands: c.commands()}}
	out, err := daemon.ListCommands(ctx, nil)
	if err != nil {
		return err
	}
	var rows [][]string
	for i, v := range c.providerVerbs() {
		usage := strings.TrimPrefix(v.usage(), "honeydew ")
		args := c.commands().All()[i].Args
		optional := slices.IndexFunc(args, func(a Argument) bool { return !a.Required })
		if optional >= 0 {
			usage += " [--" + kebab(args[optional].Name) + " ...]"
		}
		rows = append(rows, []string{
			usage,
			v.short,
		})
	}
	c.usages(rows)
	if c.terminal && !c.json {
		c.note("each takes --help; with submit: github.commits organization=acme repository=api")
	}
	return c.document(out)
}
