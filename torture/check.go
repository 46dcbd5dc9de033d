package main

// What must hold after every kill, read from a copy of the database files: looking at the files themselves could heal
// what is to be found out.

import (
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	_ "modernc.org/sqlite"
)

// row is a job in the database.
type row struct {
	seq                                int64
	id, command, status, code, uid     string
	key, schedule, errorText, finished string
	bytes                              int64
}

// openCopy copies the database with its WAL to dir and opens the copy.
func openCopy(path, dir string) (*sql.DB, error) {
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	name := filepath.Join(dir, "copy.db")
	for _, suffix := range []string{"", "-wal"} {
		if err := copyFile(path+suffix, name+suffix); err != nil && !(suffix != "" && errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
	}
	return openDB(name)
}

func openDB(path string) (*sql.DB, error) {
	db, err := sql.Open("sqlite", (&url.URL{Scheme: "file", Path: path}).String())
	if err == nil {
		db.SetMaxOpenConns(1)
	}
	return db, err
}

func copyFile(from, to string) error {
	src, err := os.Open(from)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(dst, src)
	return errors.Join(err, dst.Close())
}

// checker holds the ledger and the API's notes against the database.
type checker struct {
	*ledger
	api      *api
	verified map[string]row // terminal jobs whose result has been compared
	results  int            // compared
	lost     int            // logins lost between a refresh's answer and its save, so far
	kills    int
	problems []string
}

func (c *checker) bad(format string, args ...any) {
	c.problems = append(c.problems, fmt.Sprintf(format, args...))
}

// integrity is PRAGMA integrity_check or quick_check.
func (c *checker) integrity(db *sql.DB, pragma string) {
	var verdict string
	if err := db.QueryRow("PRAGMA " + pragma).Scan(&verdict); err != nil || verdict != "ok" {
		c.bad("%s: %s %v", pragma, verdict, err)
	}
}

func readJobs(db *sql.DB) ([]row, error) {
	rows, err := db.Query(`SELECT seq, id, command, status, coalesce(error_code, ''), json_extract(payload, '$.organization'),
		coalesce(idempotency_key, ''), coalesce(schedule, ''), coalesce(error, ''), coalesce(completed_at, ''), result_bytes FROM jobs ORDER BY seq`)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []row
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.seq, &r.id, &r.command, &r.status, &r.code, &r.uid, &r.key, &r.schedule, &r.errorText, &r.finished, &r.bytes); err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, rows.Err()
}

// check looks at everything. final: nothing is open any more, and every result is read again.
func (c *checker) check(db *sql.DB, final bool) error {
	jobs, err := readJobs(db)
	if err != nil {
		return fmt.Errorf("read the jobs: %w", err)
	}
	if final {
		c.verified = map[string]row{}
	}
	c.ledger.mu.Lock()
	defer c.ledger.mu.Unlock()
	c.problems = append(c.problems, c.faults...)
	c.faults = nil
	byID, byUID, keys, count := map[string]row{}, map[string][]row{}, map[string]string{}, map[string]int{}
	for _, r := range jobs {
		if _, twice := byID[r.id]; twice {
			c.bad("job id %s exists twice", r.id)
		}
		byID[r.id] = r
		count[r.status]++
		if r.key != "" && keys[r.key] != "" {
			c.bad("key %s belongs to jobs %s and %s", r.key, keys[r.key], r.id)
		}
		keys[r.key] = r.id
		if r.schedule != "" {
			c.row(db, r, nil, final)
			continue
		}
		if c.entries[r.uid] == nil {
			c.bad("job %s (%s) was never submitted", r.id, r.uid)
		}
		byUID[r.uid] = append(byUID[r.uid], r)
	}
	batches := map[int][2]int{}
	for _, e := range c.list {
		mine := byUID[e.uid]
		c.entry(e, mine, byID)
		for _, r := range mine {
			c.row(db, r, e, final)
		}
		if e.batch != 0 {
			n := batches[e.batch]
			n[min(1, len(mine))]++
			batches[e.batch] = n
		}
		c.mutation(e, mine)
	}
	for number, n := range batches {
		if n[0] > 0 && n[1] > 0 {
			c.bad("batch %d: %d jobs are there and %d are not", number, n[1], n[0])
		}
	}
	for _, line := range c.lines {
		for i := 1; i < len(line); i++ {
			if byID[line[i-1]].seq >= byID[line[i]].seq {
				c.bad("order: %s was acked before %s and stands behind it", line[i-1], line[i])
			}
		}
	}
	c.singles(db)
	return nil
}

// entry: every acked job is there, and nothing twice.
func (c *checker) entry(e *entry, mine []row, byID map[string]row) {
	for _, id := range e.ids {
		if byID[id].uid != e.uid {
			c.bad("acked job %s (%s) is gone", id, e.uid)
		}
	}
	if len(mine) > 1+e.retries {
		c.bad("%s exists %d times; it was submitted once and retried %d times", e.uid, len(mine), e.retries)
	}
	if len(e.ids) == 0 || byID[e.ids[0]].id == "" {
		return
	}
	first := byID[e.ids[0]]
	switch {
	case e.cancelled && first.status != "cancelled":
		c.bad("job %s (%s): its cancel was acked, and it is %s", first.id, e.uid, first.status)
	case !e.dropped && first.status == "cancelled":
		c.bad("job %s (%s) is cancelled, and nobody did that", first.id, e.uid)
	case e.final != "" && first.status != e.final:
		c.bad("job %s (%s) was shown as %s and is %s", first.id, e.uid, e.final, first.status)
	case first.key != e.key:
		c.bad("job %s (%s) has the key %q instead of %q", first.id, e.uid, first.key, e.key)
	}
}

// row: one job's state fits what the API did, and never changes once it is terminal. e is nil for a schedule's.
func (c *checker) row(db *sql.DB, r row, e *entry, final bool) {
	if old, ok := c.verified[r.id]; ok {
		if old != r {
			c.bad("finished job %s changed from %+v to %+v", r.id, old, r)
		}
		return
	}
	if !terminal(r.status) {
		if final {
			c.bad("job %s (%s) is %s for ever: %s", r.id, r.uid, r.status, r.errorText)
		}
		return
	}
	c.verified[r.id] = r
	fate := c.api.fate(r.uid)
	switch r.status {
	case "completed":
		var result string
		if err := db.QueryRow("SELECT coalesce(result, '') FROM jobs WHERE seq = ?", r.seq).Scan(&result); err != nil {
			c.bad("job %s: its result cannot be read: %v", r.id, err)
			return
		}
		c.results++
		if result != answerOf(r.uid, r.command == mutation) || int64(len(result)) != r.bytes {
			c.bad("job %s (%s): the result is %.100q, %d bytes, result_bytes %d", r.id, r.uid, result, len(result), r.bytes)
		}
		if fate.answers == 0 {
			c.bad("job %s (%s) is completed, and the API never answered it", r.id, r.uid)
		}
	case "failed":
		known := fate.codes[r.code] || r.code == "AUTH_NETWORK_ERROR" || (r.code == "AUTH_EXPIRED" && c.lost > 0) ||
			(r.code == "INTERRUPTED" && c.kills >= 3) || (r.code == "OUTCOME_UNKNOWN" && r.command == mutation)
		if !known || !strings.HasPrefix(r.errorText, r.code+": ") {
			c.bad("job %s (%s) failed for no reason of the API's: %s; the API gave %v", r.id, r.uid, r.errorText, fate.codes)
		}
	}
	if r.finished == "" {
		c.bad("job %s is %s without a completed_at", r.id, r.status)
	}
}

// mutation: never carried out more often than it was asked for.
func (c *checker) mutation(e *entry, mine []row) {
	if e.command != mutation {
		return
	}
	f := c.api.fate(e.uid)
	if f.executions > max(len(mine), 1) {
		c.bad("mutation %s was carried out %d times for %d jobs", e.uid, f.executions, len(mine))
	}
	if len(mine) != 1 {
		return
	}
	r := mine[0]
	switch {
	case f.late > 0:
		c.bad("mutation %s (%s) was sent again after an answer that left its outcome open", e.uid, r.id)
	case r.status == "completed" && f.executions != 1:
		c.bad("mutation %s (%s) is completed and was carried out %d times", e.uid, r.id, f.executions)
	case r.status == "pending" && f.executions != 0:
		c.bad("mutation %s (%s) waits to be sent and was carried out", e.uid, r.id)
	case r.status == "failed" && r.code != "OUTCOME_UNKNOWN" && f.executions != 0:
		c.bad("mutation %s (%s) failed with %s and was carried out", e.uid, r.id, r.code)
	}
}

// singles: what there is one of.
func (c *checker) singles(db *sql.DB) {
	var active, tokens, orphans int
	err := db.QueryRow(`SELECT (SELECT count(*) FROM api_environments WHERE is_active = 1), (SELECT count(*) FROM auth_tokens),
		(SELECT count(*) FROM schedules WHERE last_job_id IS NOT NULL AND last_job_id NOT IN (SELECT id FROM jobs))`).Scan(&active, &tokens, &orphans)
	if err != nil || active > 1 || tokens > 1 || orphans > 0 {
		c.bad("%d active environments, %d logins, %d schedules without their last job: %v", active, tokens, orphans, err)
	}
}

// checkLog: every line is JSON, but for at most one torn line a kill; no panic, no secret.
func (c *checker) checkLog(path string) (lines, torn int, err error) {
	names, err := filepath.Glob(strings.TrimSuffix(path, ".log") + "*.log")
	if err != nil {
		return 0, 0, err
	}
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil {
			return 0, 0, err
		}
		for line := range strings.Lines(string(text)) {
			lines++
			if !json.Valid([]byte(line)) && strings.TrimSpace(line) != "" {
				torn++
			}
			if strings.Contains(line, `"panic"`) {
				c.bad("the log tells of a panic: %.500s", line)
			}
		}
	}
	if torn > c.kills {
		c.bad("%d torn lines in the log after %d kills", torn, c.kills)
	}
	return lines, torn, nil
}

// checkSecrets: neither the password nor any token lies in the home in the clear.
func (c *checker) checkSecrets(home string) error {
	c.api.mu.Lock()
	secrets := append(slices.Clone(c.api.tokens[max(0, len(c.api.tokens)-50):]), password)
	c.api.mu.Unlock()
	return filepath.WalkDir(home, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return err
		}
		text, err := os.ReadFile(path)
		for _, s := range secrets {
			if strings.Contains(string(text), s) {
				c.bad("%s holds a secret in the clear", path)
			}
		}
		return err
	})
}
