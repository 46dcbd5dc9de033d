package main

import (
	"encoding/json"
	"io/fs"
	"math"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
	"unicode/utf8"
)

func realCommands(t testing.TB) *Commands {
	t.Helper()
	table, err := loadCommands(os.DirFS("."))
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// promisedCommands are every operation that can be submitted: kind, name, arguments in their order, and the API's field.
// Those with a typed RPC come first (section 4 of the contract), then the API's other reads.
const promisedCommands = `
query    organizations.list () listOrganizationsWithProviders
query    github.repositories (organization: String!) githubRepositories
query    github.commits (organization: String!, repository: String!, startDate: String, endDate: String, author: String, includeDiff: Boolean) githubCommits
query    github.pullRequests (organization: String!, repository: String!, startDate: String, endDate: String) githubPullRequests
mutation github.clone (organization: String!, repository: String!) githubCloneRepository
query    gitlab.projects (organization: String!) gitlabProjects
query    gitlab.commits (organization: String!, project: String!, startDate: String, endDate: String, author: String, includeDiff: Boolean) gitlabCommits
query    gitlab.mergeRequests (organization: String!, repository: String!, startDate: String, endDate: String) gitlabMergeRequests
mutation gitlab.clone (organization: String!, repository: String!) gitlabCloneRepository
query    jira.projects (organization: String!) jiraProjects
query    jira.issues (organization: String!, project: String, startDate: String, endDate: String) jiraIssues
query    linear.teams (organization: String!) linearTeams
query    linear.projects (organization: String!, team: String) linearProjects
query    linear.issues (organization: String!, startDate: String, endDate: String) linearIssues
query    bitbucket.workspaces () bitbucketWorkspaces
query    bitbucket.repositories (workspace: String!) bitbucketRepositories
query    bitbucket.commits (workspace: String!, repository: String, startDate: String, endDate: String, includeDiff: Boolean) bitbucketCommits
mutation bitbucket.clone (workspace: String!, repository: String!) bitbucketCloneRepository

query    account.me () me
query    account.users () listUsers
query    account.user (id: ID!) getUser
query    account.activeUsers () listActiveUsers
query    organizations.names () listOrganizations
query    github.repositoriesByPushDate (organization: String!, startDate: String!, endDate: String) githubRepositoriesByPushDate
query    github.issues (organization: String!, startDate: String, endDate: String) githubIssues
query    github.pullRequestsDetailed (organization: String!, repository: String!, startDate: String, endDate: String, author: String) githubPullRequestsDetailed
query    gitlab.repositories (organization: String!) gitlabRepositories
query    gitlab.repositoriesByPushDate (organization: String!, startDate: String!, endDate: String) gitlabRepositoriesByPushDate
query    gitlab.issues (organization: String!, project: String, startDate: String, endDate: String) gitlabIssues
query    gitlab.mergeRequestsDetailed (organization: String!, project: String!, startDate: String, endDate: String, author: String) gitlabMergeRequestsDetailed
query    bitbucket.repositoriesByPushDate (workspace: String!, startDate: String!, endDate: String) bitbucketRepositoriesByPushDate
query    bitbucket.pullRequests (workspace: String!, repo: String!, startDate: String, endDate: String) bitbucketPullRequests
query    bitbucket.commitsDetailed (workspace: String!, repository: String!, startDate: String, endDate: String, author: String) bitbucketCommitsDetailed
query    bitbucket.pullRequestsDetailed (workspace: String!, repository: String!, startDate: String, endDate: String, author: String) bitbucketPullRequestsDetailed
query    azuredevops.projects (organization: String!) azureDevOpsProjects
query    azuredevops.project (organization: String!, project: String!) azureDevOpsProject
query    azuredevops.teams (organization: String!, project: String!) azureDevOpsTeams
query    azuredevops.workItem (organization: String!, id: Int!, project: String) azureDevOpsWorkItem
query    azuredevops.workItems (organization: String!, ids: [Int!]!, project: String) azureDevOpsWorkItems
query    azuredevops.workItemsWiql (organization: String!, project: String!, wiql: String, startDate: String, endDate: String, workItemTypes: [String!]) azureDevOpsWorkItemsWiql
query    azuredevops.repositories (organization: String!, project: String!) azureDevOpsRepositories
query    azuredevops.repository (organization: String!, project: String!, repo: String!) azureDevOpsRepository
query    azuredevops.pullRequests (organization: String!, project: String!, repo: String!, startDate: String, endDate: String) azureDevOpsPullRequests
query    azuredevops.pullRequest (organization: String!, project: String!, repo: String!, prId: Int!) azureDevOpsPullRequest
query    azuredevops.pullRequestCommits (organization: String!, project: String!, repo: String!, prId: Int!) azureDevOpsPullRequestCommits
query    azuredevops.commits (organization: String!, project: String!, repo: String!, startDate: String, endDate: String, author: String) azureDevOpsCommits
query    azuredevops.commit (organization: String!, project: String!, repo: String!, commitId: String!) azureDevOpsCommit
query    asana.workspaces (organization: String!) asanaWorkspaces
query    asana.projects (organization: String!, workspace: String) asanaProjects
query    asana.tasks (organization: String!, workspace: String, startDate: String, endDate: String) asanaTasks
query    monday.workspaces (organization: String!) mondayWorkspaces
query    monday.boards (organization: String!, workspaceId: String) mondayBoards
query    monday.items (organization: String!, boardId: String, startDate: String, endDate: String) mondayItems
`

// commandLine is a command as promisedCommands writes it.
func commandLine(c *Command) string {
	var args []string
	for _, a := range c.Args {
		args = append(args, a.Name+": "+a.Type)
	}
	kind := "query   "
	if c.Mutation {
		kind = "mutation"
	}
	return kind + " " + c.Name + " (" + strings.Join(args, ", ") + ") " + c.Field
}

func TestCommandsAreThosePromisedAndNoOther(t *testing.T) {
	want := slices.DeleteFunc(strings.Split(promisedCommands, "\n"), func(s string) bool { return s == "" })
	var got []string
	for _, c := range realCommands(t).All() {
		got = append(got, commandLine(c))
	}
	for _, line := range want {
		if !slices.Contains(got, line) {
			t.Errorf("missing: %s", line)
		}
	}
	for _, line := range got {
		if !slices.Contains(want, line) {
			t.Errorf("not promised: %s", line)
		}
	}
}

// A command beyond the typed ones is its field's name, cut behind the provider.
func TestCommandNameFollowsTheField(t *testing.T) {
	exceptions := map[string]string{
		"listOrganizationsWithProviders": "organizations.list", "listOrganizations": "organizations.names", "me": "account.me",
		"getUser": "account.user", "listUsers": "account.users", "listActiveUsers": "account.activeUsers", "githubCloneRepository": "github.clone",
		"gitlabCloneRepository": "gitlab.clone", "bitbucketCloneRepository": "bitbucket.clone",
	}
	for _, c := range realCommands(t).All() {
		want := exceptions[c.Field]
		if want == "" {
			prefix := len(provider(c.Name))
			want = strings.ToLower(c.Field[:prefix+1]) + c.Field[prefix+1:]
			want = want[:prefix] + "." + want[prefix:]
		}
		if c.Name != want {
			t.Errorf("%s is %s, want %s", c.Field, c.Name, want)
		}
	}
}

func TestCommandsAreSortedAndDescribed(t *testing.T) {
	all := realCommands(t).All()
	if !slices.IsSortedFunc(all, func(a, b *Command) int { return strings.Compare(a.Name, b.Name) }) {
		t.Error("All is not in the order of the names")
	}
	described := map[string]string{}
	for _, c := range all {
		if c.Description != strings.TrimSpace(c.Description) || len(c.Description) < 5 || len(c.Description) > 80 || strings.HasSuffix(c.Description, ".") {
			t.Errorf("%s: description %q", c.Name, c.Description)
		}
		if other := described[c.Description]; other != "" {
			t.Errorf("%s and %s are both described as %q", c.Name, other, c.Description)
		}
		described[c.Description] = c.Name
	}
}

// User administration stays with the API's own pages, and tokens are the daemon's affair.
func TestCommandsLeaveUserAdministrationOut(t *testing.T) {
	for _, c := range realCommands(t).All() {
		if c.Mutation && !strings.HasSuffix(c.Field, "CloneRepository") {
			t.Errorf("%s changes something: %s", c.Name, c.Field)
		}
	}
}

func TestAuthOperationsCannotBeSubmitted(t *testing.T) {
	table := realCommands(t)
	for _, name := range []string{"auth.login", "auth.refresh"} {
		if c := table.internal(name); c == nil || !c.Mutation || c.Query == "" {
			t.Errorf("the daemon has no %s", name)
		}
		if c, err := table.Lookup(name); err == nil {
			t.Errorf("%s can be submitted: %v", name, c)
		} else if codeOf(err) != codeUnknownCommand {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, c := range table.All() {
		if provider(c.Name) == "auth" {
			t.Errorf("%s is listed", c.Name)
		}
	}
}

// queryText is the text of a command's query.
func queryText(t testing.TB, c *Command) (text string) {
	t.Helper()
	if err := json.Unmarshal([]byte(c.Query), &text); err != nil {
		t.Fatalf("%s: %v", c.Name, err)
	}
	return text
}

func TestQueriesDoNotAskForTextCopies(t *testing.T) {
	for _, c := range realCommands(t).All() {
		if regexp.MustCompile(`\bformat\b`).MatchString(queryText(t, c)) {
			t.Errorf("%s uses format", c.Name)
		}
		if regexp.MustCompile(`(?m)^\s*json\b`).MatchString(queryText(t, c)) {
			t.Errorf("%s selects json", c.Name)
		}
	}
}

func TestQueriesPassEveryVariable(t *testing.T) {
	table := realCommands(t)
	for _, c := range append(slices.Clone(table.All()), table.internal("auth.login"), table.internal("auth.refresh")) {
		_, body, _ := strings.Cut(queryText(t, c), c.Field)
		for _, a := range c.Args {
			if !regexp.MustCompile(`\$` + a.Name + `\b`).MatchString(body) {
				t.Errorf("%s declares $%s and does not use it", c.Name, a.Name)
			}
		}
		for _, m := range regexp.MustCompile(`\$(\w+)`).FindAllStringSubmatch(body, -1) {
			if c.argument(m[1]) == nil {
				t.Errorf("%s uses $%s and does not declare it", c.Name, m[1])
			}
		}
	}
}

func TestEmbeddedQueriesAreTheFiles(t *testing.T) {
	onDisk, err := fs.Glob(os.DirFS("."), "queries/*.*.graphql")
	if err != nil {
		t.Fatal(err)
	}
	embedded, err := fs.Glob(queries, "queries/*")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Equal(onDisk, embedded) || len(onDisk) == 0 {
		t.Errorf("on disk %v\nembedded %v", onDisk, embedded)
	}
}

func TestAFileIsACommand(t *testing.T) {
	const query = `query Anything($id: ID!, $tags: [String!], $deep: Boolean, $score: Float,) {
  anything(id: $id, tags: $tags, deep: $deep, score: $score) { id }
}
`
	table, err := loadCommands(fstest.MapFS{
		"queries/acme.anything.graphql": {Data: []byte("# What Acme has \n" + query)},
		"queries/schema.graphql":        {Data: []byte("type Query { anything: Int }")},
		"queries/README.md":             {Data: []byte("no command")},
	})
	if err != nil {
		t.Fatal(err)
	}
	c, err := table.Lookup("acme.anything")
	if err != nil {
		t.Fatal(err)
	}
	if got, want := commandLine(c), "query    acme.anything (id: ID!, tags: [String!], deep: Boolean, score: Float) anything"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if c.Description != "What Acme has" || queryText(t, c) != query {
		t.Errorf("description %q, query %s", c.Description, c.Query)
	}
	if len(table.All()) != 1 {
		t.Errorf("%d commands", len(table.All()))
	}
	if err := c.Check(map[string]any{"id": "1"}); err != nil {
		t.Error(err)
	}
}

func TestQueryFileForms(t *testing.T) {
	for text, want := range map[string]string{
		"# d\nquery Q { a }":  "query    x.y () a",
		"# d\n\n  query Q{a}": "query    x.y () a",
		"# d\r\nquery Q {\r\n  a {\r\n    b\r\n  }\r\n}\r\n":         "query    x.y () a",
		"# d\nmutation M($a:Int!,$b:Int) { a(a:$a,b:$b) { c, d } }":  "mutation x.y (a: Int!, b: Int) a",
		"# d\nquery Q($a: [Int]) { a(a: $a) }":                       "query    x.y (a: [Int]) a",
		"# d\nquery Q($a: [ID!]!) { a(i: {n: $a}) { b(c: 1) {d} } }": "query    x.y (a: [ID!]!) a",
	} {
		c, err := parseCommand(queryHead(), "x.y", text)
		if err != nil {
			t.Errorf("%q: %v", text, err)
		} else if got := commandLine(c); got != want {
			t.Errorf("%q is %s, want %s", text, got, want)
		}
	}
}

func TestBrokenQueryFileIsRefusedByName(t *testing.T) {
	const (
		noDescription = "not named provider.command.graphql, or not `# description` and one named query or mutation with one root field"
		noOperation   = noDescription
		noVariables   = noDescription
	)
	for _, c := range []struct{ text, want string }{
		{"", noDescription},
		{"query Q { a }", noDescription},
		{"#no blank\nquery Q { a }", noDescription},
		{"# \nquery Q { a }", noDescription},
		{"#   \r\nquery Q { a }", noDescription},
		{"\n# d\nquery Q { a }", noDescription},
		{"# d", noOperation},
		{"# d\n", noOperation},
		{"# d\n{ a }", noOperation},
		{"# d\nquery { a }", noOperation},
		{"# d\nsubscription S { a }", noOperation},
		{"# d\nfragment F on T { a }", noOperation},
		{"# d\ntype Query { a: Int }", noOperation},
		{"# d\nquery Q { }", noOperation},
		{"# d\nquery Q { a", noOperation},
		{"# d\nquery Q { a { b }", noOperation},
		{"# d\nquery Q { a { b } } }", noOperation},
		{"# d\nquery Q { a(b: 1 }", noOperation},
		{"# d\nquery Q { a b }", noOperation},
		{"# d\nquery Q { a { b } c { d } }", noOperation},
		{"# d\nquery Q { a(x: 1) b }", noOperation},
		{"# d\nquery Q { a { b } ...F }", noOperation},
		{"# d\nquery Q { alias: a { b } }", noOperation},
		{"# d\nquery Q { abc @skip(if: true) { b } }", noOperation},
		{"# d\nquery Q { ...F }", noOperation},
		{"# d\nquery Q { a } query R { b }", noOperation},
		{"# d\nquery Q { a { ...F } } fragment F on T { b }", noOperation},
		{"# d\nquery Q($a: Int { a }", noOperation},
		{"# d\nquery Q(a: Int) { a }", noVariables},
		{"# d\nquery Q($a Int) { a }", noVariables},
		{"# d\nquery Q($a: [Int!) { a }", noVariables},
		{"# d\nquery Q($a: Int]) { a }", noVariables},
		{"# d\nquery Q($a: [[Int]]) { a }", noVariables},
		{"# d\nquery Q($a: Boolean = false) { a }", noVariables},
		{"# d\nquery Q($a: UserInput!) { a }", "$a: declared twice, or of the unknown type"},
		{"# d\nquery Q($a: [ExportFormat!]) { a }", "$a: declared twice, or of the unknown type"},
		{"# d\nquery Q($a: Int, $b: Int, $a: String) { a }", "$a: declared twice, or of"},
	} {
		_, err := loadCommands(fstest.MapFS{"queries/acme.broken.graphql": {Data: []byte(c.text)}})
		if err == nil || !strings.HasPrefix(err.Error(), "queries/acme.broken.graphql: "+c.want) {
			t.Errorf("%q: got %v, want queries/acme.broken.graphql: %s", c.text, err, c.want)
		}
	}
	for _, name := range []string{"Acme.x", "acme.X", "acme.x.y", "acme.x-y", "acme.", ".x", "ac me.x", "1.x", "acme.x\n"} {
		_, err := loadCommands(fstest.MapFS{"queries/" + name + ".graphql": {Data: []byte("# d\nquery Q { a }")}})
		if err == nil || !strings.Contains(err.Error(), "queries/"+name+".graphql: not named") {
			t.Errorf("%q: got %v", name, err)
		}
	}
	if _, err := loadCommands(fstest.MapFS{"queries/acme.x.graphql": {Mode: fs.ModeDir}}); err == nil || !strings.Contains(err.Error(), "acme.x.graphql") {
		t.Errorf("a directory: got %v", err)
	}
}

func TestPayloadValues(t *testing.T) {
	const big, text = float64(math.MaxInt32), "x"
	list := func(items ...any) []any { return items }
	for _, c := range []struct {
		typ           string
		fits, refused []any
	}{
		{"String", []any{nil, "", text, "null", "7"}, []any{7.0, true, list(text), map[string]any{}}},
		{"String!", []any{text}, []any{"", nil, 7.0, false, list(text), map[string]any{}}},
		{"ID", []any{nil, text, "7", 7.0}, []any{7.5, true, big + 1, list(text), map[string]any{}}},
		{"ID!", []any{text, -7.0}, []any{nil, 1e300, math.NaN()}},
		{"Int", []any{nil, 0.0, -1.0, big, -big - 1}, []any{big + 1, -big - 2, 0.5, 1e300, math.NaN(), math.Inf(1), math.Inf(-1), "7", true, list(1.0)}},
		{"Int!", []any{7.0}, []any{nil, 7.25}},
		{"Float", []any{nil, 0.5, 7.0, -1e300}, []any{math.NaN(), math.Inf(1), math.Inf(-1), "0.5", true, list(0.5)}},
		{"Float!", []any{0.5}, []any{nil}},
		{"Boolean", []any{nil, true, false}, []any{"true", 0.0, 1.0, list(true)}},
		{"Boolean!", []any{true}, []any{nil, "yes"}},
		{"[Int]", []any{nil, list(), list(1.0, nil)}, []any{1.0, list("1"), list(0.5), list(list(1.0)), map[string]any{}}},
		{"[Int!]", []any{nil, list(), list(1.0, 2.0)}, []any{1.0, list(1.0, nil), list(big + 1)}},
		{"[Int!]!", []any{list(), list(1.0)}, []any{nil, list(nil), list(1.0, "2"), "[1]"}},
		{"[String]!", []any{list(), list(text, nil)}, []any{nil, text, list(1.0)}},
		{"[String!]", []any{nil, list(text)}, []any{list(nil), text}},
		{"[Boolean!]!", []any{list(true)}, []any{nil, list("true")}},
		{"[Float!]!", []any{list(0.5)}, []any{nil, list(math.NaN())}},
		{"[ID!]!", []any{list("a", 7.0)}, []any{nil, list(0.5)}},
	} {
		command, err := parseCommand(queryHead(), "x.y", "# d\nquery Q($v: "+c.typ+") { a(v: $v) }")
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range c.fits {
			if err := command.Check(map[string]any{"v": v}); err != nil {
				t.Errorf("%s refuses %#v: %v", c.typ, v, err)
			}
		}
		for _, v := range c.refused {
			err := command.Check(map[string]any{"v": v})
			if err == nil {
				t.Errorf("%s takes %#v", c.typ, v)
			} else if codeOf(err) != codeInvalidArgument || v != "" && err.Error() != "INVALID_ARGUMENT: v must be "+allowedValue(c.typ) {
				t.Errorf("%s, %#v: %v", c.typ, v, err)
			}
		}
	}
}

func TestPayloadRefusalsSayWhatIsAllowed(t *testing.T) {
	table := realCommands(t)
	for _, c := range []struct {
		command string
		payload map[string]any
		want    string
	}{
		{"github.repositories", nil, "organization is missing"},
		{"github.repositories", map[string]any{}, "organization is missing"},
		{"github.repositories", map[string]any{"organization": nil}, "organization must be a string"},
		{"github.repositories", map[string]any{"organization": 7.0}, "organization must be a string"},
		{"github.repositories", map[string]any{"organization": "a", "Organization": "a"}, `github.repositories has no argument "Organization"; did you mean organization?`},
		{"github.repositories", map[string]any{"organization": "a", "z": 1.0, "b": 1.0, "": 1.0}, `github.repositories has no argument ""`},
		{"github.repositories", map[string]any{"organization": "a", strings.Repeat("é", 1000): 1.0},
			`github.repositories has no argument "` + strings.Repeat("é", 48) + `..."`},
		{"github.commits", map[string]any{"organisation": "a"}, `github.commits has no argument "organisation"; did you mean organization?`},
		{"github.commits", map[string]any{"organization": "a", "repository": "b", "includeDiff": "true"}, "includeDiff must be true or false"},
		{"github.commits", map[string]any{"organization": "a", "repository": "b", "format": "JSON"}, `github.commits has no argument "format"`},
		{"azuredevops.workItem", map[string]any{"organization": "a", "id": "7"}, "id must be a whole number"},
		{"azuredevops.workItems", map[string]any{"organization": "a", "ids": "7"}, "ids must be a list, each item a whole number"},
		{"account.me", map[string]any{"id": "7"}, `account.me has no argument "id"`},
	} {
		command, err := table.Lookup(c.command)
		if err != nil {
			t.Fatal(err)
		}
		err = command.Check(c.payload)
		e, ok := err.(*Error)
		if !ok || e.Code != codeInvalidArgument || e.Message != c.want {
			t.Errorf("%s %v\n got %v\nwant %s", c.command, c.payload, err, c.want)
		} else if want := command.usage(); e.Hint != want {
			t.Errorf("%s: hint %q, want %q", c.command, e.Hint, want)
		}
	}
}

func TestUnknownCommandNamesTheNearest(t *testing.T) {
	table := realCommands(t)
	for name, near := range map[string]string{
		"github.commit":        "github.commits",
		"github.Commits":       "github.commits",
		"githubcommits":        "github.commits",
		"github.pull-requests": "github.pullRequests",
		"jira.issue":           "jira.issues",
		"organization.list":    "organizations.list",
		"azureDevOps.workItem": "azuredevops.workItem",
	} {
		_, err := table.Lookup(name)
		if codeOf(err) != codeUnknownCommand || !strings.HasSuffix(err.Error(), "; did you mean "+near+"?") {
			t.Errorf("%s: got %v, want %s", name, err, near)
		}
	}
	for _, name := range []string{"github.pulls", "github"} {
		_, err := table.Lookup(name)
		if e, ok := err.(*Error); !ok || e.Hint != "see what there is of github with: honeydew github" {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, name := range []string{"foo.bar", "github", "github.pulls", "nope", "nope.", "", ".", "auth", "\x00\x1b[2J", strings.Repeat("x", 1<<20), strings.Repeat("é", 1<<10)} {
		_, err := table.Lookup(name)
		if e, ok := err.(*Error); !ok || e.Code != codeUnknownCommand || len(e.Message) > 500 || !utf8.ValidString(e.Message) ||
			strings.ContainsAny(e.Message, "\x00\x1b") || e.Hint == "" ||
			strings.Contains(e.Message, "did you mean") {
			t.Errorf("%.20q: got %.600v", name, err)
		}
	}
}

func TestNearest(t *testing.T) {
	names := []string{"workers", "max_retries", "commits"}
	for s, want := range map[string]string{
		"workers": "workers", "worker": "workers", "WORKERS": "workers", "wrokers": "workers", "max-retries": "max_retries", "comits": "commits",
		"": "", "zzz": "", "unrelated": "", "retention_days": "",
		strings.Repeat("z", 300): "", strings.Repeat("workers", 100): "",
	} {
		if got := nearest(s, names); got != want {
			t.Errorf("%.20q: got %q, want %q", s, got, want)
		}
	}
	if got := nearest("x", nil); got != "" {
		t.Errorf("of none: %q", got)
	}
}

func TestEditDistance(t *testing.T) {
	for _, c := range []struct {
		a, b string
		want int
	}{
		{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"abc", "abc", 0}, {"kitten", "sitting", 3}, {"flaw", "lawn", 2}, {"ab", "ba", 2}, {"intention", "execution", 5},
	} {
		if got := editDistance(c.a, c.b); got != c.want {
			t.Errorf("%q to %q: %d, want %d", c.a, c.b, got, c.want)
		}
	}
}

// FuzzQueryFile: no text makes the reader panic, and what it accepts is a command that can check payloads.
func FuzzQueryFile(f *testing.F) {
	files, err := fs.Glob(os.DirFS("."), "queries/*.*.graphql")
	if err != nil || len(files) == 0 {
		f.Fatal(files, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(string(text))
	}
	f.Add("# d\nquery Q($a: [Int!]!, $b: Float) { a(a: $a) { b } }")
	f.Add("# d\nquery Q { a(}) { b } }")
	name := regexp.MustCompile(`^\w+$`)
	f.Fuzz(func(t *testing.T, text string) {
		c, err := parseCommand(queryHead(), "x.y", text)
		if err != nil {
			return
		}
		if c.Description == "" || !name.MatchString(c.Field) || utf8.ValidString(text) && !strings.HasSuffix(text, queryText(t, c)) || !strings.Contains(c.Query, c.Field) {
			t.Errorf("%q: %+v", text, c)
		}
		seen := map[string]bool{}
		payload := map[string]any{}
		for _, a := range c.Args {
			if !name.MatchString(a.Name) || seen[a.Name] || a.Required != strings.HasSuffix(a.Type, "!") {
				t.Errorf("%q: %+v", text, a)
			}
			seen[a.Name], payload[a.Name] = true, struct{}{}
			if a.refuse(struct{}{}) == "" || (a.refuse(nil) == "") == a.Required {
				t.Errorf("%q: %s takes anything", text, a.Type)
			}
		}
		if err := c.Check(payload); (err == nil) != (len(c.Args) == 0) {
			t.Errorf("%q: %v", text, err)
		}
	})
}
