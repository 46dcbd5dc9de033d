package main

// Accounts and organizations, and what all resolvers share.

import (
	"context"
	"encoding/json"

	"github.com/graph-gophers/graphql-go"
)

// userID is the id of the user who can log in.
const userID = "1"

// resolver answers the root fields, both queries and mutations; each provider has a file of them.
type resolver struct {
	auth   *authority
	repos  repositories
	clones string
	work   calendar
}

// knows refuses the one organization that a test may name to be refused.
func knows(organization string) error {
	if organization == "nobody" {
		return apiError{codeNotFound, `organization "nobody" not found`}
	}
	return nil
}

// export is the json field of a result, for those who asked for the format.
func export(format *string, v any) (*string, error) {
	if format == nil {
		return nil, nil
	}
	b, err := json.Marshal(v)
	return new(string(b)), err
}

func notHere() error { return apiError{"NOT_IMPLEMENTED", "not in the sandbox"} }

func (r *resolver) users() []User {
	users := []User{{ID: userID, Username: r.auth.user, Role: "admin", Status: 1, CreatedAt: began(), UpdatedAt: began()}}
	for i, p := range people() {
		u := User{ID: graphql.ID(string(rune('2' + i))), Username: p.login, Role: "user", Status: 1, CreatedAt: began(), UpdatedAt: began()}
		if i == 2 {
			u.Status = 0 // somebody must be missing among the active
		}
		users = append(users, u)
	}
	return users
}

func (r *resolver) Me() *User { return new(r.users()[0]) }

func (r *resolver) ListUsers() []User { return r.users() }

func (r *resolver) ListActiveUsers() []User {
	var active []User
	for _, u := range r.users() {
		if u.Status == 1 {
			active = append(active, u)
		}
	}
	return active
}

func (r *resolver) GetUser(args struct{ ID graphql.ID }) *User {
	for _, u := range r.users() {
		if u.ID == args.ID {
			return &u
		}
	}
	return nil
}

func (r *resolver) Login(args struct{ Username, Password string }) (*AuthPayload, error) {
	return r.payload(r.auth.login(args.Username, args.Password))
}

func (r *resolver) RefreshToken(args struct{ RefreshToken string }) (*AuthPayload, error) {
	return r.payload(r.auth.refresh(args.RefreshToken))
}

func (r *resolver) payload(p pair, err error) (*AuthPayload, error) {
	if err != nil {
		return nil, err
	}
	return &AuthPayload{AccessToken: p.access, RefreshToken: p.refresh, User: *r.Me()}, nil
}

type userInput struct {
	Username, Password, Role *string
	Status                   *int32
}

type newUserInput struct {
	Username, Password string
	Role               *string
	Status             *int32
}

func (r *resolver) CreateUser(struct{ Input newUserInput }) (*User, error) { return nil, notHere() }

func (r *resolver) UpdateUser(struct {
	ID    graphql.ID
	Input userInput
}) (*User, error) {
	return nil, notHere()
}

func (r *resolver) DeleteUser(struct{ ID graphql.ID }) (*DeletePayload, error) { return nil, notHere() }

func (r *resolver) DeactivateUser(struct{ Username string }) (*User, error) { return nil, notHere() }

func (r *resolver) DeleteOrganizationProvider(struct{ OID graphql.ID }) (*DeletePayload, error) {
	return nil, notHere()
}

func (r *resolver) ListOrganizations() []string { return []string{"acme", "orchard"} }

func (r *resolver) ListOrganizationsWithProviders() []Organization {
	return []Organization{
		{Name: "acme", Providers: []OrganizationProvider{
			{OID: "101", Name: "github"}, {OID: "102", Name: "gitlab"}, {OID: "103", Name: "bitbucket"},
			{OID: "104", Name: "jira"}, {OID: "105", Name: "linear"},
		}},
		{Name: "orchard", Providers: []OrganizationProvider{
			{OID: "201", Name: "azuredevops"}, {OID: "202", Name: "asana"}, {OID: "203", Name: "monday"},
		}},
	}
}

// spanArgs are the dates that most queries take.
type spanArgs struct{ StartDate, EndDate *string }

func (a spanArgs) window() (window, error) { return newWindow(a.StartDate, a.EndDate) }

// scoped checks what nearly every query begins with.
func (r *resolver) scoped(organization string, span spanArgs) (window, error) {
	if err := knows(organization); err != nil {
		return window{}, err
	}
	return span.window()
}

// commitsOf is what the commit queries of all hosts do.
func (r *resolver) commitsOf(ctx context.Context, organization string, names []string, a commitArgs) (*CommitResult, error) {
	w, err := r.scoped(organization, a.spanArgs)
	if err != nil {
		return nil, err
	}
	patch := a.IncludeDiff.Value != nil && *a.IncludeDiff.Value
	result := &CommitResult{Commits: []GitCommit{}}
	for _, name := range names {
		repo, err := r.repos.find(organization, name)
		if err != nil {
			return nil, err
		}
		commits, err := repo.commits(ctx, w, a.Author, patch)
		if err != nil {
			return nil, err
		}
		result.Commits = append(result.Commits, commits...)
	}
	result.JSON, err = export(a.Format, result.Commits)
	return result, err
}
