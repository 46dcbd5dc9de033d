package main

// GitLab, as it sees the real repositories, which it calls projects.

import (
	"context"
	"fmt"
)

type projectArgs struct {
	Organization, Project string
	commitArgs
}

func (r *resolver) gitlabList(ctx context.Context, organization string, span spanArgs) ([]GitLabProject, error) {
	all, err := r.listRepositories(ctx, organization, span)
	out := []GitLabProject{}
	for _, l := range all {
		full := organization + "/" + l.name
		out = append(out, GitLabProject{
			ID: id(number(l.name)), Name: l.name, Path: &l.name, PathWithNamespace: &full,
			Description: new("The project " + l.name), WebURL: new("https://gitlab.example/" + full),
			DefaultBranch: &l.branch, Visibility: new("private"),
			Namespace: &GitLabNamespace{ID: id(number(organization)), Name: &organization, Path: &organization},
			CreatedAt: l.createdAt(), LastActivityAt: l.pushedAt(),
		})
	}
	return out, err
}

func (r *resolver) GitlabProjects(ctx context.Context, args orgArgs) ([]GitLabProject, error) {
	return r.gitlabList(ctx, args.Organization, spanArgs{})
}

func (r *resolver) GitlabRepositories(ctx context.Context, args orgArgs) ([]GitLabProject, error) {
	return r.gitlabList(ctx, args.Organization, spanArgs{})
}

func (r *resolver) GitlabRepositoriesByPushDate(ctx context.Context, args pushArgs) ([]GitLabProject, error) {
	return r.gitlabList(ctx, args.Organization, spanArgs{&args.StartDate, args.EndDate})
}

func gitlabUser(p person) GitLabUser {
	return GitLabUser{ID: id(p.id), Username: &p.login, Name: &p.name}
}

func (r *resolver) GitlabIssues(args struct {
	Organization string
	Project      *string
	spanArgs
}) ([]GitLabIssue, error) {
	w, err := r.scoped(args.Organization, args.spanArgs)
	if err != nil {
		return nil, err
	}
	var only *repository
	if args.Project != nil {
		repo, err := r.repos.find(args.Organization, *args.Project)
		if err != nil {
			return nil, err
		}
		only = &repo
	}
	all, err := r.issues(w, only)
	out := []GitLabIssue{}
	for _, i := range all {
		assignee := gitlabUser(i.assignee)
		out = append(out, GitLabIssue{
			ID: id(1000 + i.n), IID: int32(i.n), Title: i.title, Description: &i.body,
			State: new(i.state("opened", "opened", "closed")), WebURL: new(fmt.Sprintf("https://gitlab.example/%s/%s/-/issues/%d", args.Organization, i.repo.name, i.n)),
			Author: new(gitlabUser(i.author)), Assignee: &assignee, Assignees: &[]GitLabUser{assignee}, Labels: &[]string{i.label},
			Milestone: &GitLabMilestone{ID: id(i.team.id), Title: new(i.team.name + " 1.0")},
			ProjectID: new(fmt.Sprint(number(i.repo.name))), DueDate: new(i.due()),
			CreatedAt: new(stamp(i.created)), UpdatedAt: new(stamp(i.updated)), ClosedAt: stampIf(i.closed),
		})
	}
	return out, err
}

func (r *resolver) GitlabMergeRequests(ctx context.Context, args repoArgs) ([]GitLabMergeRequest, error) {
	repo, w, err := r.find(args.Organization, args.Repo, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := repo.changes(ctx, w, nil)
	out := []GitLabMergeRequest{}
	for _, c := range all {
		author := c.last().Author
		user := GitLabUser{ID: id(number(author)), Username: &author, Name: &author}
		out = append(out, GitLabMergeRequest{
			ID: id(1000 + c.number), IID: c.number, Title: c.title(), Description: new(c.body()),
			State: new(c.state("opened", "merged")), WebURL: new(fmt.Sprintf("https://gitlab.example/%s/%s/-/merge_requests/%d", args.Organization, repo.name, c.number)),
			SourceBranch: new(c.branch()), TargetBranch: new("main"),
			Author: &user, Assignee: &user, Assignees: &[]GitLabUser{user}, Reviewers: &[]GitLabUser{gitlabUser(people()[0])}, Labels: &[]string{},
			ProjectID: new(fmt.Sprint(number(repo.name))), Draft: new(false), MergeStatus: new("can_be_merged"),
			CreatedAt: new(stamp(c.created())), UpdatedAt: c.updated(), MergedAt: c.merged(), ClosedAt: nil,
		})
	}
	return out, err
}

func (r *resolver) GitlabCommits(ctx context.Context, args projectArgs) (*CommitResult, error) {
	return r.commitsOf(ctx, args.Organization, []string{args.Project}, args.commitArgs)
}

func (r *resolver) GitlabMergeRequestsDetailed(ctx context.Context, args projectArgs) (*MergeRequestResult, error) {
	repo, w, err := r.find(args.Organization, args.Project, args.spanArgs)
	if err != nil {
		return nil, err
	}
	all, err := repo.detailedChanges(ctx, w, args.Author)
	if err != nil {
		return nil, err
	}
	result := &MergeRequestResult{MergeRequests: []GitLabMergeRequestDetailed{}}
	for _, c := range all {
		result.MergeRequests = append(result.MergeRequests, GitLabMergeRequestDetailed{
			ID: id(1000 + c.number), IID: c.number, Title: c.title(), Description: new(c.body()),
			State: c.state("opened", "merged"), Author: c.last().Author,
			CreatedAt: stamp(c.created()), UpdatedAt: c.updated(), MergedAt: c.merged(), Commits: c.gitCommits(),
		})
	}
	result.JSON, err = export(args.Format, result.MergeRequests)
	return result, err
}

func (r *resolver) GitlabCloneRepository(ctx context.Context, args struct{ Organization, Repository string }) (*CloneRepositoryPayload, error) {
	return r.cloneInto(ctx, args.Organization, args.Repository)
}
