package main

// The verbs about environments, logins, the queue as a whole, and the database.

import (
	"bufio"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strings"

	"golang.org/x/term"

	"honeydew/daemonpb"
)

func adminVerbs() []verb {
	return []verb{
		{"login", "", "log in to the active environment", "honeydew login --username ada", loginVerb},
		{"logout", "", "forget the stored login", "honeydew logout", logoutVerb},
		{"auth status", "", "show the login and when it expires", "honeydew auth status", authStatusVerb},
		{"env add", "NAME URL", "add an environment", "honeydew env add staging https://staging.example.com/graphql --use", envAddVerb},
		{"env list", "", "list the environments", "honeydew env list", envListVerb},
		{"env use", "NAME", "make an environment the active one", "honeydew env use staging", envUseVerb},
		{"env current", "", "show the active environment", "honeydew env current", envCurrentVerb},
		{"env remove", "NAME", "remove an environment and its login", "honeydew env remove staging", envRemoveVerb},
		{"queue pause", "", "start no more jobs until resumed", "honeydew queue pause", queuePauseVerb},
		{"queue resume", "", "start jobs again", "honeydew queue resume", queueResumeVerb},
		{"prune", "", "delete finished jobs and shrink the database", "honeydew prune --older-than 7d --dry-run", pruneVerb},
		{"backup", "FILE", "write a consistent copy of the database", "honeydew backup ~/honeydew.db", backupVerb},
	}
}

func loginVerb(c *cli, f *flag.FlagSet) action {
	username := f.String("username", "", "log in as `USER`")
	fromStdin := f.Bool("password-stdin", false, "read the password from stdin")
	environment := f.String("environment", "", "log in to `NAME` instead of the active environment")
	return func(ctx context.Context, _ []string) error {
		if !*fromStdin && !c.stdinIsTerminal {
			return &usageError{"login: no terminal to ask for the password", "pipe it in: honeydew login --username USER --password-stdin < FILE"}
		}
		if *fromStdin && *username == "" {
			return usagef("login: --password-stdin needs --username")
		}
		// Before anyone types a password: is there a daemon to send it to?
		if _, err := call(ctx, c, daemonpb.DaemonClient.Ping, &daemonpb.PingRequest{}); err != nil {
			return err
		}
		password, err := c.readLogin(username, *fromStdin)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, longTimeout) // api.timeout decides
		defer cancel()
		return ask(ctx, c, daemonpb.DaemonClient.Login, &daemonpb.LoginRequest{Username: *username, Password: password, Environment: *environment}, func(out *daemonpb.LoginResponse) {
			c.printf("Logged in to %s as %s.", printable(out.Environment), printable(out.Username))
		})
	}
}

// readLogin reads what is missing, from the pipe or by asking.
func (c *cli) readLogin(username *string, fromStdin bool) (password string, err error) {
	if fromStdin {
		text, err := io.ReadAll(io.LimitReader(c.stdin, 64<<10))
		return strings.TrimRight(string(text), "\r\n"), err
	}
	if *username == "" {
		fmt.Fprint(c.stderr, "Username: ")
		line, err := bufio.NewReader(c.stdin).ReadString('\n')
		if err != nil && !errors.Is(err, io.EOF) {
			return "", err
		}
		*username = strings.TrimSpace(line)
	}
	fmt.Fprint(c.stderr, "Password: ")
	text, err := term.ReadPassword(int(c.stdin.Fd()))
	fmt.Fprintln(c.stderr)
	return string(text), err
}

func logoutVerb(c *cli, f *flag.FlagSet) action {
	environment := f.String("environment", "", "log out of `NAME` instead of the active environment")
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.Logout, &daemonpb.LogoutRequest{Environment: *environment}, func(out *daemonpb.LogoutResponse) {
			if out.LoggedOut {
				c.printf("Logged out.")
			} else {
				c.printf("Nobody was logged in.")
			}
		})
	}
}

func authStatusVerb(c *cli, f *flag.FlagSet) action {
	environment := f.String("environment", "", "show `NAME` instead of the active environment")
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.GetAuthStatus, &daemonpb.GetAuthStatusRequest{Environment: *environment}, func(s *daemonpb.AuthStatus) {
			state := "logged in"
			if s.NeedsReauth {
				state = "expired; run: honeydew login"
			} else if !s.Authenticated {
				state = "not logged in; run: honeydew login"
			}
			failed := ""
			if s.FailedAuthJobs > 0 {
				failed = fmt.Sprintf("%d since the last login; retry them with: honeydew job retry --status failed", s.FailedAuthJobs)
			}
			c.pairs("environment", s.Environment, "login", state, "username", s.Username, "access token expires", localTime(s.AccessTokenExpires),
				"refresh token expires", localTime(s.RefreshTokenExpires), "jobs failed for it", failed)
		})
	}
}

func envAddVerb(c *cli, f *flag.FlagSet) action {
	description := f.String("description", "", "what it is for")
	use := f.Bool("use", false, "make it the active environment at once")
	return func(ctx context.Context, args []string) error {
		out, err := call(ctx, c, daemonpb.DaemonClient.AddEnvironment, &daemonpb.AddEnvironmentRequest{Name: args[0], BaseUrl: args[1],
			Description: *description, SetActive: *use})
		if err != nil {
			return err
		}
		return c.show(out, func() {
			name := printable(out.Environment.GetName())
			if *use {
				c.printf("Added %s and switched to it. Please login: honeydew login", name)
			} else {
				c.printf("Added %s. Switch to it with: honeydew env use %s", name, name)
			}
		})
	}
}

func envListVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.ListEnvironments, &daemonpb.ListEnvironmentsRequest{}, func(out *daemonpb.ListEnvironmentsResponse) {
			names, width := make([]string, len(out.Environments)), 0
			for i, e := range out.Environments {
				if names[i] = printable(e.Name); e.Active {
					names[i] += " (active)"
				}
				width = max(width, len([]rune(names[i])))
			}
			for i, e := range out.Environments {
				c.printf("  %-*s - %s", width, names[i], printable(e.BaseUrl))
			}
		})
	}
}

func envUseVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.SetActiveEnvironment, &daemonpb.SetActiveEnvironmentRequest{Name: args[0]}, func(out *daemonpb.SetActiveEnvironmentResponse) {
			if out.NeedsAuth {
				c.printf("Switched to %s. Please login: honeydew login", printable(args[0]))
			} else {
				c.printf("Switched to %s.", printable(args[0]))
			}
		})
	}
}

func envCurrentVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.GetActiveEnvironment, &daemonpb.GetActiveEnvironmentRequest{}, func(out *daemonpb.GetActiveEnvironmentResponse) {
			c.printf("%s - %s", printable(out.Environment.GetName()), printable(out.Environment.GetBaseUrl()))
		})
	}
}

func envRemoveVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.RemoveEnvironment, &daemonpb.RemoveEnvironmentRequest{Name: args[0]}, func(out *daemonpb.RemoveEnvironmentResponse) {
			c.printf("Removed %s and its login.", printable(args[0]))
		})
	}
}

func queuePauseVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.PauseQueue, &daemonpb.PauseQueueRequest{}, func(out *daemonpb.PauseQueueResponse) {
			c.printf("Paused: no more jobs start. Resume with: honeydew queue resume")
		})
	}
}

func queueResumeVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, _ []string) error {
		return ask(ctx, c, daemonpb.DaemonClient.ResumeQueue, &daemonpb.ResumeQueueRequest{}, func(out *daemonpb.ResumeQueueResponse) { c.printf("Resumed.") })
	}
}

func pruneVerb(c *cli, f *flag.FlagSet) action {
	age := f.String("older-than", "", "delete what ended longer than `AGE` ago, such as 7d (default: storage.retention)")
	dryRun := f.Bool("dry-run", false, "only count")
	return func(ctx context.Context, _ []string) error {
		ctx, cancel := context.WithTimeout(ctx, longTimeout)
		defer cancel()
		return ask(ctx, c, daemonpb.DaemonClient.Prune, &daemonpb.PruneRequest{OlderThan: *age, DryRun: *dryRun}, func(out *daemonpb.PruneResponse) {
			if *dryRun {
				c.printf("%s would be deleted.", count(int(out.Jobs), "job"))
			} else {
				c.printf("%s deleted.", count(int(out.Jobs), "job"))
			}
		})
	}
}

func backupVerb(c *cli, _ *flag.FlagSet) action {
	return func(ctx context.Context, args []string) error {
		path, err := filepath.Abs(expandPath(args[0], c.userHome))
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(ctx, longTimeout)
		defer cancel()
		return ask(ctx, c, daemonpb.DaemonClient.Backup, &daemonpb.BackupRequest{Path: path}, func(out *daemonpb.BackupResponse) { c.printf("Wrote %s to %s.", bytesText(out.Bytes), printable(path)) })
	}
}
