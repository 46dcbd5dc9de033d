package main

// The design held by a machine: what the compiler cannot see inside one package. Each rule names file and line; each has
// a case below that breaks it, so that a wall that has stopped standing is noticed.

import (
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/build/constraint"
	"go/parser"
	"go/token"
	"go/types"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"slices"
	"strings"
	"testing"
	"testing/fstest"
)

// wallRows is the map: a file uses what is declared on its own row or a lower one. The first pattern that fits decides.
func wallRows() []wallRow {
	return []wallRow{
		{6, "main.go"},
		{5, "daemon.go cli.go cli_*.go"},
		{4, "rpc.go rpc_*.go"},
		{3, "scheduler.go"},
		{2, "queue.go worker.go auth.go"},
		{1.5, "seal.go seal_*.go"}, // keeps its salt and parameters in the store
		{1, "store.go store_*.go graphql.go"},
		{0, "errors.go files.go config.go log.go jwt.go commands.go dates.go cronexpr.go listen.go sys_*.go peer_*.go"},
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
		{"github.com/robfig/cron/v3", "cronexpr.go"},
		{"go.yaml.in/yaml/v4", "config.go"},
	}
}

type wallImport struct{ path, files string } // a path that ends in / stands for all below it

// wallExceptions are breaches that exist and have an owner who knows. One that is gone fails too: strike it out.
func wallExceptions() []string {
	return []string{}
}

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
	unused := wallExceptions()
	for _, goos := range []string{"linux", "darwin", "freebsd", "windows"} {
		found, err := breaches(os.DirFS("."), goos)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range found {
			if slices.Contains(wallExceptions(), b.what) {
				unused = slices.DeleteFunc(unused, func(e string) bool { return e == b.what })
				continue
			}
			t.Errorf("%s: %s (for %s)", b.at, b.what, goos)
		}
	}
	for _, e := range unused {
		t.Errorf("an exception that is none any more: %s", e)
	}
}

// wallHome is a package without a fault, in which the cases below commit one.
var wallHome = map[string]string{
	"main.go":   "package main\n\nimport \"os\"\n\nvar version = \"dev\"\n\nfunc main() { os.Exit(run()) }\n\nfunc run() int { return 0 }\n",
	"queue.go":  "package main\n\ntype Queue struct{ size int }\n\nfunc (q *Queue) push() { q.size++ }\n\nvar errFull = errors.New(\"full\")\n",
	"store.go":  "package main\n\nimport \"database/sql\"\n\ntype Store struct{ db *sql.DB }\n\nvar _ = Store{}\n\nvar errClosed = &Error{}\n",
	"errors.go": "package main\n\ntype Error struct{ Code string }\n",
}

func TestWallsStand(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"", "", ""},
		{"seal.go", "import \"crypto/aes\"\nfunc seal(s *Store) { aes.NewCipher(nil) }", ""},
		{"auth.go", "func f(Queue int) int { return Queue }", ""},
		{"config.go", "func f() { Queue := 1; run := Queue; _ = run }", ""},
		{"config.go", "type t struct{ Queue int }\nvar _ = t{Queue: 1}.Queue", ""},
		{"store_x.go", "//go:embed schema.sql\nvar schemaV1 string", ""},
		{"store_x.go", "var (\n\terrA = errorf(\"a\").hint(\"b\")\n\terrB = errors.New(\"b\")\n)", ""},
		{"sys_unix.go", "var signals = []os.Signal{os.Interrupt}\nvar none []os.Signal", ""},
		{"other.go", "", "other.go:1 has no row on the map"},

		{"config.go", "func f() { run() }", "config.go:3 uses run of main.go"},
		{"config.go", "var _ *Queue", "config.go:3 uses Queue of queue.go"},
		{"config.go", "func f(e Error) {}\nfunc g(s Store) {}", "config.go:4 uses Store of store.go"},
		{"store_x.go", "type owner struct{ Queue }\nfunc f(o owner) { o.push() }", "store_x.go:3 uses Queue of queue.go; store_x.go:4 uses push of queue.go"},
		{"graphql.go", "func f(s *sealer) {}", ""},
		{"log.go", "type t[T Queue] struct{}", "log.go:3 uses Queue of queue.go"},
		{"seal.go", "func f(q *Queue) int { return q.size }", "seal.go:3 uses Queue of queue.go"},

		{"queue2.go", "", "queue2.go:1 has no row on the map"},
		{"queue.go", "import \"database/sql\"", "queue.go:3 imports database/sql"},
		{"worker.go", "import \"database/sql/driver\"", "worker.go:3 imports database/sql/driver"},
		{"worker.go", "import _ \"modernc.org/sqlite\"", "worker.go:3 imports modernc.org/sqlite"},
		{"auth.go", "import \"net/http\"", "auth.go:3 imports net/http"},
		{"graphql.go", "import (\n\t\"net/http\"\n\t\"net/http/httptrace\"\n)", ""},
		{"graphql.go", "import _ \"net/http/pprof\"", "graphql.go:3 imports net/http/pprof"},
		{"auth.go", "import \"crypto/sha256\"", "auth.go:3 imports crypto/sha256"},
		{"store.go", "import \"crypto/rand\"", ""},
		{"store.go", "import \"crypto/aes\"", "store.go:3 imports crypto/aes"},
		{"store_x.go", "import \"crypto/rand\"", "store_x.go:3 imports crypto/rand"},
		{"auth.go", "import \"golang.org/x/crypto/argon2\"", "auth.go:3 imports golang.org/x/crypto/argon2"},
		{"queue.go", "import \"google.golang.org/grpc\"", "queue.go:3 imports google.golang.org/grpc"},
		{"queue.go", "import \"google.golang.org/grpc/codes\"", "queue.go:3 imports google.golang.org/grpc/codes"},
		{"daemon.go", "import \"google.golang.org/grpc\"", ""},
		{"daemon.go", "import \"google.golang.org/grpc/codes\"", "daemon.go:3 imports google.golang.org/grpc/codes"},
		{"listen.go", "import \"google.golang.org/grpc/credentials\"", ""},
		{"listen.go", "import \"google.golang.org/grpc\"", "listen.go:3 imports google.golang.org/grpc"},
		{"store.go", "import \"honeydew/daemonpb\"", "store.go:3 imports honeydew/daemonpb"},
		{"store.go", "import \"google.golang.org/protobuf/proto\"", "store.go:3 imports google.golang.org/protobuf/proto"},
		{"cli_jobs.go", "import \"honeydew/daemonpb\"", ""},
		{"cli.go", "import \"honeydew/sandbox\"", "cli.go:3 imports honeydew/sandbox, which is on no list"},
		{"scheduler.go", "import \"github.com/robfig/cron/v3\"", "scheduler.go:3 imports github.com/robfig/cron/v3"},
		{"daemon.go", "import \"go.yaml.in/yaml/v4\"", "daemon.go:3 imports go.yaml.in/yaml/v4"},
		{"daemon.go", "import \"os/exec\"", "daemon.go:3 imports os/exec"},
		{"cli_daemon.go", "import \"os/exec\"", ""},
		{"daemon.go", "import \"github.com/acme/thing\"", "daemon.go:3 imports github.com/acme/thing, which is on no list"},
		{"daemon.go", "import \"log\"", "daemon.go:3 imports log"},
		{"daemon.go", "import \"C\"", "daemon.go:3 imports C"},
		{"daemon.go", "import . \"strings\"", "daemon.go:3 imports strings with a dot"},

		{"daemon.go", "var cache = map[string]int{}", "daemon.go:3 has the package variable cache"},
		{"daemon.go", "var a, b int", "daemon.go:3 has the package variable a; daemon.go:3 has the package variable b"},
		{"daemon.go", "var (\n\terrX = errors.New(\"x\")\n\tcount int\n)", "daemon.go:5 has the package variable count"},
		{"daemon.go", "var pattern = regexp.MustCompile(``)", "daemon.go:3 has the package variable pattern"},
		{"daemon.go", "var lastErr = errors.New(``)", "daemon.go:3 has the package variable lastErr"},
		{"daemon.go", "var errLast error", "daemon.go:3 has the package variable errLast"},
		{"daemon.go", "var version = 1", "daemon.go:3 has the package variable version"},
		{"daemon.go", "var signals = []os.Signal{}", "daemon.go:3 has the package variable signals"},
		{"daemon.go", "// go:embed x\nvar text string", "daemon.go:4 has the package variable text"},
		{"daemon.go", "func init() {}", "daemon.go:3 has an init"},
		{"daemon.go", "type t int\nfunc (t) init() {}", ""},
		{"daemon.go", "import _ \"unsafe\"\n//go:linkname now runtime.now\nfunc now()", "daemon.go:4 uses go:linkname"},
		{"daemon.go", "import \"os\"\nfunc f() { os.Exit(1) }", "daemon.go:4 uses os.Exit"},
		{"daemon.go", "import \"os\"\nfunc f() { g := os.Getenv; g(\"\") }", "daemon.go:4 uses os.Getenv"},
		{"daemon.go", "import system \"os\"\nfunc f() { system.LookupEnv(\"\") }", "daemon.go:4 uses os.LookupEnv"},
		{"daemon.go", "type p struct{ Exit func() }\nfunc f(os p) { os.Exit() }", ""},

		{"sys_windows.go", "func f(q Queue) {}\nvar p = syscall.NewLazyDLL(\"k\").NewProc(\"L\")", "sys_windows.go:3 uses Queue of queue.go"},
		{"sys_unix.go", "func f(q Queue) {}", "sys_unix.go:3 uses Queue of queue.go"},
	} {
		files := fstest.MapFS{}
		for name, text := range wallHome {
			files[name] = &fstest.MapFile{Data: []byte(text)}
		}
		goos := "linux"
		if c.file == "sys_windows.go" {
			goos = "windows"
		}
		if c.file != "" {
			files[c.file] = &fstest.MapFile{Data: []byte("package main\n\n" + c.text + "\n")}
		}
		found, err := breaches(files, goos)
		if err != nil {
			t.Errorf("%s: %q: %v", c.file, c.text, err)
			continue
		}
		var got []string
		for _, b := range found {
			_, what, _ := strings.Cut(b.what, " ")
			got = append(got, b.at+" "+what)
		}
		if text := strings.Join(got, "; "); text != c.want {
			t.Errorf("%s: %q\n got %s\nwant %s", c.file, c.text, text, c.want)
		}
	}
}

func TestFilesAreBuiltForTheirSystems(t *testing.T) {
	for _, c := range []struct{ file, text, want string }{
		{"sys_windows.go", "package main", "windows"},
		{"peer_linux.go", "package main", "linux"},
		{"sys_unix.go", "//go:build unix\n\npackage main", "linux darwin freebsd"},
		{"peer_bsd.go", "//go:build darwin || freebsd\n\npackage main", "darwin freebsd"},
		{"peer_other.go", "//go:build !linux && !darwin && !freebsd\n\npackage main", "windows"},
		{"queue.go", "package main", "linux darwin freebsd windows"},
	} {
		f, err := parser.ParseFile(token.NewFileSet(), c.file, c.text, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, goos := range []string{"linux", "darwin", "freebsd", "windows"} {
			if builtFor(f, c.file, goos) {
				got = append(got, goos)
			}
		}
		if text := strings.Join(got, " "); text != c.want {
			t.Errorf("%s is built for %s, want %s", c.file, text, c.want)
		}
	}
}

// goTool runs the go command in the module.
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
