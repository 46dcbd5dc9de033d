package main

// Jira, Linear, Asana and Monday: four views of the calendar.

import (
	"encoding/json"
	"fmt"
)

// Jira

func jiraUser(p person) *JiraUser {
	return &JiraUser{AccountID: fmt.Sprintf("jira-%d", p.id), DisplayName: &p.name, EmailAddress: &p.email}
}

func (r *resolver) JiraProjects(args orgArgs) ([]JiraProject, error) {
	var out []JiraProject
	for _, t := range teams() {
		avatar := func(size string) *string { return new("https://jira.example/avatars/" + t.key + "-" + size + ".png") }
		out = append(out, JiraProject{
			ID: id(10000 + t.id), Key: t.key, Name: t.name, Description: new("All work on " + t.name), ProjectTypeKey: new("software"),
			Lead: jiraUser(t.lead), AvatarURLs: &JiraAvatarUrls{X48: avatar("48"), X24: avatar("24"), X16: avatar("16"), X32: avatar("32")},
		})
	}
	return out, knows(args.Organization)
}

func (r *resolver) JiraIssues(args struct {
	Organization string
	Project      *string
	spanArgs
}) ([]JiraIssue, error) {
	w, err := r.scoped(args.Organization, args.spanArgs)
	if err != nil {
		return nil, err
	}
	out := []JiraIssue{}
	for _, it := range r.work.items(w, args.Project) {
		state := it.state("To Do", "In Progress", "Done")
		out = append(out, JiraIssue{
			ID: id(20000 + it.n), Key: fmt.Sprintf("%s-%d", it.team.key, it.n), Summary: it.title, Description: &it.body,
			Status:    &JiraStatus{ID: id(number(state)), Name: state, StatusCategory: new(it.state("new", "indeterminate", "done"))},
			Priority:  &JiraPriority{ID: id(it.priority), Name: it.priorityName()},
			IssueType: &JiraIssueType{ID: id(number(it.kind)), Name: it.kind, Subtask: new(false)},
			Assignee:  jiraUser(it.assignee), Reporter: jiraUser(it.author),
			Project: &JiraProjectRef{ID: id(10000 + it.team.id), Key: it.team.key, Name: it.team.name},
			Labels:  &[]string{it.label}, Components: &[]JiraComponent{{ID: id(number(it.label)), Name: it.label}},
			CreatedAt: new(stamp(it.created)), UpdatedAt: new(stamp(it.updated)), ResolvedAt: stampIf(it.closed),
		})
	}
	return out, nil
}

// Linear

func linearUser(p person) *LinearUser {
	return &LinearUser{ID: id(fmt.Sprintf("linear-user-%d", p.id)), Name: &p.name, Email: &p.email}
}

func linearTeam(t team) *LinearTeam {
	return &LinearTeam{
		ID: id(fmt.Sprintf("linear-team-%d", t.id)), Name: t.name, Key: t.key, Description: new("Builds " + t.name),
		Color: new("#7fbf3f"), Icon: new("Leaf"), Private: new(false), CreatedAt: began(), UpdatedAt: began(),
	}
}

func linearProject(t team) *LinearProject {
	return &LinearProject{
		ID: id(fmt.Sprintf("linear-project-%d", t.id)), Name: t.name + " 1.0", Description: new("The first release of " + t.name),
		State: new("started"), Progress: new(0.5), TargetDate: new("2026-12-31"), StartDate: new("2025-01-01"),
		CreatedAt: began(), UpdatedAt: began(), Teams: &[]LinearTeam{*linearTeam(t)}, Lead: linearUser(t.lead),
	}
}

func (r *resolver) LinearTeams(args orgArgs) ([]LinearTeam, error) {
	var out []LinearTeam
	for _, t := range teams() {
		out = append(out, *linearTeam(t))
	}
	return out, knows(args.Organization)
}

func (r *resolver) LinearProjects(args struct {
	Organization string
	Team         *string
}) ([]LinearProject, error) {
	out := []LinearProject{}
	for _, t := range teams() {
		if t.is(args.Team) || args.Team != nil && id(*args.Team) == linearTeam(t).ID {
			out = append(out, *linearProject(t))
		}
	}
	return out, knows(args.Organization)
}

func (r *resolver) LinearIssues(args orgSpanArgs) ([]LinearIssue, error) {
	w, err := r.scoped(args.Organization, args.spanArgs)
	if err != nil {
		return nil, err
	}
	out := []LinearIssue{}
	for _, it := range r.work.items(w, nil) {
		state := it.state("Todo", "In Progress", "Done")
		out = append(out, LinearIssue{
			ID: id(fmt.Sprintf("linear-issue-%d", it.n)), Identifier: fmt.Sprintf("%s-%d", it.team.key, it.n), Title: it.title, Description: &it.body,
			Priority: new(int32(it.priority)), PriorityLabel: new(it.priorityName()),
			State:    &LinearState{ID: id(number(state)), Name: state, Type: new(it.state("unstarted", "started", "completed"))},
			Assignee: linearUser(it.assignee), Team: linearTeam(it.team), Project: linearProject(it.team),
			Labels: &[]LinearLabel{{ID: id(number(it.label)), Name: it.label, Color: new("#7fbf3f")}}, Estimate: new(float64(it.priority)), DueDate: new(it.due()),
			CreatedAt: new(stamp(it.created)), UpdatedAt: new(stamp(it.updated)), CompletedAt: stampIf(it.closed),
		})
	}
	return out, nil
}

// Asana: a workspace is a team, and has one project.

type asanaArgs struct {
	Organization string
	Workspace    *string
}

func asanaWorkspaceID(t team) string { return fmt.Sprint(120000 + t.id) }

// inWorkspace also takes the id that Asana itself would give.
func (a asanaArgs) inWorkspace(t team) bool {
	return t.is(a.Workspace) || *a.Workspace == asanaWorkspaceID(t)
}

func (r *resolver) AsanaWorkspaces(args orgArgs) ([]AsanaWorkspace, error) {
	var out []AsanaWorkspace
	for _, t := range teams() {
		out = append(out, AsanaWorkspace{GID: id(asanaWorkspaceID(t)), Name: t.name, ResourceType: new("workspace")})
	}
	return out, knows(args.Organization)
}

func (r *resolver) AsanaProjects(args asanaArgs) ([]AsanaProject, error) {
	out := []AsanaProject{}
	for _, t := range teams() {
		if !args.inWorkspace(t) {
			continue
		}
		out = append(out, AsanaProject{
			GID: id(130000 + t.id), Name: t.name + " 1.0", Archived: new(false), Color: new("light-green"), Notes: new("The first release of " + t.name),
			Public: new(true), Workspace: &AsanaWorkspaceRef{GID: id(asanaWorkspaceID(t)), Name: &t.name},
			Owner: &AsanaUser{GID: id(t.lead.id), Name: &t.lead.name}, CreatedAt: began(), ModifiedAt: began(),
		})
	}
	return out, knows(args.Organization)
}

func (r *resolver) AsanaTasks(args struct {
	asanaArgs
	spanArgs
}) ([]AsanaTask, error) {
	w, err := r.scoped(args.Organization, args.spanArgs)
	if err != nil {
		return nil, err
	}
	out := []AsanaTask{}
	for _, it := range r.work.items(w, nil) {
		if !args.inWorkspace(it.team) {
			continue
		}
		out = append(out, AsanaTask{
			GID: id(140000 + it.n), Name: it.title, Completed: new(it.closed != nil), CompletedAt: stampIf(it.closed), Notes: &it.body,
			DueOn: new(it.due()), DueAt: new(it.due() + "T17:00:00Z"), Assignee: &AsanaUser{GID: id(it.assignee.id), Name: &it.assignee.name},
			Projects:  &[]AsanaProjectRef{{GID: id(130000 + it.team.id), Name: new(it.team.name + " 1.0")}},
			Tags:      &[]AsanaTag{{GID: id(number(it.label)), Name: &it.label}},
			CreatedAt: new(stamp(it.created)), ModifiedAt: new(stamp(it.updated)),
		})
	}
	return out, nil
}

// Monday: a workspace is a team, and has one board.

func mondayBoardID(t team) string { return fmt.Sprint(7000 + t.id) }

func (r *resolver) MondayWorkspaces(args orgArgs) ([]MondayWorkspace, error) {
	var out []MondayWorkspace
	for _, t := range teams() {
		out = append(out, MondayWorkspace{ID: id(t.id), Name: t.name, Kind: new("open"), Description: new("Builds " + t.name), CreatedAt: began()})
	}
	return out, knows(args.Organization)
}

func (r *resolver) MondayBoards(args struct {
	Organization string
	WorkspaceID  *string
}) ([]MondayBoard, error) {
	out := []MondayBoard{}
	for _, t := range teams() {
		if !t.is(args.WorkspaceID) {
			continue
		}
		out = append(out, MondayBoard{
			ID: id(mondayBoardID(t)), Name: t.name + " board", Description: new("All work on " + t.name), State: new("active"), BoardKind: new("public"),
			WorkspaceID: new(fmt.Sprint(t.id)), UpdatedAt: began(),
			Columns: &[]MondayColumn{{ID: "status", Title: new("Status"), Type: new("status")}, {ID: "person", Title: new("Owner"), Type: new("people")}},
		})
	}
	return out, knows(args.Organization)
}

func (r *resolver) MondayItems(args struct {
	Organization string
	BoardID      *string
	spanArgs
}) ([]MondayItem, error) {
	w, err := r.scoped(args.Organization, args.spanArgs)
	if err != nil {
		return nil, err
	}
	out := []MondayItem{}
	for _, it := range r.work.items(w, nil) {
		board := mondayBoardID(it.team)
		if args.BoardID != nil && *args.BoardID != board {
			continue
		}
		state := it.state("Waiting", "Working on it", "Done")
		out = append(out, MondayItem{
			ID: id(80000 + it.n), Name: it.title, State: new("active"), CreatedAt: new(stamp(it.created)), UpdatedAt: new(stamp(it.updated)),
			BoardID: &board, BoardName: new(it.team.name + " board"), Group: &MondayGroup{ID: id(it.label), Title: &it.label},
			ColumnValues: &[]MondayColumnValue{
				{ID: "status", Text: &state, Type: new("status"), Value: quoted("label", state)},
				{ID: "person", Text: &it.assignee.name, Type: new("people"), Value: quoted("person", it.assignee.name)},
			},
			Creator: &MondayUser{ID: id(it.author.id), Name: &it.author.name, Email: &it.author.email},
		})
	}
	return out, nil
}

// quoted is a value of Monday's: JSON in a string.
func quoted(key, value string) *string {
	b, err := json.Marshal(map[string]string{key: value})
	if err != nil {
		panic(err) // strings
	}
	return new(string(b))
}
