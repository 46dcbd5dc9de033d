package main

// The query files of the program against the schema of the API: a field that does not exist is found here, not by the
// first user who runs the command.

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/graph-gophers/graphql-go"
)

func testSchema(t *testing.T) *graphql.Schema {
	t.Helper()
	schema, err := graphql.ParseSchema(readTestSchema(t), nil)
	if err != nil {
		t.Fatal(err)
	}
	return schema
}

func readTestSchema(t *testing.T) string {
	t.Helper()
	sdl, err := readSchema("")
	if err != nil {
		t.Fatal(err)
	}
	return sdl
}

// queryFiles gives the text of each command's query.
func queryFiles(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob("../queries/*.*.graphql")
	if err != nil || len(paths) == 0 {
		t.Fatalf("no query files: %v", err)
	}
	files := map[string]string{}
	for _, p := range paths {
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		files[strings.TrimSuffix(filepath.Base(p), ".graphql")] = string(b)
	}
	return files
}

// variables gives the names that a query declares, with their types, and those that it uses.
func variables(query string) (declared map[string]string, used map[string]bool) {
	declared, used = map[string]string{}, map[string]bool{}
	for _, m := range regexp.MustCompile(`\$(\w+)(?:\s*:\s*([\w\[\]!]+))?`).FindAllStringSubmatch(query, -1) {
		if m[2] != "" {
			declared[m[1]] = m[2]
		} else {
			used[m[1]] = true
		}
	}
	return declared, used
}

// validate runs Schema.Validate with a value for every variable: without them it only complains of their absence.
func validate(schema *graphql.Schema, query string) (problems []string) {
	samples := map[string]any{"String": "x", "ID": "x", "Int": 1.0, "Boolean": true, "[String!]": []any{"x"}, "[Int!]": []any{1.0}}
	values := map[string]any{}
	declared, _ := variables(query)
	for name, typ := range declared {
		values[name] = samples[strings.TrimSuffix(typ, "!")]
	}
	for _, err := range schema.ValidateWithVariables(query, values) {
		problems = append(problems, err.Error())
	}
	return problems
}

func TestQueriesMatchTheSchema(t *testing.T) {
	schema := testSchema(t)
	operations := map[string]string{}
	for name, query := range queryFiles(t) {
		t.Run(name, func(t *testing.T) {
			for _, problem := range validate(schema, query) {
				t.Error(problem)
			}
			declared, used := variables(query)
			if got, want := slices.Sorted(maps.Keys(declared)), slices.Sorted(maps.Keys(used)); !slices.Equal(got, want) {
				t.Errorf("declares %v, uses %v", got, want)
			}
			ops := regexp.MustCompile(`(?m)^(?:query|mutation) (\w+)`).FindAllStringSubmatch(query, -1)
			if len(ops) != 1 {
				t.Fatalf("%d operations", len(ops))
			}
			if other, ok := operations[ops[0][1]]; ok {
				t.Errorf("operation %s is also in %s", ops[0][1], other)
			}
			operations[ops[0][1]] = name
			if fields := rootFields(query, ""); len(fields) != 1 {
				t.Errorf("root fields %v, want one", fields)
			}
		})
	}
}

func TestBrokenQueriesAreNoticed(t *testing.T) {
	schema := testSchema(t)
	query := queryFiles(t)["github.commits"]
	if problems := validate(schema, query); len(problems) > 0 {
		t.Fatal(problems)
	}
	for what, broken := range map[string]string{
		"unknown field":         strings.Replace(query, "authorEmail", "authorMail", 1),
		"unknown argument":      strings.Replace(query, "startDate:", "since:", 1),
		"undeclared variable":   strings.Replace(query, ", $author: String", "", 1),
		"unused variable":       strings.Replace(query, ", author: $author", "", 1),
		"wrong type":            strings.Replace(query, "$organization: String!", "$organization: Int!", 1),
		"null for non-null":     strings.Replace(query, "$repository: String!", "$repository: String", 1),
		"no selection":          regexp.MustCompile(`files \{[^}]*\}`).ReplaceAllString(query, "files"),
		"selection of a scalar": strings.Replace(query, "sha\n", "sha { id }\n", 1),
		"syntax":                strings.TrimRight(query, "}\n"),
	} {
		if broken == query {
			t.Errorf("%s: nothing was broken", what)
		} else if len(validate(schema, broken)) == 0 {
			t.Errorf("%s: not noticed", what)
		}
	}
}

func TestRootFields(t *testing.T) {
	for _, c := range []struct {
		query, operation string
		want             string
		auth             bool
	}{
		{`{ me { id } listUsers { id } }`, "", "me listUsers", false},
		{`mutation L($u: String! = "}{", $i: In = {a: [1]}) @x(a: 1) { login(username: $u, password: ")") { user { me } } }`, "", "login", true},
		{"# { me }\nmutation { a: login(username: \"\"\" \\\"\"\" } \"\"\") { accessToken } b: refreshToken(refreshToken: \"\\\"\") { refreshToken } }", "", "login refreshToken", true},
		{`mutation { login { id } deleteUser(id: 1) { success } }`, "", "login deleteUser", false},
		{`mutation { ...F } fragment F on Mutation { login { id } }`, "", "...", false},
		{`mutation { ... on Mutation @skip(if: true) { deleteUser } login { id } }`, "", "... login", false},
		{`mutation { ... @include(if: true) { deleteUser } }`, "", "...", false},
		{`mutation A { login { id } } query B { me { id } }`, "B", "me", false},
		{`mutation A { login { id } } query B { me { id } }`, "C", "", false},
		{`mutation { login(`, "", "login", true},
		{`mutation { login @skip(if: false) { id } }`, "", "login", true},
		{`"""`, "", "", false},
		{`mutation`, "", "", false},
		{``, "", "", false},
	} {
		got := rootFields(c.query, c.operation)
		if strings.Join(got, " ") != c.want || isAuth(got) != c.auth {
			t.Errorf("%s: %q, auth %v", c.query, got, isAuth(got))
		}
	}
}
