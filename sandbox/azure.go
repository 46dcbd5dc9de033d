package main

// Azure DevOps: projects are teams, work items the calendar's. Its commits are made up too, one per item, and each
// fifth of a repository's commits ends a pull request.

import (
	"crypto/sha1"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"
	"time"
)

func azureURL(organization string, parts ...string) *string {
	return new("https://azure.example/" + organization + "/" + strings.Join(parts, "/"))
}

func azureProjectID(t team) string { return fmt.Sprintf("a2ce0000-0000-4000-8000-%012d", t.id) }

// azureTeam finds a project by name or id.
func azureTeam(organization, project string) (team, error) {
	if err := knows(organization); err != nil {
		return team{}, err
	}
	for _, t := range teams() {
		if t.is(&project) || project == azureProjectID(t) {
			return t, nil
		}
	}
	return team{}, apiError{codeNotFound, fmt.Sprintf("project %q not found in %q", project, organization)}
}

func azureProject(organization string, t team) AzureDevOpsProject {
	return AzureDevOpsProject{
		ID: id(azureProjectID(t)), Name: t.name, Description: new("All work on " + t.name),
		URL: azureURL(organization, t.name), State: new("wellFormed"), Visibility: new("private"),
	}
}

func (r *resolver) AzureDevOpsProjects(args orgArgs) ([]AzureDevOpsProject, error) {
	var out []AzureDevOpsProject
	for _, t := range teams() {
		out = append(out, azureProject(args.Organization, t))
	}
	return out, knows(args.Organization)
}

type azureProjectArgs struct{ Organization, Project string }

// AzureDevOpsProject is null for an unknown project, as its type says.
func (r *resolver) AzureDevOpsProject(args azureProjectArgs) (*AzureDevOpsProject, error) {
	t, err := azureTeam(args.Organization, args.Project)
	if err != nil {
		return nil, knows(args.Organization)
	}
	return new(azureProject(args.Organization, t)), nil
}

func (r *resolver) AzureDevOpsTeams(args azureProjectArgs) ([]AzureDevOpsTeam, error) {
	t, err := azureTeam(args.Organization, args.Project)
	if err != nil {
		return nil, err
	}
	return []AzureDevOpsTeam{{
		ID: id("team-" + azureProjectID(t)), Name: t.name + " Team", Description: new("Builds " + t.name),
		URL: azureURL(args.Organization, t.name, "_apis", "teams"),
	}}, nil
}

// Work items

func azureWorkItem(organization string, it item) AzureDevOpsWorkItem {
	return AzureDevOpsWorkItem{
		ID: int32(it.n), Rev: int32(len(it.state("1", "22", "333"))), // one more with each state
		URL: azureURL(organization, it.team.name, "_workitems", "edit", fmt.Sprint(it.n)),
		Fields: AzureDevOpsWorkItemFields{
			WorkItemType: &it.kind, Title: &it.title, State: new(it.state("New", "Active", "Closed")),
			AssignedTo: &it.assignee.name, CreatedBy: &it.author.name, ChangedBy: &it.assignee.name,
			CreatedDate: new(stamp(it.created)), ChangedDate: new(stamp(it.updated)), Description: &it.body, Tags: &it.label,
		},
	}
}

// azureWorkItems gives those that keep allows.
func (r *resolver) azureWorkItems(organization string, project *string, w window, keep func(item) bool) []AzureDevOpsWorkItem {
	out := []AzureDevOpsWorkItem{}
	for _, it := range r.work.items(w, project) {
		if keep(it) {
			out = append(out, azureWorkItem(organization, it))
		}
	}
	return out
}

func (r *resolver) AzureDevOpsWorkItem(args struct {
	Organization string
	ID           int32
	Project      *string
}) (*AzureDevOpsWorkItem, error) {
	found := r.azureWorkItems(args.Organization, args.Project, window{}, func(it item) bool { return it.n == int(args.ID) })
	if len(found) == 0 {
		return nil, knows(args.Organization)
	}
	return &found[0], knows(args.Organization)
}

func (r *resolver) AzureDevOpsWorkItems(args struct {
	Organization string
	IDs          []int32
	Project      *string
}) ([]AzureDevOpsWorkItem, error) {
	wanted := func(it item) bool { return slices.Contains(args.IDs, int32(it.n)) }
	return r.azureWorkItems(args.Organization, args.Project, window{}, wanted), knows(args.Organization)
}

// AzureDevOpsWorkItemsWiql does not read WIQL: dates and types decide.
func (r *resolver) AzureDevOpsWorkItemsWiql(args struct {
	azureProjectArgs
	Wiql *string
	spanArgs
	WorkItemTypes *[]string
}) ([]AzureDevOpsWorkItem, error) {
	t, err := azureTeam(args.Organization, args.Project)
	if err != nil {
		return nil, err
	}
	w, err := args.window()
	if err != nil {
		return nil, err
	}
	wanted := func(it item) bool { return args.WorkItemTypes == nil || slices.Contains(*args.WorkItemTypes, it.kind) }
	return r.azureWorkItems(args.Organization, &t.name, w, wanted), nil
}

// Repositories

type azureRepo struct {
	team
	name string
}

func (a azureRepo) id() string {
	return fmt.Sprintf("a2ce4e90-0000-4000-8000-%012d", number(a.team.name+"/"+a.name))
}

func azureRepos(t team) []azureRepo { return []azureRepo{{t, "service"}, {t, "web"}} }

func (a azureRepo) show(organization string) AzureDevOpsRepository {
	return AzureDevOpsRepository{
		ID: id(a.id()), Name: a.name, URL: azureURL(organization, a.team.name, "_git", a.name), DefaultBranch: new("refs/heads/main"),
		Size: new(int32(4096 * len(a.name))), Project: &AzureDevOpsProjectRef{ID: new(id(azureProjectID(a.team))), Name: &a.team.name},
	}
}

func (r *resolver) AzureDevOpsRepositories(args azureProjectArgs) ([]AzureDevOpsRepository, error) {
	t, err := azureTeam(args.Organization, args.Project)
	if err != nil {
		return nil, err
	}
	var out []AzureDevOpsRepository
	for _, a := range azureRepos(t) {
		out = append(out, a.show(args.Organization))
	}
	return out, nil
}

type azureRepoArgs struct{ Organization, Project, Repo string }

func (a azureRepoArgs) find() (azureRepo, error) {
	t, err := azureTeam(a.Organization, a.Project)
	if err != nil {
		return azureRepo{}, err
	}
	for _, repo := range azureRepos(t) {
		if a.Repo == repo.name || a.Repo == repo.id() {
			return repo, nil
		}
	}
	return azureRepo{}, apiError{codeNotFound, fmt.Sprintf("repository %q not found in project %q", a.Repo, a.Project)}
}

func (r *resolver) AzureDevOpsRepository(args azureRepoArgs) (*AzureDevOpsRepository, error) {
	repo, err := args.find()
	if err != nil {
		return nil, knows(args.Organization)
	}
	return new(repo.show(args.Organization)), nil
}

// Pull requests: each covers the items of its repository since the one before.

const azureRun = 5 // commits in a pull request

func (r *resolver) azurePullRequests(repo azureRepo, w window) []AzureDevOpsPullRequest {
	out := []AzureDevOpsPullRequest{}
	all := r.work.items(window{}, &repo.team.name)
	for i, run := range slices.Collect(slices.Chunk(all, azureRun)) {
		first, last := run[0], run[len(run)-1]
		if !w.contains(first.created) {
			continue
		}
		pr := AzureDevOpsPullRequest{
			PullRequestID: int32(i + 1), Title: &last.title, Description: &last.body, Status: new("active"),
			CreatedBy: &last.author.name, CreationDate: new(stamp(first.created)),
			SourceRefName: new(fmt.Sprintf("refs/heads/change-%d", i+1)), TargetRefName: new("refs/heads/main"),
			Repository: &AzureDevOpsRepositoryRef{ID: new(id(repo.id())), Name: &repo.name},
		}
		if len(run) == azureRun {
			pr.Status, pr.ClosedDate = new("completed"), new(stamp(last.created.Add(time.Hour)))
		}
		out = append(out, pr)
	}
	return out
}

func (r *resolver) AzureDevOpsPullRequests(args struct {
	azureRepoArgs
	spanArgs
}) ([]AzureDevOpsPullRequest, error) {
	repo, err := args.find()
	if err != nil {
		return nil, err
	}
	w, err := args.window()
	if err != nil {
		return nil, err
	}
	return r.azurePullRequests(repo, w), nil
}

type azurePullRequestArgs struct {
	azureRepoArgs
	PrID int32
}

func (r *resolver) AzureDevOpsPullRequest(args azurePullRequestArgs) (*AzureDevOpsPullRequest, error) {
	repo, err := args.find()
	if err != nil {
		return nil, err
	}
	for _, pr := range r.azurePullRequests(repo, window{}) {
		if pr.PullRequestID == args.PrID {
			return &pr, nil
		}
	}
	return nil, nil
}

func (r *resolver) AzureDevOpsPullRequestCommits(args azurePullRequestArgs) ([]AzureDevOpsCommit, error) {
	repo, err := args.find()
	if err != nil {
		return nil, err
	}
	runs := slices.Collect(slices.Chunk(r.work.items(window{}, &repo.team.name), azureRun))
	if args.PrID < 1 || int(args.PrID) > len(runs) {
		return nil, apiError{codeNotFound, fmt.Sprintf("pull request %d not found", args.PrID)}
	}
	var out []AzureDevOpsCommit
	for _, it := range runs[args.PrID-1] {
		out = append(out, repo.commit(args.Organization, it))
	}
	return out, nil
}

// Commits

func (a azureRepo) commit(organization string, it item) AzureDevOpsCommit {
	sum := sha1.Sum(fmt.Appendf(nil, "%s/%d", a.id(), it.n))
	sha := hex.EncodeToString(sum[:])
	who := &AzureDevOpsAuthor{Name: &it.author.name, Email: &it.author.email, Date: new(stamp(it.created))}
	return AzureDevOpsCommit{
		CommitID: sha, Comment: &it.title, Author: who, Committer: who,
		ChangeCounts: new(fmt.Sprintf(`{"Add":%d,"Edit":%d,"Delete":%d}`, it.n%3, it.n%5+1, it.n%2)),
		URL:          azureURL(organization, a.team.name, "_git", a.name, "commit", sha),
	}
}

func (r *resolver) AzureDevOpsCommits(args struct {
	azureRepoArgs
	spanArgs
	Author *string
}) ([]AzureDevOpsCommit, error) {
	repo, err := args.find()
	if err != nil {
		return nil, err
	}
	w, err := args.window()
	if err != nil {
		return nil, err
	}
	out := []AzureDevOpsCommit{}
	for _, it := range r.work.items(w, &repo.team.name) {
		if isBy(it.author.name, it.author.email, args.Author) {
			out = append(out, repo.commit(args.Organization, it))
		}
	}
	return out, nil
}

func (r *resolver) AzureDevOpsCommit(args struct {
	azureRepoArgs
	CommitID string
}) (*AzureDevOpsCommit, error) {
	repo, err := args.find()
	if err != nil {
		return nil, err
	}
	for _, it := range r.work.items(window{}, &repo.team.name) {
		if c := repo.commit(args.Organization, it); c.CommitID == args.CommitID {
			return &c, nil
		}
	}
	return nil, nil
}
