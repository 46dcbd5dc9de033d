package main

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// openTestStore opens a store on a real file in a directory of its own.
func openTestStore(t testing.TB) *Store {
	t.Helper()
	s, err := openStore(filepath.Join(t.TempDir(), "daemon.db"), "full", "https://api.example.test/graphql")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.CountFinished(); err != nil {
		t.Fatal(err)
	}
	s.rehearse = true // in the tests every function must bear to be run twice
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func newTestJob(command string) *Job {
	now := timeNow()
	return &Job{Command: command, Payload: []byte(`{"organization":"acme"}`), Status: statusPending, CreatedAt: now, UpdatedAt: now,
		MaxRetries: 3, Timeout: 30 * time.Second, Environment: "production"}
}

func submitTestJob(t testing.TB, s *Store, j *Job) *Job {
	t.Helper()
	if _, err := s.Submit([]*Job{j}, func([]*Job) {}); err != nil {
		t.Fatal(err)
	}
	return j
}

// holdWriter lets nothing be written until the returned function is called.
func holdWriter(s *Store) (release func()) {
	held, hold := make(chan struct{}), make(chan struct{})
	var once sync.Once
	s.enqueue(&write{done: func(error) {}, fn: func(*tx) error {
		once.Do(func() { close(held) })
		<-hold
		return nil
	}})
	<-held
	return func() { close(hold) }
}

// finishNow ends a job through the writer and waits for the commit.
func finishNow(s *Store, j *Job, status string, result string) error {
	done := *j
	done.Status, done.Result, done.CompletedAt, done.UpdatedAt = status, result, timeNow(), timeNow()
	ack := make(chan error, 1)
	s.Finish(&done, func(err error) { ack <- err })
	return <-ack
}

func TestJobReadsBackAsItWasStored(t *testing.T) {
	s := openTestStore(t)
	for _, n := range []int{1, 15, 16, 17, 40} { // around the bulk statement's 16 rows
		jobs := make([]*Job, n)
		for i := range jobs {
			jobs[i] = newTestJob("github.commits")
			jobs[i].Priority, jobs[i].Payload = int32(i), fmt.Appendf(nil, `{"organization":"%d-%d"}`, n, i)
		}
		if _, err := s.Submit(jobs, func([]*Job) {}); err != nil {
			t.Fatal(err)
		}
		for i, want := range jobs {
			got, err := s.Job(want.ID, 1<<20)
			if err != nil {
				t.Fatal(err)
			}
			if got.Seq != want.Seq || string(got.Payload) != string(want.Payload) || got.Priority != int32(i) || got.Status != statusPending ||
				!got.CreatedAt.Equal(want.CreatedAt) || got.Timeout != want.Timeout || got.MaxRetries != 3 || got.Environment != "production" {
				t.Fatalf("job %d of %d: got %+v, want %+v", i, n, got, want)
			}
		}
	}
}

func TestResultKeepsEveryByte(t *testing.T) {
	s := openTestStore(t)
	j := submitTestJob(t, s, newTestJob("github.commits"))
	result := `{"a":"` + strings.Repeat("é\\u0000 ", 100_000) + `","n":9007199254740993}`
	if err := finishNow(s, j, statusCompleted, result); err != nil {
		t.Fatal(err)
	}
	got, err := s.Job(j.ID, 1<<30)
	if err != nil || got.Result != result || got.ResultBytes != int64(len(result)) {
		t.Fatalf("result of %d bytes came back with %d (%v)", len(result), len(got.Result), err)
	}
	small, err := s.Job(j.ID, 100)
	if err != nil || small.Result != "" || small.ResultBytes != int64(len(result)) {
		t.Fatalf("a result over the limit was read: %d bytes (%v)", len(small.Result), err)
	}
}

func TestFinishAfterTheEndChangesNothing(t *testing.T) {
	s := openTestStore(t)
	j := submitTestJob(t, s, newTestJob("github.commits"))
	if err := s.End(j.Seq, statusCancelled, "", "", nil); err != nil {
		t.Fatal(err)
	}
	if err := s.End(j.Seq, statusCancelled, "", "", nil); codeOf(err) != codeFailedPrecondition {
		t.Fatalf("cancelling twice: %v", err)
	}
	if err := finishNow(s, j, statusCompleted, `1`); !errors.Is(err, errNotOpen) {
		t.Fatalf("finishing a cancelled job: %v", err)
	}
	if got, _ := s.Job(j.ID, 100); got.Status != statusCancelled || got.Result != "" {
		t.Fatalf("a cancelled job became %s with result %q", got.Status, got.Result)
	}
	if c, err := s.Finished(); err != nil || c != (FinishedCounts{Cancelled: 1}) {
		t.Fatalf("counts %+v", c)
	}
}

func TestOneRefusedMemberLeavesTheBatchAlone(t *testing.T) {
	s := openTestStore(t)
	var wg sync.WaitGroup
	for i := range 200 {
		wg.Go(func() {
			if i%4 == 0 {
				err := s.update(func(t *tx) error {
					if err := t.exec("INSERT INTO config (key, value) VALUES (?, 'x')", fmt.Sprint("refused", i)); err != nil {
						return err
					}
					return errorf(codeFailedPrecondition, "no")
				})
				if codeOf(err) != codeFailedPrecondition {
					t.Errorf("refusal came back as %v", err)
				}
				return
			}
			if _, err := s.Submit([]*Job{newTestJob("github.commits")}, func([]*Job) {}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	jobs, err := s.Jobs(JobFilter{Limit: 1000})
	if err != nil || len(jobs) != 150 {
		t.Fatalf("%d jobs (%v), want 150", len(jobs), err)
	}
	var left int
	if err := s.read.QueryRow("SELECT count(*) FROM config WHERE key LIKE 'refused%'").Scan(&left); err != nil || left != 0 {
		t.Fatalf("%d rows of refused members stayed (%v)", left, err)
	}
}

func TestOneFailingMemberDoesNotFailItsNeighbours(t *testing.T) {
	s := openTestStore(t)
	taken := submitTestJob(t, s, newTestJob("github.commits"))
	release := holdWriter(s) // the next three wait for one batch
	double := newTestJob("github.commits")
	double.ID = taken.ID
	acks := make(chan error, 3)
	for _, j := range []*Job{newTestJob("a.b"), double, newTestJob("c.d")} {
		s.enqueue(&write{insert: []*Job{j}, done: func(err error) { acks <- err }})
	}
	release()
	var failed int
	for range 3 {
		if err := <-acks; err != nil {
			failed++
		}
	}
	if failed != 1 {
		t.Fatalf("%d of 3 members failed, want the one with the taken id", failed)
	}
}

func TestWhatWasQueuedBeforeTheCloseIsWritten(t *testing.T) {
	for range 8 { // whether the close or the queue is seen first is chance
		s, err := openStore(filepath.Join(t.TempDir(), "daemon.db"), "normal", "https://x.test")
		if err != nil {
			t.Fatal(err)
		}
		hold, entered, acks := make(chan struct{}), make(chan struct{}), make(chan error, 3)
		s.enqueue(&write{done: func(error) {}, fn: func(*tx) error { close(entered); <-hold; return nil }})
		<-entered
		for range 3 {
			s.enqueue(&write{insert: []*Job{newTestJob("github.commits")}, done: func(err error) { acks <- err }})
		}
		closed := make(chan error)
		go func() { closed <- s.Close() }()
		<-s.closed
		close(hold)
		if err := <-closed; err != nil || len(acks) != 3 || errors.Join(<-acks, <-acks, <-acks) != nil {
			t.Fatalf("%d of 3 were answered (%v)", len(acks), err)
		}
	}
}

func TestIdsMayBeShortened(t *testing.T) {
	s := openTestStore(t)
	for _, id := range []string{"abcdefgh", "abcdexyz", "abc", "xyyz", "zzyz"} {
		j := newTestJob("github.commits")
		j.ID = id
		submitTestJob(t, s, j)
	}
	for prefix, want := range map[string]string{"abcdef": "abcdefgh", "abcdefgh": "abcdefgh", "abc": "abc", "abcdex": "abcdexyz", "..exyz": "abcdexyz", "..abcdefgh": "abcdefgh"} {
		if j, err := s.Job(prefix, 0); err != nil || j.ID != want {
			t.Errorf("%q names %+v (%v), want %q", prefix, j, err, want)
		}
	}
	for prefix, code := range map[string]string{"ab": codeInvalidArgument, "abcde": codeInvalidArgument, "b": codeNotFound, "": codeInvalidArgument, "abcdefghi": codeNotFound, "%": codeNotFound,
		"..": codeNotFound, "..q": codeNotFound, "..yz": codeInvalidArgument} {
		if _, err := s.JobSeq(prefix); codeOf(err) != code {
			t.Errorf("%q: %v, want %s", prefix, err, code)
		}
	}
}

func TestBurstOfJobsSharesAPageOfTheIndex(t *testing.T) {
	s := openTestStore(t)
	jobs := make([]*Job, 100)
	for i := range jobs {
		jobs[i] = newTestJob("github.commits")
	}
	if _, err := s.Submit(jobs, func([]*Job) {}); err != nil {
		t.Fatal(err)
	}
	for _, j := range jobs[1:] {
		if j.ID[:14] != jobs[0].ID[:14] || j.ID == jobs[0].ID {
			t.Fatalf("ids of one burst: %s and %s", jobs[0].ID, j.ID)
		}
	}
}

// Every combination of filters is one statement, hence one snapshot, in the order of an index: no list sorts jobs.
func TestListsAreOneStatementInTheOrderOfAnIndex(t *testing.T) {
	s := openTestStore(t)
	for combination := range 1 << 7 {
		f := JobFilter{Limit: 50}
		has := func(bit int) bool { return combination>>bit&1 == 1 }
		if has(0) {
			f.Status = statusFailed
		}
		if has(1) {
			f.Command = "a.b"
		}
		if has(2) {
			f.Schedule = "s"
		}
		if has(3) {
			f.ErrorCode = codeTimeout
		}
		if has(4) {
			f.Since = timeNow()
		}
		if has(5) {
			f.Before = 5
		}
		f.Unretried = has(6)
		query, args := f.query()
		plan := queryPlan(t, s, query, args...)
		if strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%+v sorts: %s", f, plan)
		}
		if f.Status+f.Command+f.Schedule+f.ErrorCode != "" && !strings.Contains(plan, "USING INDEX") {
			t.Errorf("%+v reads all jobs: %s", f, plan)
		}
	}
}

func TestEveryOtherReadUsesAnIndex(t *testing.T) {
	s := openTestStore(t)
	for _, query := range []string{
		`SELECT created_at FROM (SELECT * FROM jobs WHERE status = 'pending' ORDER BY seq LIMIT 10000)
			WHERE coalesce(next_attempt_at, '') <= 'x' ORDER BY seq LIMIT 1`,
		"SELECT seq FROM jobs WHERE completed_at < 'x' ORDER BY completed_at LIMIT 5",
		"SELECT EXISTS (SELECT 1 FROM jobs WHERE schedule = 'a' AND status IN ('pending', 'running'))",
		"SELECT seq FROM jobs WHERE status IN ('pending', 'running') ORDER BY status, seq",
	} {
		if plan := queryPlan(t, s, query); strings.Contains(plan, "SCAN jobs") && !strings.Contains(plan, "INDEX") || strings.Contains(plan, "TEMP B-TREE") {
			t.Errorf("%s: %s", query, plan)
		}
	}
}

func queryPlan(t *testing.T, s *Store, query string, args ...any) string {
	t.Helper()
	rows, err := s.read.Query("EXPLAIN QUERY PLAN "+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var plan strings.Builder
	for rows.Next() {
		var a, b, c int
		var detail string
		if err := rows.Scan(&a, &b, &c, &detail); err != nil {
			t.Fatal(err)
		}
		fmt.Fprintln(&plan, detail)
	}
	return plan.String()
}

func TestCountsSurviveARestart(t *testing.T) {
	path := filepath.Join(t.TempDir(), "daemon.db")
	s, err := openStore(path, "full", "https://x.test")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 5 {
		j := submitTestJob(t, s, newTestJob("github.commits"))
		if err := finishNow(s, j, []string{statusCompleted, statusFailed}[i%2], "1"); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = openStore(path, "normal", "https://x.test"); err != nil {
		t.Fatal(err)
	}
	if err := s.CountFinished(); err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if c, err := s.Finished(); err != nil || c != (FinishedCounts{Completed: 3, Failed: 2}) {
		t.Fatalf("counts %+v", c)
	}
}

func TestPruneShrinksTheFile(t *testing.T) {
	s := openTestStore(t)
	jobs := make([]*Job, 1200)
	for i := range jobs {
		jobs[i] = newTestJob("github.commits")
	}
	if _, err := s.Submit(jobs, func([]*Job) {}); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for _, j := range jobs[:1100] {
		wg.Go(func() {
			if err := finishNow(s, j, statusCompleted, strings.Repeat("1", 4000)); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	before := s.Size()
	future := timeNow().Add(time.Hour)
	if n, err := s.Prune(t.Context(), future, true); err != nil || n != 1100 {
		t.Fatalf("dry run: %d, %v", n, err)
	}
	if n, err := s.Prune(t.Context(), future, false); err != nil || n != 1100 {
		t.Fatalf("pruned %d, %v", n, err)
	}
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	if after := s.Size(); after > before/4 {
		t.Fatalf("the file went from %d to %d bytes", before, after)
	}
	if c, err := s.Finished(); err != nil || c != (FinishedCounts{}) {
		t.Fatalf("counts %+v", c)
	}
	if left, err := s.Jobs(JobFilter{Limit: 1000}); err != nil || len(left) != 100 {
		t.Fatalf("%d unfinished jobs left, want 100 (%v)", len(left), err)
	}
}

func TestPruneTakesWhatEndedBeforeTheCutoffAndCountsTheRest(t *testing.T) {
	s := openTestStore(t)
	cutoff := timeNow()
	if _, err := s.Finished(); err != nil { // from now on every commit keeps count
		t.Fatal(err)
	}
	for _, c := range []struct {
		status         string
		created, ended time.Duration // from the cutoff
	}{
		{statusCompleted, -2 * time.Hour, -time.Millisecond}, {statusFailed, -2 * time.Hour, -time.Hour}, // these go
		{statusCompleted, -2 * time.Hour, 0}, {statusFailed, -2 * time.Hour, time.Hour}, {statusCancelled, -2 * time.Hour, time.Millisecond},
	} {
		j := newTestJob("github.commits")
		j.CreatedAt = cutoff.Add(c.created)
		submitTestJob(t, s, j)
		end, ack := *j, make(chan error, 1)
		end.Status, end.CompletedAt = c.status, cutoff.Add(c.ended)
		s.Finish(&end, func(err error) { ack <- err })
		if err := <-ack; err != nil {
			t.Fatal(err)
		}
	}
	for _, dryRun := range []bool{true, false} {
		if n, err := s.Prune(t.Context(), cutoff, dryRun); err != nil || n != 2 {
			t.Errorf("pruned %d with dry run %v, want 2 (%v)", n, dryRun, err)
		}
	}
	if c, err := s.Finished(); err != nil || c != (FinishedCounts{Completed: 1, Failed: 1, Cancelled: 1}) {
		t.Errorf("counts %+v (%v)", c, err)
	}
}

func TestTokensOfALoginReplaceThoseOfAnotherUser(t *testing.T) {
	s := openTestStore(t)
	env, err := s.Environment("")
	if err != nil {
		t.Fatal(err)
	}
	for _, user := range []string{"anna", "bela"} {
		if err := s.SaveTokens(TokenRow{EnvironmentID: env.ID, Username: user, Access: []byte(user)}, true); err != nil {
			t.Fatal(err)
		}
	}
	n, countErr := s.readNumber("SELECT count(*) FROM auth_tokens")
	if row, err := s.Tokens(env.ID); err != nil || countErr != nil || n != 1 || row.Username != "bela" || string(row.Access) != "bela" {
		t.Errorf("%d logins, read %+v (%v, %v)", n, row, err, countErr)
	}
}

func TestFilesThatAreNoDatabaseAreRefusedUntouched(t *testing.T) {
	foreign := filepath.Join(t.TempDir(), "foreign.db")
	other, err := openStore(foreign, "full", "https://x.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.conn.ExecContext(t.Context(), "PRAGMA application_id = 7; PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	newer := filepath.Join(t.TempDir(), "newer.db")
	next, err := openStore(newer, "full", "https://x.test")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := next.conn.ExecContext(t.Context(), "PRAGMA user_version = 99; PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(other.Close(), next.Close()); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		"not a honeydew": mustRead(t, foreign), "newer": mustRead(t, newer), "damaged": {}, "not a honeydew database": []byte(strings.Repeat("garbage ", 50)),
	} {
		path := filepath.Join(t.TempDir(), "daemon.db")
		if err := os.WriteFile(path, content, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(path, "full", "https://x.test")
		if err == nil {
			s.Close()
			t.Errorf("%s: opened", name)
			continue
		}
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
		if string(mustRead(t, path)) != string(content) {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

func TestTruncatedDatabaseIsRefusedUntouched(t *testing.T) {
	s := openTestStore(t)
	submitTestJob(t, s, newTestJob("github.commits"))
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	whole := mustRead(t, s.path)
	path := filepath.Join(t.TempDir(), "daemon.db")
	if err := os.WriteFile(path, whole[:len(whole)-1000], 0o600); err != nil {
		t.Fatal(err)
	}
	if cut, err := openStore(path, "full", ""); err == nil || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("opened %v: %v", cut, err)
	}
	if len(mustRead(t, path)) != len(whole)-1000 {
		t.Error("the file was changed")
	}
	// A checkpoint that a kill cut off leaves such a file too, and beside it what mends it.
	if err := os.WriteFile(path+"-wal", []byte("pages"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := inspectDatabase(path); err != nil {
		t.Errorf("beside its log: %v", err)
	}
}

func TestDamageMetWhileReadingEndsTheDaemon(t *testing.T) {
	s := openTestStore(t)
	submitTestJob(t, s, newTestJob("github.commits"))
	var page, size int64
	if err := s.read.QueryRow("SELECT rootpage, page_size FROM sqlite_schema, pragma_page_size WHERE name = 'jobs_by_schedule'").Scan(&page, &size); err != nil {
		t.Fatal(err)
	}
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA wal_checkpoint(TRUNCATE)"); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if _, err := f.WriteAt([]byte(strings.Repeat("garbage ", int(size/8))), (page-1)*size); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Jobs(JobFilter{Schedule: "nightly", Limit: 1}); codeOf(err) != codeStorageFailed || !strings.Contains(err.Error(), "damaged") {
		t.Errorf("reading a damaged page: %v", err)
	}
	select {
	case <-s.Fatal():
	default:
		t.Error("the daemon would go on")
	}
}

func TestDatabaseHeldByAnotherProcessSaysSo(t *testing.T) {
	s := openTestStore(t)
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA busy_timeout = 1"); err != nil {
		t.Fatal(err)
	}
	other, err := sql.Open("sqlite", dsn(s.path))
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	other.SetMaxOpenConns(1)
	if _, err := other.Exec("BEGIN IMMEDIATE"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Submit([]*Job{newTestJob("github.commits")}, func([]*Job) {}); codeOf(err) != codeStorageFailed || !strings.Contains(err.Error(), "another process") {
		t.Errorf("submit: %v", err)
	}
	if _, err := other.Exec("ROLLBACK"); err != nil {
		t.Fatal(err)
	}
	submitTestJob(t, s, newTestJob("github.commits"))
}

func TestBackupThatIsCutOffLeavesNoFile(t *testing.T) {
	s := openTestStore(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	path := filepath.Join(t.TempDir(), "copy.db")
	if _, err := s.Backup(ctx, path); err == nil {
		t.Error("a copy was made")
	}
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half a copy was left behind: %v", err)
	}
}

func TestJobsOfACommandAreListedNewestFirstWhateverTheirState(t *testing.T) {
	s := openTestStore(t)
	var want []string
	for i, status := range []string{statusFailed, "", statusCompleted, "", statusFailed} {
		j := submitTestJob(t, s, newTestJob("github.commits"))
		submitTestJob(t, s, newTestJob("jira.issues"))
		if status != "" {
			if err := finishNow(s, j, status, ""); err != nil {
				t.Fatal(err)
			}
		}
		if i > 0 {
			want = append([]string{j.ID}, want...)
		}
	}
	jobs, err := s.Jobs(JobFilter{Command: "github.commits", Limit: 4})
	got := make([]string, len(jobs))
	for i, j := range jobs {
		got[i] = j.ID
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, want %v (%v)", got, want, err)
	}
}

// The header does not say yet what lies in the log beside it.
func TestNewerDatabaseIsRefusedThoughItsVersionIsInTheLogAlone(t *testing.T) {
	s := openTestStore(t)
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA user_version = 99"); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "daemon.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := os.WriteFile(path+suffix, mustRead(t, s.path+suffix), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := inspectDatabase(path); err != nil {
		t.Fatalf("the header alone: %v", err)
	}
	if newer, err := openStore(path, "full", ""); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("opened %v: %v", newer, err)
	}
}

func mustRead(t *testing.T, path string) []byte {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func TestDatabaseFilesAreTheOwnersAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c#d%41&e;f+ü")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	s, err := openStore(filepath.Join(dir, "daemon.db"), "full", "https://x.test")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	submitTestJob(t, s, newTestJob("github.commits"))
	backup := filepath.Join(dir, "copy.db")
	if n, err := s.Backup(context.Background(), backup); err != nil || n < 4096 {
		t.Fatal(n, err)
	}
	if _, err := s.Backup(context.Background(), backup); codeOf(err) != codeAlreadyExists {
		t.Fatalf("backup over a file: %v", err)
	}
	for _, name := range []string{"daemon.db", "daemon.db-wal", "daemon.db-shm", "copy.db"} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v %v", name, info.Mode(), err)
		}
	}
}

func TestEveryConnectionHasItsSettings(t *testing.T) {
	s := openTestStore(t)
	for range 4 {
		conn, err := s.read.Conn(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		var fk, busy, queryOnly int
		if err := errors.Join(conn.QueryRowContext(t.Context(), "PRAGMA foreign_keys").Scan(&fk),
			conn.QueryRowContext(t.Context(), "PRAGMA busy_timeout").Scan(&busy),
			conn.QueryRowContext(t.Context(), "PRAGMA query_only").Scan(&queryOnly)); err != nil || fk != 1 || busy != 5000 || queryOnly != 1 {
			t.Fatalf("foreign_keys %d, busy_timeout %d, query_only %d (%v)", fk, busy, queryOnly, err)
		}
	}
	var sync, vacuum int
	if err := errors.Join(s.conn.QueryRowContext(t.Context(), "PRAGMA synchronous").Scan(&sync),
		s.conn.QueryRowContext(t.Context(), "PRAGMA auto_vacuum").Scan(&vacuum)); err != nil || sync != 2 || vacuum != 2 {
		t.Fatalf("synchronous %d, auto_vacuum %d (%v)", sync, vacuum, err)
	}
}

func TestFullDatabaseSaysSoAndRecovers(t *testing.T) {
	s := openTestStore(t)
	submitTestJob(t, s, newTestJob("github.commits"))
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA max_page_count = 20"); err != nil {
		t.Fatal(err)
	}
	big := newTestJob("github.commits")
	big.Payload = []byte(`{"x":"` + strings.Repeat("x", 200_000) + `"}`)
	if _, err := s.Submit([]*Job{big}, func([]*Job) {}); codeOf(err) != codeStorageFull || s.Problem() == "" {
		t.Fatalf("submit to a full disk: %v; problem %q", err, s.Problem())
	}
	if _, err := s.conn.ExecContext(t.Context(), "PRAGMA max_page_count = 1000000"); err != nil {
		t.Fatal(err)
	}
	submitTestJob(t, s, big)
	if s.Problem() != "" {
		t.Fatalf("problem after recovery: %q", s.Problem())
	}
	if jobs, err := s.Jobs(JobFilter{Limit: 10}); err != nil || len(jobs) != 2 {
		t.Fatalf("%d jobs (%v), want the two that were acked", len(jobs), err)
	}
}

// A database of every released version lies in testdata; an old one, opened, is like a new one, and keeps what it held.
func TestDatabaseOfEveryReleasedVersionIsBroughtUpToDate(t *testing.T) {
	files, err := filepath.Glob("testdata/v*.db")
	if err != nil || len(files) != schemaVersion {
		t.Fatalf("%d files for %d versions (%v)", len(files), schemaVersion, err)
	}
	schema := func(s *Store) (all string) {
		rows, err := s.read.Query("SELECT sql FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
		if err != nil {
			t.Fatal(err)
		}
		defer rows.Close()
		for rows.Next() {
			var text string
			if err := rows.Scan(&text); err != nil {
				t.Fatal(err)
			}
			all += text + "\n"
		}
		return all
	}
	want := schema(openTestStore(t))
	for _, file := range files {
		path := filepath.Join(t.TempDir(), "daemon.db")
		if err := os.WriteFile(path, mustRead(t, file), 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := openStore(path, "full", "")
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if got := schema(s); got != want {
			t.Errorf("%s has become\n%s, want\n%s", file, got, want)
		}
		jobs, err := s.Jobs(JobFilter{Limit: 10})
		if err != nil || len(jobs) != 3 || jobs[0].Status != statusPending {
			t.Errorf("%s: %d jobs (%v)", file, len(jobs), err)
		}
		if sc, err := s.Schedule("nightly"); err != nil || sc.Missed != missedSkip {
			t.Errorf("%s: schedule %+v (%v)", file, sc, err)
		}
		if e, err := s.Environment(""); err != nil || e.Name != "sandbox" || !e.HasTokens {
			t.Errorf("%s: environment %+v (%v)", file, e, err)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	}
}

// Tests run every function twice (Store.rehearse); this one proves that they do, and that what is told is of the last run.
func TestFunctionsOfTheWriterMayRunTwice(t *testing.T) {
	s := openTestStore(t)
	runs := 0
	got, err := updated(s, func(t *tx) (int, error) {
		runs++
		return runs, t.exec("INSERT INTO config (key, value) VALUES ('once', 'x')")
	}, func(n int) {
		if n != 2 {
			t.Errorf("told of run %d", n)
		}
	})
	if err != nil || got != 2 {
		t.Errorf("run %d (%v), want 2", got, err)
	}
}

// A batch that fails is run again; a keyed job whose key was known the first time, and is not the second, is a new job.
func TestKeyedJobOfABatchThatFailedIsStoredAsNew(t *testing.T) {
	s := openTestStore(t)
	keyed := func() *Job {
		j := newTestJob("github.commits")
		j.IdempotencyKey = "key"
		j.SubmittedPayload = j.Payload
		return j
	}
	release := holdWriter(s)
	taken := newTestJob("a.b")
	taken.ID = "taken"
	acks := make(chan error, 2)
	s.enqueue(&write{insert: []*Job{taken}, done: func(err error) { acks <- err }})
	first := keyed()
	s.enqueue(&write{fn: func(t *tx) error { // is undone with its batch, and refused when it is run alone
		if _, err := t.insertKeyed([]*Job{first}); err != nil {
			return err
		}
		return errors.New("not now")
	}, done: func(err error) { acks <- err }})
	stored := make(chan []*Job, 1)
	go func() {
		jobs, err := s.Submit([]*Job{keyed()}, func([]*Job) {})
		if err != nil {
			t.Error(err)
		}
		stored <- jobs
	}()
	for len(s.ops) < 3 {
		runtime.Gosched()
	}
	release()
	<-acks
	<-acks
	if jobs := <-stored; len(jobs) != 1 || jobs[0].Existing || jobs[0].Seq == 0 {
		t.Errorf("%+v, want a new job", jobs)
	}
}

func TestAJobThatIsToRunLaterIsNotTheOldestPending(t *testing.T) {
	s := openTestStore(t)
	submit := func(created time.Time, due time.Time, status string) {
		j := newTestJob("github.commits")
		j.CreatedAt, j.NextAttemptAt = created, due
		submitTestJob(t, s, j)
		if status != statusPending {
			if err := finishNow(s, j, status, ""); err != nil {
				t.Fatal(err)
			}
		}
	}
	check := func(want time.Time) {
		t.Helper()
		got, err := s.OldestPending()
		if err != nil || !got.Equal(want) {
			t.Errorf("%v (%v), want %v", got, err, want)
		}
	}
	now := timeNow()
	submit(now.Add(-4*time.Hour), time.Time{}, statusFailed)
	submit(now.Add(-3*time.Hour), now.Add(time.Hour), statusPending)
	check(time.Time{})
	submit(now.Add(-2*time.Hour), now.Add(-time.Minute), statusPending) // a retry that is due
	submit(now.Add(-time.Hour), time.Time{}, statusPending)
	check(now.Add(-2 * time.Hour))
}
