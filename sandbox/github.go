package main

// GitHub, as it sees the real repositories.

import (
	"context"
	"fmt"
)

func (r *resolver) githubList(ctx context.Context, organization string, span spanArgs) ([]GitHubRepository, error) {
	all, err := r.listRepositories(ctx, organization, span)
	out := []GitHubRepository{}
	for _, l := range all {
		full := organization + "/" + l.name
		out = append(out, GitHubRepository{
			ID: fmt.Sprint(number(l.name)), Name: l.name, FullName: full,
			Description: new("The repository " + l.name),
			URL:         new("https://api.github.example/repos/" + full), HTMLURL: new("https://github.example/" + full),
			PushedAt: l.pushedAt(), CreatedAt: l.createdAt(), UpdatedAt: l.pushedAt(),
			IsPrivate: true, DefaultBranch: &l.branch,
		})
	}
	return out, err
}

func (r *resolver) GithubRepositories(ctx context.Context, args orgArgs) ([]GitHubRepository, error) {
	return r.githubList(ctx, args.Organization, spanArgs{})
}

func (r *resolver) GithubRepositoriesByPushDate(ctx context.Context, args pushArgs) ([]GitHubRepository, error) {
	return r.githubList(ctx, args.Organization, spanArgs{&args.StartDate, args.EndDate})
}

func githubUser(p person) GitHubUser {
	return GitHubUser{ID: id(p.id), Login: &p.login, AvatarURL: new("https://github.example/avatars/" + p.login)}
}

// githubAuthor makes a user of a commit's author.
func githubAuthor(name string) *GitHubUser {
	return &GitHubUser{ID: id(number(name)), Login: &name, AvatarURL: new(fmt.Sprintf("https://github.example/avatars/%d", number(name)))}
}

func (r *resolver) GithubIssues(args orgSpanArgs) ([]GitHubIssue, error) {
	w, err := r.scoped(args.Organization, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := r.issues(w, nil)
	out := []GitHubIssue{}
	for _, i := range all {
		full := args.Organization + "/" + i.repo.name
		assignee := githubUser(i.assignee)
		out = append(out, GitHubIssue{
			ID: id(i.n), Number: int32(i.n), Title: i.title, Body: &i.body,
			State: new(i.state("open", "open", "closed")), HTMLURL: new(fmt.Sprintf("https://github.example/%s/issues/%d", full, i.n)),
			User: new(githubUser(i.author)), Assignee: &assignee, Assignees: &[]GitHubUser{assignee},
			Labels:     &[]GitHubLabel{{ID: id(number(i.label)), Name: i.label, Color: new("7fbf3f")}},
			Milestone:  &GitHubMilestone{ID: id(i.team.id), Title: new(i.team.name + " 1.0"), Number: new(int32(i.team.id))},
			Repository: &full, CreatedAt: new(stamp(i.created)), UpdatedAt: new(stamp(i.updated)), ClosedAt: stampIf(i.closed),
		})
	}
	return out, err
}

func (r *resolver) GithubPullRequests(ctx context.Context, args repoArgs) ([]GitHubPullRequest, error) {
	repo, w, err := r.find(args.Organization, args.Repo, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := repo.changes(ctx, w, nil)
	out := []GitHubPullRequest{}
	for _, c := range all {
		full := args.Organization + "/" + repo.name
		user := githubAuthor(c.last().Author)
		out = append(out, GitHubPullRequest{
			ID: id(c.number), Number: c.number, Title: c.title(), Body: new(c.body()),
			State: new(c.state("open", "closed")), HTMLURL: new(fmt.Sprintf("https://github.example/%s/pull/%d", full, c.number)),
			Draft: new(false), User: user, Assignee: user, Assignees: &[]GitHubUser{*user}, Labels: &[]GitHubLabel{},
			Repository: &full, CreatedAt: new(stamp(c.created())), UpdatedAt: c.updated(), ClosedAt: c.merged(), MergedAt: c.merged(),
		})
	}
	return out, err
}

func (r *resolver) GithubCommits(ctx context.Context, args repositoryArgs) (*CommitResult, error) {
	return r.commitsOf(ctx, args.Organization, []string{args.Repository}, args.commitArgs)
}

func (r *resolver) GithubPullRequestsDetailed(ctx context.Context, args repositoryArgs) (*PullRequestResult, error) {
	repo, w, err := r.find(args.Organization, args.Repository, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := repo.detailedChanges(ctx, w, args.Author)
	if err != nil {
		return nil, err
	}
	result := &PullRequestResult{PullRequests: []GitHubPullRequestDetailed{}}
	for _, c := range all {
		pr := detailed(c)
		pr.State = c.state("open", "closed")
		result.PullRequests = append(result.PullRequests, pr)
	}
	result.JSON, err = export(args.Format, result.PullRequests)
	return result, err
}

func (r *resolver) GithubCloneRepository(ctx context.Context, args struct{ Organization, Repository string }) (*CloneRepositoryPayload, error) {
	return r.cloneInto(ctx, args.Organization, args.Repository)
}
