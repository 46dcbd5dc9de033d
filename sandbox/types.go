package main

// The result types of the schema, field for field; the GraphQL library resolves them by name. A pointer is a nullable
// field. Names in JSON are those of the schema, for the exports that are JSON themselves.

import "github.com/graph-gophers/graphql-go"

type User struct {
	ID                   graphql.ID
	Username, Role       string
	Status               int32
	CreatedAt, UpdatedAt *string
}

type AuthPayload struct {
	AccessToken, RefreshToken string
	User                      User
}

type DeletePayload struct {
	Success      bool
	Message      *string
	DeletedCount *int32
}

type CloneRepositoryPayload struct {
	Success                               bool
	Path, Repository, Organization, Error *string
}

type Organization struct {
	Name      string
	Providers []OrganizationProvider
}

type OrganizationProvider struct {
	OID  graphql.ID
	Name string
}

type LinearTeam struct {
	ID                       graphql.ID
	Name, Key                string
	Description, Color, Icon *string
	Private                  *bool
	CreatedAt, UpdatedAt     *string
}

type LinearUser struct {
	ID          graphql.ID
	Name, Email *string
}

type LinearState struct {
	ID   graphql.ID
	Name string
	Type *string
}

type LinearLabel struct {
	ID    graphql.ID
	Name  string
	Color *string
}

type LinearProject struct {
	ID                                          graphql.ID
	Name                                        string
	Description, State                          *string
	Progress                                    *float64
	TargetDate, StartDate, CreatedAt, UpdatedAt *string
	Teams                                       *[]LinearTeam
	Lead                                        *LinearUser
}

type LinearIssue struct {
	ID                                         graphql.ID
	Identifier, Title                          string
	Description                                *string
	Priority                                   *int32
	PriorityLabel                              *string
	State                                      *LinearState
	Assignee                                   *LinearUser
	Team                                       *LinearTeam
	Project                                    *LinearProject
	Labels                                     *[]LinearLabel
	Estimate                                   *float64
	DueDate, CreatedAt, UpdatedAt, CompletedAt *string
}

type JiraUser struct {
	AccountID                 string
	DisplayName, EmailAddress *string
}

type JiraStatus struct {
	ID             graphql.ID
	Name           string
	StatusCategory *string
}

type JiraPriority struct {
	ID   graphql.ID
	Name string
}

type JiraIssueType struct {
	ID      graphql.ID
	Name    string
	Subtask *bool
}

type JiraProjectRef struct {
	ID        graphql.ID
	Key, Name string
}

type JiraComponent struct {
	ID   graphql.ID
	Name string
}

type JiraProject struct {
	ID                          graphql.ID
	Key, Name                   string
	Description, ProjectTypeKey *string
	Lead                        *JiraUser
	AvatarURLs                  *JiraAvatarUrls
}

type JiraAvatarUrls struct {
	X48, X24, X16, X32 *string
}

type JiraIssue struct {
	ID                               graphql.ID
	Key, Summary                     string
	Description                      *string
	Status                           *JiraStatus
	Priority                         *JiraPriority
	IssueType                        *JiraIssueType
	Assignee, Reporter               *JiraUser
	Project                          *JiraProjectRef
	Labels                           *[]string
	Components                       *[]JiraComponent
	CreatedAt, UpdatedAt, ResolvedAt *string
}

type GitHubRepository struct {
	ID, Name, FullName                                        string
	Description, URL, HTMLURL, PushedAt, CreatedAt, UpdatedAt *string
	IsPrivate                                                 bool
	DefaultBranch                                             *string
}

type GitHubUser struct {
	ID               graphql.ID
	Login, AvatarURL *string
}

type GitHubLabel struct {
	ID    graphql.ID
	Name  string
	Color *string
}

type GitHubMilestone struct {
	ID     graphql.ID
	Title  *string
	Number *int32
}

type GitHubIssue struct {
	ID                                         graphql.ID
	Number                                     int32
	Title                                      string
	Body, State, HTMLURL                       *string
	User, Assignee                             *GitHubUser
	Assignees                                  *[]GitHubUser
	Labels                                     *[]GitHubLabel
	Milestone                                  *GitHubMilestone
	Repository, CreatedAt, UpdatedAt, ClosedAt *string
}

type GitHubPullRequest struct {
	ID                                                   graphql.ID
	Number                                               int32
	Title                                                string
	Body, State, HTMLURL                                 *string
	Draft                                                *bool
	User, Assignee                                       *GitHubUser
	Assignees                                            *[]GitHubUser
	Labels                                               *[]GitHubLabel
	Milestone                                            *GitHubMilestone
	Repository, CreatedAt, UpdatedAt, ClosedAt, MergedAt *string
}

type GitLabUser struct {
	ID             graphql.ID
	Username, Name *string
}

type GitLabNamespace struct {
	ID         graphql.ID
	Name, Path *string
}

type GitLabMilestone struct {
	ID    graphql.ID
	Title *string
}

type GitLabProject struct {
	ID                                                                      graphql.ID
	Name                                                                    string
	Path, PathWithNamespace, Description, WebURL, DefaultBranch, Visibility *string
	Namespace                                                               *GitLabNamespace
	CreatedAt, LastActivityAt                                               *string
}

type GitLabIssue struct {
	ID                                                 graphql.ID
	IID                                                int32
	Title                                              string
	Description, State, WebURL                         *string
	Author, Assignee                                   *GitLabUser
	Assignees                                          *[]GitLabUser
	Labels                                             *[]string
	Milestone                                          *GitLabMilestone
	ProjectID, DueDate, CreatedAt, UpdatedAt, ClosedAt *string
}

type GitLabMergeRequest struct {
	ID                                                     graphql.ID
	IID                                                    int32
	Title                                                  string
	Description, State, WebURL, SourceBranch, TargetBranch *string
	Author, Assignee                                       *GitLabUser
	Assignees, Reviewers                                   *[]GitLabUser
	Labels                                                 *[]string
	Milestone                                              *GitLabMilestone
	ProjectID                                              *string
	Draft                                                  *bool
	MergeStatus, CreatedAt, UpdatedAt, MergedAt, ClosedAt  *string
}

type AsanaUser struct {
	GID  graphql.ID
	Name *string
}

type AsanaWorkspace struct {
	GID          graphql.ID
	Name         string
	ResourceType *string
}

type AsanaWorkspaceRef struct {
	GID  graphql.ID
	Name *string
}

type AsanaProjectRef struct {
	GID  graphql.ID
	Name *string
}

type AsanaTag struct {
	GID  graphql.ID
	Name *string
}

type AsanaProject struct {
	GID                   graphql.ID
	Name                  string
	Archived              *bool
	Color, Notes          *string
	Public                *bool
	Workspace             *AsanaWorkspaceRef
	Owner                 *AsanaUser
	CreatedAt, ModifiedAt *string
}

type AsanaTask struct {
	GID                              graphql.ID
	Name                             string
	Completed                        *bool
	CompletedAt, Notes, DueOn, DueAt *string
	Assignee                         *AsanaUser
	Projects                         *[]AsanaProjectRef
	Tags                             *[]AsanaTag
	CreatedAt, ModifiedAt            *string
}

type MondayWorkspace struct {
	ID                           graphql.ID
	Name                         string
	Kind, Description, CreatedAt *string
}

type MondayColumn struct {
	ID          graphql.ID
	Title, Type *string
}

type MondayBoard struct {
	ID                                                    graphql.ID
	Name                                                  string
	Description, State, BoardKind, WorkspaceID, UpdatedAt *string
	Columns                                               *[]MondayColumn
}

type MondayGroup struct {
	ID    graphql.ID
	Title *string
}

type MondayColumnValue struct {
	ID                graphql.ID
	Text, Type, Value *string
}

type MondayUser struct {
	ID          graphql.ID
	Name, Email *string
}

type MondayItem struct {
	ID                                              graphql.ID
	Name                                            string
	State, CreatedAt, UpdatedAt, BoardID, BoardName *string
	Group                                           *MondayGroup
	ColumnValues                                    *[]MondayColumnValue
	Creator                                         *MondayUser
}

type CommitFile struct {
	Filename  string  `json:"filename"`
	Status    string  `json:"status"`
	Additions int32   `json:"additions"`
	Deletions int32   `json:"deletions"`
	Patch     *string `json:"patch,omitempty"`
}

type GitCommit struct {
	SHA         string        `json:"sha"`
	Message     string        `json:"message"`
	Author      string        `json:"author"`
	AuthorEmail string        `json:"authorEmail"`
	Date        string        `json:"date"`
	Additions   *int32        `json:"additions"`
	Deletions   *int32        `json:"deletions"`
	Files       *[]CommitFile `json:"files"`
}

type CommitResult struct {
	Commits []GitCommit
	JSON    *string
}

type GitHubPullRequestDetailed struct {
	ID           graphql.ID  `json:"id"`
	Number       int32       `json:"number"`
	Title        string      `json:"title"`
	Body         *string     `json:"body"`
	State        string      `json:"state"`
	Author       string      `json:"author"`
	CreatedAt    string      `json:"createdAt"`
	UpdatedAt    *string     `json:"updatedAt"`
	MergedAt     *string     `json:"mergedAt"`
	ClosedAt     *string     `json:"closedAt"`
	Additions    *int32      `json:"additions"`
	Deletions    *int32      `json:"deletions"`
	ChangedFiles *int32      `json:"changedFiles"`
	Commits      []GitCommit `json:"commits"`
}

type PullRequestResult struct {
	PullRequests []GitHubPullRequestDetailed
	JSON         *string
}

type GitLabMergeRequestDetailed struct {
	ID          graphql.ID  `json:"id"`
	IID         int32       `json:"iid"`
	Title       string      `json:"title"`
	Description *string     `json:"description"`
	State       string      `json:"state"`
	Author      string      `json:"author"`
	CreatedAt   string      `json:"createdAt"`
	UpdatedAt   *string     `json:"updatedAt"`
	MergedAt    *string     `json:"mergedAt"`
	ClosedAt    *string     `json:"closedAt"`
	Commits     []GitCommit `json:"commits"`
}

type MergeRequestResult struct {
	MergeRequests []GitLabMergeRequestDetailed
	JSON          *string
}

type BitbucketWorkspace struct {
	Slug, Name string
}

type BitbucketRepository struct {
	UUID                                                          *string
	Name                                                          string
	FullName                                                      *string
	Slug                                                          string
	Description                                                   *string
	IsPrivate                                                     bool
	Language, MainBranch, CreatedOn, UpdatedOn, HTMLURL, CloneURL *string
}

type BitbucketUser struct {
	UUID, DisplayName, Nickname *string
}

type BitbucketPullRequest struct {
	ID                                                                                             graphql.ID
	Title                                                                                          string
	Description                                                                                    *string
	State                                                                                          string
	Author                                                                                         *BitbucketUser
	SourceBranch, DestinationBranch, Repository, CreatedOn, UpdatedOn, ClosedOn, MergedOn, HTMLURL *string
	CommentCount, TaskCount                                                                        *int32
}

type BitbucketPullRequestDetailed struct {
	ID           graphql.ID  `json:"id"`
	Number       int32       `json:"number"`
	Title        string      `json:"title"`
	Body         *string     `json:"body"`
	State        string      `json:"state"`
	Author       string      `json:"author"`
	CreatedAt    string      `json:"createdAt"`
	UpdatedAt    *string     `json:"updatedAt"`
	MergedAt     *string     `json:"mergedAt"`
	ClosedAt     *string     `json:"closedAt"`
	Additions    *int32      `json:"additions"`
	Deletions    *int32      `json:"deletions"`
	ChangedFiles *int32      `json:"changedFiles"`
	Commits      []GitCommit `json:"commits"`
}

type BitbucketPullRequestResult struct {
	PullRequests []BitbucketPullRequestDetailed
	JSON         *string
}

type AzureDevOpsProject struct {
	ID                                  graphql.ID
	Name                                string
	Description, URL, State, Visibility *string
}

type AzureDevOpsTeam struct {
	ID               graphql.ID
	Name             string
	Description, URL *string
}

type AzureDevOpsWorkItemFields struct {
	WorkItemType, Title, State, AssignedTo, CreatedDate, ChangedDate, CreatedBy, ChangedBy, Description, Tags *string
}

type AzureDevOpsWorkItem struct {
	ID, Rev int32
	URL     *string
	Fields  AzureDevOpsWorkItemFields
}

type AzureDevOpsProjectRef struct {
	ID   *graphql.ID
	Name *string
}

type AzureDevOpsRepository struct {
	ID                 graphql.ID
	Name               string
	URL, DefaultBranch *string
	Size               *int32
	Project            *AzureDevOpsProjectRef
}

type AzureDevOpsRepositoryRef struct {
	ID   *graphql.ID
	Name *string
}

type AzureDevOpsPullRequest struct {
	PullRequestID                                                                                 int32
	Title, Description, Status, CreatedBy, CreationDate, ClosedDate, SourceRefName, TargetRefName *string
	Repository                                                                                    *AzureDevOpsRepositoryRef
}

type AzureDevOpsAuthor struct {
	Name, Email, Date *string
}

type AzureDevOpsCommit struct {
	CommitID          string
	Comment           *string
	Author, Committer *AzureDevOpsAuthor
	ChangeCounts, URL *string
}
