package main

// Made-up work, the same in every tracker. Item n is created at a fixed time, every third day from the start of 2025
// to now, so a span in the past always gives the same answer and the last week is never empty.

import (
	"fmt"
	"strings"
	"time"
)

type person struct {
	id                 int
	login, name, email string
}

func people() []person {
	return []person{
		{1, "ada", "Ada Fischer", "ada@acme.example"},
		{2, "ben", "Ben Okafor", "ben@acme.example"},
		{3, "chen", "Chen Wei", "chen@acme.example"},
		{4, "dora", "Dora Lindqvist", "dora@acme.example"},
	}
}

// team is a project in one tracker, a board or a workspace in another.
type team struct {
	id        int
	key, name string
	lead      person
}

func teams() []team {
	p := people()
	return []team{
		{1, "HON", "Honeydew", p[0]},
		{2, "MEL", "Melon", p[3]},
	}
}

// item is a piece of work: an issue, a task, a work item.
type item struct {
	n                int // from 1
	title, body      string
	kind, label      string
	team             team
	priority         int // 1 is urgent, 4 is low
	author, assignee person
	created, updated time.Time
	closed           *time.Time
	started          bool
}

type calendar struct{ now func() time.Time }

// items gives those created in the window, for one team if it is named by id, key or name.
func (c calendar) items(w window, name *string) []item {
	now := c.now()
	var found []item
	for n := 1; ; n++ {
		it := newItem(n, now)
		if it.created.After(now) {
			return found
		}
		if w.contains(it.created) && it.team.is(name) {
			found = append(found, it)
		}
	}
}

func newItem(n int, now time.Time) item {
	kinds := []string{"Story", "Bug", "Task"}
	labels := []string{"backend", "frontend", "docs", "performance"}
	verbs := []string{"Fix", "Add", "Speed up", "Document", "Simplify", "Test"}
	things := []string{"login retry", "date filter", "commit view", "JSON export", "weekly report", "webhook signature", "team settings"}
	p, t := people(), teams()
	it := item{
		n:        n,
		title:    verbs[n%len(verbs)] + " " + things[n%len(things)],
		kind:     kinds[n%len(kinds)],
		label:    labels[n%len(labels)],
		team:     t[n%len(t)],
		priority: n%4 + 1,
		author:   p[n%len(p)],
		assignee: p[(n+n/len(p)+1)%len(p)],
	}
	it.body = fmt.Sprintf("%s, asked for by %s.", it.title, it.author.name)
	// Three days apart, at another time of the working day each.
	it.created = time.Date(2025, 1, 1, 8, 0, 0, 0, time.UTC).AddDate(0, 0, 3*(n-1)).Add(time.Duration(n*97%540) * time.Minute)
	it.updated = it.created
	if next := it.created.AddDate(0, 0, 1); !next.After(now) {
		it.updated, it.started = next, true
	}
	if end := it.created.AddDate(0, 0, 6); n%5 != 0 && !end.After(now) {
		it.updated, it.closed = end, &end
	}
	return it
}

// is matches a team by what a client may know of it; nil means any.
func (t team) is(name *string) bool {
	return name == nil || *name == fmt.Sprint(t.id) || strings.EqualFold(*name, t.key) || strings.EqualFold(*name, t.name)
}

// state picks the tracker's word for the item's state.
func (it item) state(open, started, closed string) string {
	switch {
	case it.closed != nil:
		return closed
	case it.started:
		return started
	default:
		return open
	}
}

func (it item) due() string { return it.created.AddDate(0, 0, 14).Format(time.DateOnly) }

func stamp(t time.Time) string { return t.UTC().Format(time.RFC3339) }

// stampIf is nil for what has not happened.
func stampIf(t *time.Time) *string {
	if t == nil {
		return nil
	}
	return new(stamp(*t))
}

// began is when teams, projects and users were created.
func began() *string { return new("2025-01-01T08:00:00Z") }

func (it item) priorityName() string {
	return []string{"Urgent", "High", "Medium", "Low"}[it.priority-1]
}
