package main

// Bitbucket, as it sees the real repositories; its organizations are workspaces.

import (
	"context"
	"fmt"

	"github.com/graph-gophers/graphql-go"
)

func (r *resolver) BitbucketWorkspaces() []BitbucketWorkspace {
	return []BitbucketWorkspace{{Slug: "acme", Name: "Acme"}, {Slug: "orchard", Name: "Orchard"}}
}

func (r *resolver) bitbucketList(ctx context.Context, workspace string, span spanArgs) ([]BitbucketRepository, error) {
	all, err := r.listRepositories(ctx, workspace, span)
	out := []BitbucketRepository{}
	for _, l := range all {
		full := workspace + "/" + l.name
		out = append(out, BitbucketRepository{
			UUID: uuid(l.name), Name: l.name, FullName: &full, Slug: l.name,
			Description: new("The repository " + l.name), IsPrivate: true, Language: new("go"), MainBranch: &l.branch,
			CreatedOn: l.createdAt(), UpdatedOn: l.pushedAt(),
			HTMLURL: new("https://bitbucket.example/" + full), CloneURL: new("https://bitbucket.example/" + full + ".git"),
		})
	}
	return out, err
}

func (r *resolver) BitbucketRepositories(ctx context.Context, args struct{ Workspace string }) ([]BitbucketRepository, error) {
	return r.bitbucketList(ctx, args.Workspace, spanArgs{})
}

func (r *resolver) BitbucketRepositoriesByPushDate(ctx context.Context, args struct {
	Workspace, StartDate string
	EndDate              *string
}) ([]BitbucketRepository, error) {
	return r.bitbucketList(ctx, args.Workspace, spanArgs{&args.StartDate, args.EndDate})
}

func (r *resolver) BitbucketPullRequests(ctx context.Context, args struct {
	Workspace, Repo string
	spanArgs
}) ([]BitbucketPullRequest, error) {
	repo, w, err := r.find(args.Workspace, args.Repo, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := repo.changes(ctx, w, nil)
	out := []BitbucketPullRequest{}
	for _, c := range all {
		author := c.last().Author
		out = append(out, BitbucketPullRequest{
			ID: id(c.number), Title: c.title(), Description: new(c.body()), State: c.state("OPEN", "MERGED"),
			Author:       &BitbucketUser{UUID: uuid(author), DisplayName: &author, Nickname: &author},
			SourceBranch: new(c.branch()), DestinationBranch: new("main"), Repository: &repo.name,
			CreatedOn: new(stamp(c.created())), UpdatedOn: c.updated(), ClosedOn: c.merged(), MergedOn: c.merged(),
			HTMLURL:      new(fmt.Sprintf("https://bitbucket.example/%s/%s/pull-requests/%d", args.Workspace, repo.name, c.number)),
			CommentCount: new(c.number % 4), TaskCount: new(int32(0)),
		})
	}
	return out, err
}

// BitbucketCommits takes the whole workspace when no repository is named.
func (r *resolver) BitbucketCommits(ctx context.Context, args struct {
	Workspace  string
	Repository *string
	spanArgs
	Format      *string
	IncludeDiff graphql.NullBool
}) (*CommitResult, error) {
	var names []string
	if args.Repository != nil {
		names = []string{*args.Repository}
	} else {
		all, err := r.repos.list()
		if err != nil {
			return nil, err
		}
		for _, repo := range all {
			names = append(names, repo.name)
		}
	}
	return r.commitsOf(ctx, args.Workspace, names, commitArgs{args.spanArgs, nil, args.Format, args.IncludeDiff})
}

type workspaceRepositoryArgs struct {
	Workspace, Repository string
	commitArgs
}

func (r *resolver) BitbucketCommitsDetailed(ctx context.Context, args workspaceRepositoryArgs) (*CommitResult, error) {
	return r.commitsOf(ctx, args.Workspace, []string{args.Repository}, args.commitArgs)
}

func (r *resolver) BitbucketPullRequestsDetailed(ctx context.Context, args workspaceRepositoryArgs) (*BitbucketPullRequestResult, error) {
	repo, w, err := r.find(args.Workspace, args.Repository, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := repo.detailedChanges(ctx, w, args.Author)
	if err != nil {
		return nil, err
	}
	result := &BitbucketPullRequestResult{PullRequests: []BitbucketPullRequestDetailed{}}
	for _, c := range all {
		pr := detailed(c)
		pr.State = c.state("OPEN", "MERGED")
		result.PullRequests = append(result.PullRequests, BitbucketPullRequestDetailed(pr))
	}
	result.JSON, err = export(args.Format, result.PullRequests)
	return result, err
}

func (r *resolver) BitbucketCloneRepository(ctx context.Context, args struct{ Workspace, Repository string }) (*CloneRepositoryPayload, error) {
	return r.cloneInto(ctx, args.Workspace, args.Repository)
}
