package main

// The RPCs about logins and environments.

import (
	"context"
	"strings"
	"unicode"

	"honeydew/daemonpb"
)

func (s *rpcServer) Login(ctx context.Context, in *daemonpb.LoginRequest) (*daemonpb.LoginResponse, error) {
	env, err := s.store.Environment(ctx, in.Environment)
	if err != nil {
		return nil, err
	}
	t, err := s.auth.Login(ctx, env, in.Username, in.Password)
	if err != nil {
		return nil, err
	}
	return &daemonpb.LoginResponse{Environment: env.Name, Username: in.Username, AccessTokenExpires: timeText(t.AccessExpires),
		RefreshTokenExpires: timeText(t.RefreshExpires)}, nil
}

func (s *rpcServer) Logout(ctx context.Context, in *daemonpb.LogoutRequest) (*daemonpb.LogoutResponse, error) {
	env, err := s.store.Environment(ctx, in.Environment)
	if err != nil {
		return nil, err
	}
	out, err := s.auth.Logout(env)
	return &daemonpb.LogoutResponse{LoggedOut: out}, err
}

func (s *rpcServer) GetAuthStatus(ctx context.Context, in *daemonpb.GetAuthStatusRequest) (*daemonpb.AuthStatus, error) {
	env, err := s.store.Environment(ctx, in.Environment)
	if err != nil {
		return nil, err
	}
	state, err := s.auth.Status(ctx, env)
	if err != nil {
		return nil, err
	}
	failed, err := s.store.AuthFailures(ctx, env)
	if err != nil {
		return nil, err
	}
	return &daemonpb.AuthStatus{Authenticated: state.Authenticated, Username: state.Username, NeedsReauth: state.NeedsReauth,
		AccessTokenExpires: timeText(state.AccessExpires), RefreshTokenExpires: timeText(state.RefreshExpires),
		FailedAuthJobs: int32(failed), Environment: env.Name}, nil
}

// environment is one on the wire.
func (s *rpcServer) environment(ctx context.Context, e Environment) (*daemonpb.Environment, error) {
	state, err := s.auth.Status(ctx, e)
	if err != nil {
		return nil, err
	}
	return &daemonpb.Environment{Name: e.Name, BaseUrl: e.BaseURL, Description: e.Description, Active: e.Active,
		CreatedAt: timeText(e.CreatedAt), Authenticated: state.Authenticated}, nil
}

func (s *rpcServer) environmentNamed(ctx context.Context, name string) (*daemonpb.Environment, error) {
	e, err := s.store.Environment(ctx, name)
	if err != nil {
		return nil, err
	}
	return s.environment(ctx, e)
}

func (s *rpcServer) AddEnvironment(ctx context.Context, in *daemonpb.AddEnvironmentRequest) (*daemonpb.AddEnvironmentResponse, error) {
	if err := checkName("name", in.Name); err != nil {
		return nil, err
	}
	if err := checkBaseURL(in.BaseUrl); err != nil {
		return nil, errorf(codeInvalidArgument, "base_url: %w", err)
	}
	if strings.ContainsFunc(in.Description, unicode.IsControl) || len(in.Description) > maxErrorTextInBytes {
		return nil, errorf(codeInvalidArgument, "description: at most %d bytes, no control characters", maxErrorTextInBytes)
	}
	err := s.store.AddEnvironment(Environment{ID: newID(), Name: in.Name, BaseURL: in.BaseUrl, Description: in.Description,
		Active: in.SetActive, CreatedAt: timeNow()})
	if err != nil {
		return nil, err
	}
	e, err := s.environmentNamed(ctx, in.Name)
	return &daemonpb.AddEnvironmentResponse{Environment: e}, err
}

func (s *rpcServer) RemoveEnvironment(ctx context.Context, in *daemonpb.RemoveEnvironmentRequest) (*daemonpb.RemoveEnvironmentResponse, error) {
	if in.Name == "" {
		return nil, errorf(codeInvalidArgument, "name: missing")
	}
	e, err := s.store.Environment(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	if err := s.store.RemoveEnvironment(in.Name); err != nil {
		return nil, err
	}
	s.auth.Forget(e.ID)
	return &daemonpb.RemoveEnvironmentResponse{}, nil
}

func (s *rpcServer) ListEnvironments(ctx context.Context, _ *daemonpb.ListEnvironmentsRequest) (*daemonpb.ListEnvironmentsResponse, error) {
	all, err := s.store.Environments(ctx)
	if err != nil {
		return nil, err
	}
	out := &daemonpb.ListEnvironmentsResponse{}
	for _, e := range all {
		msg, err := s.environment(ctx, e)
		if err != nil {
			return nil, err
		}
		out.Environments = append(out.Environments, msg)
	}
	return out, nil
}

func (s *rpcServer) SetActiveEnvironment(ctx context.Context, in *daemonpb.SetActiveEnvironmentRequest) (*daemonpb.SetActiveEnvironmentResponse, error) {
	if in.Name == "" {
		return nil, errorf(codeInvalidArgument, "name: missing")
	}
	if err := s.store.SetActiveEnvironment(in.Name); err != nil {
		return nil, err
	}
	e, err := s.environmentNamed(ctx, in.Name)
	if err != nil {
		return nil, err
	}
	return &daemonpb.SetActiveEnvironmentResponse{Environment: e, NeedsAuth: !e.Authenticated}, nil
}

func (s *rpcServer) GetActiveEnvironment(ctx context.Context, _ *daemonpb.GetActiveEnvironmentRequest) (*daemonpb.GetActiveEnvironmentResponse, error) {
	e, err := s.environmentNamed(ctx, "")
	return &daemonpb.GetActiveEnvironmentResponse{Environment: e}, err
}
