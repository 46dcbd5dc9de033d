//go:build unix

package main

import (
	"errors"
	"path/filepath"
	"strings"
	"testing"
)

func TestProxyThatCannotBeUsedStopsTheStart(t *testing.T) {
	r := newDaemonRig(t, "")
	getenv := r.opts.Getenv
	r.opts.Getenv = func(name string) string {
		if name == "https_proxy" {
			return "http://user:can#ary@proxy.example.test:3128"
		}
		return getenv(name)
	}
	err := runDaemon(t.Context(), r.opts)
	exit, ok := errors.AsType[exitError](err)
	if !ok || exit.code != exitConfig || !strings.Contains(err.Error(), "https_proxy") || strings.Contains(err.Error(), "ary") {
		t.Errorf("%v", err)
	}
}

func TestPassphraseOfSystemdIsUsed(t *testing.T) {
	credentials := t.TempDir()
	putFile(t, credentials, credentialName, "\r\n")
	r := newDaemonRig(t, "")
	getenv := r.opts.Getenv
	r.opts.Getenv = func(name string) string {
		if name == "CREDENTIALS_DIRECTORY" {
			return credentials
		}
		return getenv(name)
	}
	err := runDaemon(t.Context(), r.opts)
	exit, ok := errors.AsType[exitError](err)
	if !ok || exit.code != exitConfig || !strings.Contains(err.Error(), filepath.Join(credentials, credentialName)+" is empty") {
		t.Errorf("%v", err)
	}
}
