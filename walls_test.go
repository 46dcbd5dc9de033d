package main

// The design held by a machine: what the compiler cannot see inside one package. Each rule names file and line. And how
// much there is to read, and how calmly it reads.

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	gotoken "go/scanner"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// wallRows is the map: a file uses what is declared on its own row or a lower one. The first pattern that fits decides.
func wallRows() []wallRow {
	return []wallRow{
		{6, "main.go"},
		{5, "daemon.go cli.go cli_*.go"},
		{4, "rpc.go rpc_*.go"},
		{3, "scheduler.go"},
		{2, "queue.go queue_*.go auth.go"},
		{1.5, "seal.go seal_*.go"}, // keeps its salt and parameters in the store
		{1, "store.go store_*.go graphql.go"},
		{0, "errors.go files.go config.go log.go auth_jwt.go commands.go commands_*.go scheduler_cron.go listen.go sys_*.go"},
	}
}

type wallRow struct {
	row   float64
	files string
}

// wallImports says who may import what; the first prefix that fits decides, and anything with a dot in its first part
// that fits none is a dependency that nobody agreed to.
func wallImports() []wallImport {
	const wire = "rpc.go rpc_*.go cli.go cli_*.go"
	return []wallImport{
		{"C", ""},
		{"plugin", ""},
		{"log", ""},       // log/slog; log.Fatal ends the process without a word to its defers
		{"math/rand", ""}, // math/rand/v2
		{"net/rpc", ""},   //
		{"net/smtp", ""},  // one remote host
		{"os/exec", "cli_daemon.go"},
		{"database/sql/", "store.go store_*.go"},
		{"database/sql", "store.go store_*.go"},
		{"modernc.org/sqlite", "store.go store_*.go"},
		{"modernc.org/sqlite/", "store.go store_*.go"},
		{"net/http", "graphql.go"},
		{"net/http/httptrace", "graphql.go"},
		{"net/http/", ""}, // pprof and its like open doors
		{"crypto/rand", "seal.go store.go"},
		{"crypto/tls", "graphql.go"},
		{"crypto/", "seal.go"},
		{"golang.org/x/crypto/", "seal.go"},
		{"golang.org/x/term", "main.go cli.go cli_*.go"},
		{"google.golang.org/grpc", wire + " daemon.go"},
		{"google.golang.org/grpc/credentials", wire + " listen.go"},
		{"google.golang.org/grpc/", wire},
		{"google.golang.org/protobuf/", wire},
		{"google.golang.org/genproto/googleapis/rpc/errdetails", wire},
		{"honeydew/daemonpb", wire},
		{"github.com/robfig/cron/v3", "scheduler_cron.go"},
		{"go.yaml.in/yaml/v4", "config.go"},
	}
}

type wallImport struct{ path, files string } // a path that ends in / stands for all below it

func fileIn(name, patterns string) bool {
	return slices.ContainsFunc(strings.Fields(patterns), func(p string) bool { ok, err := path.Match(p, name); return ok && err == nil })
}

func wallRowOf(name string) (row float64, known bool) {
	for _, r := range wallRows() {
		if fileIn(name, r.files) {
			return r.row, true
		}
	}
	return 0, false
}

// breach is one line that a rule forbids.
type breach struct{ at, what string }

// breaches holds the package in fsys, as goos builds it, against every rule.
func breaches(fsys fs.FS, goos string) ([]breach, error) {
	names, err := fs.Glob(fsys, "*.go")
	if err != nil {
		return nil, err
	}
	fset := token.NewFileSet()
	var files []*ast.File
	var found []breach
	at := func(p token.Pos) string { pos := fset.Position(p); return fmt.Sprintf("%s:%d", pos.Filename, pos.Line) }
	report := func(p token.Pos, format string, args ...any) {
		found = append(found, breach{at(p), fset.Position(p).Filename + " " + fmt.Sprintf(format, args...)})
	}
	for _, name := range names {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := fs.ReadFile(fsys, name)
		if err != nil {
			return nil, err
		}
		f, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if !builtFor(f, name, goos) {
			continue
		}
		files = append(files, f)
		if _, known := wallRowOf(name); !known {
			report(f.Package, "has no row on the map")
		}
		checkImports(f, name, report)
		checkDeclarations(f, name, report)
	}

	// Types tell a local name from the package's own. Imports are left empty: what comes from them is none of ours.
	info := &types.Info{Uses: map[*ast.Ident]types.Object{}}
	config := types.Config{Importer: noImporter{}, Error: func(error) {}}
	pkg, _ := config.Check("main", fset, files, info)
	for id, object := range info.Uses {
		if _, imported := object.(*types.PkgName); imported || object.Pkg() != pkg {
			continue
		}
		if v, ok := object.(*types.Var); ok && v.IsField() {
			continue // its type was named by whoever handed the value out
		}
		user, owner := fset.Position(id.Pos()).Filename, fset.Position(object.Pos()).Filename
		mine, _ := wallRowOf(user)
		its, _ := wallRowOf(owner)
		if its > mine {
			report(id.Pos(), "uses %s of %s", object.Name(), owner)
		}
	}
	for _, f := range files {
		ast.Inspect(f, func(n ast.Node) bool {
			s, ok := n.(*ast.SelectorExpr)
			if !ok {
				return true
			}
			if x, ok := s.X.(*ast.Ident); ok {
				if p, ok := info.Uses[x].(*types.PkgName); ok && slices.Contains(mainOnly, p.Imported().Path()+"."+s.Sel.Name) && fset.Position(x.Pos()).Filename != "main.go" {
					report(x.Pos(), "uses %s.%s", p.Imported().Path(), s.Sel.Name)
				}
			}
			return true
		})
	}
	slices.SortFunc(found, func(a, b breach) int { return strings.Compare(a.at+a.what, b.at+b.what) })
	return found, nil
}

// noImporter has nothing: go/types carries on, and resolves what is the package's own.
type noImporter struct{}

func (noImporter) Import(string) (*types.Package, error) { return nil, errors.New("not imported") }

// builtFor applies a file's build constraint, and its name's.
func builtFor(f *ast.File, name, goos string) bool {
	unix := slices.Contains([]string{"linux", "darwin", "freebsd", "netbsd", "openbsd"}, goos)
	holds := func(tag string) bool { return tag == goos || (tag == "unix" && unix) }
	for _, known := range []string{"linux", "darwin", "freebsd", "windows"} {
		if strings.HasSuffix(name, "_"+known+".go") && known != goos {
			return false
		}
	}
	for _, group := range f.Comments {
		for _, c := range group.List {
			if expr, err := constraint.Parse(c.Text); err == nil && c.Pos() < f.Package && !expr.Eval(holds) {
				return false
			}
		}
	}
	return true
}

func checkImports(f *ast.File, name string, report func(token.Pos, string, ...any)) {
	for _, spec := range f.Imports {
		imported := strings.Trim(spec.Path.Value, `"`)
		if spec.Name != nil && spec.Name.Name == "." {
			report(spec.Pos(), "imports %s with a dot", imported)
		}
		rules := wallImports()
		rule := slices.IndexFunc(rules, func(r wallImport) bool {
			return imported == r.path || (strings.HasSuffix(r.path, "/") && strings.HasPrefix(imported, r.path))
		})
		first, _, _ := strings.Cut(imported, "/")
		switch {
		case rule >= 0 && !fileIn(name, rules[rule].files):
			report(spec.Pos(), "imports %s", imported)
		case rule < 0 && (strings.Contains(first, ".") || first == "honeydew"):
			report(spec.Pos(), "imports %s, which is on no list", imported)
		}
	}
}

// checkDeclarations looks for state that outlives a call and code that runs unasked.
func checkDeclarations(f *ast.File, name string, report func(token.Pos, string, ...any)) {
	for _, group := range f.Comments {
		for _, c := range group.List {
			if strings.HasPrefix(c.Text, "//go:linkname") {
				report(c.Pos(), "uses go:linkname")
			}
		}
	}
	for _, d := range f.Decls {
		switch d := d.(type) {
		case *ast.FuncDecl:
			if d.Recv == nil && d.Name.Name == "init" {
				report(d.Pos(), "has an init")
			}
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue
			}
			for _, s := range d.Specs {
				v := s.(*ast.ValueSpec)
				if isEmbedded(d.Doc) || isEmbedded(v.Doc) {
					continue
				}
				for i, id := range v.Names {
					var value ast.Expr
					if i < len(v.Values) {
						value = v.Values[i]
					}
					if !isAllowedVar(name, id.Name, v.Type, value) {
						report(id.Pos(), "has the package variable %s", id.Name)
					}
				}
			}
		}
	}
}

func isEmbedded(doc *ast.CommentGroup) bool {
	return doc != nil && slices.ContainsFunc(doc.List, func(c *ast.Comment) bool { return strings.HasPrefix(c.Text, "//go:embed ") })
}

func isAllowedVar(file, name string, typ, value ast.Expr) bool {
	if name == "_" || (file == "main.go" && name == "version") {
		return true
	}
	text := ""
	if value != nil {
		text = types.ExprString(value)
	} else if typ != nil {
		text = types.ExprString(typ)
	}
	isError := strings.HasPrefix(text, "errors.New(") || strings.HasPrefix(text, "errorf(") || strings.HasPrefix(text, "&Error{")
	switch {
	case strings.HasPrefix(name, "err") && isError && typ == nil:
		return true
	case fileIn(file, "sys_*.go") && strings.HasPrefix(text, "[]os.Signal"):
		return true
	}
	return file == "sys_windows.go" && strings.HasPrefix(text, "syscall.NewLazyDLL(")
}

// mainOnly is what only main.go may touch.
var mainOnly = []string{"os.Exit", "os.Getenv", "os.LookupEnv", "syscall.Exit", "syscall.Getenv"}

func TestWalls(t *testing.T) {
	for _, goos := range []string{"linux", "darwin", "freebsd", "windows"} {
		found, err := breaches(os.DirFS("."), goos)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range found {
			t.Errorf("%s: %s (for %s)", b.at, b.what, goos)
		}
	}
}

// What DESIGN.md and SECURITY.md say of a file is said of one that is there, and names something that stands in it.
func TestDocumentsNameWhatIsThere(t *testing.T) {
	pattern := regexp.MustCompile("\\b([a-z_]+\\.go): `([A-Za-z.]+)`")
	for _, document := range []string{"DESIGN.md", "SECURITY.md"} {
		text, err := os.ReadFile(document)
		if err != nil {
			t.Fatal(err)
		}
		places := pattern.FindAllStringSubmatch(string(text), -1)
		if len(places) < 5 {
			t.Errorf("%s names %d places; is the pattern still its form?", document, len(places))
		}
		for _, place := range places {
			source, err := os.ReadFile(place[1])
			if err != nil {
				t.Errorf("%s: %v", document, err)
				continue
			}
			name := place[2][strings.LastIndex(place[2], ".")+1:]
			if !regexp.MustCompile(`\b` + name + `\b`).Match(source) {
				t.Errorf("%s: %s has no %s", document, place[1], place[2])
			}
		}
	}
}

func goTool(t *testing.T, args ...string) string {
	t.Helper()
	out, err := exec.Command("go", args...).Output()
	if err != nil {
		t.Fatalf("go %s: %v", strings.Join(args, " "), err)
	}
	return strings.TrimSpace(string(out))
}

// requirements reads the go.mod at path: version by module, and which are direct.
func requirements(t *testing.T, path string) (versions map[string]string, direct []string) {
	t.Helper()
	var mod struct {
		Require []struct {
			Path, Version string
			Indirect      bool
		}
		Replace []struct{ Old struct{ Path string } }
	}
	if err := json.Unmarshal([]byte(goTool(t, "mod", "edit", "-json", path)), &mod); err != nil {
		t.Fatal(err)
	}
	if path == "go.mod" && len(mod.Replace) > 0 {
		t.Errorf("go.mod replaces %v", mod.Replace)
	}
	versions = map[string]string{}
	for _, r := range mod.Require {
		if versions[r.Path] = r.Version; !r.Indirect {
			direct = append(direct, r.Path)
		}
	}
	slices.Sort(direct)
	return versions, direct
}

func TestDirectDependenciesAreThoseAgreed(t *testing.T) {
	_, got := requirements(t, "go.mod")
	want := []string{
		"github.com/robfig/cron/v3", "go.yaml.in/yaml/v4", "golang.org/x/crypto", "golang.org/x/term", "google.golang.org/genproto/googleapis/rpc",
		"google.golang.org/grpc", "google.golang.org/protobuf", "modernc.org/sqlite",
	}
	if !slices.Equal(got, want) {
		t.Errorf("go.mod requires %q, want %q", got, want)
	}
}

// SQLite translated to Go calls into the libc of the same release; its authors support no other.
func TestLibcIsTheOneThatSQLiteNames(t *testing.T) {
	ours, _ := requirements(t, "go.mod")
	its, _ := requirements(t, goTool(t, "list", "-m", "-f", "{{.GoMod}}", "modernc.org/sqlite"))
	const libc = "modernc.org/libc"
	if its[libc] == "" || ours[libc] != its[libc] {
		t.Errorf("go.mod has libc %q, sqlite names %q", ours[libc], its[libc])
	}
}

// What an auditor has to read stays small and calm. How much there is counts in tokens, so that packing lines wins
// nothing. The figures are ratchets: lower them with the code, and raise none without a reason that is worth an auditor's
// time.
const (
	mostTokens        = 85400
	mostLineTokens    = 6.6 // over all files
	mostFileDensity   = 7.2 // tokens a line, in any file
	mostWide          = 3.0 // lines over 120 columns, of 1,000
	mostInitialisers  = 3.0 // computed ones of if and switch, of 1,000 lines
	mostFunctionLines = 60
	mostFileLines     = 600
	leastComments     = 0.18 // of the lines, where the danger is
)

// dangerous are the files that need more words than others.
func dangerous(name string) bool {
	return name == "seal.go" || name == "auth.go" || strings.HasPrefix(name, "store") || strings.HasPrefix(name, "queue")
}

// figures are what is measured of a file.
type figures struct{ tokens, code, comments, wide, inits int }

func (f *figures) add(g figures) {
	f.tokens += g.tokens
	f.code += g.code
	f.comments += g.comments
	f.wide += g.wide
	f.inits += g.inits
}

func (f figures) density() float64 { return float64(f.tokens) / float64(f.code) }

func (f figures) commented() float64 { return float64(f.comments) / float64(f.code+f.comments) }

func (f figures) String() string {
	return fmt.Sprintf("%6d tokens %5d lines %4.1f tokens/line %3d wide %3d inits %3.0f %% comments", f.tokens, f.code, f.density(),
		f.wide, f.inits, 100*f.commented())
}

func TestCodeStaysSmallAndCalm(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all figures
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		f := measure(t, name, text)
		t.Logf("%s  %s", f, name)
		all.add(f)
		if f.code > mostFileLines {
			t.Errorf("%s has %d lines of code; at most %d", name, f.code, mostFileLines)
		}
		if f.code > 20 && f.density() > mostFileDensity {
			t.Errorf("%s has %.2f tokens a line; at most %.1f", name, f.density(), mostFileDensity)
		}
		if dangerous(name) && f.commented() < leastComments {
			t.Errorf("%s: %.0f %% of the lines are comments; at least %.0f %%", name, 100*f.commented(), 100*leastComments)
		}
	}
	t.Logf("%s  in all", all)
	perThousand := func(n int) float64 { return 1000 * float64(n) / float64(all.code) }
	if all.tokens > mostTokens {
		t.Errorf("%d tokens; at most %d", all.tokens, mostTokens)
	}
	if all.density() > mostLineTokens {
		t.Errorf("%.2f tokens a line; at most %.1f", all.density(), mostLineTokens)
	}
	if perThousand(all.wide) > mostWide {
		t.Errorf("%d lines of %d are wider than 120 columns", all.wide, all.code)
	}
	if perThousand(all.inits) > mostInitialisers {
		t.Errorf("%d computed initialisers in %d lines", all.inits, all.code)
	}
}

// measure takes the figures of a file, and complains of its long functions.
func measure(t *testing.T, name string, text []byte) (f figures) {
	t.Helper()
	set := token.NewFileSet()
	file, err := parser.ParseFile(set, name, text, 0)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(text), "\n")
	f.tokens = tokens(text)
	f.code, f.comments = countLines(lines)
	for _, line := range lines {
		if utf8.RuneCountInString(strings.ReplaceAll(line, "\t", "    ")) > 120 {
			f.wide++
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.FuncDecl:
			first, last := set.Position(n.Pos()).Line, set.Position(n.End()).Line
			if code, _ := countLines(lines[first-1 : last]); code > mostFunctionLines {
				t.Errorf("%s: %s has %d lines; at most %d", name, n.Name.Name, code, mostFunctionLines)
			}
		case *ast.IfStmt:
			f.inits += computed(n.Init)
		case *ast.SwitchStmt:
			f.inits += computed(n.Init)
		}
		return true
	})
	return f
}

// computed is 1 for an initialiser that does more than call something that may fail.
func computed(init ast.Stmt) int {
	a, ok := init.(*ast.AssignStmt)
	if !ok {
		return 0
	}
	last, ok := a.Lhs[len(a.Lhs)-1].(*ast.Ident)
	if ok && slices.Contains([]string{"err", "ok", "e"}, last.Name) {
		return 0
	}
	return 1
}

// countLines counts lines of code and of comments.
func countLines(lines []string) (code, comments int) {
	for _, line := range lines {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "//") {
			comments++
		} else if line != "" {
			code++
		}
	}
	return code, comments
}

// tokens counts those of Go source, but for comments and line ends.
func tokens(text []byte) (n int) {
	var s gotoken.Scanner
	s.Init(token.NewFileSet().AddFile("", -1, len(text)), text, nil, 0)
	for {
		_, t, literal := s.Scan()
		if t == token.EOF {
			return n
		}
		if t != token.SEMICOLON || literal == ";" {
			n++
		}
	}
}
