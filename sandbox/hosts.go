package main

// GitHub, GitLab and Bitbucket: three views of the same real repositories. Issues come from the calendar and are dealt
// out to the repositories; pull requests are runs of commits (see change).

import (
	"context"
	"fmt"
	"hash/fnv"
	"time"

	"github.com/graph-gophers/graphql-go"
)

type orgArgs struct{ Organization string }

type orgSpanArgs struct {
	Organization string
	spanArgs
}

type pushArgs struct {
	Organization, StartDate string
	EndDate                 *string
}

type repoArgs struct {
	Organization, Repo string
	spanArgs
}

type repositoryArgs struct {
	Organization, Repository string
	commitArgs
}

// commitArgs are what commit queries have in common; a query without one of them leaves it empty. A plain bool would not
// do: the library takes the argument's default for one left out, but not for a variable left out.
type commitArgs struct {
	spanArgs
	Author, Format *string
	IncludeDiff    graphql.NullBool
}

// number gives a name the same id in every answer.
func number(name string) uint32 {
	h := fnv.New32a()
	h.Write([]byte(name))
	return h.Sum32()
}

func id(n any) graphql.ID { return graphql.ID(fmt.Sprint(n)) }

func uuid(name string) *string {
	n := number(name)
	return new(fmt.Sprintf("{%08x-0000-4000-8000-%012x}", n, n))
}

// find checks the organization, the dates and the repository of a query about one repository.
func (r *resolver) find(organization, name string, span spanArgs) (repository, window, error) {
	w, err := r.scoped(organization, span)
	if err != nil {
		return repository{}, w, err
	}
	repo, err := r.repos.find(organization, name)
	return repo, w, err
}

// listed is a repository in a listing.
type listed struct {
	repository
	facts
}

// listRepositories gives those pushed to in the window.
func (r *resolver) listRepositories(ctx context.Context, organization string, span spanArgs) ([]listed, error) {
	w, err := r.scoped(organization, span)
	if err != nil {
		return nil, err
	}
	all, err := r.repos.list()
	if err != nil {
		return nil, err
	}
	var found []listed
	for _, repo := range all {
		f, err := repo.facts(ctx)
		if err != nil {
			return nil, err
		}
		if w.contains(f.pushed) {
			found = append(found, listed{repo, f})
		}
	}
	return found, nil
}

func (l listed) createdAt() *string { return stampSet(l.created) }
func (l listed) pushedAt() *string  { return stampSet(l.pushed) }

// stampSet is nil for the zero time, as an empty repository has.
func stampSet(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	return new(stamp(t))
}

// issue is an item that belongs to a repository.
type issue struct {
	item
	repo repository
}

// issues gives those of one repository, or of all.
func (r *resolver) issues(w window, only *repository) ([]issue, error) {
	all, err := r.repos.list()
	if err != nil || len(all) == 0 {
		return nil, err
	}
	var found []issue
	for _, it := range r.work.items(w, nil) {
		if repo := all[it.n%len(all)]; only == nil || repo == *only {
			found = append(found, issue{it, repo})
		}
	}
	return found, nil
}

// cloneInto is what the clone mutations do: an unknown repository is the payload's error, an unknown organization the
// request's.
func (r *resolver) cloneInto(ctx context.Context, organization, name string) (*CloneRepositoryPayload, error) {
	if err := knows(organization); err != nil {
		return nil, err
	}
	payload := &CloneRepositoryPayload{Repository: &name, Organization: &organization}
	repo, err := r.repos.find(organization, name)
	if err == nil {
		var path string
		if path, err = repo.clone(ctx, r.clones); err == nil {
			payload.Success, payload.Path = true, &path
		}
	}
	if err != nil {
		payload.Error = new(err.Error())
	}
	return payload, nil
}

// lineCounts sums up the commits of a detailed pull request.
func lineCounts(commits []GitCommit) (additions, deletions, files *int32) {
	additions, deletions = new(int32), new(int32)
	names := map[string]bool{}
	for _, c := range commits {
		*additions += *c.Additions
		*deletions += *c.Deletions
		for _, f := range *c.Files {
			names[f.Filename] = true
		}
	}
	return additions, deletions, new(int32(len(names)))
}

// detailed is the pull request that GitHub and Bitbucket describe alike, but for the state.
func detailed(c change) GitHubPullRequestDetailed {
	commits := c.gitCommits()
	additions, deletions, files := lineCounts(commits)
	return GitHubPullRequestDetailed{
		ID: id(c.number), Number: c.number, Title: c.title(), Body: new(c.body()), Author: c.last().Author,
		CreatedAt: stamp(c.created()), UpdatedAt: c.updated(), MergedAt: c.merged(), ClosedAt: c.merged(),
		Additions: additions, Deletions: deletions, ChangedFiles: files, Commits: commits,
	}
}
